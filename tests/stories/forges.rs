//! What each forge and CI sends, what is asked of them, and what they are told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use ::http::{Request, StatusCode};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::http::Answer;
use crate::world::{Conf, Prime, Repo, World, deployment, ignored};

pub const SECRET: &str = "a secret of more than thirty-two bytes";

/// A delivery as its provider sends it, for `acme/shop`, with this commit.
pub fn fixture(name: &str, commit: &str) -> Value {
    let path = format!("{}/tests/fixtures/hooks/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text.replace("0123456789abcdef0123456789abcdef01234567", commit)).unwrap()
}

fn tag(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The headers with which each sends it; of what has an id, this one.
pub fn signed(provider: &str, event: &str, body: &str, id: &str) -> Vec<(&'static str, String)> {
    let hmac = || hex(&tag(SECRET.as_bytes(), body.as_bytes()));
    match provider {
        "github" => vec![
            ("x-github-event", event.to_owned()),
            ("x-github-delivery", id.to_owned()),
            ("x-hub-signature-256", format!("sha256={}", hmac())),
        ],
        "gitea" => vec![
            ("x-gitea-event", event.to_owned()),
            ("x-gitea-signature", hmac()),
            ("x-github-event", event.to_owned()),
            ("x-hub-signature-256", format!("sha256={}", hmac())),
        ],
        "gitlab" => vec![("x-gitlab-event", event.to_owned()), ("x-gitlab-token", SECRET.to_owned())],
        _ => {
            let time = now();
            let signature = STANDARD.encode(tag(SECRET.as_bytes(), format!("{id}.{time}.{body}").as_bytes()));
            vec![
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", time.to_string()),
                ("webhook-signature", format!("v1,{signature}")),
            ]
        }
    }
}

pub fn request(body: &str, headers: &[(&str, String)]) -> Request<Full<bytes::Bytes>> {
    let mut request = Request::post("http://opri.test/events/generic").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Full::new(body.to_owned().into())).unwrap()
}

impl Prime<'_> {
    /// An honest delivery.
    pub fn tells(&self, provider: &str, event: &str, payload: &Value, id: &str) -> Answer {
        let body = payload.to_string();
        self.ask(request(&body, &signed(provider, event, &body, id)))
    }
}

/// A Prime that hosts `shop` and shares a secret with every provider.
pub fn believing<'w>(world: &'w World, more: &str) -> Conf<'w> {
    std::fs::create_dir_all(world.path().join("secrets")).unwrap();
    std::fs::write(world.path().join("secrets/hooks"), format!("{SECRET}\n")).unwrap();
    std::fs::write(world.path().join("secrets/token"), "the-token\n").unwrap();
    let secret = "secret = { file = \"secrets/hooks\" }";
    let lines = ["github", "gitlab", "gitea", "generic"].map(|name| {
        let more = if more.starts_with(&format!("{name}:")) { more.split_once(':').unwrap().1 } else { "" };
        format!("{name} = {{ {secret}{more} }}\n")
    });
    world.prime().with(&lines.concat())
}

#[test]
fn each_provider_deploys_what_listens_to_it() {
    for (provider, event, name, ci) in [
        ("github", "push", "github-push", "none"),
        ("github", "workflow_run", "github-workflow-run", "github"),
        ("gitlab", "Push Hook", "gitlab-push", "none"),
        ("gitlab", "Pipeline Hook", "gitlab-pipeline", "gitlab"),
        ("gitea", "push", "gitea-push", "none"),
        ("gitea", "workflow_run", "gitea-workflow-run", "gitea"),
        ("gitea", "action_run_success", "forgejo-action-run-success", "gitea"),
        ("generic", "", "generic", "generic"),
    ] {
        let world = World::new();
        let shop = world.repo("shop");
        let commit = shop.commit(name);
        let prime = believing(&world, "").hosting(&shop, &format!("ci = \"{ci}\"\n")).start();
        let ping = prime.tells("github", "ping", &fixture("github-ping", &commit), "0");
        assert_eq!(ignored(&ping), "a ping");
        let answer = prime.tells(provider, event, &fixture(name, &commit), "1");
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{name}: {}\n{}", answer.body, prime.logs());
        prime.until_ended(&deployment(&answer), "live");
        prime.says("http://shop.test", name);
        let again = prime.tells(provider, event, &fixture(name, &commit), "1");
        assert!(ignored(&again).contains("accepted before"), "{name}: {}", again.body);
    }
}

