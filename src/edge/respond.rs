//! Answers that the edge gives by itself: pages about failures, redirects, and stored responses.
//!
//! Made for `door` and `http2`, whatever was asked; `gateway` takes the pages alone. The rule: whatever the way, the answer
//! is the same.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;

use super::cache::condition::{self, Shape};
use super::cache::stored::http1;
use super::cache::{CacheStatus, Hit};
use super::clock::Date;
use super::failure::{self, Failure};
use super::headers::{self, Sink, Tail};
use super::id::RequestId;
use super::request::Asked;

/// A whole answer.
#[derive(Debug)]
pub struct Own {
    pub status: StatusCode,
    headers: HeaderMap,
    pub body: Bytes,
}

/// What is said with every answer beside its own fields.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub id: &'a RequestId,
    pub cache: Option<CacheStatus>,
    pub date: Date,
}

/// What of a stored response still differs from one request to the next.
const UNMODIFIED: [HeaderName; 5] =
    [header::CACHE_CONTROL, header::CONTENT_LOCATION, header::ETAG, header::EXPIRES, header::VARY];

impl Own {
    /// A page about a failure, for whoever accepts this.
    pub fn page(failure: Failure, accept: Option<&str>, id: &RequestId) -> Self {
        let (kind, body) = failure::page(failure, accept.unwrap_or_default(), id.as_str());
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
        Self::sized(failure.status(), headers, body)
    }

    pub fn redirect(location: &str) -> Self {
        let mut headers = HeaderMap::new();
        // The host and the target were judged to be text when they came.
        headers.extend(HeaderValue::from_str(location).ok().map(|location| (header::LOCATION, location)));
        Self::sized(StatusCode::PERMANENT_REDIRECT, headers, Bytes::new())
    }

    /// What of a stored response this request gets.
    pub fn stored(hit: &Hit, asked: &Asked<'_>) -> Self {
        let stored = &hit.stored;
        let length = stored.body.len();
        let shape = condition::shape(&asked.method, asked.fields, stored.status, &stored.headers, length);
        let mut own = match shape {
            Shape::Whole => Self { status: stored.status, headers: stored.headers.clone(), body: stored.body.clone() },
            Shape::NotModified => {
                let kept =
                    UNMODIFIED.into_iter().filter_map(|name| Some((name.clone(), stored.headers.get(name)?.clone())));
                Self { status: StatusCode::NOT_MODIFIED, headers: kept.collect(), body: Bytes::new() }
            }
            Shape::Part(range) => {
                let mut headers = stored.headers.clone();
                put(&mut headers, header::CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1));
                Self::sized(StatusCode::PARTIAL_CONTENT, headers, stored.body.slice(range))
            }
            Shape::NoSuchPart => {
                let mut headers = HeaderMap::new();
                put(&mut headers, header::CONTENT_RANGE, format!("bytes */{length}"));
                Self::sized(StatusCode::RANGE_NOT_SATISFIABLE, headers, Bytes::new())
            }
        };
        own.headers.insert(header::AGE, stored.age(asked.at).as_secs().into());
        own
    }

    fn sized(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Self {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        Self { status, headers, body }
    }

    /// The head in the form of HTTP/1.1, with its empty line. `connection` is what is said about the connection.
    pub fn http1(&self, told: Told<'_>, connection: Option<&'static str>) -> BytesMut {
        let mut head = BytesMut::from(http1(self.status, &self.headers));
        head.put("Date", &[&told.date]);
        headers::to_client(&mut head, told.id, told.cache);
        if let Some(connection) = connection {
            head.put("Connection", &[connection.as_bytes()]);
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The head for HTTP/2, or for pingora; the codec adds the time.
    pub fn header(&self, told: Told<'_>) -> pingora::Result<Box<ResponseHeader>> {
        let mut header = ResponseHeader::build(self.status, Some(self.headers.len() + 4))?;
        for (name, value) in &self.headers {
            header.append_header(name.clone(), value.clone())?;
        }
        headers::to_client(&mut header, told.id, told.cache);
        Ok(Box::new(header))
    }

    /// Whether its body is sent (RFC 9110 section 6.4.1).
    pub fn has_body(&self, method: &Method) -> bool {
        *method != Method::HEAD && !self.body.is_empty()
    }
}

/// What follows a stored response's own head when the whole of it is sent, with the empty line.
pub fn tail(hit: &Hit, asked: &Asked<'_>, told: Told<'_>, connection: Option<&'static str>) -> Tail {
    let mut tail = Tail::new();
    tail.put("Date", &[&told.date]);
    tail.put("Age", &[itoa::Buffer::new().format(hit.stored.age(asked.at).as_secs()).as_bytes()]);
    headers::to_client(&mut tail, told.id, told.cache);
    if let Some(connection) = connection {
        tail.put("Connection", &[connection.as_bytes()]);
    }
    tail.extend_from_slice(b"\r\n");
    tail
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
}
