//! Webhooks: bytes and headers in, a push or the reason why not out.
//!
//! Called by `web` for every `POST /events`. The rule it keeps: nothing of a delivery is believed before its signature
//! held over the exact bytes, and whatever is unclear is refused.

use std::collections::BTreeMap;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, StatusCode};

use crate::model::machine::{Machine, TravisKey};
use crate::model::name::ProjectName;
use crate::model::project::Project;
use crate::model::push::{Provider, Push};

mod accept;
mod form;
mod github;
mod travis;
mod travis_key;

/// The largest body of a Travis delivery, in bytes: a payload repeats the whole build matrix, and 100 KB broke others.
pub const TRAVIS_BODY_MAX: usize = 1 << 20;
/// The largest body of a GitHub delivery, in bytes: GitHub's own limit of 25 MB.
pub const GITHUB_BODY_MAX: usize = 25 << 20;

/// One `POST /events`, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What a delivery means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One push for each project of that repository that has the branch. All carry the same `delivery`.
    Push(Vec<Push>),
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
    #[error("no project has the repository `{0}`")]
    UnknownRepository(String),
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
            Refusal::Unsigned(_) | Refusal::BadSignature => StatusCode::UNAUTHORIZED,
            Refusal::UnknownRepository(_) => StatusCode::NOT_FOUND,
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
    ) -> Verdict {
        let judged = match provider(delivery.headers) {
            Ok(Provider::Travis) => self.judge_travis(delivery, machine, projects).await,
            Ok(Provider::Github) => github::judge(delivery, machine.hooks.github.as_ref(), projects),
            Ok(_) => Err(Refusal::UnknownKind),
            Err(refusal) => Err(refusal),
        };
        judged.unwrap_or_else(Verdict::Refused)
    }

    /// Has Travis' key at hand before the first delivery: loads the stored one, and fetches it when it is missing or a
    /// day old. To be called at start and every hour; a failure is logged, and the key that is known stays.
    pub async fn refresh(&self, machine: &Machine) {
        if let TravisKey::ConfigUrl(url) = &machine.hooks.travis {
            self.travis_key.refresh(url, &machine.state_dir).await;
        }
    }

    async fn judge_travis(
        &self,
        delivery: &Delivery<'_>,
        machine: &Machine,
        projects: &BTreeMap<ProjectName, Project>,
    ) -> Result<Verdict, Refusal> {
        let signed = travis::Signed::open(delivery)?;
        let holds = match &machine.hooks.travis {
            TravisKey::PublicKey(path) => travis_key::pinned(path)?.verifies(&signed.payload, &signed.signature),
            TravisKey::ConfigUrl(url) => {
                let check = |key: &travis_key::Key| key.verifies(&signed.payload, &signed.signature);
                self.travis_key.verifies(url, &machine.state_dir, check).await?
            }
        };
        if holds { travis::judge(&signed.payload, projects) } else { Err(Refusal::BadSignature) }
    }
}

/// The largest body that is worth reading for these headers, in bytes.
pub fn body_max(headers: &HeaderMap) -> usize {
    match provider(headers) {
        Ok(Provider::Github) => GITHUB_BODY_MAX,
        _ => TRAVIS_BODY_MAX,
    }
}

/// Who says that it speaks. Gitea and Forgejo send GitHub's headers beside their own, so they are looked for first.
pub fn provider(headers: &HeaderMap) -> Result<Provider, Refusal> {
    let has = |prefix: &str| headers.keys().any(|name| name.as_str().starts_with(prefix));
    let is_form = || media_type(headers).is_ok_and(|kind| kind == FORM);
    let agent = || headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Travis CI"));
    if has("x-gitea-") || has("x-forgejo-") || has("x-gogs-") || has("x-gitlab-") || has("webhook-") {
        Err(Refusal::UnknownKind)
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

/// A sender's text as it may stand in an answer, a log and the store: short, on one line, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(100).collect()
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests;
