//! A response on its way from an app, as far as it concerns the cache: it is stored, or shows what is stored to be untrue.
//!
//! Made by `cache` with the request, fed by `fetch` and `gateway`. Who else wants it reads along (`flight`). The rule: a
//! response is stored when its body has come whole, never before, and without what belongs to its connection or to one
//! visitor.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Cache;
use super::body::Body;
use super::disk::Stream;
use super::filling::{Filling, Held};
use super::flight::{Coming, Reader};
use super::flights::Lead;
use super::freshness::Arrival;
use super::key::Key;
use super::memory::Epoch;
use super::policy::{self, Terms};
use super::purges::{Purges, Remembered};
use super::range;
use super::stored::{Head, Part, Stored};
use super::tiers::Tiers;
use super::vary::{Asking, Variant};
use super::write;
use crate::edge::compress::Coding;
use crate::edge::field::{Fields, Kind};
use crate::model::cache::{CachePolicy, CacheRule};
use crate::model::cache_key::CacheKey;

#[derive(Debug)]
pub struct Fill {
    key: Key,
    since: Instant,
    purpose: Purpose,
}

/// What a response is looked at for.
#[derive(Debug)]
enum Purpose {
    Store(Box<Storing>),
    /// A write, which makes stored responses untrue; and how conf has their keys made.
    Invalidate(Vec<CacheRule<CacheKey>>),
    /// A HEAD, which may show that this one is untrue.
    Compare(Arc<Stored>),
}

#[derive(Debug)]
struct Storing {
    terms: Terms,
    asking: Asking,
    /// In bytes.
    object_max: u64,
    epoch: Epoch,
    purges: Arc<Purges>,
    _remembered: Remembered,
    /// The coding that the edge gives it, or none, where that depends on the request.
    negotiated: Option<Option<Coding>>,
    /// The app's own tag, where the edge gives it another.
    tag: Option<HeaderValue>,
    head: Option<(Head, Option<u64>)>,
    /// In bytes, so far.
    length: u64,
    /// What has come, where it comes for nobody else.
    body: Vec<u8>,
    held: Held,
    filling: Arc<Filling>,
    tiers: Arc<Tiers>,
    /// Where it goes when there is no room for it in memory.
    stream: Option<Stream>,
    /// Those who wait for it.
    lead: Option<Lead>,
}

/// What goes to disk by itself has come so far, in bytes: it has a file of its own there.
const SPILLED: u64 = 1 << 20;
/// How long the next part of a body waits that somebody is slow to read, where it cannot be told when that is over.
const BREATH: Duration = Duration::from_millis(250);

impl Fill {
    /// `epoch` is the cache's when the request came.
    pub fn storing(
        cache: &Cache,
        (key, epoch): (Key, Epoch),
        terms: Terms,
        asking: Asking,
        object_max: u64,
        lead: Option<Lead>,
    ) -> Self {
        let storing = Storing {
            terms,
            asking,
            object_max,
            epoch,
            purges: cache.purges.clone(),
            _remembered: cache.purges.remember(epoch.purges),
            negotiated: None,
            tag: None,
            head: None,
            length: 0,
            body: Vec::new(),
            held: Held::new(&cache.held),
            filling: cache.held.clone(),
            tiers: cache.tiers.clone(),
            stream: None,
            lead,
        };
        Self { key, since: Instant::now(), purpose: Purpose::Store(Box::new(storing)) }
    }

    /// `policy` says how the keys of other URLs are made that the answer may name.
    pub fn invalidating(key: Key, policy: &CachePolicy) -> Self {
        Self { key, since: Instant::now(), purpose: Purpose::Invalidate(policy.keys.clone()) }
    }

    pub fn comparing(key: Key, stored: Arc<Stored>) -> Self {
        Self { key, since: Instant::now(), purpose: Purpose::Compare(stored) }
    }

    /// To be said before `begin`: the response that will come is in this coding of ours, or in none, and others are not.
    /// `tag` is what the app called it.
    pub fn negotiated(&mut self, coding: Option<Coding>, tag: Option<&[u8]>) {
        if let Purpose::Store(storing) = &mut self.purpose {
            storing.negotiated = Some(coding);
            storing.tag = tag.and_then(|tag| HeaderValue::from_bytes(tag).ok());
        }
    }

    /// Judges the head of the response; whether it is going to be stored. `machine_max` bounds it as well, in bytes.
    pub fn begin(&mut self, cache: &Cache, status: StatusCode, fields: Fields<'_>, machine_max: u64) -> bool {
        let now = Instant::now();
        match &mut self.purpose {
            Purpose::Invalidate(rules) => {
                write::changed(&self.key, status, fields, rules).iter().for_each(|key| cache.remove(key));
                false
            }
            Purpose::Compare(stored) => {
                if write::contradicts(stored, status, fields) {
                    cache.remove(&self.key);
                }
                false
            }
            Purpose::Store(storing) => {
                storing.object_max = storing.object_max.min(machine_max);
                let arrival = Arrival { at: SystemTime::now(), delay: now - self.since };
                let is_stored = storing.begin(status, fields, now, &arrival).is_some();
                if is_stored {
                    cache.flights.forget(&self.key);
                }
                storing.show(fields.first("trailer").is_none());
                is_stored
            }
        }
    }

