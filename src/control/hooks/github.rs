//! GitHub: an HMAC over the raw body, and the events that count.
//!
//! Called by `Hooks`. `workflow_run` deploys projects with `ci = "github"`, `push` those with `ci = "none"`; `check_suite`
//! and `status` are one word of several, and lead to a look at all of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::accept::{self, Said};
use super::secrets::{believers, from_hex, is_hmac, to_hex};
use super::{Delivery, Heard, Refusal, payload, shown, single};
use crate::model::machine::Machine;
use crate::model::name::ProjectName;
use crate::model::project::{Ci, Project};
use crate::model::push::Provider;

/// Hears a delivery out.
pub fn hear(
    delivery: &Delivery<'_>,
    machine: &Machine,
    projects: &BTreeMap<ProjectName, Project>,
) -> Result<Heard, Refusal> {
    let signature = signature(delivery)?;
    let payload = payload(delivery, "GitHub")?;
    let named = claimed_repository(&payload);
    let hosted = named.as_ref().map(|named| accept::hosted(projects, &named.full_name)).unwrap_or_default();
    let secret = machine.hooks.secrets.get(&Provider::Github);
    let believed = believers(&hosted, secret, |secret| Ok(is_hmac(secret, delivery.body, &signature)))?;
    let event = single(delivery.headers, "x-github-event")?;
    if event == Some(b"ping") {
        return Ok(Heard::Nothing("a ping".to_owned()));
    }
    if believed.is_empty() {
        return Err(unknown(named));
    }
    // The signature tells one delivery from another, not `X-GitHub-Delivery`: that header is not signed, so a recorded
    // body could come again under a new id; a redelivery by GitHub has the same body.
    let identity = to_hex(&signature);
    match event {
        Some(b"push") => push(&payload, Provider::Github, identity, &believed),
        Some(b"workflow_run") => workflow_run(&payload, Provider::Github, identity, &believed),
        Some(b"check_suite") => check_suite(&payload, &believed),
        Some(b"status") => status(&payload, Ci::Github, &believed),
        _ => Ok(Heard::Nothing("an event that deploys nothing".to_owned())),
    }
}

/// The HMAC of `X-Hub-Signature-256: sha256=<hex>`. The older SHA-1 header is never looked at.
fn signature(delivery: &Delivery<'_>) -> Result<Vec<u8>, Refusal> {
    let unsigned = || Refusal::Unsigned("no `X-Hub-Signature-256` header (hint: set the webhook's secret)".to_owned());
    let value = single(delivery.headers, "x-hub-signature-256")?.ok_or_else(unsigned)?;
    from_hex(value.strip_prefix(b"sha256=").ok_or(Refusal::BadSignature)?)
}

/// The repository that a body names, as GitHub, Gitea and Forgejo do.
pub fn claimed_repository(payload: &[u8]) -> Option<Repository> {
    #[derive(Deserialize)]
    struct Envelope {
        repository: Option<Repository>,
    }
    serde_json::from_slice::<Envelope>(payload).ok()?.repository
}

pub fn unknown(named: Option<Repository>) -> Refusal {
    let (name, id) = named.map_or_else(Default::default, |named| (shown(&named.full_name), named.id));
    Refusal::UnknownRepository { name, id }
}

#[derive(Debug, Deserialize)]
pub struct Repository {
    pub id: Option<u64>,
    pub full_name: String,
}

impl Repository {
    /// Whether this is the very same one, and not a fork of it under the same name.
    pub fn is(&self, other: &Repository) -> bool {
        self.full_name.eq_ignore_ascii_case(&other.full_name) && self.id.is_some() && self.id == other.id
    }
}

#[derive(Debug, Deserialize)]
struct PushEvent {
    #[serde(rename = "ref")]
    reference: String,
    after: String,
    #[serde(default)]
    deleted: bool,
    repository: Repository,
}

