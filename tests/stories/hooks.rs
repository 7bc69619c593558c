//! When a webhook is believed, and when it is not.

use ::http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::world::{Prime, Repo, World, deployment, ignored};

fn begin(world: &World) -> (Prime<'_>, Repo) {
    let shop = world.repo("shop");
    shop.commit("page");
    (world.prime().hosting(&shop, "").start(), shop)
}

#[test]
fn a_travis_hook_that_passed_makes_its_commit_serve() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    assert_eq!(prime.get("http://shop.test").status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = prime.push(&shop, "master");
    assert_eq!((answer.status, deployment(&answer).as_str()), (StatusCode::ACCEPTED, "shop/master#1"));
    prime.says("http://shop.test", "page");
    assert!(prime.metric("opri_hooks_total") >= 1.0);
}

#[test]
fn what_is_not_signed_by_travis_is_refused() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let payload = prime.payload(&shop, "master", shop.git(&["rev-parse", "HEAD"]).trim()).to_string();
    let stranger = open_prime::cli::travis::TravisKey::generate().unwrap();
    assert_eq!(prime.deliver(&payload, &stranger.sign(&payload)).status, StatusCode::UNAUTHORIZED);
    assert_eq!(prime.deliver(&payload, "bm90IGEgc2lnbmF0dXJl").status, StatusCode::UNAUTHORIZED);
    let signature = world.travis.sign(&payload);
    assert_eq!(prime.deliver(&payload.replace("passed", "Passed"), &signature).status, StatusCode::UNAUTHORIZED);
    let unsigned = Request::post("http://opri.test/events")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(open_prime::cli::travis::body(&payload).into()));
    assert!(prime.ask(unsigned.unwrap()).status.is_client_error());
    assert_eq!(prime.get("http://shop.test").status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn honest_deliveries_that_mean_nothing_say_why() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let head = shop.git(&["rev-parse", "HEAD"]);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut payload = prime.payload(&shop, "master", head.trim());
        change(&mut payload);
        prime.hook(&payload)
    };
    type Change<'c> = &'c dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>); 6] = [
        ("pull request", &|payload| {
            payload["type"] = json!("pull_request");
            payload["pull_request"] = json!(true);
            payload["pull_request_number"] = json!(7);
        }),
        ("tag", &|payload| payload["tag"] = json!("master")),
        ("passed", &|payload| {
            payload["state"] = json!("failed");
            payload["status"] = json!(1);
        }),
        ("branch", &|payload| payload["branch"] = json!("feature")),
        ("cron", &|payload| payload["type"] = json!("cron")),
        ("api", &|payload| payload["type"] = json!("api")),
    ];
    for (why, change) in cases {
        let answer = changed(change);
        assert_eq!(answer.status, StatusCode::OK, "{why}: {}", answer.body);
        assert!(ignored(&answer).contains(why), "{why}: {}", answer.body);
    }
    let foreign = changed(&|payload| payload["repository"]["owner_name"] = json!("stranger"));
    assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{}", foreign.body);
    assert_eq!(prime.get("http://shop.test").status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_replayed_hook_deploys_once_also_after_a_restart() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let head = shop.git(&["rev-parse", "HEAD"]);
    let payload = prime.payload(&shop, "master", head.trim());
    let first = prime.hook(&payload);
    prime.until_ended(&deployment(&first), "live");
    assert!(ignored(&prime.hook(&payload)).contains("accepted before"));
    prime.kill_control();
    prime.start();
    assert!(ignored(&prime.hook(&payload)).contains("accepted before"));
}

#[test]
fn an_older_build_never_replaces_a_newer() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let old = shop.git(&["rev-parse", "HEAD"]);
    let stale = prime.payload(&shop, "master", old.trim());
    shop.commit("newer");
    prime.deploys(&shop, "master");
    assert!(ignored(&prime.hook(&stale)).contains("older"));
    prime.says("http://shop.test", "newer");
}

#[test]
fn a_commit_that_is_not_on_the_branch_is_not_deployed() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let elsewhere = shop.on("other").commit("not reviewed");
    let answer = prime.hook(&prime.payload(&shop, "master", &elsewhere));
    let reason = prime.until_ended(&deployment(&answer), "failed");
    assert!(reason.contains("not on branch master"), "{reason}");
    assert_eq!(prime.get("http://shop.test").status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_github_hook_deploys_when_its_hmac_holds() {
    let world = World::new();
    let shop = world.repo("shop");
    let commit = shop.commit("from github");
    std::fs::create_dir_all(world.path().join("secrets")).unwrap();
    std::fs::write(world.path().join("secrets/github"), "a secret of more than thirty-two bytes\n").unwrap();
    let prime = world
        .prime()
        .with("github = { secret = { file = \"secrets/github\" } }\n")
        .hosting(&shop, "ci = \"github\"\n")
        .start();
    let run = json!({
        "action": "completed",
        "workflow_run": {
            "id": 1, "run_number": 1, "run_attempt": 1, "name": "ci", "event": "push", "status": "completed",
            "conclusion": "success", "head_branch": "master", "head_sha": commit,
            "head_repository": {"id": 5, "full_name": "acme/shop"}
        },
        "repository": {"id": 5, "full_name": "acme/shop"}
    });
    let body = run.to_string();
    let deliver = |signature: &str, delivery: &str| {
        let request = Request::post("http://opri.test/events")
            .header("content-type", "application/json")
            .header("x-github-event", "workflow_run")
            .header("x-github-delivery", delivery)
            .header("x-hub-signature-256", signature)
            .body(Full::new(body.clone().into()));
        prime.ask(request.unwrap())
    };
    assert_eq!(deliver(&format!("sha256={}", "0".repeat(64)), "a").status, StatusCode::UNAUTHORIZED);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"a secret of more than thirty-two bytes");
    let tag = aws_lc_rs::hmac::sign(&key, body.as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let answer = deliver(&format!("sha256={hex}"), "b");
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    prime.says("http://shop.test", "from github");
}

#[test]
fn the_hooks_host_answers_on_plain_http_and_shows_nothing_else() {
    let world = World::new();
    let (prime, _) = begin(&world);
    assert_eq!(prime.get("http://opri.test/").status, StatusCode::NOT_FOUND);
    assert_eq!(prime.get("http://opri.test/metrics").status, StatusCode::NOT_FOUND);
    assert_eq!(prime.get("http://opri.test/v1/status").status, StatusCode::NOT_FOUND);
    let large = Request::post("http://opri.test/events").body(Full::new(vec![b'x'; 26 << 20].into()));
    assert_eq!(prime.ask(large.unwrap()).status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn a_push_that_comes_late_does_not_move_the_site_backwards_and_a_moved_branch_does() {
    let world = World::new();
    let (prime, shop) = begin(&world);
    let older = shop.git(&["rev-parse", "HEAD"]).trim().to_owned();
    shop.commit("newer");
    prime.deploys(&shop, "master");
    let late = prime.hook(&prime.payload(&shop, "master", &older));
    let reason = prime.until_ended(&deployment(&late), "failed");
    assert!(reason.contains("is older than"), "{reason}");
    prime.says("http://shop.test", "newer");
    shop.git(&["reset", "--quiet", "--hard", &older]);
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page");
}
