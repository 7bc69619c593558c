//! Deliveries of GitLab, Gitea and Forgejo, and generic ones.

use super::*;

const LAB_KEY: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// `v1,` and the base64 of the HMAC over id, time and body.
pub fn standard(secret: &str, id: &str, time: u64, body: &str) -> String {
    let key = secret.strip_prefix("whsec_").map_or(secret.into(), |base64| STANDARD.decode(base64).unwrap());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{time}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}

/// As `hub_signature`, without its prefix.
pub fn tea_signature(body: &[u8]) -> String {
    hub_signature(SECRET, body).replace("sha256=", "")
}

impl World {
    pub async fn gitlab(&self, event: &str, payload: &Value, token: &str) -> Verdict {
        let headers = [("content-type", "application/json"), ("x-gitlab-event", event), ("x-gitlab-token", token)];
        self.judge(&headers, payload.to_string().as_bytes()).await
    }

    pub async fn gitlab_signed(&self, event: &str, payload: &Value, time: u64, signature: &str) -> Verdict {
        let time = time.to_string();
        let headers = [
            ("content-type", "application/json"),
            ("x-gitlab-event", event),
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &time),
            ("webhook-signature", signature),
        ];
        self.judge(&headers, payload.to_string().as_bytes()).await
    }

    pub async fn gitea(&self, event: &str, payload: &Value) -> Verdict {
        let text = payload.to_string();
        let (plain, hub) = (tea_signature(text.as_bytes()), hub_signature(SECRET, text.as_bytes()));
        let headers = [
            ("content-type", "application/json"),
            ("x-gitea-event", event),
            ("x-gitea-delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473"),
            ("x-gitea-signature", &plain),
            ("x-github-event", event),
            ("x-github-delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473"),
            ("x-hub-signature-256", &hub),
        ];
        self.judge(&headers, text.as_bytes()).await
    }

    pub async fn generic(&self, payload: &Value, id: &str, time: u64) -> Verdict {
        let text = payload.to_string();
        let key = format!("whsec_{}", STANDARD.encode(SECRET));
        let (time, signature) = (time.to_string(), standard(&key, id, time, &text));
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", id),
            ("webhook-timestamp", &time),
            ("webhook-signature", &signature),
        ];
        self.judge(&headers, text.as_bytes()).await
    }
}

fn only(verdict: Verdict) -> Push {
    let Verdict::Push(mut pushes) = verdict else { panic!("not accepted: {verdict:?}") };
    assert_eq!(pushes.len(), 1);
    pushes.remove(0)
}

fn told(push: &Push) -> (String, Option<u64>, Option<u64>) {
    assert_eq!(push.commit.as_str(), COMMIT);
    (push.site().to_string(), push.number, push.repository_id)
}

#[tokio::test]
async fn what_each_forge_sends_deploys_the_projects_that_listen_to_it() {
    let world = world();
    let lab = world.gitlab("Pipeline Hook", &fixture("gitlab-pipeline", "lab"), SECRET).await;
    assert_eq!(told(&only(lab)), ("lab/master".to_owned(), Some(1_812_450_331), Some(40_123)));
    let pushed = world.gitlab("Push Hook", &fixture("gitlab-push", "wiki"), SECRET).await;
    assert_eq!(told(&only(pushed)), ("wiki/master".to_owned(), None, Some(40_123)));
    let tea = world.gitea("workflow_run", &fixture("gitea-workflow-run", "tea")).await;
    assert_eq!(told(&only(tea)), ("tea/master".to_owned(), Some(812), Some(31)));
    let forgejo = world.gitea("action_run_success", &fixture("forgejo-action-run-success", "tea")).await;
    assert_eq!(told(&only(forgejo)), ("tea/master".to_owned(), Some(4021), Some(31)));
    let pushed = world.gitea("push", &fixture("gitea-push", "wiki")).await;
    assert_eq!(told(&only(pushed)), ("wiki/master".to_owned(), None, Some(31)));
    let any = world.generic(&fixture("generic", "any"), "msg_1", NOW).await;
    assert_eq!(told(&only(any)), ("any/master".to_owned(), Some(212), None));
    let text = with(fixture("generic", "any"), &[("/run_number", json!("213"))]);
    assert_eq!(only(world.generic(&text, "msg_2", NOW).await).number, Some(213));
}

