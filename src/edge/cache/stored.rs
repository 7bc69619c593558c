//! One stored response, in the form in which it leaves.
//!
//! Made by `cache` when a body has come whole, answered from by `respond`. The rule: it never changes; a newer one takes
//! its place.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::body::Body;
use super::condition::{self, Shape, Validators};
use super::freshness::{Freshness, Packed};
use super::purges::Standing;
use super::reason::Reason;
use super::vary::Variant;
use super::wish::Wish;
use crate::edge::field::{Fields, Kind};
use crate::edge::headers;
use crate::model::cache::CdnFields;

/// What an entry takes beside its key, fields and body, in bytes; about.
const OVERHEAD: usize = 320;
/// What a field takes in a map beside its name and value, in bytes; about.
const FIELD: usize = 96;
/// Fields that most responses stay below.
const FIELDS: usize = 16;

/// What is known of a response before its body.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub variant: Variant,
    /// What the app calls it.
    pub tag: Option<HeaderValue>,
    pub freshness: Freshness,
    /// Of what the app says to caches, what leaves.
    pub passes: CdnFields,
    pub since: Instant,
    /// Where the body lies in the whole one, when it is only a part of it.
    pub part: Option<Part>,
    /// As `Purges` keeps them.
    pub tags: Box<[u64]>,
    /// The purges that there were when the app was asked.
    pub purges: u64,
}

/// A part of a body (RFC 9111 section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub from: usize,
    /// Of the whole, in bytes.
    pub total: usize,
}

/// Kept small: a cache holds millions of them.
#[derive(Debug)]
pub struct Stored {
    pub status: StatusCode,
    /// Status line and fields as HTTP/1.1 sends them, but for those that differ from one visitor to the next.
    pub head: Box<[u8]>,
    pub body: Body,
    pub variant: Variant,
    pub standing: Standing,
    /// By the app's word; `freshness()` is what a purge has left of it.
    said: Packed,
    rare: Option<Box<Rare>>,
    /// Of what the app says to caches, what leaves.
    pub passes: CdnFields,
}

/// What most responses have nothing of.
#[derive(Debug, Default)]
struct Rare {
    /// What the app calls it, where that is not what its fields say.
    tag: Option<Box<[u8]>>,
    part: Option<Part>,
    /// What the app said to the edge alone.
    kept_back: HeaderMap,
}

impl Head {
    pub fn age(&self, now: Instant) -> Duration {
        self.freshness.age + now.saturating_duration_since(self.since)
    }

    /// As `Stored::answers`.
    pub fn answers(&self, wish: &Wish, now: Instant) -> Result<i64, Reason> {
        self.freshness.answers(wish, self.age(now))
    }

    /// Its fields as they leave.
    pub fn shown(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        keep_back(&mut headers, self.passes);
        headers
    }

    /// Without these fields.
    pub fn without(mut self, names: &[HeaderName]) -> Self {
        names.iter().for_each(|name| drop(self.headers.remove(name)));
        self
    }
}

