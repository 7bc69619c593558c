//! Deliveries of forks, tags, strangers and yesterday: none of them deploys anything.

use ::http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::forges::{believing, fixture, request, signed};
use crate::http::Answer;
use crate::world::{Prime, World, deployment, today};

/// Who sends, which event, after which fixture, and what is different: a pointer and its value.
type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const SHA: &str = "\"0123456789abcdef0123456789abcdef01234567\"";

/// Honestly signed, every one of them, and each with the right commit of the right branch.
const CASES: &[Case] = &[
    // Forks and pull requests.
    ("travis", "", "travis-passed", &[("/type", "\"pull_request\""), ("/pull_request", "true")]),
    ("travis", "", "travis-passed", &[("/type", "\"pull_request\"")]),
    ("travis", "", "travis-passed", &[("/pull_request", "true")]),
    ("travis", "", "travis-passed", &[("/pull_request_number", "7")]),
    ("travis", "", "travis-passed", &[("/type", "\"cron\"")]),
    ("travis", "", "travis-passed", &[("/type", "\"api\"")]),
    ("github", "pull_request", "github-push", &[]),
    ("github", "pull_request_target", "github-push", &[]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/event", "\"pull_request\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/event", "\"pull_request_target\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/event", "\"workflow_dispatch\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/event", "\"schedule\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/head_repository/id", "66")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/head_repository/full_name", "\"evil/shop\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/head_repository", "null")]),
    ("github", "check_suite", "github-check-suite", &[]),
    ("github", "check_suite", "github-check-suite", &[("/check_suite/head_branch", "null")]),
    ("github", "status", "github-status", &[]),
    ("gitlab", "Pipeline Hook", "gitlab-merge-request-pipeline", &[]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/source", "\"merge_request_event\"")]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/source", "\"external_pull_request_event\"")]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/source", "\"web\"")]),
    ("gitlab", "Merge Request Hook", "gitlab-push", &[]),
    ("gitea", "workflow_run", "gitea-workflow-run", &[("/workflow_run/event", "\"pull_request\"")]),
    ("gitea", "workflow_run", "gitea-workflow-run", &[("/workflow_run/head_repository/id", "66")]),
    ("gitea", "action_run_success", "forgejo-action-run-success", &[("/run/is_fork_pull_request", "true")]),
    ("gitea", "action_run_success", "forgejo-action-run-success", &[("/run/event", "\"pull_request\"")]),
    ("gitea", "pull_request", "gitea-push", &[]),
    // Tags and branches that are gone.
    ("travis", "", "travis-passed", &[("/tag", "\"master\"")]),
    ("github", "push", "github-push", &[("/ref", "\"refs/tags/master\"")]),
    ("github", "push", "github-push", &[("/ref", "\"master\"")]),
    ("github", "push", "github-push", &[("/deleted", "true")]),
    ("github", "push", "github-push", &[("/after", "\"0000000000000000000000000000000000000000\"")]),
    ("gitlab", "Tag Push Hook", "gitlab-tag-push", &[]),
    ("gitlab", "Push Hook", "gitlab-tag-push", &[]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/tag", "true")]),
    ("gitea", "push", "gitea-push", &[("/ref", "\"refs/tags/master\"")]),
    (
        "gitea",
        "action_run_success",
        "forgejo-action-run-success",
        &[("/run/event_payload", "\"{\\\"ref\\\":\\\"refs/tags/master\\\"}\"")],
    ),
    // What has not passed.
    ("travis", "", "travis-passed", &[("/state", "\"failed\""), ("/status", "1")]),
    ("travis", "", "travis-passed", &[("/status", "1")]),
    ("github", "workflow_run", "github-workflow-run", &[("/workflow_run/conclusion", "\"failure\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/action", "\"requested\"")]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/status", "\"running\"")]),
    ("gitea", "workflow_run", "gitea-workflow-run", &[("/workflow_run/conclusion", "\"failure\"")]),
    ("generic", "", "generic", &[("/status", "\"failed\"")]),
    // Strangers, by name or by id.
    ("travis", "", "travis-passed", &[("/repository/owner_name", "\"evil\"")]),
    ("travis", "", "travis-passed", &[("/repository/id", "66")]),
    ("travis", "", "travis-passed", &[("/repository/id", "null")]),
    ("github", "push", "github-push", &[("/repository/full_name", "\"evil/shop\"")]),
    ("github", "workflow_run", "github-workflow-run", &[("/repository/full_name", "\"evil/shop\"")]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/project/path_with_namespace", "\"evil/shop\"")]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/project/path_with_namespace", "\"evil/acme/shop/x\"")]),
    ("gitlab", "Push Hook", "gitlab-push", &[("/project/id", "66")]),
    ("gitea", "push", "gitea-push", &[("/repository/full_name", "\"shop\"")]),
    ("gitea", "push", "gitea-push", &[("/repository/id", "null")]),
    ("generic", "", "generic", &[("/project", "\"nobodys\"")]),
    ("generic", "", "generic", &[("/project", "\"../shop\"")]),
    // Branches and commits that are none, or options, paths and commands.
    ("travis", "", "travis-passed", &[("/branch", "\"feature\"")]),
    ("travis", "", "travis-passed", &[("/branch", "\"--upload-pack=touch /tmp/x\"")]),
    ("github", "push", "github-push", &[("/ref", "\"refs/heads/MASTER\"")]),
    ("github", "push", "github-push", &[("/ref", "\"refs/heads/master\\u0000\"")]),
    ("github", "push", "github-push", &[("/ref", "\"refs/heads/$(id)\"")]),
    ("github", "push", "github-push", &[("/ref", "\"refs/heads/../../etc\"")]),
    ("github", "push", "github-push", &[("/after", "\"--output=/tmp/x\"")]),
    ("github", "push", "github-push", &[("/after", "\"0123456\"")]),
    ("github", "push", "github-push", &[("/after", "\"HEAD\"")]),
    ("generic", "", "generic", &[("/branch", "\"mas\\tter\"")]),
    ("generic", "", "generic", &[("/commit", "\"master;id\"")]),
    // Of long ago: too old to tell, and older than what was accepted.
    ("travis", "", "travis-passed", &[("/finished_at", "\"2026-07-01T00:00:00Z\"")]),
    ("travis", "", "travis-passed", &[("/finished_at", "null")]),
    ("travis", "", "travis-passed", &[("/number", "\"211\""), ("/commit", SHA)]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[("/object_attributes/id", "7"), ("/object_attributes/sha", SHA)]),
    ("generic", "", "generic", &[("/run_number", "211"), ("/commit", SHA)]),
    // The very same again.
    ("travis", "", "travis-passed", &[]),
    ("github", "push", "github-push", &[]),
    ("github", "workflow_run", "github-workflow-run", &[]),
    ("gitlab", "Push Hook", "gitlab-push", &[]),
    ("gitlab", "Pipeline Hook", "gitlab-pipeline", &[]),
    ("gitea", "push", "gitea-push", &[]),
    ("gitea", "workflow_run", "gitea-workflow-run", &[]),
    ("generic", "", "generic", &[]),
];

