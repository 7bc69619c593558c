//! The cache: one for every way to an app.
//!
//! `answer` looks, `gateway` fills, `control_link` purges. What may be stored is decided in `policy`, where it is found
//! in `key`. The rule: a response is stored when its body has come whole, never before.

pub mod condition;
mod filling;
mod key;
mod memory;
pub mod policy;
pub mod stored;

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::link::{Purge, PurgeScope};
use crate::model::cache::CacheVerdict;
use crate::model::host::HostName;
use crate::model::route::UpstreamId;

use super::compress::{Coding, Negotiation};
use super::field::{Fields, Kind};
use super::headers::Sink;
use super::request::Asked;
use super::routing::Entry;
use condition::{Shape, shape};
use filling::{Filling, Held};
use key::Key;
use memory::{Epoch, Memory};
use policy::{Vary, Wish};
use stored::{Head, Stored, Variant};

/// What is said to the client in `Cache-Status` (RFC 9211), and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    Hit {
        ttl: Duration,
    },
    /// Asked for at the app, for this reason.
    Forward {
        reason: &'static str,
        is_stored: bool,
    },
}

impl CacheStatus {
    /// The name it is counted under.
    pub fn name(self) -> &'static str {
        match self {
            CacheStatus::Hit { .. } => "hit",
            CacheStatus::Forward { reason, .. } => reason,
        }
    }

    /// Writes the field.
    pub fn put(self, to: &mut impl Sink) {
        match self {
            CacheStatus::Hit { ttl } => {
                to.put("Cache-Status", &[b"opri; hit; ttl=", itoa::Buffer::new().format(ttl.as_secs()).as_bytes()]);
            }
            CacheStatus::Forward { reason, is_stored } => {
                let stored: &[u8] = if is_stored { b"; stored" } else { b"" };
                to.put("Cache-Status", &[b"opri; fwd=", reason.as_bytes(), stored]);
            }
        }
    }
}

/// A stored response that answers a request.
#[derive(Debug)]
pub struct Hit {
    pub stored: Arc<Stored>,
    pub ttl: Duration,
}

impl Hit {
    pub fn status(&self) -> CacheStatus {
        CacheStatus::Hit { ttl: self.ttl }
    }

    /// Whether all of it answers the request: no condition and no range says otherwise.
    pub fn is_whole_for(&self, asked: &Asked<'_>) -> bool {
        let (stored, length) = (&self.stored, self.stored.body.len());
        shape(&asked.method, asked.fields, stored.status, &stored.headers, length) == Shape::Whole
    }
}

#[derive(Debug)]
pub enum Look {
    Hit(Hit),
    Miss(CacheStatus, Option<Box<Fill>>),
}

#[derive(Debug)]
pub struct Cache(Memory, Arc<Filling>);

impl Cache {
    /// A cache of at most so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Memory::new(bytes), Filling::new(bytes))
    }

    pub fn resize(&self, bytes: u64) {
        self.0.resize(bytes);
        self.1.resize(bytes);
    }

    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Makes responses unreachable for every request that starts later; how many were removed.
    pub fn purge(&self, purge: &Purge) -> u64 {
        self.0.purge(|key| {
            let [project, _, _, authority, target] = key.parts();
            let host = HostName::from_authority(authority).map(String::from).unwrap_or_default();
            project == purge.project.as_str() && is_in_scope(&purge.scope, &host, target)
        })
    }

    /// Gives back the room of an upstream that is not routed any more.
    pub fn forget(&self, upstream: &UpstreamId) {
        self.0.purge(|key| key.parts()[1] == upstream.0);
    }
}

/// Looks for a stored response, or says what is to become of the one that the app will give.
pub fn look(cache: &Cache, entry: &Entry, upstream: &UpstreamId, asked: &Asked<'_>) -> Look {
    let forward = |reason| CacheStatus::Forward { reason, is_stored: false };
    let Some(site) = entry.site.as_ref().filter(|_| entry.cache.enabled) else {
        return Look::Miss(forward("bypass"), None);
    };
    let rule = entry.cache.rule(asked.path());
    let key = || Key::new(site, upstream, asked);
    let fill = |key: Key| Box::new(Fill::new(cache, entry, key, encoding(asked.fields), rule.cloned()));
    match policy::wish(&asked.method, asked.fields, rule) {
        Wish::Bypass("method") => {
            // Kept so that a successful write can make the stored page unreachable.
            Look::Miss(forward("method"), (!asked.method.is_safe()).then(|| Box::new(fill(key()).invalidating())))
        }
        Wish::Bypass(reason) => Look::Miss(forward(reason), None),
        Wish::Fresh { may_store } => Look::Miss(forward("request"), may_store.then(|| fill(key()))),
        Wish::Stored { max_age, may_store } => {
            let key = key();
            let stored = cache.0.find(&key, is_right(entry, asked));
            let reason = match stored.map(|stored| (stored.time_left(asked.at), stored)) {
                Some((Some(ttl), stored)) if stored.age(asked.at) <= max_age => return Look::Hit(Hit { stored, ttl }),
                Some((Some(_), _)) => "request",
                Some((None, _)) => "stale",
                None => "miss",
            };
            Look::Miss(forward(reason), may_store.then(|| fill(key)))
        }
    }
}

/// Judges variants; of the request only what a variant depends on is looked at.
fn is_right(entry: &Entry, asked: &Asked<'_>) -> impl Fn(&Variant) -> bool {
    let coding = LazyCell::new(|| Negotiation::of(&entry.compression, asked).coding());
    let accepted = LazyCell::new(|| encoding(asked.fields));
    move |variant| match variant {
        Variant::All => true,
        Variant::Coding(own) => *own == *coding,
        Variant::AcceptEncoding(own) => *own == *accepted,
    }
}

