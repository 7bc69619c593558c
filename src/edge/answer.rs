//! What to do with one request: refuse it, send it elsewhere, answer it from the cache, or fetch it from an app.
//!
//! Called by `door` and `http2`. The rule: the routes are looked at once, and what was found then holds to the request's end;
//! only when the upstream found is draining by the time it is claimed are they looked at again.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::model::app::Protocol;
use crate::model::hold::Notice;

use super::cache::{self, Along, Away, Cache, CacheStatus, Earlier, End, Fill, Hit, Miss, Reading, Stale, Waiter};
use super::compress::Negotiation;
use super::failure::Failure;
use super::field::Fields;
use super::hold::{Hold, Pause, Place};
use super::purging;
use super::request::Asked;
use super::respond::Own;
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
    /// A page in place of the app.
    Maintenance(Arc<Notice>),
    /// What was to be purged is.
    Purged,
    Stored(Hit),
    /// What is stored and stale, and what to fetch behind, to be newer for the next.
    Meanwhile(Hit, Fetch),
    /// To be decided again when more is known.
    Wait(Awaited),
    /// What is on its way to another is the answer.
    Along(Along, CacheStatus),
    /// What is stored and stale, for nobody is there to be asked.
    Spared(Box<Own>, CacheStatus),
    Fetch(Fetch),
}

/// What may be an answer, and is not at hand.
#[derive(Debug)]
pub enum Awaited {
    /// On its way to another; and why the app had to be asked.
    Flight(Waiter, CacheStatus),
    /// On disk.
    Away(Away),
    /// Somebody who resumes the site.
    Resume(Place),
}

impl Awaited {
    /// Waits until there is reason to decide again.
    pub async fn settled(&self) -> Time {
        match self {
            Awaited::Flight(waiter, _) => match waiter.settled().await {
                Some(End::Refused) => Time::Apart,
                _ => Time::Again,
            },
            Awaited::Away(away) => {
                away.fetched().await;
                Time::Fetched
            }
            Awaited::Resume(place) => {
                place.over().await;
                Time::Again
            }
        }
    }

    /// How long it is waited for, where it is not the app that takes its time.
    pub fn until(&self) -> Option<Instant> {
        match self {
            Awaited::Resume(place) => Some(place.until()),
            Awaited::Flight(..) | Awaited::Away(_) => None,
        }
    }

    /// What has happened when that is over.
    pub fn failure(&self) -> Failure {
        match self {
            Awaited::Resume(_) => Failure::Paused,
            Awaited::Flight(..) | Awaited::Away(_) => Failure::Slow,
        }
    }

    /// What is said of a stored response that came of waiting.
    pub fn status(&self, hit: &Hit) -> CacheStatus {
        match self {
            Awaited::Flight(_, status) => status.collapsed(),
            Awaited::Away(_) | Awaited::Resume(_) => hit.status(),
        }
    }
}

/// A request on its way to an app.
#[derive(Debug)]
pub struct Fetch {
    pub claim: Claim,
    pub status: CacheStatus,
    /// Present when the response may be stored.
    pub fill: Option<Box<Fill>>,
    /// What is stored and may be renewed by the answer, or shown in its place.
    pub stale: Option<Box<Stale>>,
    /// What an earlier release may have stored, in place of a 404.
    pub earlier: Option<Box<Earlier>>,
    /// Of the request's body, in bytes.
    pub body_max: u64,
    /// What becomes of the answer, when it can be compressed.
    pub negotiation: Negotiation,
    /// By which the app is asked, in place of the target that was sent.
    pub target: Option<Box<str>>,
    /// Whether the app is asked for the whole, whatever part of it the request is for.
    pub is_of_whole: bool,
}

impl Fetch {
    /// The answer is a part, and leaves without a coding of ours. It says nothing of what the whole would have left in.
    pub fn is_uncoded(&mut self) {
        if let Some(fill) = &mut self.fill {
            fill.negotiated(None, None);
        }
    }

    /// What is stored and leaves in place of the app's answer, where that says so.
    pub fn settle(&mut self, cache: &Cache, status: StatusCode, fields: Fields<'_>) -> Option<(Own, CacheStatus)> {
        let stale = self.stale.as_ref().and_then(|stale| stale.settle(cache, status, fields));
        let settled = stale.or_else(|| self.earlier.as_ref()?.instead(cache, status))?;
        self.unfilled(status.is_client_error() || status.is_server_error());
        Some(settled)
    }

    /// There is nothing to store. `is_failure` when whoever waits for the same is not to ask one after the other.
    pub fn unfilled(&mut self, is_failure: bool) {
        if let Some(mut fill) = self.fill.take().filter(|_| is_failure) {
            fill.refuse();
        }
    }

    /// Whether the app speaks the one protocol that `fetch` does.
    pub fn is_light(&self) -> bool {
        self.claim.upstream().protocol == Protocol::Http1
    }
}

/// Which time it is that a request is decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    First,
    /// It has waited for an answer that was on its way.
    Again,
    /// It has, and is to have one by itself.
    Apart,
    /// What lies on disk has been fetched for it.
    Fetched,
}

impl Time {
    /// Whether what lies on disk is likely to be at hand.
    fn reading(self) -> Reading {
        match self {
            Time::First | Time::Again => Reading::AtOnce,
            Time::Apart | Time::Fetched => Reading::Patient,
        }
    }
}

