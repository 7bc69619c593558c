//! GitHub: an HMAC over the raw body, and the events that count.
//!
//! Called by `Hooks`. `workflow_run` deploys projects with `ci = "github"`, `push` those with `ci = "none"`. The repository
//! named in a body that is not yet believed serves only to choose the secrets that are tried.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::accept::{self, Claim};
use super::{Delivery, FORM, GITHUB_BODY_MAX, JSON, Refusal, Verdict, form, media_type, shown, single};
use crate::control::secret;
use crate::model::name::ProjectName;
use crate::model::project::{Ci, Project, Secret};
use crate::model::push::Provider;

/// Judges a delivery; `machine` is the secret of the projects that have none of their own.
pub fn judge(
    delivery: &Delivery<'_>,
    machine: Option<&Secret>,
    projects: &BTreeMap<ProjectName, Project>,
) -> Result<Verdict, Refusal> {
    if delivery.body.len() > GITHUB_BODY_MAX {
        return Err(Refusal::TooLarge(GITHUB_BODY_MAX));
    }
    let signature = signature(delivery)?;
    let payload = match media_type(delivery.headers)?.as_str() {
        JSON => Cow::Borrowed(delivery.body),
        FORM => Cow::Owned(form::payload(delivery.body)?),
        other => return Err(Refusal::MediaType(format!("`{other}` where GitHub sends JSON or a form"))),
    };
    let slug = claimed_repository(&payload);
    let hosted = slug.as_deref().map(|slug| accept::hosted(projects, slug)).unwrap_or_default();
    let believed = believers(delivery.body, &signature, machine, &hosted)?;
    match single(delivery.headers, "x-github-event")? {
        Some(b"ping") => Ok(Verdict::Ignored("a ping".to_owned())),
        _ if believed.is_empty() => Err(Refusal::UnknownRepository(shown(&slug.unwrap_or_default()))),
        Some(b"push") => push(&payload, identity(&signature), &believed),
        Some(b"workflow_run") => workflow_run(&payload, identity(&signature), &believed),
        _ => Ok(Verdict::Ignored("an event that deploys nothing".to_owned())),
    }
}

/// The HMAC of `X-Hub-Signature-256: sha256=<hex>`. The older SHA-1 header is never looked at.
fn signature(delivery: &Delivery<'_>) -> Result<Vec<u8>, Refusal> {
    let unsigned = || Refusal::Unsigned("no `X-Hub-Signature-256` header (hint: set the webhook's secret)".to_owned());
    let value = single(delivery.headers, "x-hub-signature-256")?.ok_or_else(unsigned)?;
    let digits = value.strip_prefix(b"sha256=").ok_or(Refusal::BadSignature)?;
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let bytes = || digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>();
    if is_hex { bytes().ok_or(Refusal::BadSignature) } else { Err(Refusal::BadSignature) }
}

fn claimed_repository(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        repository: Option<Repository>,
    }
    serde_json::from_slice::<Envelope>(payload).ok()?.repository.map(|repository| repository.full_name)
}

/// The projects whose secret signed this body. Empty when the machine's secret did and the repository is none of ours:
/// whoever does not know a secret learns nothing about which repositories are hosted here.
fn believers<'p>(
    body: &[u8],
    signature: &[u8],
    machine: Option<&Secret>,
    hosted: &[&'p Project],
) -> Result<Vec<&'p Project>, Refusal> {
    let holds = |at: &Secret| -> Result<bool, Refusal> {
        let secret = secret::read(at).map_err(|fault| Refusal::Unready(fault.to_string()))?;
        Ok(hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body, signature).is_ok())
    };
    let mut believers = Vec::new();
    for project in hosted {
        let secret = project.hook_secret.as_ref().or(machine);
        if secret.map(holds).transpose()? == Some(true) {
            believers.push(*project);
        }
    }
    match (believers.is_empty(), hosted.is_empty(), machine) {
        (false, _, _) => Ok(believers),
        (true, true, Some(machine)) if holds(machine)? => Ok(believers),
        _ => Err(Refusal::BadSignature),
    }
}

/// Tells one delivery from another. The signature does it, not `X-GitHub-Delivery`: that header is not signed, so a
/// recorded body could come again under a new id; a redelivery by GitHub has the same body.
fn identity(signature: &[u8]) -> String {
    signature.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: Option<u64>,
    full_name: String,
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

fn push(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Verdict, Refusal> {
    let event: PushEvent = parse(payload)?;
    if event.deleted || event.after.bytes().all(|byte| byte == b'0') {
        return Ok(Verdict::Ignored("a deleted branch".to_owned()));
    }
    let Some(branch) = event.reference.strip_prefix("refs/heads/") else {
        return Ok(Verdict::Ignored("a tag or another reference, not a branch".to_owned()));
    };
    let claim = Claim {
        provider: Provider::Github,
        ci: Ci::None,
        delivery,
        branch,
        commit: &event.after,
        number: None,
        repository_id: event.repository.id,
    };
    accept::judge(&claim, projects)
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

fn workflow_run(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Verdict, Refusal> {
    let event: WorkflowRunEvent = parse(payload)?;
    let run = &event.workflow_run;
    if let Some(reason) = is_nothing_to_deploy(&event) {
        return Ok(Verdict::Ignored(reason.to_owned()));
    }
    let claim = Claim {
        provider: Provider::Github,
        ci: Ci::Github,
        delivery,
        branch: run.head_branch.as_deref().unwrap_or_default(),
        commit: &run.head_sha,
        number: Some(run.id),
        repository_id: event.repository.id,
    };
    accept::judge(&claim, projects)
}

/// A run for a pull request carries the fork's branch, which may be called `master`: what counts is whose event it was
/// and from which repository.
fn is_nothing_to_deploy(event: &WorkflowRunEvent) -> Option<&'static str> {
    let run = &event.workflow_run;
    let is_own = run.head_repository.as_ref().is_some_and(|head| {
        head.full_name.eq_ignore_ascii_case(&event.repository.full_name)
            && head.id.is_some()
            && head.id == event.repository.id
    });
    if event.action != "completed" {
        Some("a workflow run that is not completed")
    } else if run.event != "push" {
        Some("a workflow run for something other than a push")
    } else if !is_own {
        Some("a workflow run of a fork")
    } else if run.conclusion.as_deref() != Some("success") {
        Some("the workflow run has not succeeded")
    } else {
        None
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload).map_err(|error| Refusal::Malformed(error.to_string()))
}
