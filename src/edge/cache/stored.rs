//! One stored response, in the form in which it leaves.
//!
//! Made by `cache` when a body has come whole, answered from by `respond`. The rule: it never changes; a newer one takes
//! its place.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::policy::Freshness;
use crate::edge::compress::Coding;

/// What an entry takes beside its key, fields and body, in bytes; about.
const OVERHEAD: usize = 512;

/// What is known of a response before its body.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub variant: Variant,
    pub freshness: Freshness,
    pub since: Instant,
}

/// Which of the requests for its URL a response answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variant {
    All,
    /// Those that get this coding of ours, or none.
    Coding(Option<Coding>),
    /// Those with this Accept-Encoding: the app itself made a difference.
    AcceptEncoding(String),
}

#[derive(Debug)]
pub struct Stored {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub variant: Variant,
    /// Status line and fields as HTTP/1.1 sends them, but for those that differ from one visitor to the next.
    pub head: Bytes,
    freshness: Freshness,
    since: Instant,
}

impl Stored {
    pub fn new(head: Head, body: Bytes) -> Self {
        let Head { status, mut headers, variant, freshness, since } = head;
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        let head = http1(status, &headers);
        Self { status, headers, body, variant, head, freshness, since }
    }

    pub fn age(&self, now: Instant) -> Duration {
        self.freshness.age + now.saturating_duration_since(self.since)
    }

    /// How long it stays fresh; `None` when it is stale.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        self.freshness.lifetime.checked_sub(self.age(now)).filter(|left| !left.is_zero())
    }

    pub fn weight(&self) -> usize {
        let fields = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
        OVERHEAD + self.body.len() + self.head.len() + fields.sum::<usize>()
    }
}

/// Status line and fields in the form of HTTP/1.1, without the empty line.
pub fn http1(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut head = BytesMut::new();
    status_line(&mut head, status);
    for (name, value) in headers {
        field(&mut head, name, value.as_bytes());
    }
    head.freeze()
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
