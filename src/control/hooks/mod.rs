//! Webhooks: bytes and headers in, a push or the reason why not out.
//!
//! Called by `web` for every `POST /events`. The rule it keeps: nothing of a delivery is believed before its signature
//! held over the exact bytes, and whatever is unclear is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, StatusCode};

use crate::control::secret;
use crate::model::machine::{Machine, TravisKey};
use crate::model::name::ProjectName;
use crate::model::project::{Ci, Project};
use crate::model::push::{Provider, Push};

mod accept;
mod form;
mod generic;
mod gitea;
mod github;
mod gitlab;
mod secrets;
mod standard;
mod travis;
mod travis_key;

pub use accept::Claim;

/// The largest body of a Travis delivery, in bytes: a payload repeats the whole build matrix, and 100 KB broke others.
pub const TRAVIS_BODY_MAX: usize = 1 << 20;
/// The largest body of a forge's delivery, in bytes: GitHub's own limit of 25 MB.
pub const GITHUB_BODY_MAX: usize = 25 << 20;

/// One `POST /events`, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// When it came.
    pub at: SystemTime,
}

/// What a believed delivery says.
enum Heard {
    Claim(Claim),
    /// One word of several: the branches of these projects are to be looked at.
    Look(Vec<ProjectName>),
    /// Honest, and nothing to do; the text says why.
    Nothing(String),
}

impl Heard {
    /// A look at those of `projects` that this CI deploys.
    fn look(ci: Ci, projects: &[&Project]) -> Self {
        let of_ci = projects.iter().filter(|project| project.ci == ci);
        let names: Vec<ProjectName> = of_ci.map(|project| project.name.clone()).collect();
        match names.is_empty() {
            true => Heard::Nothing("no project of this repository deploys on it".to_owned()),
            false => Heard::Look(names),
        }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Who said that it speaks.
    pub provider: Option<Provider>,
    /// What it said, where that is worth keeping.
    pub claim: Option<Claim>,
    pub verdict: Verdict,
}

/// What a delivery means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One push for each project of that repository that has the branch. All carry the same `delivery`.
    Push(Vec<Push>),
    /// Honest, and one word of several: whether everything passed is to be asked, for the branches of these projects.
    Look(Vec<ProjectName>),
    /// Honest, and nothing to do; the text says why.
    Ignored(String),
    Refused(Refusal),
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is no webhook of a known kind")]
    UnknownKind,
    #[error("the delivery cannot be read: {0}")]
    Malformed(String),
    #[error("the delivery is not signed: {0}")]
    Unsigned(String),
    #[error("the signature does not hold")]
    BadSignature,
    /// Of a signature that holds for some minutes only.
    #[error("the delivery is more than five minutes old, or from the future")]
    Expired,
    #[error("no project has the repository `{name}`")]
    UnknownRepository {
        name: String,
        /// As far as the delivery says it: one that is pinned says that the repository has another name now.
        id: Option<u64>,
    },
    #[error("the delivery is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the delivery has the wrong form: {0}")]
    MediaType(String),
    /// Nothing to check the signature with; the sender may be honest.
    #[error("the signature cannot be checked now: {0}")]
    Unready(String),
}

impl Refusal {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::UnknownKind | Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Unsigned(_) | Refusal::BadSignature | Refusal::Expired => StatusCode::UNAUTHORIZED,
            Refusal::UnknownRepository { .. } => StatusCode::NOT_FOUND,
            Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::Unready(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn malformed(why: &str) -> Self {
        Refusal::Malformed(why.to_owned())
    }
}

/// The judge of deliveries, with the one thing it has to keep: Travis' key.
#[derive(Debug, Default)]
pub struct Hooks {
    travis_key: travis_key::Keeper,
}

impl Hooks {
    /// Judges a delivery by what conf states now. Takes as long as reading a file, but for the first delivery after
    /// Travis changed its key: that one waits up to 5 s for the new one.
    pub async fn judge(
        &self,
        delivery: &Delivery<'_>,
        machine: &Machine,
        projects: &BTreeMap<ProjectName, Project>,
    ) -> Judged {
        let provider = provider(delivery.headers).ok();
        let (claim, verdict) = match self.hear(delivery, machine, projects).await {
            Ok(Heard::Claim(claim)) => return again(claim, projects),
            Ok(Heard::Look(names)) => (None, Verdict::Look(names)),
            Ok(Heard::Nothing(why)) => (None, Verdict::Ignored(why)),
            Err(refusal) => (None, Verdict::Refused(refusal)),
        };
        Judged { provider, claim, verdict }
    }

