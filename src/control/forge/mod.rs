//! The API of a CI or forge: whether a commit has passed, and a word back on what became of it here.
//!
//! Called by `deploy`. The rule: only whom conf names a token or an address for is asked, a token goes to that address
//! alone, and an answer that does not say plainly that everything passed is none that does.

mod endpoint;
mod passed;
mod tell;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;

use crate::control::https::{Https, HttpsError};
use crate::control::secret::{self, SecretError};
use crate::model::push::Provider;

pub use endpoint::Endpoint;
pub use tell::{Report, State};

/// What a CI says of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Passed {
        /// The build's number, where the CI counts builds.
        number: Option<u64>,
        repository_id: u64,
    },
    /// Not, or not yet; the text says what it is.
    Not(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the token cannot stand in a header")]
    Token,
    #[error("`{0}` is not a URL")]
    Url(String),
    #[error("the answer was {0}{hint}", hint = hint(*.0))]
    Status(StatusCode),
    #[error("the answer cannot be understood: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("there is more than one answer holds")]
    TooMuch,
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => " (hint: look whether the token holds, and what it may do)",
        StatusCode::NOT_FOUND => " (hint: a token that may not read the repository is answered so too)",
        _ => "",
    }
}

/// Who asks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Forge {
    https: Https,
}

impl Forge {
    pub fn new() -> Result<Self, HttpsError> {
        Ok(Self { https: Https::new(None, TIMEOUT, ANSWER_MAX)? })
    }

    async fn get<T: DeserializeOwned>(&self, at: &Endpoint, path: &str) -> Result<T, ForgeError> {
        self.send(at, Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        at: &Endpoint,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ForgeError> {
        self.send(at, Method::POST, path, body.to_string().into()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        at: &Endpoint,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ForgeError> {
        let url = format!("{}{path}", at.base);
        let accept = if at.provider == Provider::Github { "application/vnd.github+json" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(&url);
        request = request.header("accept", accept).header("user-agent", "open-prime");
        request = request.header("content-type", "application/json");
        if at.provider == Provider::Travis {
            request = request.header("travis-api-version", "3");
        }
        if let Some(token) = &at.token {
            let (name, value) = authorization(at.provider, secret::read(token)?.as_bytes())?;
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|_| ForgeError::Url(url))?;
        let answer = self.https.send(request).await?;
        if !answer.status().is_success() {
            return Err(ForgeError::Status(answer.status()));
        }
        Ok(serde_json::from_slice(answer.body())?)
    }
}

/// How each takes a token. The value is marked, so that nothing prints it.
fn authorization(provider: Provider, token: &[u8]) -> Result<(&'static str, http::HeaderValue), ForgeError> {
    let (name, scheme): (_, &[u8]) = match provider {
        Provider::Gitlab => ("private-token", b""),
        Provider::Travis | Provider::Gitea => ("authorization", b"token "),
        Provider::Github | Provider::Generic => ("authorization", b"Bearer "),
    };
    let mut value = http::HeaderValue::from_bytes(&[scheme, token].concat()).map_err(|_| ForgeError::Token)?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// A value as one segment of a path, or of a query.
fn quoted(value: &str) -> String {
    form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// A hundred check runs with all that is said of each are some hundred KiB.
const ANSWER_MAX: usize = 4 << 20;