#[test]
fn a_repository_is_pinned_and_whoever_takes_its_name_is_refused_loudly() {
    let world = World::new();
    let shop = world.repo("shop");
    let prime = believing(&world, "").hosting(&shop, "ci = \"none\"\n").start();
    let first = shop.commit("one");
    let id = deployment(&prime.tells("github", "push", &fixture("github-push", &first), "1"));
    prime.until_ended(&id, "live");
    prime.kill_control();
    prime.start();

    let mut taken = fixture("github-push", &shop.commit("two"));
    taken["repository"]["id"] = json!(666);
    let answer = prime.tells("github", "push", &taken, "2");
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.body);
    assert!(!answer.body.contains("187421"), "{}", answer.body);
    let mut renamed = fixture("github-push", &first);
    renamed["repository"]["full_name"] = json!("acme/store");
    assert_eq!(prime.tells("github", "push", &renamed, "3").status, StatusCode::NOT_FOUND);
    let log = prime.does(&["hook", "log"]);
    assert!(log.contains("the repository's id is 666, and of project `shop` it is 187421"), "{log}");
    assert!(log.contains("its id is that of project `shop`: if it was renamed"), "{log}");

    // Made anew, and conf says so: the delivery that was refused counts now.
    let number = log.lines().find(|line| line.contains("is 666")).unwrap().split(' ').next().unwrap();
    assert_eq!(prime.opri(&["hook", "replay", number]).status.code(), Some(4));
    let file = prime.conf_file("projects/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[hooks]\nrepository_id = 666\n")).unwrap();
    prime.does(&["reload"]);
    prime.does(&["hook", "replay", number]);
    prime.says("http://shop.test", "two");
}

#[test]
fn the_log_of_hooks_tells_what_came_and_keeps_no_secret() {
    let world = World::new();
    let shop = world.repo("shop");
    let commit = shop.commit("one");
    let prime = believing(&world, "").hosting(&shop, "ci = \"gitlab\"\n").start();
    prime.does(&["hook", "test", "shop/master"]);
    let answer = prime.tells("gitlab", "Pipeline Hook", &fixture("gitlab-pipeline", &commit), "1");
    prime.until_ended(&deployment(&answer), "live");
    let mut wrong = signed("gitlab", "Pipeline Hook", "{}", "2");
    wrong[1].1 = "a wrong token".to_owned();
    assert_eq!(prime.ask(request("{}", &wrong)).status, StatusCode::UNAUTHORIZED);
    let merge = fixture("gitlab-merge-request-pipeline", &commit);
    assert_eq!(ignored(&prime.tells("gitlab", "Pipeline Hook", &merge, "3")), "a merge request");

    let log = prime.does(&["hook", "log"]);
    let became = ["shop/master#1", "the signature does not hold", "a merge request"];
    for (line, became) in log.lines().skip(1).zip(became) {
        assert!(line.contains("Pipeline Hook") && line.contains(became), "{became}: {line}");
    }
    assert_eq!(log.lines().count(), 4, "{log}");
    let shown = prime.does(&["hook", "show", "1"]);
    assert!(shown.contains(&commit) && shown.contains("acme/shop (id 40123)"), "{shown}");
    assert!(prime.opri(&["hook", "show", "77"]).status.code() == Some(3));
    // Nothing to judge in what was not believed, and nothing new in what serves.
    assert_eq!(prime.opri(&["hook", "replay", "2"]).status.code(), Some(4));
    let again = prime.opri(&["hook", "replay", "1"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("serves already"), "{again:?}");

    prime.until("the log is stored", || {
        let store = std::fs::read(world.path().join("state/state.redb")).unwrap_or_default();
        memchr::memmem::find(&store, b"hook-log/").is_some()
    });
    prime.kill_control();
    let store = std::fs::read(world.path().join("state/state.redb")).unwrap();
    assert!(memchr::memmem::find(&store, SECRET.as_bytes()).is_none(), "a secret in the store");
    prime.start();
    assert!(prime.does(&["hook", "log"]).contains("shop/master#1"), "the log outlives control");
}

/// A forge's API on loopback: answers by the request's first line, and keeps what it was told.
pub struct FakeForge {
    pub url: String,
    pub told: Arc<Mutex<Vec<(String, Value)>>>,
    pub answers: Arc<Mutex<Vec<(String, Value)>>>,
    /// The fields in which the token came.
    tokens: Arc<Mutex<BTreeSet<String>>>,
}

impl FakeForge {
    pub fn start(world: &World) -> Self {
        let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, answers) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<(String, Value)>>>::default());
        let tokens = Arc::<Mutex<BTreeSet<String>>>::default();
        let router = {
            let (told, answers, tokens) = (told.clone(), answers.clone(), tokens.clone());
            axum::Router::new().fallback(move |request: axum::extract::Request| {
                let (told, answers) = (told.clone(), answers.clone());
                let fields = request.headers().iter().filter_map(|(name, value)| Some((name, value.to_str().ok()?)));
                let with_token = fields.filter(|(_, value)| value.ends_with("the-token"));
                tokens.lock().unwrap().extend(with_token.map(|(name, value)| format!("{name}: {value}")));
                async move { answer(request, &told, &answers).await }
            })
        };
        world.runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, told, answers, tokens }
    }

    /// From now on a request for a path that begins so is answered with this.
    pub fn says(&self, path: &str, answer: Value) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| known != path);
        answers.push((path.to_owned(), answer));
    }

    fn has_been_told(&self, path: &str, state: &str) -> bool {
        self.told.lock().unwrap().iter().any(|(told, body)| told == path && body["state"] == state)
    }
}