/// A push, as GitHub, Gitea and Forgejo tell it.
pub fn push(payload: &[u8], provider: Provider, delivery: String, projects: &[&Project]) -> Result<Heard, Refusal> {
    let event: PushEvent = parse(payload)?;
    if event.deleted || event.after.bytes().all(|byte| byte == b'0') {
        return Ok(Heard::Nothing("a deleted branch".to_owned()));
    }
    let Some(branch) = event.reference.strip_prefix("refs/heads/") else {
        return Ok(Heard::Nothing("a tag or another reference, not a branch".to_owned()));
    };
    let said = Said {
        provider,
        ci: Ci::None,
        delivery,
        repository: &event.repository.full_name,
        branch,
        commit: &event.after,
        number: None,
        repository_id: event.repository.id,
    };
    said.of(projects).map(Heard::Claim)
}

#[derive(Debug, Deserialize)]
struct WorkflowRunEvent {
    action: String,
    workflow_run: WorkflowRun,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct WorkflowRun {
    /// Counts up over all of GitHub, so it orders the runs of all workflows of a repository; `run_number` counts each
    /// workflow by itself.
    id: u64,
    event: String,
    conclusion: Option<String>,
    head_branch: Option<String>,
    head_sha: String,
    head_repository: Option<Repository>,
}

/// A workflow's run, as GitHub and Gitea tell it.
pub fn workflow_run(
    payload: &[u8],
    provider: Provider,
    delivery: String,
    projects: &[&Project],
) -> Result<Heard, Refusal> {
    let event: WorkflowRunEvent = parse(payload)?;
    let run = &event.workflow_run;
    if let Some(reason) = is_nothing_to_deploy(&event) {
        return Ok(Heard::Nothing(reason.to_owned()));
    }
    let said = Said {
        provider,
        ci: if provider == Provider::Gitea { Ci::Gitea } else { Ci::Github },
        delivery,
        repository: &event.repository.full_name,
        branch: run.head_branch.as_deref().unwrap_or_default(),
        commit: &run.head_sha,
        number: Some(run.id),
        repository_id: event.repository.id,
    };
    said.of(projects).map(Heard::Claim)
}

/// A run for a pull request carries the fork's branch, which may be called `master`: what counts is whose event it was
/// and from which repository.
fn is_nothing_to_deploy(event: &WorkflowRunEvent) -> Option<&'static str> {
    let run = &event.workflow_run;
    if event.action != "completed" {
        Some("a workflow run that is not completed")
    } else if run.event != "push" {
        Some("a workflow run for something other than a push")
    } else if !run.head_repository.as_ref().is_some_and(|head| head.is(&event.repository)) {
        Some("a workflow run of a fork")
    } else if run.conclusion.as_deref() != Some("success") {
        Some("the workflow run has not succeeded")
    } else {
        None
    }
}

#[derive(Debug, Deserialize)]
struct CheckSuiteEvent {
    action: String,
    check_suite: CheckSuite,
}

#[derive(Debug, Deserialize)]
struct CheckSuite {
    conclusion: Option<String>,
    /// `null` for a push to a fork (REST API, "check suites").
    head_branch: Option<String>,
}

/// One app's word on a commit, and it does not say for which event: whether everything passed must be asked.
fn check_suite(payload: &[u8], projects: &[&Project]) -> Result<Heard, Refusal> {
    let CheckSuiteEvent { action, check_suite } = parse(payload)?;
    Ok(match (action.as_str(), check_suite.head_branch, check_suite.conclusion.as_deref()) {
        ("completed", Some(_), Some("success" | "neutral" | "skipped")) => Heard::look(Ci::Github, projects),
        ("completed", None, _) => Heard::Nothing("a check suite of a fork".to_owned()),
        ("completed", ..) => Heard::Nothing("the check suite has not succeeded".to_owned()),
        _ => Heard::Nothing("a check suite that is not completed".to_owned()),
    })
}

#[derive(Debug, Deserialize)]
struct StatusEvent {
    state: String,
}

/// One commit status, as GitHub, Gitea and Forgejo tell it.
pub fn status(payload: &[u8], ci: Ci, projects: &[&Project]) -> Result<Heard, Refusal> {
    let StatusEvent { state } = parse(payload)?;
    Ok(match state.as_str() {
        "success" => Heard::look(ci, projects),
        _ => Heard::Nothing("a commit status that is no success".to_owned()),
    })
}

/// A payload whose signature held. A field given twice fails to parse.
pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload).map_err(|error| Refusal::Malformed(error.to_string()))
}
