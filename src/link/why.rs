//! What control asks the edge about a request that nobody makes, and what the edge says of it.
//!
//! Carried by the link; shown by `opri why`. The rule: asking changes nothing and counts nothing.

use serde::{Deserialize, Serialize};

use crate::model::address::Address;
use crate::model::cache::{CacheRule, CacheVerdict};
use crate::model::cache_key::CacheKey;
use crate::model::name::Site;
use crate::model::route::UpstreamId;

/// A request as a visitor would make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub method: String,
    pub is_secure: bool,
    /// The host with its port, as in a URL.
    pub authority: String,
    /// Path and query.
    pub target: String,
    /// Names and values, without Host.
    pub fields: Vec<(String, String)>,
}

/// What would come of it right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `None` for what Prime answers itself, and where there is no route.
    pub site: Option<Site>,
    pub answer: Outlook,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Outlook {
    /// No route knows the host.
    UnknownHost,
    /// The edge, with a page.
    Refusal { status: u16, why: String },
    /// The edge, by a 308.
    Redirect { location: String },
    /// An upstream, or what is stored of it.
    Upstream { upstream: UpstreamId, replicas: Vec<Address>, cache: Box<CacheOutlook> },
    #[serde(other)]
    Unknown,
}

/// What the cache would make of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheOutlook {
    /// `hit`; or why the app would be asked, in the words of RFC 9211; or `unavailable`, for the request wants what is stored
    /// or nothing.
    pub verdict: String,
    /// What decided, in words.
    pub why: String,
    /// What would become of the app's answer, in words; empty for a hit.
    pub then: String,
    /// URL and cookies as they stand in the key.
    pub key: Option<String>,
    /// What conf says of the path.
    pub rule: Option<CacheRule<CacheVerdict>>,
    pub key_rule: Option<CacheRule<CacheKey>>,
    pub tags: Vec<String>,
    /// What is stored for requests like this one.
    pub stored: Option<StoredOutlook>,
    /// How many responses are stored for the URL, for whatever requests.
    pub variants: usize,
}

/// A stored response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutlook {
    pub status: u16,
    /// Of its body.
    pub bytes: u64,
    /// In seconds.
    pub age: u64,
    /// For how many seconds it is still fresh; below zero once it is stale.
    pub ttl: i64,
    /// Who said how long it is fresh, in words.
    pub said_by: String,
    /// The fields of a request that it depends on.
    pub vary: Vec<String>,
}