impl Stored {
    pub fn new(head: Head, body: Body) -> Self {
        let Head { status, mut headers, variant, tag, freshness, passes, since, part, tags, purges } = head;
        let part = part.filter(|part| part.from > 0 || body.len() < part.total);
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_LENGTH, part.map_or(body.len(), |part| part.total).into());
        }
        let tag = tag.filter(|tag| headers.get(header::ETAG) != Some(tag)).map(|tag| tag.as_bytes().into());
        let kept_back = keep_back(&mut headers, passes);
        let is_rare = tag.is_some() || part.is_some() || !kept_back.is_empty();
        let rare = is_rare.then(|| Box::new(Rare { tag, part, kept_back }));
        let (standing, said) = (Standing::new(tags, since, purges), Packed::of(freshness));
        // To measure: what was room to grow would be kept for as long.
        let head = Box::from(&http1(status, &headers)[..]);
        Self { status, head, body, variant, standing, said, rare, passes }
    }

    fn part(&self) -> Option<Part> {
        self.rare.as_ref()?.part
    }

    /// All that the app said, to the edge alone as well.
    pub fn said(&self) -> HeaderMap {
        let mut headers = self.headers();
        headers.extend(self.rare.iter().flat_map(|rare| rare.kept_back.clone()));
        headers
    }

    /// Its fields as they leave.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(FIELDS);
        // One copy for all values.
        let head = Bytes::copy_from_slice(&self.head);
        for (name, value) in lines(&head) {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value));
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// The first value of a field.
    pub fn field(&self, name: &HeaderName) -> Option<&[u8]> {
        lines(&self.head).find(|(own, _)| *own == name.as_str().as_bytes()).map(|(_, value)| value)
    }

    /// What the app calls it.
    pub fn tag(&self) -> Option<&[u8]> {
        self.rare.as_ref().and_then(|rare| rare.tag.as_deref()).or_else(|| self.field(&header::ETAG))
    }

    /// Of the whole body, in bytes.
    pub fn length(&self) -> usize {
        self.part().map_or(self.body.len(), |part| part.total)
    }

    pub fn is_part(&self) -> bool {
        self.part().is_some()
    }

    /// These bytes of the whole body, where they are here.
    pub fn cut(&self, range: &Range<usize>) -> Option<Body> {
        let from = self.part().map_or(0, |part| part.from);
        let range = range.start.checked_sub(from)?..range.end.checked_sub(from)?;
        (range.start <= range.end && range.end <= self.body.len()).then(|| self.body.slice(range))
    }

    /// What of it answers a request; `None` when that is not here.
    pub fn shape(&self, method: &Method, asked: Fields<'_>) -> Option<Shape> {
        let own = Validators { tag: self.field(&header::ETAG), modified: self.field(&header::LAST_MODIFIED) };
        let shape = condition::shape(method, asked, self.status, own, self.length());
        let is_here = match &shape {
            Shape::Whole => !self.is_part(),
            Shape::Parts(parts) => parts.iter().all(|part| self.cut(part).is_some()),
            Shape::NotModified | Shape::NoSuchPart => true,
        };
        is_here.then_some(shape)
    }

    /// The body that a newer part of the same makes with what is here, and where that begins; `None` when it is of another, or
    /// does not touch it (RFC 9111 section 3.4), or this one is not at hand.
    pub fn joined(&self, head: &Head, body: &Bytes) -> Option<(usize, Bytes)> {
        let part = head.part?;
        let is_same =
            self.status == head.status && self.length() == part.total && is_strong_match(self.tag(), head.tag.as_ref());
        let (own, new) = (self.extent(), part.from..part.from + body.len());
        if !is_same || new.start > own.end || own.start > new.end {
            return None;
        }
        if own.start <= new.start && new.end <= own.end {
            return Some((own.start, self.body.at_hand()?.clone()));
        }
        let here = self.body.at_hand()?;
        let (before, after) = (new.start.saturating_sub(own.start), new.end.saturating_sub(own.start));
        let mut joined = BytesMut::from(&here[..before]);
        joined.extend_from_slice(body);
        joined.extend_from_slice(here.get(after..).unwrap_or_default());
        Some((own.start.min(new.start), joined.freeze()))
    }

    fn extent(&self) -> Range<usize> {
        let from = self.part().map_or(0, |part| part.from);
        from..from + self.body.len()
    }

    pub fn age(&self, now: Instant) -> Duration {
        self.said.unpacked().age + now.saturating_duration_since(self.standing.since)
    }

    /// Whether it answers a request: for how many seconds it is still fresh, else why it does not.
    pub fn answers(&self, wish: &Wish, now: Instant) -> Result<i64, Reason> {
        self.freshness().answers(wish, self.age(now))
    }

    /// Whether it answers a request, stale as it is, as long as a newer one is being fetched.
    pub fn answers_meanwhile(&self, wish: &Wish, now: Instant) -> bool {
        self.freshness().answers_meanwhile(wish, self.age(now))
    }

    /// Whether a stale one is better than no answer.
    pub fn covers_errors(&self, now: Instant) -> bool {
        self.freshness().covers_errors(self.age(now))
    }

    /// For how many seconds it is still fresh; below zero once it is stale.
    pub fn ttl(&self, now: Instant) -> i64 {
        self.freshness().ttl(self.age(now))
    }

    /// Whether the app can be asked if it is still right.
    pub fn can_be_asked_about(&self) -> bool {
        self.tag().is_some() || self.field(&header::LAST_MODIFIED).is_some()
    }

    pub fn freshness(&self) -> Freshness {
        let said = self.said.unpacked();
        let lifetime = match self.standing.stale_since() {
            Some(at) => self.age(at).min(said.lifetime),
            None => said.lifetime,
        };
        Freshness { lifetime, ..said }
    }

    /// Whether both are one response, at whatever time.
    pub fn is_same(&self, other: &Self) -> bool {
        self.head == other.head && self.tag() == other.tag() && self.body.len() == other.body.len()
    }

    /// Whether its body is in a coding of the edge's own.
    pub fn is_coded(&self) -> bool {
        matches!(self.variant.coding, Some(Some(_)))
    }

    pub fn weight(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| rare.weight());
        OVERHEAD + self.body.weight() + self.head.len() + self.variant.weight() + self.standing.weight() + rare
    }
}

