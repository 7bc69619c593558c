//! Gitea and Forgejo: an HMAC over the JSON payload, also where it comes as a form.
//!
//! Called by `Hooks`, and before GitHub: they send GitHub's headers beside their own. `workflow_run` (Gitea) and
//! `action_run_success` (Forgejo) deploy projects with `ci = "gitea"`, `push` those with `ci = "none"`; `status` leads to
//! a look at all statuses, which is how Woodpecker and other CIs speak through a forge.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::accept::{self, Said};
use super::github::{self, Repository, claimed_repository, parse};
use super::secrets::{believers, from_hex, is_hmac, to_hex};
use super::{Delivery, Heard, Refusal, payload, single};
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
    let payload = payload(delivery, "Gitea")?;
    let named = claimed(&payload);
    let hosted = named.as_ref().map(|named| accept::hosted(projects, &named.full_name)).unwrap_or_default();
    let secret = machine.hooks.secrets.get(&Provider::Gitea);
    let believed = believers(&hosted, secret, |secret| Ok(is_hmac(secret, &payload, &signature)))?;
    if believed.is_empty() {
        return Err(github::unknown(named));
    }
    // As with GitHub, `X-Gitea-Delivery` is not signed.
    let identity = to_hex(&signature);
    match first(delivery, &EVENTS)? {
        Some(b"push") => github::push(&payload, Provider::Gitea, identity, &believed),
        Some(b"workflow_run") => github::workflow_run(&payload, Provider::Gitea, identity, &believed),
        Some(b"action_run_success" | b"action_run_recover") => action_run(&payload, identity, &believed),
        Some(b"status") => github::status(&payload, Ci::Gitea, &believed),
        _ => Ok(Heard::Nothing("an event that deploys nothing".to_owned())),
    }
}

/// 64 hexadecimal digits without a prefix.
fn signature(delivery: &Delivery<'_>) -> Result<Vec<u8>, Refusal> {
    let unsigned = || Refusal::Unsigned("no `X-Gitea-Signature` header (hint: set the webhook's secret)".to_owned());
    from_hex(first(delivery, &SIGNATURES)?.ok_or_else(unsigned)?)
}

/// The first of these headers that is there.
fn first<'d>(delivery: &Delivery<'d>, names: &[&str]) -> Result<Option<&'d [u8]>, Refusal> {
    for name in names {
        if let Some(value) = single(delivery.headers, name)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The repository that a body names; Forgejo's runs have it one level down.
fn claimed(payload: &[u8]) -> Option<Repository> {
    #[derive(Deserialize)]
    struct Envelope {
        run: Option<Run>,
    }
    #[derive(Deserialize)]
    struct Run {
        repository: Option<Repository>,
    }
    let of_run = || serde_json::from_slice::<Envelope>(payload).ok()?.run?.repository;
    claimed_repository(payload).or_else(of_run)
}

#[derive(Debug, Deserialize)]
struct ActionRunEvent {
    run: ActionRun,
}

/// Forgejo's `modules/structs/action.go`.
#[derive(Debug, Deserialize)]
struct ActionRun {
    /// Counts up over all of a Forgejo, as GitHub's does.
    id: u64,
    repository: Repository,
    commit_sha: String,
    is_fork_pull_request: bool,
    event: String,
    trigger_event: String,
    status: String,
    /// The event that the run is for, as JSON in a text. `prettyref` beside it does not tell a tag from a branch.
    event_payload: String,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(rename = "ref")]
    reference: String,
}

fn action_run(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Heard, Refusal> {
    let ActionRunEvent { run } = parse(payload)?;
    let nothing = |why: &str| Ok(Heard::Nothing(why.to_owned()));
    if run.is_fork_pull_request {
        return nothing("a run of a fork");
    }
    if run.event != "push" || run.trigger_event != "push" {
        return nothing("a run for something other than a push");
    }
    if run.status != "success" {
        return nothing("the run has not succeeded");
    }
    let cause: Cause = parse(run.event_payload.as_bytes())?;
    let Some(branch) = cause.reference.strip_prefix("refs/heads/") else {
        return nothing("a tag or another reference, not a branch");
    };
    let said = Said {
        provider: Provider::Gitea,
        ci: Ci::Gitea,
        delivery,
        repository: &run.repository.full_name,
        branch,
        commit: &run.commit_sha,
        number: Some(run.id),
        repository_id: run.repository.id,
    };
    said.of(projects).map(Heard::Claim)
}

const SIGNATURES: [&str; 3] = ["x-forgejo-signature", "x-gitea-signature", "x-gogs-signature"];
const EVENTS: [&str; 3] = ["x-forgejo-event", "x-gitea-event", "x-gogs-event"];
