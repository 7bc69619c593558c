//! Any other CI: a few fields of JSON, signed as Standard Webhooks with the project's secret.
//!
//! Called by `Hooks`. What a last step of a build sends with curl; Woodpecker and Circle among others.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::accept::Said;
use super::github::parse;
use super::secrets::believers;
use super::standard::Signed;
use super::travis::Number;
use super::{Delivery, Heard, JSON, Refusal, TRAVIS_BODY_MAX, media_type, shown};
use crate::model::machine::Machine;
use crate::model::name::ProjectName;
use crate::model::project::{Ci, Origin, Project};
use crate::model::push::Provider;

/// Hears a delivery out.
pub fn hear(
    delivery: &Delivery<'_>,
    machine: &Machine,
    projects: &BTreeMap<ProjectName, Project>,
) -> Result<Heard, Refusal> {
    if delivery.body.len() > TRAVIS_BODY_MAX {
        return Err(Refusal::TooLarge(TRAVIS_BODY_MAX));
    }
    match media_type(delivery.headers)?.as_str() {
        JSON => {}
        other => return Err(Refusal::MediaType(format!("`{other}` where JSON is expected"))),
    }
    let signed = Signed::open(delivery)?;
    let name = claimed_project(delivery.body);
    let is_ours = |project: &&Project| matches!(project.origin, Origin::Repository(_));
    let project = name.as_deref().and_then(|name| projects.get(&name.parse().ok()?)).filter(is_ours);
    let secret = machine.hooks.secrets.get(&Provider::Generic);
    let believed = believers(project.as_slice(), secret, |secret| signed.holds(secret))?;
    if believed.is_empty() {
        return Err(Refusal::UnknownRepository { name: shown(&name.unwrap_or_default()), id: None });
    }
    build(delivery.body, signed.identity(), &believed)
}

fn claimed_project(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        project: String,
    }
    Some(serde_json::from_slice::<Envelope>(payload).ok()?.project)
}

#[derive(Debug, Deserialize)]
struct Build {
    project: String,
    branch: String,
    commit: String,
    run_number: Number,
    status: String,
}

fn build(payload: &[u8], delivery: String, projects: &[&Project]) -> Result<Heard, Refusal> {
    let build: Build = parse(payload)?;
    if build.status != "success" {
        return Ok(Heard::Nothing("the build has not succeeded".to_owned()));
    }
    // Without it nobody could tell a late delivery from a new one.
    let number = build.run_number.value().ok_or_else(|| Refusal::malformed("`run_number` is not a number"))?;
    let said = Said {
        provider: Provider::Generic,
        ci: Ci::Generic,
        delivery,
        repository: &build.project,
        branch: &build.branch,
        commit: &build.commit,
        number: Some(number),
        repository_id: None,
    };
    said.of(projects).map(Heard::Claim)
}
