//! A stored response that does not answer a request any more, while the app is asked whether it still could.
//!
//! Made by `cache` with the request; `fetch` and `gateway` ask by its validators and let it judge the answer. The rule: only
//! the response that was asked about is renewed (RFC 9111 section 4.3.4), and a stale one is shown instead of a failure only
//! where the app has said so (RFC 5861 section 4).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::Cache;
use super::fill::kept;
use super::freshness::Arrival;
use super::key::Key;
use super::memory::Epoch;
use super::policy::Terms;
use super::purges::Remembered;
use super::status::CacheStatus;
use super::stored::{Head, Stored};
use super::wish::Wish;
use super::write::{contradicts, is_same_tag};
use super::{tags, vary};
use crate::edge::field::Fields;
use crate::edge::headers::Sink;
use crate::edge::request::Asked;
use crate::edge::respond::Own;

/// What a client says of what it has itself: answered here, by what comes of asking.
const CONDITIONS: [&str; 2] = ["if-none-match", "if-modified-since"];
/// What has a client get less than the whole.
const FOR_LESS: [&str; 4] = [CONDITIONS[0], CONDITIONS[1], "range", "if-range"];
/// What the body was stored with stays true of it (RFC 9111 section 3.2).
const OF_BODY: [HeaderName; 3] = [header::CONTENT_ENCODING, header::CONTENT_RANGE, header::CONTENT_LENGTH];

#[derive(Debug)]
pub struct Stale {
    stored: Arc<Stored>,
    key: Key,
    terms: Terms,
    epoch: Epoch,
    status: CacheStatus,
    method: Method,
    /// The client's own, and for what part.
    conditions: HeaderMap,
    since: Instant,
    _remembered: Remembered,
}

/// Whether a field of a request has it get less than the whole.
pub fn is_for_less(name: &[u8]) -> bool {
    FOR_LESS.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// The fields of a request that have it get less than the whole.
pub fn for_less(asked: &Asked<'_>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in FOR_LESS {
        for value in asked.fields.all(name).filter_map(|value| HeaderValue::from_bytes(value).ok()) {
            fields.append(name, value);
        }
    }
    fields
}

impl Stale {
    /// `status` says why it does not answer by itself.
    pub fn new(
        (stored, key, epoch, remembered): (Arc<Stored>, Key, Epoch, Remembered),
        terms: Terms,
        asked: &Asked<'_>,
        status: CacheStatus,
    ) -> Self {
        let conditions = for_less(asked);
        let (method, since) = (asked.method.clone(), asked.at);
        Self { stored, key, terms, epoch, status, method, conditions, since, _remembered: remembered }
    }

    /// Else the client's own conditions stay the client's, and it is there for want of a better alone: so it is for a part.
    fn can_be_asked_about(&self) -> bool {
        self.terms.wish.may_renew && self.stored.can_be_asked_about()
    }

    /// Whether a field of the client's is not passed on.
    pub fn takes_place_of(&self, name: &[u8]) -> bool {
        self.can_be_asked_about() && CONDITIONS.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
    }

    /// Writes the question.
    pub fn ask(&self, to: &mut impl Sink) {
        if !self.can_be_asked_about() {
            return;
        }
        if let Some(tag) = self.stored.tag() {
            to.put("If-None-Match", &[tag]);
        }
        if let Some(modified) = self.stored.field(&header::LAST_MODIFIED) {
            to.put("If-Modified-Since", &[modified]);
        }
    }

    /// What the client gets in place of the app's answer, and what is said of it; `None` when that answer itself leaves.
    pub fn settle(&self, cache: &Cache, status: StatusCode, fields: Fields<'_>) -> Option<(Own, CacheStatus)> {
        match status.as_u16() {
            304 if self.can_be_asked_about() => Some(self.renew(cache, status, fields)),
            200 if self.is_confirmed(status, fields) => Some(self.renew(cache, status, fields)),
            500 | 502..=504 => self.instead(Some(status)),
            _ => None,
        }
    }

    /// What the client gets when there is no answer, or no good one.
    pub fn instead(&self, status: Option<StatusCode>) -> Option<(Own, CacheStatus)> {
        let is_good = self.terms.wish.takes_stored && self.stored.covers_errors(Instant::now());
        is_good.then(|| (self.own(&self.stored), self.status.answered(status).spared()))
    }

    /// What the client gets when nobody can be asked.
    pub fn unasked(&self) -> Option<(Own, CacheStatus)> {
        let (own, _) = self.instead(None)?;
        Some((own, CacheStatus::Hit { ttl: self.stored.ttl(Instant::now()), is_spare: true }))
    }

