//! Deliveries of every kind against one conf: what is believed, what is passed over, what is refused.

use std::path::Path;
use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
// The demo's Travis signs for these tests as well; no code of control calls it.
use crate::cli::travis::{TravisKey as Sender, body, passed};
use crate::model::machine::{self, BuildLimits, CacheSizes, Limits, Listeners, RuntimeChoice};
use crate::model::project::{Branch, Ci, Origin, Repository, Secret};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SECRET: &str = "It's a Secret to Everybody";

static TRAVIS: LazyLock<Sender> = LazyLock::new(|| Sender::generate().unwrap());
static STRANGER: LazyLock<Sender> = LazyLock::new(|| Sender::generate().unwrap());

struct World {
    dir: tempfile::TempDir,
    machine: Machine,
    projects: BTreeMap<ProjectName, Project>,
    hooks: Hooks,
}

/// `shop` believes Travis, `blog` GitHub, `wiki` any push; `forum` has a secret of its own.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let travis = machine::TravisKey::PublicKey(file("travis.pem", TRAVIS.public_pem()));
    let github = Some(Secret::File(file("github", &format!("{SECRET}\n"))));
    let mut forum = project("forum", Ci::None);
    forum.hook_secret = Some(Secret::File(file("forum", "forum's own")));
    let all = [project("shop", Ci::Travis), project("blog", Ci::Github), project("wiki", Ci::None), forum];
    let projects = all.into_iter().map(|project| (project.name.clone(), project)).collect();
    World { machine: machine_with(dir.path(), travis, github), dir, projects, hooks: Hooks::default() }
}

fn project(name: &str, ci: Ci) -> Project {
    let hosts = vec![format!("{name}.test").parse().unwrap()];
    let branch = |branch: &str| (branch.parse().unwrap(), Branch { hosts: hosts.clone() });
    Project {
        name: name.parse().unwrap(),
        origin: Origin::Repository(Repository::Url(format!("https://github.com/Hasadna/{name}.git"))),
        ci,
        branches: [branch("master"), branch("dev")].into(),
        app: Default::default(),
        cache: Default::default(),
        limits: Default::default(),
        compression: Default::default(),
        https_only: None,
        hook_secret: None,
    }
}

fn machine_with(dir: &Path, travis: machine::TravisKey, github: Option<Secret>) -> Machine {
    let host = "opri.test".parse().unwrap();
    Machine {
        domain: "test".parse().unwrap(),
        state_dir: dir.to_owned(),
        certs_dir: dir.to_owned(),
        runtime: RuntimeChoice::Process,
        listeners: Listeners::default(),
        acme: None,
        hooks: machine::Hooks { host, travis, github, gitlab: None, gitea: None, generic: None },
        dashboard: None,
        cache: CacheSizes { memory: 0, disk: 0, object_max: 0 },
        trusted_proxies: Vec::new(),
        limits: Limits::default(),
        access_log: Default::default(),
        edge_user: None,
        build: BuildLimits { parallel: 1, timeout: std::time::Duration::from_secs(1), memory: 0, cpus: 1.0 },
        keep_releases: 1,
    }
}

impl World {
    async fn judge(&self, headers: &[(&str, &str)], body: &[u8]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        self.hooks.judge(&Delivery { headers: &map, body }, &self.machine, &self.projects).await
    }

    async fn travis(&self, payload: &str) -> Verdict {
        self.judge(&[("content-type", FORM), ("signature", &TRAVIS.sign(payload))], body(payload).as_bytes()).await
    }

    async fn github(&self, event: &str, payload: &Value) -> Verdict {
        self.github_signed(event, payload, SECRET).await
    }

    async fn github_signed(&self, event: &str, payload: &Value, secret: &str) -> Verdict {
        let (payload, delivery) = (payload.to_string(), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let signature = hub_signature(secret, payload.as_bytes());
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", delivery),
            ("x-hub-signature-256", &signature),
        ];
        self.judge(&headers, payload.as_bytes()).await
    }
}

fn hub_signature(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    format!("sha256={}", tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn build(slug: &str, branch: &str) -> Value {
    serde_json::from_str(&passed(slug, branch, COMMIT, 7, "2026-11-24T02:00:00Z")).unwrap()
}

fn with(mut payload: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        *payload.pointer_mut(pointer).unwrap() = value.clone();
    }
    payload
}

fn status(verdict: &Verdict) -> u16 {
    match verdict {
        Verdict::Push(_) => 202,
        Verdict::Ignored(_) => 200,
        Verdict::Refused(refusal) => refusal.status().as_u16(),
    }
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Push(pushes) => panic!("accepted: {pushes:?}"),
        Verdict::Ignored(reason) => reason,
        Verdict::Refused(refusal) => refusal.to_string(),
    }
}