async fn answer(
    request: axum::extract::Request,
    told: &Mutex<Vec<(String, Value)>>,
    answers: &Mutex<Vec<(String, Value)>>,
) -> (StatusCode, axum::Json<Value>) {
    let (head, body) = request.into_parts();
    let is_allowed = head.headers.values().any(|value| value.to_str().is_ok_and(|value| value.ends_with("the-token")));
    if !is_allowed {
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({})));
    }
    let path = head.uri.path().to_owned();
    if head.method == ::http::Method::POST {
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        told.lock().unwrap().push((path, serde_json::from_slice(&body).unwrap()));
        return (StatusCode::CREATED, axum::Json(json!({ "id": 7 })));
    }
    let answers = answers.lock().unwrap();
    match answers.iter().find(|(known, _)| path.starts_with(known)) {
        Some((_, answer)) => (StatusCode::OK, axum::Json(answer.clone())),
        None => (StatusCode::NOT_FOUND, axum::Json(json!({}))),
    }
}

fn statuses(states: &[(&str, &str)]) -> Value {
    let one = |(context, state): &(&str, &str)| json!({ "context": context, "state": state });
    let all: Vec<Value> = states.iter().map(one).collect();
    json!({ "state": "x", "total_count": all.len(), "statuses": all, "repository": { "id": 187421 } })
}

fn check_runs(conclusions: &[&str]) -> Value {
    let one = |conclusion: &&str| json!({ "status": "completed", "conclusion": conclusion });
    let all: Vec<Value> = conclusions.iter().map(one).collect();
    json!({ "total_count": all.len(), "check_runs": all })
}

/// `shop` of a forge that can be asked, with its first release serving.
fn asked<'w>(world: &'w World, shop: &Repo, forge: &FakeForge) -> Prime<'w> {
    let api = format!("github:, api = \"{}\", token = {{ file = \"secrets/token\" }}", forge.url);
    let prime = believing(world, &api).hosting(shop, "ci = \"github\"\n").start();
    let first = shop.commit("one");
    let answer = prime.tells("github", "workflow_run", &fixture("github-workflow-run", &first), "1");
    prime.until_ended(&deployment(&answer), "live");
    prime
}

#[test]
fn a_hook_that_was_lost_is_made_good_once_everything_has_passed() {
    let world = World::new();
    let shop = world.repo("shop");
    let forge = FakeForge::start(&world);
    let prime = asked(&world, &shop, &forge);
    prime.kill_control();
    let second = shop.commit("two");
    let at = format!("/repos/acme/shop/commits/{second}");
    forge.says(&format!("{at}/status"), statuses(&[("ci/other", "success"), ("opri/shop/master", "failure")]));
    forge.says(&format!("{at}/check-runs"), check_runs(&["success", "failure"]));
    prime.start();
    // A red check, and then one of several that is green: still not all.
    let suite = prime.tells("github", "check_suite", &fixture("github-check-suite", &second), "2");
    assert!(ignored(&suite).contains("one check of several"), "{}", suite.body);
    assert!(prime.does(&["hook", "test", "shop"]).contains("has not passed: one of its checks is failure"));
    assert_eq!(prime.get("http://shop.test").body, "one");

    forge.says(&format!("{at}/check-runs"), check_runs(&["success", "skipped"]));
    prime.tells("github", "check_suite", &fixture("github-check-suite", &second), "3");
    prime.says("http://shop.test", "two");
    // Somebody goes back on purpose: no look undoes that.
    prime.does(&["rollback", "shop"]);
    prime.tells("github", "check_suite", &fixture("github-check-suite", &second), "4");
    assert!(prime.does(&["hook", "test", "shop"]).contains("has passed"));
    prime.kill_control();
    prime.start();
    prime.says("http://shop.test", "one");
}