/// Decides. `announced` is the length of the request's body, where it is known.
pub fn decide(state: &Shared, visit: &Visit, asked: &Asked<'_>, announced: Option<u64>, time: Time) -> Answer {
    let refuse = |entry, failure| Answer { entry, what: What::Refuse(failure) };
    if visit.secure.as_ref().is_some_and(|certified| !certified.covers(&asked.host)) {
        return refuse(None, Failure::Misdirected);
    }
    for look in 0..LOOKS {
        let table = state.table.load();
        let Some(entry) = table.routes.lookup(&asked.host, asked.path).cloned() else {
            return refuse(None, Failure::UnknownHost);
        };
        drop(table);
        if look == 0
            && time == Time::First
            && let Some(failure) = over_rate(state, &entry, visit, asked)
        {
            return refuse(Some(entry), failure);
        }
        if let Some(location) = https_location(state, &entry, asked) {
            return Answer { entry: Some(entry), what: What::Redirect(location) };
        }
        let what = match (&entry.to, &entry.hold) {
            (Answerer::Redirect(host), _) => Some(What::Redirect(elsewhere(host.in_url(), asked))),
            _ if purging::is_asked(asked) => Some(purging::purge(&state.cache, &entry, asked)),
            (_, Some(Hold::Maintenance(notice))) => Some(What::Maintenance(notice.clone())),
            (Answerer::Absent, Some(Hold::Pause(pause))) => Some(paused(pause)),
            (Answerer::Absent, None) => Some(What::Refuse(Failure::Absent)),
            (Answerer::Upstream(upstream), _) => from_upstream(state, &entry, upstream, asked, time),
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

/// Waits for whoever resumes the site, if there is room.
fn paused(pause: &Arc<Pause>) -> What {
    pause.wait().map_or(What::Refuse(Failure::Paused), |place| What::Wait(Awaited::Resume(place)))
}

/// From the cache, or by a claim; `None` when the upstream drains.
fn from_upstream(
    state: &Shared,
    entry: &Entry,
    upstream: &Arc<Upstream>,
    asked: &Asked<'_>,
    time: Time,
) -> Option<What> {
    let fetch = |miss| fetch(state, entry, upstream, asked, miss);
    let pause = match &entry.hold {
        Some(Hold::Pause(pause)) => Some(pause),
        Some(Hold::Maintenance(_)) | None => None,
    };
    let can_be_asked = pause.is_none() && upstream.has_replicas();
    match cache::look(&state.cache, (entry, &upstream.id), asked, time == Time::Apart, time.reading()) {
        cache::Look::Hit(hit) => Some(What::Stored(hit)),
        cache::Look::Away(away) => Some(What::Wait(Awaited::Away(away))),
        cache::Look::Wait(waiter, status) => Some(What::Wait(Awaited::Flight(waiter, status))),
        cache::Look::Along(along, status) => Some(What::Along(along, status)),
        cache::Look::Unavailable => Some(What::Refuse(Failure::NotStored)),
        cache::Look::Meanwhile(hit, miss) if can_be_asked && upstream.protocol == Protocol::Http1 => {
            Some(What::Meanwhile(hit, fetch(miss)?))
        }
        // Nobody can ask behind what `fetch` does not speak to: this request does it, if it is for the whole itself.
        cache::Look::Meanwhile(hit, miss) if !can_be_asked || miss.is_of_whole => Some(What::Stored(hit)),
        cache::Look::Miss(miss) | cache::Look::Meanwhile(_, miss) if can_be_asked => fetch(miss).map(What::Fetch),
        cache::Look::Miss(_) | cache::Look::Meanwhile(..) if pause.is_some() => pause.map(paused),
        cache::Look::Miss(miss) | cache::Look::Meanwhile(_, miss) => {
            let spare = miss.stale.and_then(|stale| stale.unasked());
            let spared = |(own, status)| What::Spared(Box::new(own), status);
            Some(spare.map_or(What::Refuse(Failure::Absent), spared))
        }
    }
}

/// A claim for a request that the app must be asked for.
fn fetch(state: &Shared, entry: &Entry, upstream: &Arc<Upstream>, asked: &Asked<'_>, miss: Miss) -> Option<Fetch> {
    let Miss { status, fill, stale, earlier, target, is_of_whole } = miss;
    let negotiation = match asked.method {
        Method::HEAD if !is_of_whole => Negotiation::Off,
        _ => Negotiation::of(&entry.compression, asked),
    };
    let (claim, body_max) = (upstream.claim()?, body_max(state, entry));
    Some(Fetch { claim, status, fill, stale, earlier, body_max, negotiation, target, is_of_whole })
}

/// Where plain HTTP is sent to, when it is.
pub fn https_location(state: &Shared, entry: &Entry, asked: &Asked<'_>) -> Option<String> {
    let is_wanted = entry.https_only && entry.site.is_some() && asked.scheme == "http";
    if !is_wanted || asked.path.starts_with(CHALLENGES) {
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

/// The same URL at another host.
pub fn elsewhere(host: String, asked: &Asked<'_>) -> String {
    format!("{}://{host}{}{}", asked.scheme, asked.port(), location_path(asked))
}

/// The target as it can stand in a Location: `OPTIONS *` has no path.
fn location_path<'r>(asked: &Asked<'r>) -> &'r str {
    if asked.target.starts_with('/') { asked.target } else { "/" }
}