#[tokio::test]
async fn a_passed_build_of_a_configured_branch_is_a_push() {
    let world = world();
    let payload = build("hasadna/SHOP", "dev").to_string();
    let Verdict::Push(pushes) = world.travis(&payload).await else { panic!("not accepted") };
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].site().to_string(), "shop/dev");
    assert_eq!((pushes[0].number, pushes[0].repository_id), (Some(7), Some(1)));
    assert_eq!(pushes[0].delivery, "7 2026-11-24T02:00:00Z passed");
    let fixed = with(build("hasadna/shop", "dev"), &[("/status_message", json!("Fixed")), ("/number", json!(8))]);
    assert_eq!(status(&world.travis(&fixed.to_string()).await), 202);
}

#[tokio::test]
async fn two_projects_of_one_repository_each_get_their_push() {
    let mut world = world();
    let mut twin = project("shop", Ci::Travis);
    twin.name = "twin".parse().unwrap();
    twin.branches.remove(&"dev".parse().unwrap());
    world.projects.insert(twin.name.clone(), twin);
    let sites = |verdict| match verdict {
        Verdict::Push(pushes) => pushes.iter().map(|push| push.site().to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sites(world.travis(&build("hasadna/shop", "master").to_string()).await), ["shop/master", "twin/master"]);
    assert_eq!(sites(world.travis(&build("hasadna/shop", "dev").to_string()).await), ["shop/dev"]);
}

#[tokio::test]
async fn honest_travis_deliveries_that_deploy_nothing_say_why() {
    let world = world();
    let shop = || build("hasadna/shop", "master");
    let pull_request = json!("pull_request");
    let cases = [
        (with(shop(), &[("/type", pull_request), ("/pull_request", json!(true))]), "a pull request"),
        (with(shop(), &[("/pull_request", json!(true))]), "a pull request"),
        (with(shop(), &[("/pull_request_number", json!(3))]), "a pull request"),
        (with(shop(), &[("/type", json!("cron"))]), "a build of type `cron`, not a push"),
        (with(shop(), &[("/type", json!("api"))]), "a build of type `api`, not a push"),
        (with(shop(), &[("/type", Value::Null)]), "a build of type ``, not a push"),
        (with(shop(), &[("/tag", json!("master"))]), "a tag, not a branch"),
        (with(shop(), &[("/state", json!("failed")), ("/status", json!(1))]), "the build has not passed"),
        (with(shop(), &[("/state", json!("errored"))]), "the build has not passed"),
        (with(shop(), &[("/state", json!("started")), ("/status", Value::Null)]), "the build has not passed"),
        (with(shop(), &[("/state", Value::Null), ("/status", json!(1))]), "the build has not passed"),
        (with(shop(), &[("/status", json!(1))]), "the build has not passed"),
        (build("hasadna/shop", "feature"), "project `shop` has no branch `feature`"),
        (build("hasadna/shop", "MASTER"), "project `shop` has no branch `MASTER`"),
        (build("hasadna/blog", "master"), "project `blog` does not deploy on the word of travis"),
        (build("hasadna/wiki", "master"), "project `wiki` does not deploy on the word of travis"),
    ];
    for (payload, why) in cases {
        let verdict = world.travis(&payload.to_string()).await;
        assert_eq!((status(&verdict), reason(verdict).as_str()), (200, why), "{payload}");
    }
    let fallback = with(shop(), &[("/state", Value::Null)]);
    assert_eq!(status(&world.travis(&fallback.to_string()).await), 202);
}

#[tokio::test]
async fn dishonest_or_broken_travis_deliveries_are_refused() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let (form, good) = (body(&payload), TRAVIS.sign(&payload));
    let form = form.as_bytes();
    let foreign = build("evil/shop", "master").to_string();
    assert_eq!(status(&world.travis(&foreign).await), 404);
    let short = with(build("hasadna/shop", "master"), &[("/commit", json!("0123456"))]);
    assert_eq!(status(&world.travis(&short.to_string()).await), 400);
    let option = with(build("hasadna/shop", "master"), &[("/commit", json!("--upload-pack=x"))]);
    assert_eq!(status(&world.travis(&option.to_string()).await), 400);
    let twice = payload.replacen("\"branch\"", "\"branch\":\"dev\",\"branch\"", 1);
    assert_eq!(status(&world.travis(&twice).await), 400);
    assert_eq!(status(&world.travis("{}").await), 400);

    let kind = ("content-type", FORM);
    let (forged, moved) = (STRANGER.sign(&payload), TRAVIS.sign(&foreign));
    let refused = [
        (vec![kind], 401),
        (vec![kind, ("travis-repo-slug", "hasadna/shop")], 401),
        (vec![kind, ("signature", "")], 401),
        (vec![kind, ("signature", "!")], 401),
        (vec![kind, ("signature", &forged)], 401),
        (vec![kind, ("signature", &moved)], 401),
        (vec![kind, ("signature", &good), ("signature", &good)], 400),
        (vec![kind, ("signature", &good), ("content-encoding", "gzip")], 415),
        (vec![("content-type", "application/json"), ("signature", &good)], 415),
        (vec![("content-type", "application/json"), ("user-agent", "Travis CI Notifications")], 415),
        (vec![("content-type", "application/x-www-form-urlencoded; charset=utf-16"), ("signature", &good)], 415),
        (vec![("content-type", "application/json")], 400),
        (vec![], 400),
        (vec![kind, ("signature", &good), ("x-gitea-event", "push")], 400),
        (vec![kind, ("signature", &good), ("x-github-event", "push")], 401),
    ];
    for (headers, expected) in refused {
        let verdict = world.judge(&headers, form).await;
        assert_eq!(status(&verdict), expected, "{headers:?}: {verdict:?}");
    }
    let signed = [kind, ("signature", good.as_str())];
    assert_eq!(status(&world.judge(&signed, form).await), 202);
    assert_eq!(status(&world.judge(&signed, &[form, b"&", form].concat()).await), 400);
    assert_eq!(status(&world.judge(&signed, &vec![b'a'; TRAVIS_BODY_MAX + 1]).await), 413);
}