    async fn hear(
        &self,
        delivery: &Delivery<'_>,
        machine: &Machine,
        projects: &BTreeMap<ProjectName, Project>,
    ) -> Result<Heard, Refusal> {
        match provider(delivery.headers)? {
            Provider::Travis => self.hear_travis(delivery, machine, projects).await,
            Provider::Github => github::hear(delivery, machine, projects),
            Provider::Gitlab => gitlab::hear(delivery, machine, projects),
            Provider::Gitea => gitea::hear(delivery, machine, projects),
            Provider::Generic => generic::hear(delivery, machine, projects),
        }
    }

    /// Has Travis' key at hand before the first delivery: loads the stored one, and fetches it when it is missing or a
    /// day old. To be called at start and every hour; a failure is logged, and the key that is known stays.
    pub async fn refresh(&self, machine: &Machine) {
        if let TravisKey::ConfigUrl(url) = &machine.hooks.travis {
            self.travis_key.refresh(url, &machine.state_dir).await;
        }
    }

    async fn hear_travis(
        &self,
        delivery: &Delivery<'_>,
        machine: &Machine,
        projects: &BTreeMap<ProjectName, Project>,
    ) -> Result<Heard, Refusal> {
        let signed = travis::Signed::open(delivery)?;
        let holds = match &machine.hooks.travis {
            TravisKey::PublicKey(path) => travis_key::pinned(path)?.verifies(&signed.payload, &signed.signature),
            TravisKey::ConfigUrl(url) => {
                let check = |key: &travis_key::Key| key.verifies(&signed.payload, &signed.signature);
                self.travis_key.verifies(url, &machine.state_dir, check).await?
            }
        };
        if holds { travis::hear(&signed.payload, delivery.at, projects) } else { Err(Refusal::BadSignature) }
    }
}

/// Judges a claim that is believed, or once was, by what conf states now.
pub fn again(claim: Claim, projects: &BTreeMap<ProjectName, Project>) -> Judged {
    let verdict = accept::judge(&claim, projects).unwrap_or_else(Verdict::Refused);
    Judged { provider: Some(claim.provider), claim: Some(claim), verdict }
}

/// Whether a delivery for this project could be believed: what it must be signed with is there. Says which, or why not.
pub fn readiness(project: &Project, machine: &Machine) -> Result<String, String> {
    let providers: &[Provider] = match project.ci {
        Ci::Travis => return travis_readiness(machine),
        Ci::Github => &[Provider::Github],
        Ci::Gitlab => &[Provider::Gitlab],
        Ci::Gitea => &[Provider::Gitea],
        Ci::Generic => &[Provider::Generic],
        Ci::None => &[Provider::Github, Provider::Gitlab, Provider::Gitea],
    };
    let of_machine = || providers.iter().find_map(|provider| machine.hooks.secrets.get(provider));
    let Some(secret) = project.hooks.secret.as_ref().or_else(of_machine) else {
        return Err("[hooks] has no secret for it, here or in the project's file".to_owned());
    };
    match secret::read(secret) {
        Ok(_) => Ok("its secret is there".to_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

fn travis_readiness(machine: &Machine) -> Result<String, String> {
    match &machine.hooks.travis {
        TravisKey::PublicKey(path) => match travis_key::pinned(path) {
            Ok(_) => Ok("Travis' key is pinned".to_owned()),
            Err(refusal) => Err(refusal.to_string()),
        },
        TravisKey::ConfigUrl(url) if travis_key::is_stored(url, &machine.state_dir) => {
            Ok("Travis' key is there".to_owned())
        }
        TravisKey::ConfigUrl(url) => Err(format!("Travis' key could not be had from {url} yet")),
    }
}

/// The kind of event, as the provider's header names it.
pub fn event(headers: &HeaderMap) -> Option<String> {
    let names = ["x-forgejo-event", "x-gitea-event", "x-gogs-event", "x-gitlab-event", "x-github-event"];
    let value = names.iter().find_map(|name| headers.get(*name))?;
    Some(value.to_str().map(shown_line).unwrap_or_default())
}

/// The largest body that is worth reading for these headers, in bytes.
pub fn body_max(headers: &HeaderMap) -> usize {
    match provider(headers) {
        Ok(Provider::Github | Provider::Gitlab | Provider::Gitea) => GITHUB_BODY_MAX,
        _ => TRAVIS_BODY_MAX,
    }
}

/// Who says that it speaks. Gitea and Forgejo send GitHub's headers beside their own, and GitLab may send those of
/// Standard Webhooks, so they are looked for first.
pub fn provider(headers: &HeaderMap) -> Result<Provider, Refusal> {
    let has = |prefix: &str| headers.keys().any(|name| name.as_str().starts_with(prefix));
    let is_form = || media_type(headers).is_ok_and(|kind| kind == FORM);
    let agent = || headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Travis CI"));
    if has("x-gitea-") || has("x-forgejo-") || has("x-gogs-") {
        Ok(Provider::Gitea)
    } else if has("x-gitlab-") {
        Ok(Provider::Gitlab)
    } else if has("webhook-") {
        Ok(Provider::Generic)
    } else if has("x-github-") || has("x-hub-") {
        Ok(Provider::Github)
    } else if has("travis-") || headers.contains_key("signature") || agent() || is_form() {
        Ok(Provider::Travis)
    } else {
        Err(Refusal::UnknownKind)
    }
}

/// The one value of a header; `None` when it is missing.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h [u8]>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(Refusal::Malformed(format!("more than one `{name}` header"))),
        (value, _) => Ok(value.map(|value| value.as_bytes())),
    }
}

/// The content type in lower case without parameters. Another charset than UTF-8 and any content coding are refused:
/// a signature is over bytes, and there must be one way to read them.
fn media_type(headers: &HeaderMap) -> Result<String, Refusal> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::MediaType("a content coding".to_owned()));
    }
    let wrong = || Refusal::MediaType("no content type that can be read".to_owned());
    let value = single(headers, CONTENT_TYPE.as_str())?.ok_or_else(wrong)?;
    let value = std::str::from_utf8(value).map_err(|_| wrong())?.to_ascii_lowercase();
    let (kind, parameters) = value.split_once(';').unwrap_or((&value, ""));
    match parameters.trim().strip_prefix("charset=").map(|charset| charset.trim_matches('"')) {
        Some(charset) if charset != "utf-8" => Err(Refusal::MediaType(format!("the charset {charset}"))),
        _ => Ok(kind.trim().to_owned()),
    }
}

/// What a forge sends, which its signature is about or which stands in the form that it is about.
fn payload<'d>(delivery: &Delivery<'d>, sender: &str) -> Result<Cow<'d, [u8]>, Refusal> {
    if delivery.body.len() > GITHUB_BODY_MAX {
        return Err(Refusal::TooLarge(GITHUB_BODY_MAX));
    }
    match media_type(delivery.headers)?.as_str() {
        JSON => Ok(Cow::Borrowed(delivery.body)),
        FORM => Ok(Cow::Owned(form::payload(delivery.body)?)),
        other => Err(Refusal::MediaType(format!("`{other}` where {sender} sends JSON or a form"))),
    }
}

/// A sender's text as it may stand in an answer, a log and the store: short, on one line, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(100).collect()
}

/// The same with spaces in it.
fn shown_line(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~')).take(100).collect()
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests;