#[tokio::test]
async fn one_check_of_several_is_a_reason_to_look_and_no_more() {
    let world = world();
    let look = |name: &str| Verdict::Look(vec![name.parse().unwrap()]);
    assert_eq!(world.github("check_suite", &fixture("github-check-suite", "blog")).await, look("blog"));
    assert_eq!(world.github("status", &fixture("github-status", "blog")).await, look("blog"));
    assert_eq!(world.gitea("status", &fixture("gitea-status", "tea")).await, look("tea"));
    for (event, payload, why) in [
        (
            "check_suite",
            with(fixture("github-check-suite", "blog"), &[("/check_suite/head_branch", Value::Null)]),
            "fork",
        ),
        (
            "check_suite",
            with(fixture("github-check-suite", "blog"), &[("/action", json!("requested"))]),
            "not completed",
        ),
        (
            "check_suite",
            with(fixture("github-check-suite", "blog"), &[("/check_suite/conclusion", json!("failure"))]),
            "not succeeded",
        ),
        ("check_suite", fixture("github-check-suite", "wiki"), "no project"),
        ("status", with(fixture("github-status", "blog"), &[("/state", json!("pending"))]), "no success"),
    ] {
        let verdict = world.github(event, &payload).await;
        assert!(matches!(&verdict, Verdict::Ignored(reason) if reason.contains(why)), "{why}: {verdict:?}");
    }
}

#[tokio::test]
async fn honest_deliveries_of_forges_that_deploy_nothing_say_why() {
    let world = world();
    let pipeline = || fixture("gitlab-pipeline", "lab");
    for (payload, why) in [
        (fixture("gitlab-merge-request-pipeline", "lab"), "a merge request"),
        (with(pipeline(), &[("/merge_request", json!({"iid": 1}))]), "a merge request"),
        (with(pipeline(), &[("/object_attributes/tag", json!(true))]), "a tag, not a branch"),
        (
            with(pipeline(), &[("/object_attributes/source", json!("schedule"))]),
            "a pipeline for something other than a push",
        ),
        (
            with(pipeline(), &[("/object_attributes/source", json!("web"))]),
            "a pipeline for something other than a push",
        ),
        (with(pipeline(), &[("/object_attributes/status", json!("running"))]), "the pipeline has not succeeded"),
        (with(pipeline(), &[("/object_attributes/status", json!("failed"))]), "the pipeline has not succeeded"),
        (with(pipeline(), &[("/object_attributes/ref", json!("x"))]), "project `lab` has no branch `x`"),
        (fixture("gitlab-pipeline", "wiki"), "project `wiki` does not deploy on the word of gitlab"),
    ] {
        let verdict = world.gitlab("Pipeline Hook", &payload, SECRET).await;
        assert_eq!((status(&verdict), reason(verdict).as_str()), (200, why));
    }
    let tag = world.gitlab("Tag Push Hook", &fixture("gitlab-tag-push", "wiki"), SECRET).await;
    assert_eq!(reason(tag), "a tag, not a branch");
    let disguised = world.gitlab("Push Hook", &fixture("gitlab-tag-push", "wiki"), SECRET).await;
    assert_eq!(reason(disguised), "an event that deploys nothing");

    let run = || fixture("forgejo-action-run-success", "tea");
    let of_tag = json!(json!({"ref": "refs/tags/master"}).to_string());
    for (payload, why) in [
        (with(run(), &[("/run/is_fork_pull_request", json!(true))]), "a run of a fork"),
        (with(run(), &[("/run/event", json!("pull_request"))]), "a run for something other than a push"),
        (with(run(), &[("/run/trigger_event", json!("schedule"))]), "a run for something other than a push"),
        (with(run(), &[("/run/status", json!("failure"))]), "the run has not succeeded"),
        (with(run(), &[("/run/event_payload", of_tag)]), "a tag or another reference, not a branch"),
    ] {
        let verdict = world.gitea("action_run_success", &payload).await;
        assert_eq!((status(&verdict), reason(verdict).as_str()), (200, why));
    }
    let fork = with(fixture("gitea-workflow-run", "tea"), &[("/workflow_run/head_repository/id", json!(66))]);
    assert_eq!(reason(world.gitea("workflow_run", &fork).await), "a workflow run of a fork");
    let failed = with(fixture("generic", "any"), &[("/status", json!("failure"))]);
    assert_eq!(reason(world.generic(&failed, "m", NOW).await), "the build has not succeeded");
}