impl Rare {
    /// Bytes it takes; about.
    fn weight(&self) -> usize {
        let kept_back = self.kept_back.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
        let tag = self.tag.as_ref().map_or(0, |tag| tag.len());
        size_of::<Self>() + tag + kept_back.sum::<usize>()
    }
}

/// Names and values of a head that was written by `http1`.
fn lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = head;
    std::iter::from_fn(move || {
        loop {
            let end = memchr::memchr(b'\n', rest)?;
            let line = rest.get(..end.checked_sub(1)?)?;
            rest = rest.get(end + 1..)?;
            // The status line has none.
            if let Some(colon) = line.windows(2).position(|two| two == b": ") {
                return Some((&line[..colon], &line[colon + 2..]));
            }
        }
    })
}

/// Whether both have a tag that says that every byte is the same (RFC 9110 section 8.8.3.2).
fn is_strong_match(one: Option<&[u8]>, other: Option<&HeaderValue>) -> bool {
    one == other.map(HeaderValue::as_bytes) && one.is_some_and(|tag| tag.starts_with(b"\""))
}

/// Takes out what the app said to the edge alone.
fn keep_back(headers: &mut HeaderMap, passes: CdnFields) -> HeaderMap {
    let mut kept_back = HeaderMap::new();
    for name in headers::CDN_FIELDS {
        if headers::is_kept_back(Kind::of(name.as_str().as_bytes()), passes)
            && let http::header::Entry::Occupied(said) = headers.entry(&name)
        {
            kept_back.extend(said.remove_entry_mult().1.map(|value| (name.clone(), value)));
        }
    }
    kept_back
}

/// Status line and fields in the form of HTTP/1.1, without the empty line.
pub fn http1(status: StatusCode, headers: &HeaderMap) -> BytesMut {
    let mut head = BytesMut::new();
    status_line(&mut head, status);
    for (name, value) in headers {
        field(&mut head, name, value.as_bytes());
    }
    head
}

pub fn status_line(to: &mut BytesMut, status: StatusCode) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(status.as_str().as_bytes());
    to.extend_from_slice(b" ");
    to.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    to.extend_from_slice(b"\r\n");
}

fn field(to: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    to.extend_from_slice(name.as_str().as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}
#[cfg(test)]
mod tests {
    use super::*;

    /// What jemalloc sets apart for the two counts of an `Arc` and this is 160 bytes.
    #[test]
    fn it_is_small() {
        assert!(size_of::<Stored>() <= 144, "{}", size_of::<Stored>());
    }
}