#[tokio::test]
async fn no_flipped_bit_is_accepted() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let (original, signature) = (body(&payload).into_bytes(), TRAVIS.sign(&payload));
    let headers = [("content-type", FORM), ("signature", signature.as_str())];
    assert_eq!(status(&world.judge(&headers, &original).await), 202);
    for bit in 0..original.len() * 8 {
        let mut flipped = original.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // `%2F` and `%2f`, or a form's field cut by a new `&`, may still be the very same payload.
        if form::payload(&flipped).is_ok_and(|same| same == payload.as_bytes()) {
            continue;
        }
        let verdict = world.judge(&headers, &flipped).await;
        assert!(matches!(verdict, Verdict::Refused(_)), "bit {bit}: {verdict:?}");
    }
    let raw = STANDARD.decode(&signature).unwrap();
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let flipped = STANDARD.encode(flipped);
        let verdict = world.judge(&[("content-type", FORM), ("signature", &flipped)], &original).await;
        assert_eq!(status(&verdict), 401, "bit {bit} of the signature");
    }
}

#[tokio::test]
async fn a_pinned_key_counts_as_it_stands_now() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let pem = world.dir.path().join("travis.pem");
    std::fs::write(&pem, STRANGER.public_pem()).unwrap();
    assert_eq!(status(&world.travis(&payload).await), 401);
    std::fs::write(&pem, "no key").unwrap();
    assert_eq!(status(&world.travis(&payload).await), 503);
    std::fs::write(&pem, TRAVIS.public_pem()).unwrap();
    assert_eq!(status(&world.travis(&payload).await), 202);
}

/// Travis' API on loopback: answers the given responses, one a connection, and tells how many it gave.
async fn travis_api(answers: Vec<String>) -> (String, tokio::task::JoinHandle<usize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/config", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        for (given, answer) in answers.iter().enumerate() {
            let within = std::time::Duration::from_millis(300);
            let Ok(Ok((mut stream, _))) = tokio::time::timeout(within, listener.accept()).await else { return given };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        answers.len()
    });
    (url, serve)
}

fn config_with(key: &Sender) -> String {
    let config = json!({"config": {"notifications": {"webhook": {"public_key": key.public_pem()}}}}).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{config}", config.len())
}

