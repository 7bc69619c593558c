//! Answers that the edge gives by itself: pages about failures, redirects, and stored responses.
//!
//! Made for `door` and `http2`, whatever was asked; `gateway` takes the pages alone. The rule: whatever the way, the answer
//! is the same.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;

use crate::model::hold::Notice;

use super::cache::body::Body;
use super::cache::condition::Shape;
use super::cache::parts;
use super::cache::stored::{Stored, http1};
use super::cache::{Coming, Hit, Said};
use super::clock::Date;
use super::failure::{self, Failure};
use super::field::Fields;
use super::headers::{self, Sink};
use super::id::RequestId;
use super::request::Asked;

/// A whole answer.
#[derive(Debug)]
pub struct Own {
    pub status: StatusCode,
    headers: HeaderMap,
    pub body: Body,
}

/// What is said with every answer beside its own fields.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub id: &'a RequestId,
    pub cache: Option<Said<'a>>,
    pub date: Date,
    /// It is nothing for search engines.
    pub is_unlisted: bool,
}

/// What of a stored response still differs from one request to the next.
const UNMODIFIED: [HeaderName; 5] =
    [header::CACHE_CONTROL, header::CONTENT_LOCATION, header::ETAG, header::EXPIRES, header::VARY];

impl Own {
    /// A page about a failure, for whoever accepts this.
    pub fn page(failure: Failure, accept: Option<&str>, id: &RequestId) -> Self {
        Self::refusal(failure, failure::page(failure, accept.unwrap_or_default(), id.as_str()))
    }

    /// The page of a site in maintenance.
    pub fn notice(notice: &Notice, accept: Option<&str>, id: &RequestId) -> Self {
        Self::refusal(Failure::Maintenance, failure::notice(notice, accept.unwrap_or_default(), id.as_str()))
    }

    fn refusal(failure: Failure, (kind, body): (&'static str, Bytes)) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = failure.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if failure == Failure::Method {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.insert(header::ALLOW, allowed);
        }
        if failure == Failure::Unauthorized {
            // RFC 9110 section 11.6.1.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"purge\""));
        }
        Self::sized(failure.status(), headers, body.into())
    }

    /// What PURGE is answered once it holds, as Fastly does.
    pub fn purged() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self::sized(StatusCode::OK, headers, Bytes::from_static(b"{\"status\":\"ok\"}\n").into())
    }

    pub fn redirect(location: &str) -> Self {
        let mut headers = HeaderMap::new();
        // The host and the target were judged to be text when they came.
        headers.extend(HeaderValue::from_str(location).ok().map(|location| (header::LOCATION, location)));
        Self::sized(StatusCode::PERMANENT_REDIRECT, headers, Body::default())
    }

    /// What of a stored response this request gets.
    pub fn stored(stored: &Stored, method: &Method, asked: Fields<'_>, now: Instant) -> Self {
        let length = stored.length();
        let mut own = match stored.shape(method, asked).unwrap_or(Shape::Whole) {
            Shape::Whole => Self { status: stored.status, headers: stored.headers(), body: stored.body.clone() },
            Shape::NotModified => {
                let fields = stored.headers();
                let kept = UNMODIFIED.into_iter().filter_map(|name| Some((name.clone(), fields.get(name)?.clone())));
                Self { status: StatusCode::NOT_MODIFIED, headers: kept.collect(), body: Body::default() }
            }
            Shape::Parts(parts) => {
                let (headers, body) = parts::cut(stored, &parts);
                Self::sized(StatusCode::PARTIAL_CONTENT, headers, body)
            }
            Shape::NoSuchPart => {
                let mut headers = HeaderMap::new();
                put(&mut headers, header::CONTENT_RANGE, format!("bytes */{length}"));
                Self::sized(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::default())
            }
        };
        own.headers.insert(header::AGE, stored.age(now).as_secs().into());
        own
    }

    /// The head of an answer that is on its way; for its body see `Reader`.
    pub fn coming(coming: &Coming, now: Instant) -> Self {
        let mut headers = coming.head.shown();
        headers.insert(header::AGE, coming.head.age(now).as_secs().into());
        headers.extend(coming.length.map(|length| (header::CONTENT_LENGTH, length.into())));
        Self { status: coming.head.status, headers, body: Body::default() }
    }

    /// Frames a body whose length is not known (RFC 9112 section 7.1).
    pub fn chunked(mut self) -> Self {
        self.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        self
    }

    fn sized(status: StatusCode, mut headers: HeaderMap, body: Body) -> Self {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        Self { status, headers, body }
    }

    /// The head in the form of HTTP/1.1, with its empty line. `connection` is what is said about the connection.
    pub fn http1(&self, told: Told<'_>, connection: Option<&'static str>) -> BytesMut {
        let mut head = http1(self.status, &self.headers);
        head.put("Date", &[&told.date]);
        headers::to_client(&mut head, told);
        if let Some(connection) = connection {
            head.put("Connection", &[connection.as_bytes()]);
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Gives away the fields for HTTP/2.
    pub fn fields(&mut self, told: Told<'_>) -> HeaderMap {
        let mut fields = std::mem::take(&mut self.headers);
        fields.put("Date", &[&told.date]);
        headers::to_client(&mut fields, told);
        fields
    }

    /// Gives away the head for pingora.
    pub fn header(&mut self, told: Told<'_>) -> Box<ResponseHeader> {
        headers::whole(self.status, self.fields(told))
    }

    /// Whether its body is sent (RFC 9110 section 6.4.1).
    pub fn has_body(&self, method: &Method) -> bool {
        *method != Method::HEAD && !self.body.is_empty()
    }
}

/// The head of a stored response of which the whole is sent, with its empty line.
pub fn hot(to: &mut BytesMut, hit: &Hit, asked: &Asked<'_>, told: Told<'_>, connection: Option<&'static str>) {
    to.extend_from_slice(&hit.stored.head);
    to.put("Date", &[&told.date]);
    to.put("Age", &[itoa::Buffer::new().format(hit.stored.age(asked.at).as_secs()).as_bytes()]);
    headers::to_client(to, told);
    if let Some(connection) = connection {
        to.put("Connection", &[connection.as_bytes()]);
    }
    to.extend_from_slice(b"\r\n");
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
}