/// A response on its way into the cache.
#[derive(Debug)]
pub struct Fill {
    key: Key,
    encoding: String,
    rule: Option<CacheVerdict>,
    object_max: u64,
    asked: Epoch,
    invalidates: bool,
    /// The coding that the edge gives it, or none, where that depends on the request.
    negotiated: Option<Option<Coding>>,
    head: Option<(Head, Option<u64>)>,
    body: BytesMut,
    held: Held,
}

impl Fill {
    fn new(cache: &Cache, entry: &Entry, key: Key, encoding: String, rule: Option<CacheVerdict>) -> Self {
        let (object_max, asked) = (entry.cache.object_max, cache.0.epoch(&key));
        Self {
            key,
            encoding,
            rule,
            object_max,
            asked,
            invalidates: false,
            negotiated: None,
            head: None,
            body: BytesMut::new(),
            held: Held::new(&cache.1),
        }
    }

    fn invalidating(self) -> Self {
        Self { invalidates: true, ..self }
    }

    /// To be said before `begin`: the response that will come is in this coding of ours, or in none, and others are not.
    pub fn negotiated(&mut self, coding: Option<Coding>) {
        self.negotiated = Some(coding);
    }

    /// Judges the head of the response; whether it is going to be stored. `machine_max` bounds it as well, in bytes.
    pub fn begin(&mut self, cache: &Cache, status: StatusCode, fields: Fields<'_>, machine_max: u64) -> bool {
        if self.invalidates {
            // RFC 9111 section 4.4: after a write that did not fail, what was stored is not what is there.
            if status.is_success() || status.is_redirection() {
                cache.0.remove(&self.key);
            }
            return false;
        }
        self.object_max = self.object_max.min(machine_max);
        let length = fields.text("content-length").and_then(|length| length.parse::<u64>().ok());
        let freshness = policy::freshness(status, fields, self.rule.as_ref(), SystemTime::now());
        let Some(freshness) = freshness.filter(|_| length.unwrap_or(0) <= self.object_max) else { return false };
        let variant = match (self.negotiated, policy::vary(fields)) {
            (Some(coding), _) => Variant::Coding(coding),
            (None, Vary::AcceptEncoding) => Variant::AcceptEncoding(std::mem::take(&mut self.encoding)),
            (None, _) => Variant::All,
        };
        let headers = kept(fields);
        self.head = Some((Head { status, headers, variant, freshness, since: Instant::now() }, length));
        true
    }

    /// Takes a part of the body.
    pub fn add(&mut self, part: &[u8]) {
        if self.head.is_none() {
            return;
        }
        if (self.body.len() + part.len()) as u64 > self.object_max || !self.held.grow(part.len() as u64) {
            self.head = None;
            self.body = BytesMut::new();
            self.held.give_back();
        } else {
            self.body.extend_from_slice(part);
        }
    }

    /// Stores the response: its body has come whole.
    pub fn end(&mut self, cache: &Cache) {
        let Some((head, length)) = self.head.take() else { return };
        let body = std::mem::take(&mut self.body).freeze();
        if length.is_none_or(|length| length == body.len() as u64) {
            cache.0.store(self.key.clone(), Stored::new(head, body), self.asked);
        }
    }
}

/// What belongs to the response and not to the connection it came over (RFC 9111 section 3.1). Its age is counted here from
/// now on, and every answer says the time at which it leaves.
fn kept(fields: Fields<'_>) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let nominated: Vec<&[u8]> =
        fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect();
    fields.each(|name, value| {
        let is_nominated = nominated.iter().any(|own| own.eq_ignore_ascii_case(name));
        let kind = Kind::of(name);
        let is_own = kind.is_hop_by_hop() || matches!(kind, Kind::RequestId | Kind::ContentLength);
        let is_time = name.eq_ignore_ascii_case(b"age") || name.eq_ignore_ascii_case(b"date");
        if is_own || is_nominated || is_time {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            kept.append(name, value);
        }
    });
    kept
}

/// The request's Accept-Encoding, so that two ways to write the same are one.
fn encoding(fields: Fields<'_>) -> String {
    let values: Vec<&str> =
        fields.all("accept-encoding").map(|value| std::str::from_utf8(value).unwrap_or("?")).collect();
    values.join(",").chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect()
}

fn is_in_scope(scope: &PurgeScope, host: &str, target: &str) -> bool {
    match scope {
        PurgeScope::All => true,
        PurgeScope::Prefix(prefix) => target.starts_with(prefix.as_str()),
        PurgeScope::Url(url) => match url.split_once("://") {
            None => target == url,
            Some((_, rest)) => {
                let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let is_host =
                    crate::model::host::HostName::from_authority(authority).is_ok_and(|own| own.as_str() == host);
                is_host && (target == path || (path.is_empty() && target == "/"))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_purged_by_path_or_whole() {
        let is_in = |url: &str| is_in_scope(&PurgeScope::Url(url.to_owned()), "a.test", "/x?y");
        assert!(is_in("/x?y") && is_in("http://A.test:8080/x?y") && is_in("https://a.test/x?y"));
        assert!(!is_in("/x") && !is_in("http://b.test/x?y") && !is_in("/x?y=1"));
        assert!(is_in_scope(&PurgeScope::Url("https://a.test".to_owned()), "a.test", "/"));
    }
}
