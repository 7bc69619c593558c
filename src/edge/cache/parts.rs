//! Parts of a stored body in the form in which they leave: one as it is, several as `multipart/byteranges` (RFC 9110 section
//! 14.6).
//!
//! Called by `respond`. The rule: what stands between the parts can stand in none of them.

use std::collections::VecDeque;
use std::fmt::Write;
use std::ops::Range;

use ahash::RandomState;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};

use super::body::Body;
use super::stored::Stored;

/// Fields and body of an answer with these parts, of which there is at least one.
pub fn cut(stored: &Stored, parts: &[Range<usize>]) -> (HeaderMap, Body) {
    let mut headers = stored.headers();
    let length = stored.length();
    if let [only] = parts {
        put(&mut headers, header::CONTENT_RANGE, &content_range(only, length));
        return (headers, stored.cut(only).unwrap_or_default());
    }
    let kind = headers.remove(header::CONTENT_TYPE);
    let boundary = boundary();
    put(&mut headers, header::CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
    let mut pieces = VecDeque::new();
    for part in parts {
        let range = content_range(part, length);
        let mut before = BytesMut::from(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(kind) = &kind {
            before.extend_from_slice(b"Content-Type: ");
            before.extend_from_slice(kind.as_bytes());
            before.extend_from_slice(b"\r\n");
        }
        before.extend_from_slice(format!("Content-Range: {range}\r\n\r\n").as_bytes());
        pieces.push_back(Body::Here(before.freeze()));
        pieces.push_back(stored.cut(part).unwrap_or_default());
    }
    pieces.push_back(Body::Here(format!("\r\n--{boundary}--\r\n").into()));
    (headers, Body::joined(pieces))
}

fn content_range(range: &Range<usize>, length: usize) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1))
}

/// Anew each time: who could guess it could write it into a body.
fn boundary() -> String {
    let mut boundary = String::new();
    for number in 0..2_u8 {
        // Writing into a string does not fail.
        let _ = write!(boundary, "{:016x}", RandomState::new().hash_one(number));
    }
    boundary
}

fn put(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
}