fn delivery(case: &Case, commit: &str) -> Value {
    let mut payload = fixture(case.2, commit);
    if case.0 == "travis" {
        payload["finished_at"] = json!(today());
    }
    for (pointer, value) in case.3 {
        *payload.pointer_mut(pointer).unwrap() = serde_json::from_str(value).unwrap();
    }
    payload
}

fn send(prime: &Prime<'_>, case: &Case, payload: &Value, id: &str) -> Answer {
    match case.0 {
        "travis" => prime.hook(payload),
        _ => prime.tells(case.0, case.1, payload, id),
    }
}

/// Every kind of project, all of the one repository, so that each delivery has every chance.
fn prime_of_all(world: &World) -> (Prime<'_>, String) {
    let shop = world.repo("shop");
    let commit = shop.commit("good");
    let conf = believing(world, "").hosting(&shop, "ci = \"generic\"\n");
    let of_shop = |ci: &str| format!("repo = \"acme/shop\"\nci = \"{ci}\"\n[branches.master]\n");
    let conf =
        ["travis", "github", "gitlab", "gitea", "none"].iter().fold(conf, |conf, ci| conf.project(ci, &of_shop(ci)));
    (conf.start(), commit)
}

fn deployments(prime: &Prime<'_>) -> f64 {
    prime.metric("opri_deployments_total")
}

