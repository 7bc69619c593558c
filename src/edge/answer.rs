//! What to do with one request: refuse it, send it elsewhere, answer it from the cache, or fetch it from an app.
//!
//! Called by `door` and `http2`. The rule: the routes are looked at once, and what was found then holds to the request's end;
//! only when the upstream found is draining by the time it is claimed are they looked at again.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;

use crate::model::app::Protocol;

use super::cache::{self, CacheStatus, Fill, Hit};
use super::compress::Negotiation;
use super::failure::Failure;
use super::request::Asked;
use super::routing::{Answerer, Entry};
use super::shared::Shared;
use super::upstream::{Claim, Upstream};
use super::visit::Visit;
use super::visitor::visitor;

/// Each look finds an upstream newer than the one that was draining; nobody deploys this fast.
const LOOKS: usize = 8;
/// Where HTTP-01 challenges are asked for: by plain HTTP, whatever the site prefers (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// The answer, with the route it was found by.
#[derive(Debug)]
pub struct Answer {
    pub entry: Option<Arc<Entry>>,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Refuse(Failure),
    /// 308 to this location.
    Redirect(String),
    Stored(Hit),
    Fetch(Fetch),
}

/// A request on its way to an app.
#[derive(Debug)]
pub struct Fetch {
    pub claim: Claim,
    pub status: CacheStatus,
    /// Present when the response may be stored.
    pub fill: Option<Box<Fill>>,
    /// Of the request's body, in bytes.
    pub body_max: u64,
    /// What becomes of the answer, when it can be compressed.
    pub negotiation: Negotiation,
}

impl Fetch {
    /// Whether the app speaks the one protocol that `fetch` does.
    pub fn is_light(&self) -> bool {
        self.claim.upstream().protocol == Protocol::Http1
    }
}

/// Decides. `announced` is the length of the request's body, where it is known.
pub fn decide(state: &Shared, visit: &Visit, asked: &Asked<'_>, announced: Option<u64>) -> Answer {
    let refuse = |entry, failure| Answer { entry, what: What::Refuse(failure) };
    if visit.secure.as_ref().is_some_and(|certified| !certified.covers(&asked.host)) {
        return refuse(None, Failure::Misdirected);
    }
    for look in 0..LOOKS {
        let table = state.table.load();
        let Some(entry) = table.routes.lookup(&asked.host, asked.path()).cloned() else {
            return refuse(None, Failure::UnknownHost);
        };
        drop(table);
        if look == 0
            && let Some(failure) = over_rate(state, &entry, visit, asked)
        {
            return refuse(Some(entry), failure);
        }
        if let Some(location) = https_location(state, &entry, asked) {
            return Answer { entry: Some(entry), what: What::Redirect(location) };
        }
        let what = match &entry.to {
            Answerer::Redirect(host) => Some(What::Redirect(elsewhere(host.in_url(), asked))),
            Answerer::Absent => Some(What::Refuse(Failure::Absent)),
            Answerer::Upstream(upstream) => from_upstream(state, &entry, upstream, asked),
        };
        if let Some(what) = what {
            let is_too_large = announced.unwrap_or(0) > body_max(state, &entry);
            let what = if is_too_large { What::Refuse(Failure::BodyTooLarge) } else { what };
            return Answer { entry: Some(entry), what };
        }
    }
    refuse(None, Failure::Absent)
}

/// What a request's body may be, in bytes.
fn body_max(state: &Shared, entry: &Entry) -> u64 {
    entry.body_max.unwrap_or_else(|| state.settings.load().limits.body_max)
}

/// Counts the request against the site's rates, whatever answers it.
fn over_rate(state: &Shared, entry: &Entry, visit: &Visit, asked: &Asked<'_>) -> Option<Failure> {
    let rates = entry.rates.as_ref()?;
    let visitor = visitor(asked.fields, visit, &state.settings.load());
    let over = rates.admit(visitor, asked.at).err()?;
    state.metrics.limited(over.limit);
    Some(Failure::TooMany(over.retry_after))
}

/// From the cache, or by a claim; `None` when the upstream drains.
fn from_upstream(state: &Shared, entry: &Entry, upstream: &Arc<Upstream>, asked: &Asked<'_>) -> Option<What> {
    let (status, fill) = match cache::look(&state.cache, entry, &upstream.id, asked) {
        cache::Look::Hit(hit) => return Some(What::Stored(hit)),
        cache::Look::Miss(status, fill) => (status, fill),
    };
    if !upstream.has_replicas() {
        return Some(What::Refuse(Failure::Absent));
    }
    let negotiation = match asked.method {
        Method::HEAD => Negotiation::Off,
        _ => Negotiation::of(&entry.compression, asked),
    };
    let (claim, body_max) = (upstream.claim()?, body_max(state, entry));
    Some(What::Fetch(Fetch { claim, status, fill, body_max, negotiation }))
}

fn https_location(state: &Shared, entry: &Entry, asked: &Asked<'_>) -> Option<String> {
    let is_wanted = entry.https_only && entry.site.is_some() && asked.scheme == "http";
    if !is_wanted || asked.path().starts_with(CHALLENGES) {
        return None;
    }
    // Without an HTTPS listener the redirect would lead nowhere.
    let listeners = state.listeners.load();
    let port = match listeners.https.first().map(SocketAddr::port) {
        Some(443) => String::new(),
        Some(port) => format!(":{port}"),
        // Where visitors come to a proxy, it is the usual one.
        None if listeners.has_https() => String::new(),
        None => return None,
    };
    Some(format!("https://{}{port}{}", asked.host.in_url(), location_path(asked)))
}

fn elsewhere(host: String, asked: &Asked<'_>) -> String {
    format!("{}://{host}{}{}", asked.scheme, asked.port(), location_path(asked))
}

/// The target as it can stand in a Location: `OPTIONS *` has no path.
fn location_path<'r>(asked: &Asked<'r>) -> &'r str {
    if asked.target.starts_with('/') { asked.target } else { "/" }
}