    /// Whether a HEAD was answered with what is stored, by its validators and as far as its length is said (RFC 9111 section
    /// 4.3.5).
    fn is_confirmed(&self, status: StatusCode, fields: Fields<'_>) -> bool {
        let has_tags = self.stored.tag().is_some() && fields.first("etag").is_some();
        let has_dates = self.stored.field(&header::LAST_MODIFIED).is_some() && fields.first("last-modified").is_some();
        // Whoever asks for the whole behind a HEAD asks by a GET, and gets a body of its own.
        let is_asked_by_head = self.method == Method::HEAD && !self.terms.wish.may_store;
        is_asked_by_head
            && self.can_be_asked_about()
            && self.stored.status == status
            && (has_tags || has_dates)
            && !contradicts(&self.stored, status, fields)
    }

    /// The app says, by this status, that it has not changed.
    fn renew(&self, cache: &Cache, status: StatusCode, fields: Fields<'_>) -> (Own, CacheStatus) {
        let status = self.status.answered(Some(status));
        let tags = self.tags(cache, fields).filter(|_| self.is_about_it(fields) && vary::is_known(fields));
        let Some(tags) = tags else {
            cache.remove(&self.key);
            return (self.own(&self.stored), status);
        };
        let headers = self.updated(fields);
        let now = Instant::now();
        let arrival = Arrival { at: SystemTime::now(), delay: now.saturating_duration_since(self.since) };
        let judged = with_times(&headers, fields);
        let judge = |terms: &Terms| terms.judge(self.stored.status, Fields::Map(&judged), &arrival);
        let anybody = Wish { is_authorized: false, has_cookie: false, ..self.terms.wish };
        if judge(&Terms { wish: anybody, ..self.terms.clone() }).is_none() {
            cache.remove(&self.key);
        }
        let keeping = judge(&self.terms);
        let freshness = keeping.as_ref().map_or(self.stored.freshness(), |keeping| keeping.freshness);
        let (variant, tag) = (self.stored.variant.clone(), self.tag(fields));
        let head = Head {
            status: self.stored.status,
            headers,
            variant,
            tag,
            freshness,
            passes: self.terms.passes,
            since: now,
            part: None,
            tags,
            purges: self.epoch.purges,
        };
        let Some(keeping) = keeping else {
            return (self.own(&Stored::new(head, self.stored.body.clone())), status);
        };
        let shown = self.own(&Stored::new(head.clone(), self.stored.body.clone()));
        let renewed = Stored::new(head.without(&keeping.withheld), self.stored.body.clone());
        let is_stored = cache.tiers.renew(&self.key, &self.stored, renewed, self.epoch);
        (shown, status.stored(is_stored))
    }

    /// Whether a 304 speaks of the response that was asked about.
    fn is_about_it(&self, fields: Fields<'_>) -> bool {
        match (self.stored.tag(), fields.first("etag")) {
            (Some(own), Some(said)) => is_same_tag(own, said),
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => {
                let own = self.stored.field(&header::LAST_MODIFIED);
                fields.first("last-modified").is_none_or(|said| own == Some(said))
            }
        }
    }

    /// The stored fields with the newer ones in their place.
    fn updated(&self, fields: Fields<'_>) -> HeaderMap {
        let (mut headers, mut news) = (self.stored.said(), kept(fields));
        OF_BODY.iter().for_each(|name| drop(news.remove(name)));
        if self.stored.is_coded() {
            // The edge's own coding has a tag and a Vary of its own.
            news.remove(header::ETAG);
            news.remove(header::VARY);
        }
        for name in news.keys() {
            headers.remove(name);
        }
        for (name, value) in &news {
            headers.append(name, value.clone());
        }
        headers
    }

    /// What it is tagged with by now; `None` when that cannot be kept.
    fn tags(&self, cache: &Cache, fields: Fields<'_>) -> Option<Box<[u64]>> {
        match tags::are_said(fields) {
            true => cache.purges.tags_of(fields, &self.terms.tags),
            false => Some(self.stored.standing.tags().into()),
        }
    }

    /// What the app calls it by now.
    fn tag(&self, fields: Fields<'_>) -> Option<HeaderValue> {
        let tag = fields.first("etag").or_else(|| self.stored.tag())?;
        HeaderValue::from_bytes(tag).ok()
    }

    fn own(&self, stored: &Stored) -> Own {
        Own::stored(stored, &self.method, Fields::Map(&self.conditions), Instant::now())
    }
}

/// With what a 304 says of its own age, which is not stored.
fn with_times(headers: &HeaderMap, fields: Fields<'_>) -> HeaderMap {
    let mut judged = headers.clone();
    for (field, name) in [("date", header::DATE), ("age", header::AGE)] {
        for value in fields.all(field).filter_map(|value| HeaderValue::from_bytes(value).ok()) {
            judged.append(name.clone(), value);
        }
    }
    judged
}