#[test]
fn no_delivery_of_a_fork_a_tag_a_stranger_or_yesterday_deploys() {
    let world = World::new();
    let (prime, commit) = prime_of_all(&world);
    let replays: Vec<&Case> = CASES.iter().filter(|case| case.3.is_empty() && !is_never_good(case)).collect();
    for case in &replays {
        let answer = send(&prime, case, &delivery(case, &commit), "original");
        if answer.status == StatusCode::ACCEPTED {
            prime.until_ended(&deployment(&answer), "live");
        }
    }
    // Six projects serve: one deployment each, and one that both GitHub's and the other forges' pushes could have begun.
    prime.until("all are over", || deployments(&prime) == 6.0);
    assert!(CASES.len() >= 40, "{}", CASES.len());
    for (number, case) in CASES.iter().enumerate() {
        let id = if case.3.is_empty() { "original".to_owned() } else { format!("bad-{number}") };
        let answer = send(&prime, case, &delivery(case, &commit), &id);
        assert_ne!(answer.status, StatusCode::ACCEPTED, "{case:?}: {}", answer.body);
        assert!(!answer.status.is_server_error(), "{case:?}: {}", answer.body);
    }
    // Strange branches, and a commit that serves already, say why in an answer of 200; the rest is refused.
    assert_eq!(deployments(&prime), 6.0);
    let log: Vec<Value> = serde_json::from_str(&prime.does(&["hook", "log", "--json"])).unwrap();
    let accepted = log.iter().filter(|one| one["deployments"] != json!([])).count();
    assert_eq!(accepted, 6, "{}", prime.logs());
    assert!(!prime.metrics().contains("evil"), "a payload's word in a label");
}

fn is_never_good(case: &Case) -> bool {
    matches!(
        case.1,
        "pull_request" | "pull_request_target" | "check_suite" | "status" | "Tag Push Hook" | "Merge Request Hook"
    ) || case.2.contains("merge-request")
        || case.2.contains("tag-push")
}

#[test]
fn what_was_changed_on_its_way_is_refused_over_the_wire_as_well() {
    let world = World::new();
    let (prime, commit) = prime_of_all(&world);
    let body = fixture("github-push", &commit).to_string();
    let form = open_prime::cli::travis::body(&fixture("travis-passed", &commit).to_string());
    let signature = world.travis.sign(&fixture("travis-passed", &commit).to_string());
    let mut seed = 7_usize;
    for round in 0..600 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let provider = ["github", "gitea", "generic", "travis"][round % 4];
        let (text, at) =
            if provider == "travis" { (&form, 8 + seed % (form.len() - 8)) } else { (&body, seed % body.len()) };
        let mut changed = text.clone().into_bytes();
        // One letter in place of another keeps it text, and a letter of a form is no longer the same letter.
        changed[at] = if changed[at] == b'q' { b'z' } else { b'q' };
        let changed = String::from_utf8_lossy(&changed).into_owned();
        let answer = if provider == "travis" {
            let request = Request::post("http://opri.test/events")
                .header("content-type", "application/x-www-form-urlencoded")
                .header("signature", &signature);
            prime.ask(request.body(Full::new(changed.clone().into())).unwrap())
        } else {
            prime.ask(request(&changed, &signed(provider, "push", text, &round.to_string())))
        };
        assert!(answer.status.is_client_error(), "{provider} {}: {changed}", answer.status);
    }
    assert_eq!(deployments(&prime), 0.0);
}
