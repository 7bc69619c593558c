//! GitLab: a plain token, or a signing token (Standard Webhooks), and the events that count.
//!
//! Called by `Hooks`. `Pipeline Hook` deploys projects with `ci = "gitlab"`, `Push Hook` those with `ci = "none"`. GitLab
//! switches a webhook off for good after an answer of 400 to 499, so whatever is honest is answered 200.

use std::collections::BTreeMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use serde::Deserialize;

use super::accept::{self, Said};
use super::github::parse;
use super::secrets::{believers, to_hex};
use super::standard::{Signed, WHSEC};
use super::{Delivery, GITHUB_BODY_MAX, Heard, JSON, Refusal, media_type, shown, single};
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
    if delivery.body.len() > GITHUB_BODY_MAX {
        return Err(Refusal::TooLarge(GITHUB_BODY_MAX));
    }
    match media_type(delivery.headers)?.as_str() {
        JSON => {}
        other => return Err(Refusal::MediaType(format!("`{other}` where GitLab sends JSON"))),
    }
    let proof = Proof::of(delivery)?;
    let named = claimed_project(delivery.body);
    let hosted = named.as_ref().map(|named| accept::hosted(projects, &named.path_with_namespace)).unwrap_or_default();
    let secret = machine.hooks.secrets.get(&Provider::Gitlab);
    let believed = believers(&hosted, secret, |secret| proof.holds(secret))?;
    if believed.is_empty() {
        let (name, id) = named.map_or_else(Default::default, |named| (shown(&named.path_with_namespace), named.id));
        return Err(Refusal::UnknownRepository { name, id });
    }
    match single(delivery.headers, "x-gitlab-event")? {
        Some(b"Push Hook") => push(delivery.body, proof.identity(delivery), &believed),
        Some(b"Pipeline Hook") => pipeline(delivery.body, proof.identity(delivery), &believed),
        Some(b"Tag Push Hook") => Ok(Heard::Nothing("a tag, not a branch".to_owned())),
        _ => Ok(Heard::Nothing("an event that deploys nothing".to_owned())),
    }
}

/// What a delivery shows to be believed.
enum Proof {
    Signed(Signed),
    Token(Vec<u8>),
}

impl Proof {
    fn of(delivery: &Delivery<'_>) -> Result<Self, Refusal> {
        if Signed::is(delivery) {
            return Signed::open(delivery).map(Proof::Signed);
        }
        let unsigned = || {
            let why = "neither a `webhook-signature` nor an `X-Gitlab-Token` header (hint: set the webhook's token)";
            Refusal::Unsigned(why.to_owned())
        };
        single(delivery.headers, "x-gitlab-token")?.map(|token| Proof::Token(token.to_vec())).ok_or_else(unsigned)
    }

    /// A signing token is never taken as a plain one: it would be shown to whoever may read the request.
    fn holds(&self, secret: &[u8]) -> Result<bool, Refusal> {
        match (self, secret.starts_with(WHSEC)) {
            (Proof::Signed(signed), true) => signed.holds(secret),
            (Proof::Token(token), false) => Ok(verify_slices_are_equal(token, secret).is_ok()),
            _ => Ok(false),
        }
    }

    /// Tells one delivery from another. Where nothing is signed, the body does.
    fn identity(&self, delivery: &Delivery<'_>) -> String {
        match self {
            Proof::Signed(signed) => signed.identity(),
            Proof::Token(_) => to_hex(digest::digest(&digest::SHA256, delivery.body).as_ref()),
        }
    }
}

fn claimed_project(payload: &[u8]) -> Option<Repository> {
    #[derive(Deserialize)]
    struct Envelope {
        project: Option<Repository>,
    }
    serde_json::from_slice::<Envelope>(payload).ok()?.project
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: Option<u64>,
    path_with_namespace: String,
}

#[derive(Debug, Deserialize)]
struct PushEvent {
    object_kind: String,
    #[serde(rename = "ref")]
    reference: String,
    after: String,
    project: Repository,
}

fn push(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Heard, Refusal> {
    let event: PushEvent = parse(payload)?;
    if event.object_kind != "push" {
        return Ok(Heard::Nothing("an event that deploys nothing".to_owned()));
    }
    if event.after.bytes().all(|byte| byte == b'0') {
        return Ok(Heard::Nothing("a deleted branch".to_owned()));
    }
    let Some(branch) = event.reference.strip_prefix("refs/heads/") else {
        return Ok(Heard::Nothing("a tag or another reference, not a branch".to_owned()));
    };
    let said = Said {
        provider: Provider::Gitlab,
        ci: Ci::None,
        delivery,
        repository: &event.project.path_with_namespace,
        branch,
        commit: &event.after,
        number: None,
        repository_id: event.project.id,
    };
    said.of(projects).map(Heard::Claim)
}

#[derive(Debug, Deserialize)]
struct PipelineEvent {
    object_kind: String,
    object_attributes: Pipeline,
    merge_request: Option<serde::de::IgnoredAny>,
    project: Repository,
}

#[derive(Debug, Deserialize)]
struct Pipeline {
    /// Counts up over all of a GitLab.
    id: u64,
    /// Of a merge request's pipeline the branch it comes from, which may be called as ours is.
    #[serde(rename = "ref")]
    branch: String,
    tag: bool,
    sha: String,
    status: String,
    source: String,
}

fn pipeline(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Heard, Refusal> {
    let event: PipelineEvent = parse(payload)?;
    let pipeline = &event.object_attributes;
    if let Some(reason) = is_nothing_to_deploy(&event) {
        return Ok(Heard::Nothing(reason.to_owned()));
    }
    let said = Said {
        provider: Provider::Gitlab,
        ci: Ci::Gitlab,
        delivery,
        repository: &event.project.path_with_namespace,
        branch: &pipeline.branch,
        commit: &pipeline.sha,
        number: Some(pipeline.id),
        repository_id: event.project.id,
    };
    said.of(projects).map(Heard::Claim)
}

fn is_nothing_to_deploy(event: &PipelineEvent) -> Option<&'static str> {
    let pipeline = &event.object_attributes;
    if event.object_kind != "pipeline" {
        Some("an event that deploys nothing")
    } else if event.merge_request.is_some() || pipeline.source == "merge_request_event" {
        Some("a merge request")
    } else if pipeline.tag {
        Some("a tag, not a branch")
    } else if pipeline.source != "push" {
        Some("a pipeline for something other than a push")
    } else if pipeline.status != "success" {
        Some("the pipeline has not succeeded")
    } else {
        None
    }
}