    /// Takes a part of the body.
    pub fn add(&mut self, part: &[u8]) {
        if let Purpose::Store(storing) = &mut self.purpose {
            storing.add(&self.key, part);
        }
    }

    /// Whoever asked reads along as the others do, when there may be others.
    pub fn share(&self) -> Option<Reader> {
        self.lead()?.flight.join()
    }

    /// Waits until more of the body may come.
    pub async fn room(&self) {
        if let Some(lead) = self.lead() {
            lead.flight.room().await;
        }
    }

    /// For how long no more of the body should come.
    pub fn breath(&self) -> Option<Duration> {
        self.lead()?.flight.is_full().then_some(BREATH)
    }

    pub fn has_readers(&self) -> bool {
        self.lead().is_some_and(|lead| lead.flight.has_readers())
    }

    /// There is no answer that anybody else could do with: whoever waits asks by himself.
    pub fn refuse(&mut self) {
        if let Purpose::Store(storing) = &mut self.purpose
            && let Some(lead) = storing.lead.take()
        {
            lead.refuse(false);
        }
    }

    /// Stores the response: its body has come whole.
    pub fn end(&mut self, cache: &Cache) {
        let Purpose::Store(storing) = &mut self.purpose else { return };
        let (head, lead) = (storing.head.take(), storing.lead.take());
        let is_whole = |length: Option<u64>| length.is_none_or(|length| length == storing.length);
        if head.as_ref().is_some_and(|(_, length)| !is_whole(*length)) {
            return;
        }
        if let Some(stream) = storing.stream.take() {
            stream.end();
        } else if let Some((head, _)) = head {
            let body = match &lead {
                Some(lead) => lead.flight.gather(),
                None => std::mem::take(&mut storing.body).into_boxed_slice().into(),
            };
            let (head, body) = storing.join(cache, &self.key, head, body);
            cache.tiers.store(&self.key, Arc::new(Stored::new(head, body.into())), storing.epoch);
        }
        if let Some(lead) = lead {
            lead.land();
        }
    }

    fn lead(&self) -> Option<&Lead> {
        match &self.purpose {
            Purpose::Store(storing) => storing.lead.as_ref(),
            Purpose::Invalidate(_) | Purpose::Compare(_) => None,
        }
    }
}

impl Storing {
    fn begin(&mut self, status: StatusCode, fields: Fields<'_>, since: Instant, arrival: &Arrival) -> Option<()> {
        let length = fields.text("content-length").and_then(|length| length.parse::<u64>().ok());
        let fits = length.unwrap_or(0) <= self.object_max && policy::is_delimited(status, fields);
        // A part is judged as the whole would be (RFC 9111 section 3.3).
        let (part, length, status) = match self.part(status, fields, length)? {
            Some((part, length)) => (Some(part), Some(length), StatusCode::OK),
            None => (None, length, status),
        };
        let keeping = self.terms.judge(status, fields, arrival).filter(|_| fits)?;
        let variant = Variant::of(fields, &self.asking, self.negotiated)?;
        let tags = self.purges.tags_of(fields, &self.terms.tags)?;
        let mut headers = kept(fields);
        for name in &keeping.withheld {
            headers.remove(name);
        }
        let tag = self.tag.take().or_else(|| headers.get(http::header::ETAG).cloned());
        headers.remove(CONTENT_RANGE);
        let (freshness, passes, purges) = (keeping.freshness, self.terms.passes, self.epoch.purges);
        let head = Head { status, headers, variant, tag, freshness, passes, since, part, tags, purges };
        self.head = Some((head, length));
        Some(())
    }

    /// Which part of the whole it is, if it is one, and its length; `None` when it is something that nobody else can do with.
    /// Parts are kept where a tag says for certain what they are parts of.
    fn part(&self, status: StatusCode, fields: Fields<'_>, length: Option<u64>) -> Option<Option<(Part, u64)>> {
        if !self.terms.wish.may_store_part || status == StatusCode::OK {
            return Some(None);
        }
        let said = only(fields, "content-range").filter(|_| status == StatusCode::PARTIAL_CONTENT)?;
        let (range, total) = range::content(std::str::from_utf8(said).ok()?)?;
        let is_certain = only(fields, "etag").is_some_and(|tag| tag.starts_with(b"\""));
        let is_sound = is_certain && length.is_none_or(|length| length == range.end - range.start);
        let part = Part { from: usize::try_from(range.start).ok()?, total: usize::try_from(total).ok()? };
        is_sound.then_some(Some((part, range.end - range.start)))
    }