#[tokio::test]
async fn dishonest_deliveries_of_forges_are_refused() {
    let mut world = world();
    let lab = fixture("gitlab-pipeline", "lab");
    for token in ["", "wrong", "It's a Secret to Everybod", "It's a Secret to Everybody!"] {
        assert_eq!(status(&world.gitlab("Pipeline Hook", &lab, token).await), 401, "{token}");
    }
    assert_eq!(status(&world.gitlab("Pipeline Hook", &fixture("gitlab-pipeline", "nobodys"), "wrong").await), 401);
    assert_eq!(status(&world.gitlab("Pipeline Hook", &fixture("gitlab-pipeline", "nobodys"), SECRET).await), 404);
    let nameless = with(lab.clone(), &[("/project/id", Value::Null)]);
    assert_eq!(status(&world.gitlab("Pipeline Hook", &nameless, SECRET).await), 400, "no id to be pinned");

    let tea = fixture("gitea-push", "wiki").to_string();
    let json = ("content-type", "application/json");
    for signature in ["", "00", &hub_signature(SECRET, tea.as_bytes()), &"0".repeat(64)] {
        let headers = [json, ("x-gitea-event", "push"), ("x-gitea-signature", signature)];
        assert_eq!(status(&world.judge(&headers, tea.as_bytes()).await), 401, "{signature}");
    }
    // What GitHub's rules would believe is judged by Gitea's once it says that it is from there.
    world.machine.hooks.secrets.remove(&Provider::Gitea);
    assert_eq!(status(&world.gitea("push", &fixture("gitea-push", "wiki")).await), 401);

    let any = fixture("generic", "any");
    assert_eq!(status(&world.generic(&any, "m", NOW - 301).await), 401);
    assert_eq!(status(&world.generic(&any, "m", NOW + 301).await), 401);
    assert_eq!(status(&world.generic(&any, "m", NOW - 299).await), 202);
    assert_eq!(status(&world.generic(&any, "", NOW).await), 401);
    assert_eq!(status(&world.generic(&fixture("generic", "nobodys"), "m", NOW).await), 404);
    let mut unnumbered = any.clone();
    unnumbered.as_object_mut().unwrap().remove("run_number");
    assert_eq!(status(&world.generic(&unnumbered, "m", NOW).await), 400);
    let option = with(any, &[("/commit", json!("--upload-pack=x"))]);
    assert_eq!(status(&world.generic(&option, "m", NOW).await), 400);
}

#[tokio::test]
async fn a_signing_token_of_gitlab_signs_and_is_never_shown() {
    let mut world = world();
    std::fs::write(world.dir.path().join("lab"), LAB_KEY).unwrap();
    world.machine.hooks.secrets.insert(Provider::Gitlab, Secret::File(world.dir.path().join("lab")));
    let payload = fixture("gitlab-pipeline", "lab");
    let good = standard(LAB_KEY, "msg_1", NOW, &payload.to_string());
    let first = only(world.gitlab_signed("Pipeline Hook", &payload, NOW, &good).await);
    // Two while it is being changed.
    let two = format!("v1,AAAA {good}");
    assert_eq!(only(world.gitlab_signed("Pipeline Hook", &payload, NOW, &two).await).delivery, first.delivery);
    for (time, signature) in [(NOW + 1, good.as_str()), (NOW, &good.replace("v1,", "v1a,")), (NOW, "v1,"), (NOW, "")] {
        let verdict = world.gitlab_signed("Pipeline Hook", &payload, time, signature).await;
        assert_eq!(status(&verdict), 401, "{time} {signature}");
    }
    let old = standard(LAB_KEY, "msg_1", NOW - 301, &payload.to_string());
    assert_eq!(status(&world.gitlab_signed("Pipeline Hook", &payload, NOW - 301, &old).await), 401);
    assert_eq!(status(&world.gitlab("Pipeline Hook", &payload, LAB_KEY).await), 401);
}

#[tokio::test]
async fn gitea_signs_the_payload_of_a_form_and_not_the_form() {
    let world = world();
    let payload = fixture("gitea-push", "wiki").to_string();
    let form = body(&payload);
    for (signature, expected) in [(tea_signature(payload.as_bytes()), 202), (tea_signature(form.as_bytes()), 401)] {
        let headers =
            [("content-type", FORM), ("x-forgejo-event", "push"), ("x-forgejo-signature", signature.as_str())];
        assert_eq!(status(&world.judge(&headers, form.as_bytes()).await), expected);
    }
}

/// The example of the specification's own libraries.
#[test]
fn standard_webhooks_own_example_verifies() {
    let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    assert_eq!(standard(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}"), expected);
}