#[tokio::test]
async fn a_fetched_key_is_kept_and_forgeries_fetch_once() {
    let mut world = world();
    let (url, api) = travis_api(vec![config_with(&TRAVIS), "HTTP/1.1 500 No\r\n\r\n".to_owned()]).await;
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
    let payload = build("hasadna/shop", "master").to_string();
    assert_eq!(status(&world.travis(&payload).await), 202);
    for forged in ["x", "y", "z"] {
        let headers = [("content-type", FORM), ("signature", &STRANGER.sign(forged))];
        assert_eq!(status(&world.judge(&headers, body(forged).as_bytes()).await), 401);
    }
    assert_eq!(api.await.unwrap(), 1, "a forgery fetched the key again");

    // Control again, and Travis away: the stored key holds, for this URL alone.
    world.hooks = Hooks::default();
    world.hooks.refresh(&world.machine).await;
    assert_eq!(status(&world.travis(&payload).await), 202);
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl("http://127.0.0.1:1/config".to_owned());
    assert_eq!(status(&world.travis(&payload).await), 503);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.dir.path().join("travis-key.pem")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_new_key_of_travis_is_found_by_the_first_delivery_it_signs() {
    let mut world = world();
    let stored_by = |url: &str| format!("{url}\n{}", STRANGER.public_pem());
    let (url, api) = travis_api(vec![config_with(&TRAVIS)]).await;
    std::fs::write(world.dir.path().join("travis-key.pem"), stored_by(&url)).unwrap();
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
    assert_eq!(status(&world.travis(&build("hasadna/shop", "master").to_string()).await), 202);
    assert_eq!(api.await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_not_the_whole_right_answer_is_no_key() {
    let empty = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned();
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    for answer in [empty, redirect, long] {
        let mut world = world();
        let (url, _api) = travis_api(vec![answer]).await;
        world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
        assert_eq!(status(&world.travis(&build("hasadna/shop", "master").to_string()).await), 503);
    }
}

#[test]
fn githubs_own_example_verifies() {
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(hub_signature(SECRET, b"Hello, World!"), expected);
}

fn pushed(repository: &str) -> Value {
    json!({"ref": "refs/heads/master", "before": "f".repeat(40), "after": COMMIT, "deleted": false, "forced": false,
        "repository": {"id": 42, "full_name": repository}})
}

fn ran(repository: &str) -> Value {
    json!({"action": "completed", "repository": {"id": 42, "full_name": repository},
        "workflow_run": {"id": 9, "event": "push", "conclusion": "success", "head_branch": "master", "head_sha": COMMIT,
            "run_number": 3, "run_attempt": 1, "head_repository": {"id": 42, "full_name": repository}}})
}

#[tokio::test]
async fn githubs_events_deploy_the_projects_that_listen_to_them() {
    let world = world();
    let Verdict::Push(pushes) = world.github("push", &pushed("Hasadna/wiki")).await else { panic!("not accepted") };
    assert_eq!((pushes[0].site().to_string().as_str(), pushes[0].repository_id), ("wiki/master", Some(42)));
    let Verdict::Push(pushes) = world.github("workflow_run", &ran("hasadna/Blog")).await else {
        panic!("not accepted")
    };
    assert_eq!((pushes[0].site().to_string().as_str(), pushes[0].number), ("blog/master", Some(9)));
    assert_eq!(status(&world.github_signed("push", &pushed("hasadna/forum"), "forum's own").await), 202);

    let payload = pushed("hasadna/wiki").to_string();
    let form = body(&payload);
    let signature = hub_signature(SECRET, form.as_bytes());
    let headers = [("content-type", FORM), ("x-github-event", "push"), ("x-hub-signature-256", &signature)];
    assert_eq!(status(&world.judge(&headers, form.as_bytes()).await), 202);
}

#[tokio::test]
async fn honest_github_deliveries_that_deploy_nothing_say_why() {
    let world = world();
    let (wiki, blog) = (|| pushed("hasadna/wiki"), || ran("hasadna/blog"));
    let fork = json!({"id": 66, "full_name": "evil/blog"});
    let namesake = json!({"id": 66, "full_name": "hasadna/blog"});
    let cases = [
        ("ping", json!({"zen": "x", "repository": {"id": 42, "full_name": "hasadna/wiki"}}), "a ping"),
        ("ping", json!({"zen": "x"}), "a ping"),
        ("pull_request", wiki(), "an event that deploys nothing"),
        ("push", with(wiki(), &[("/deleted", json!(true))]), "a deleted branch"),
        ("push", with(wiki(), &[("/after", json!("0".repeat(40)))]), "a deleted branch"),
        ("push", with(wiki(), &[("/ref", json!("refs/tags/master"))]), "a tag or another reference, not a branch"),
        ("push", with(wiki(), &[("/ref", json!("refs/heads/x"))]), "project `wiki` has no branch `x`"),
        ("push", pushed("hasadna/shop"), "project `shop` does not deploy on the word of plain pushes"),
        ("push", pushed("hasadna/blog"), "project `blog` does not deploy on the word of plain pushes"),
        ("workflow_run", ran("hasadna/wiki"), "project `wiki` does not deploy on the word of github"),
        ("workflow_run", with(blog(), &[("/action", json!("requested"))]), "a workflow run that is not completed"),
        (
            "workflow_run",
            with(blog(), &[("/workflow_run/event", json!("pull_request"))]),
            "a workflow run for something other than a push",
        ),
        ("workflow_run", with(blog(), &[("/workflow_run/head_repository", fork)]), "a workflow run of a fork"),
        ("workflow_run", with(blog(), &[("/workflow_run/head_repository", namesake)]), "a workflow run of a fork"),
        ("workflow_run", with(blog(), &[("/workflow_run/head_repository", Value::Null)]), "a workflow run of a fork"),
        (
            "workflow_run",
            with(blog(), &[("/workflow_run/conclusion", json!("failure"))]),
            "the workflow run has not succeeded",
        ),
    ];
    for (event, payload, why) in cases {
        let verdict = world.github(event, &payload).await;
        assert_eq!((status(&verdict), reason(verdict).as_str()), (200, why), "{event} {payload}");
    }
}

#[tokio::test]
async fn dishonest_github_deliveries_are_refused_without_a_hint_of_what_is_hosted() {
    let mut world = world();
    let known = pushed("hasadna/wiki");
    assert_eq!(status(&world.github_signed("push", &known, "wrong").await), 401);
    assert_eq!(status(&world.github_signed("push", &pushed("evil/wiki"), "wrong").await), 401);
    assert_eq!(status(&world.github("push", &pushed("evil/wiki")).await), 404);
    // The machine's secret does not speak for a project that has its own.
    assert_eq!(status(&world.github("push", &pushed("hasadna/forum")).await), 401);
    let json = ("content-type", "application/json");
    let text = known.to_string();
    let good = hub_signature(SECRET, text.as_bytes());
    let event = ("x-github-event", "push");
    for signature in ["", "sha256=", "sha1=aa", &good[7..], &good.replace('=', ":"), &format!("{good}00")] {
        let headers = [json, event, ("x-hub-signature-256", signature)];
        assert_eq!(status(&world.judge(&headers, text.as_bytes()).await), 401, "{signature}");
    }
    assert_eq!(status(&world.judge(&[json, event], text.as_bytes()).await), 401);
    world.machine.hooks.github = None;
    assert_eq!(status(&world.github("push", &known).await), 401);
    world.machine.hooks.github = Some(Secret::File(world.dir.path().join("absent")));
    assert_eq!(status(&world.github("push", &known).await), 503);
}

#[tokio::test]
async fn no_flipped_bit_of_a_github_body_is_accepted() {
    let world = world();
    let text = pushed("hasadna/wiki").to_string();
    let signature = hub_signature(SECRET, text.as_bytes());
    let headers =
        [("content-type", "application/json"), ("x-github-event", "push"), ("x-hub-signature-256", &signature)];
    for bit in 0..text.len() * 8 {
        let mut flipped = text.clone().into_bytes();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(world.judge(&headers, &flipped).await, Verdict::Refused(_)), "bit {bit}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_unsigned_is_ever_a_push_and_nothing_panics(
        picked in proptest::sample::subsequence(HEADERS.to_vec(), 0..=HEADERS.len()),
        payload in "\\PC{0,200}",
        is_form: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = if is_form { body(&payload).into_bytes() } else { payload.into_bytes() };
        let verdict = runtime.block_on(WORLD.judge(&picked, &bytes));
        proptest::prop_assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }
}

static WORLD: LazyLock<World> = LazyLock::new(world);

const HEADERS: [(&str, &str); 9] = [
    ("content-type", FORM),
    ("content-type", "application/json; charset=UTF-8"),
    ("content-type", ";"),
    ("signature", "AAAA"),
    ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
    ("x-github-event", "push"),
    ("x-github-event", "ping"),
    ("travis-repo-slug", "hasadna/shop"),
    ("user-agent", "Travis CI Notifications"),
];