/// What each CI says of a commit, by the path at which it is asked.
fn word(provider: &str, slug: &str, commit: &str, state: &str) -> (String, Value) {
    let quoted = slug.replace('/', "%2F");
    match provider {
        "travis" => {
            let build = |sha: &str, number: &str, state: &str, event: &str| {
                json!({ "id": 4, "number": number, "state": state, "event_type": event, "tag": null,
                    "commit": { "id": 9, "sha": sha }, "repository": { "id": 1, "name": "shop", "slug": slug } })
            };
            let builds = [build(commit, "8", "passed", "cron"), build("another", "9", "passed", "push")];
            let builds = [&builds[..], &[build(commit, "7", state, "push")]].concat();
            (format!("/repo/{quoted}/builds"), json!({ "@type": "builds", "builds": builds }))
        }
        "gitlab" => {
            let pipeline = |id: u64, status: &str, source: &str| {
                json!({ "id": id, "iid": 3, "project_id": 40123, "status": status, "source": source, "ref": "master",
                    "sha": commit, "name": null, "created_at": "2026-11-24T09:58:20.000Z" })
            };
            let newest = 1_812_460_000_u64;
            let pipelines = json!([pipeline(newest, state, "push"), pipeline(newest + 1, "success", "schedule")]);
            (format!("/projects/{quoted}/pipelines"), pipelines)
        }
        _ => {
            let mut said = statuses(&[]);
            let status = |context: &str, state: &str| json!({ "id": 3, "context": context, "status": state });
            said["statuses"] = json!([status("ci / test", state), status("opri/shop/master", "failure")]);
            said["total_count"] = json!(2);
            said["repository"]["id"] = json!(31);
            (format!("/repos/{slug}/commits/{commit}/status"), said)
        }
    }
}

/// The same lost hook, as each CI is asked about it and told what came of it.
#[test]
fn each_ci_is_asked_in_its_own_words_and_told_in_its_forge_s() {
    for (provider, event, name, pending, passed, token) in [
        ("travis", "", "", "started", "passed", "authorization: token the-token"),
        ("gitlab", "Pipeline Hook", "gitlab-pipeline", "running", "success", "private-token: the-token"),
        ("gitea", "workflow_run", "gitea-workflow-run", "pending", "success", "authorization: token the-token"),
    ] {
        let world = World::new();
        let shop = world.repo("shop");
        let forge = FakeForge::start(&world);
        let api = format!("api = \"{}\", token = {{ file = \"secrets/token\" }}", forge.url);
        let prime = believing(&world, &format!("{provider}:, {api}"));
        let prime = prime.hosting(&shop, &format!("ci = \"{provider}\"\n")).start();
        let first = shop.commit("one");
        if provider == "travis" {
            let file = prime.conf_file("prime.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace("travis.pem\" }", &format!("travis.pem\", {api} }}"))).unwrap();
            prime.does(&["reload"]);
            prime.deploys(&shop, "master");
        } else {
            let answer = prime.tells(provider, event, &fixture(name, &first), "1");
            prime.until_ended(&deployment(&answer), "live");
        }
        prime.kill_control();
        let second = shop.commit("two");
        let (path, not_yet) = word(provider, &shop.slug(), &second, pending);
        forge.says(&path, not_yet);
        prime.start();
        let looked = prime.does(&["hook", "test", "shop"]);
        assert!(looked.contains("has not passed") && looked.contains(pending), "{provider}: {looked}");
        assert_eq!(prime.get("http://shop.test").body, "one");

        prime.kill_control();
        forge.says(&path, word(provider, &shop.slug(), &second, passed).1);
        prime.start();
        prime.says("http://shop.test", "two");
        assert_eq!(forge.tokens.lock().unwrap().iter().collect::<Vec<_>>(), [token], "{provider}");
        let told = match provider {
            "gitlab" => format!("/projects/{}/statuses/{second}", shop.slug().replace('/', "%2F")),
            _ => format!("/repos/{}/statuses/{second}", shop.slug()),
        };
        // Travis is a CI and no forge.
        if provider != "travis" {
            prime.until("the forge is told", || forge.has_been_told(&told, "success"));
        }
    }
}