    /// A part with what is stored of the same, where they touch.
    fn join(&self, cache: &Cache, key: &Key, mut head: Head, body: Bytes) -> (Head, Bytes) {
        let Some(part) = head.part else { return (head, body) };
        let before = cache.tiers.memory.find(key, |variant| *variant == head.variant);
        // Whatever purges the one purges the other.
        let before = before.filter(|before| before.standing.tags() == &*head.tags);
        let joined = before.and_then(|before| before.joined(&head, &body));
        match joined.filter(|(_, joined)| joined.len() as u64 <= self.object_max) {
            Some((from, joined)) => {
                head.part = Some(Part { from, ..part });
                (head, joined)
            }
            None => (head, body),
        }
    }

    /// Lets others read along, unless the response is good for one alone, or what follows its body would be lost.
    fn show(&mut self, may_be_shared: bool) {
        let coming = self.head.as_ref().filter(|(head, _)| may_be_shared && head.freshness.is_fresh());
        let Some(lead) = &self.lead else { return };
        match coming {
            Some((head, length)) => lead.come(Coming { head: head.clone(), length: *length }),
            None => {
                // What is shown while it is stale has its next reader soon.
                let is_shown_stale = |head: &Head| !head.freshness.while_revalidate.is_zero();
                lead.refuse(!self.head.as_ref().is_some_and(|(head, _)| is_shown_stale(head)));
                self.lead = None;
            }
        }
    }

    fn add(&mut self, key: &Key, part: &[u8]) {
        let length = part.len() as u64;
        self.length += length;
        let is_too_long = self.length > self.object_max;
        let has_room = |own: &mut Self| own.stream.is_some() || own.grow(length) || own.spill(key);
        if self.head.is_some() && (is_too_long || !has_room(self)) {
            self.forgo();
        }
        if self.stream.as_ref().is_some_and(|stream| !stream.add(Bytes::copy_from_slice(part))) {
            self.forgo();
        }
        match &self.lead {
            Some(lead) => lead.flight.add(part),
            None if self.head.is_some() && self.stream.is_none() => self.body.extend_from_slice(part),
            None => {}
        }
    }

    /// Takes room for a part; false when there is none.
    fn grow(&mut self, length: u64) -> bool {
        match &self.lead {
            Some(lead) => lead.flight.grow(&self.filling, length),
            None => self.held.grow(length),
        }
    }

    /// Goes on to disk with what the memory has no room for; whether it does.
    fn spill(&mut self, key: &Key) -> bool {
        let may_be = |(head, _): &&(Head, _)| head.part.is_none() && self.length > SPILLED;
        let Some((head, _)) = self.head.as_ref().filter(may_be) else { return false };
        let stored = Arc::new(Stored::new(head.clone(), Body::default()));
        let Some(stream) = self.tiers.begin(key, &stored, self.epoch, self.object_max) else { return false };
        let so_far = match &self.lead {
            Some(lead) => lead.flight.copied(),
            None => std::mem::take(&mut self.body).into(),
        };
        let is_taken = stream.add(so_far);
        self.stream = is_taken.then_some(stream);
        self.let_pass();
        is_taken
    }

    /// It is not stored after all.
    fn forgo(&mut self) {
        self.head = None;
        self.stream = None;
        self.body = Vec::new();
        self.let_pass();
    }

    /// Nothing of it is kept in memory but what somebody has still to read.
    fn let_pass(&mut self) {
        self.held.give_back();
        if let Some(lead) = &self.lead {
            lead.flight.pass();
        }
    }
}

/// The value of a field that stands there once; which of several counts nobody knows.
fn only<'f>(fields: Fields<'f>, field: &'static str) -> Option<&'f [u8]> {
    let mut values = fields.all(field);
    values.next().filter(|_| values.next().is_none())
}

/// What belongs to the response and not to the connection it came over (RFC 9111 section 3.1). Its age is counted here from
/// now on, and every answer says the time at which it leaves.
pub fn kept(fields: Fields<'_>) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let nominated: Vec<&[u8]> =
        fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).collect();
    fields.each(|name, value| {
        let is_nominated = nominated.iter().any(|own| own.eq_ignore_ascii_case(name));
        let kind = Kind::of(name);
        let is_own = kind.is_hop_by_hop() || matches!(kind, Kind::RequestId | Kind::ContentLength | Kind::Tags);
        let is_time = name.eq_ignore_ascii_case(b"age") || name.eq_ignore_ascii_case(b"date");
        // RFC 9111 section 3.1.
        let is_of_proxies = ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
        if is_own || is_nominated || is_time || is_of_proxies {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            kept.append(name, value);
        }
    });
    kept
}
