//! Deliveries of GitHub.

use super::*;

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
    world.machine.hooks.secrets.remove(&Provider::Github);
    assert_eq!(status(&world.github("push", &known).await), 401);
    world.machine.hooks.secrets.insert(Provider::Github, Secret::File(world.dir.path().join("absent")));
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
