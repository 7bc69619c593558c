//! Travis CI: a form with a signed JSON payload, and when it counts.
//!
//! Called by `Hooks`. Formats are those of travis-tasks `addons/webhook/{task,payload}.rb`: RSA PKCS#1 v1.5 with SHA-1 over
//! the decoded payload. The same key signs for every repository on Travis, so a signature proves only who sent it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::accept::{self, Said};
use super::{Delivery, FORM, Heard, JSON, Refusal, TRAVIS_BODY_MAX, form, media_type, shown, single};
use crate::model::name::ProjectName;
use crate::model::project::{Ci, Project};
use crate::model::push::{DELIVERIES_KEPT, Provider};

/// A delivery taken apart as far as one may before it is believed.
#[derive(Debug)]
pub struct Signed {
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Signed {
    pub fn open(delivery: &Delivery<'_>) -> Result<Self, Refusal> {
        if delivery.body.len() > TRAVIS_BODY_MAX {
            return Err(Refusal::TooLarge(TRAVIS_BODY_MAX));
        }
        let signature = single(delivery.headers, "signature")?;
        match media_type(delivery.headers)?.as_str() {
            FORM => {}
            JSON if signature.is_none() => return Err(Refusal::MediaType(MSTEAMS.to_owned())),
            other => return Err(Refusal::MediaType(format!("`{other}` where Travis sends a form"))),
        }
        let signature = signature.ok_or_else(|| Refusal::Unsigned("no `Signature` header".to_owned()))?;
        let signature = STANDARD.decode(signature).map_err(|_| Refusal::BadSignature)?;
        Ok(Self { payload: form::payload(delivery.body)?, signature })
    }
}

/// Hears out a payload whose signature held. `now` is when it came.
pub fn hear(payload: &[u8], now: SystemTime, projects: &BTreeMap<ProjectName, Project>) -> Result<Heard, Refusal> {
    let build: Build = serde_json::from_slice(payload).map_err(|error| Refusal::Malformed(error.to_string()))?;
    let slug = format!("{}/{}", build.repository.owner_name, build.repository.name);
    let projects = accept::hosted(projects, &slug);
    if projects.is_empty() {
        return Err(Refusal::UnknownRepository { name: shown(&slug), id: build.repository.id });
    }
    if let Some(reason) = build.is_nothing_to_deploy().or_else(|| build.is_too_old(now)) {
        return Ok(Heard::Nothing(reason));
    }
    let said = Said {
        provider: Provider::Travis,
        ci: Ci::Travis,
        delivery: build.identity(),
        repository: &slug,
        branch: build.branch.as_deref().unwrap_or_default(),
        commit: build.commit.as_deref().unwrap_or_default(),
        number: build.number.as_ref().and_then(Number::value),
        repository_id: build.repository.id,
    };
    if said.number.is_none() {
        return Err(Refusal::malformed("the build has no number"));
    }
    said.of(&projects).map(Heard::Claim)
}

/// The fields that decide; the others are not looked at. A field given twice fails to parse.
#[derive(Debug, Deserialize)]
struct Build {
    id: u64,
    number: Option<Number>,
    #[serde(rename = "type")]
    kind: Option<String>,
    state: Option<String>,
    status: Option<i64>,
    result: Option<i64>,
    finished_at: Option<String>,
    branch: Option<String>,
    commit: Option<String>,
    pull_request: Option<bool>,
    pull_request_number: Option<Number>,
    tag: Option<String>,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: Option<u64>,
    name: String,
    owner_name: String,
}

/// Travis writes build numbers as text, and in its own fixtures as a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Number {
    Integer(u64),
    Text(String),
}

impl Number {
    pub fn value(&self) -> Option<u64> {
        match self {
            Number::Integer(number) => Some(*number),
            Number::Text(text) => text.parse().ok(),
        }
    }
}

impl Build {
    /// Why this build deploys nothing, whatever the project. A pull request carries the branch it wants to get into, and
    /// a tag build carries the tag's name as its branch, so neither is told by the branch.
    fn is_nothing_to_deploy(&self) -> Option<String> {
        let kind = self.kind.as_deref().unwrap_or_default();
        let is_pull_request = self.pull_request.unwrap_or(false) || self.pull_request_number.is_some();
        if kind == "pull_request" || is_pull_request {
            return Some("a pull request".to_owned());
        }
        if kind != "push" {
            return Some(format!("a build of type `{}`, not a push", shown(kind)));
        }
        if self.tag.is_some() {
            return Some("a tag, not a branch".to_owned());
        }
        if self.has_passed() { None } else { Some("the build has not passed".to_owned()) }
    }

    /// By the state; `status_message` says "Fixed" of a success as well. A number that contradicts the state is no pass.
    fn has_passed(&self) -> bool {
        let status = self.status.or(self.result);
        match self.state.as_deref() {
            Some("passed") => status.is_none_or(|status| status == 0),
            Some(_) => false,
            None => status == Some(0),
        }
    }

    /// A build of so long ago may be one that was accepted, and forgotten since.
    fn is_too_old(&self, now: SystemTime) -> Option<String> {
        let finished = OffsetDateTime::parse(self.finished_at.as_deref().unwrap_or_default(), &Rfc3339).ok();
        match finished.map(|at| now.duration_since(at.into()).is_ok_and(|age| age >= DELIVERIES_KEPT)) {
            Some(false) => None,
            Some(true) => Some("the build is too old to tell it from one that was accepted".to_owned()),
            None => Some("the build does not say when it finished".to_owned()),
        }
    }

    /// A restarted build keeps its id and finishes at another time.
    fn identity(&self) -> String {
        let part = |text: &Option<String>| shown(text.as_deref().unwrap_or_default());
        format!("{} {} {}", self.id, part(&self.finished_at), part(&self.state))
    }
}

const MSTEAMS: &str =
    "unsigned JSON where Travis sends a form (hint: remove `msteams: true` from this webhook in .travis.yml)";