#[test]
fn what_cannot_be_judged_is_told_and_not_deployed() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.kill_control();
    shop.commit("two");
    prime.start();
    prime.until("status says so", || prime.does(&["status"]).contains("cannot be asked"));
    assert_eq!(prime.get("http://shop.test").body, "one");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "two");
}

#[test]
fn a_plain_push_that_was_lost_is_made_good_at_the_start() {
    let world = World::new();
    let shop = world.repo("shop");
    let prime = believing(&world, "").hosting(&shop, "ci = \"none\"\n").start();
    let first = shop.commit("one");
    let answer = prime.tells("github", "push", &fixture("github-push", &first), "1");
    prime.until_ended(&deployment(&answer), "live");
    prime.kill_control();
    shop.commit("two");
    prime.start();
    prime.says("http://shop.test", "two");
}

#[test]
fn the_forge_is_told_what_became_of_a_commit() {
    let world = World::new();
    let shop = world.repo("shop");
    let forge = FakeForge::start(&world);
    let prime = asked(&world, &shop, &forge);
    let commit = shop.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let status = format!("/repos/acme/shop/statuses/{commit}");
    prime.until("a status and a deployment", || {
        forge.has_been_told(&status, "success")
            && forge.has_been_told("/repos/acme/shop/deployments/7/statuses", "success")
    });
    assert!(forge.has_been_told(&status, "pending"));
    let told = forge.told.lock().unwrap().clone();
    let begun = told.iter().find(|(path, _)| path == "/repos/acme/shop/deployments").unwrap();
    assert_eq!((&begun.1["ref"], &begun.1["environment"]), (&json!(commit), &json!("shop/master")));

    shop.write("crash", "");
    let broken = shop.commit("two");
    let mut run = fixture("github-workflow-run", &broken);
    run["workflow_run"]["id"] = json!(19_284_700_113_u64);
    let answer = prime.tells("github", "workflow_run", &run, "2");
    prime.until_ended(&deployment(&answer), "failed");
    let status = format!("/repos/acme/shop/statuses/{broken}");
    prime.until("the failure", || forge.has_been_told(&status, "failure"));
    let told = forge.told.lock().unwrap();
    assert!(
        told.iter().all(|(_, body)| !body.to_string().contains("the reason why it crashed")),
        "an app's words leaked"
    );
}

/// The step for other CIs, as README.md shows it.
#[test]
fn the_forge_is_told_that_a_commit_was_rolled_back() {
    let world = World::new();
    let shop = world.repo("shop");
    let forge = FakeForge::start(&world);
    let prime = asked(&world, &shop, &forge);
    shop.write("fails", "");
    let bad = shop.commit("two");
    let mut run = fixture("github-workflow-run", &bad);
    run["workflow_run"]["id"] = json!(19_284_700_113_u64);
    let answer = prime.tells("github", "workflow_run", &run, "2");
    prime.until_ended(&deployment(&answer), "live");
    let status = format!("/repos/acme/shop/statuses/{bad}");
    prime.until("it serves", || forge.has_been_told(&status, "success"));
    (0..25).for_each(|_| drop(prime.get("http://shop.test/fails")));
    prime.until("it is rolled back", || forge.has_been_told(&status, "failure"));
    let told = forge.told.lock().unwrap().clone();
    let last = told.iter().rfind(|(path, _)| *path == status).unwrap();
    assert_eq!(last.1["description"], "failed: r2 was rolled back to r1");
}

#[test]
fn the_step_that_the_readme_shows_is_believed() {
    if !["curl", "openssl"].iter().all(|tool| std::process::Command::new(tool).arg("--version").output().is_ok()) {
        println!("SKIPPED: curl or openssl is not installed");
        return;
    }
    let world = World::new();
    let shop = world.repo("shop");
    let commit = shop.commit("signed by a shell");
    let prime = believing(&world, "").hosting(&shop, "ci = \"generic\"\n").start();
    let readme = include_str!("../../README.md");
    let step = readme.split("```sh\n").find(|block| block.contains("webhook-signature")).unwrap();
    let step = step.split("```").next().unwrap();
    let address = format!("http://{}/events/generic", prime.address("http"));
    let step = step.replace("https://opri.example.org/events/generic", &format!("{address} -H 'host: opri.test'"));
    let output = std::process::Command::new("sh")
        .args(["-c", &step])
        .env("COMMIT", &commit)
        .env("RUN", "12")
        .env("SECRET", SECRET)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}\n{}", prime.logs());
    prime.says("http://shop.test", "signed by a shell");
}
