//! What of a stored response answers a request with conditions or for a part of it.
//!
//! Pure. Called by `respond` for every hit. The rule: a condition that cannot be understood is taken as not there
//! (RFC 9110 sections 13 and 14), and then the whole leaves.

use std::ops::Range;
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode, header};

use crate::edge::field::Fields;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// The client has it already: 304.
    NotModified,
    /// These bytes of it: 206.
    Part(Range<usize>),
    /// There are no such bytes: 416.
    NoSuchPart,
}

/// Judges in the order of RFC 9110 section 13.2.2.
pub fn shape(method: &Method, asked: Fields<'_>, status: StatusCode, stored: &HeaderMap, length: usize) -> Shape {
    if is_not_modified(asked, stored) {
        return Shape::NotModified;
    }
    match asked.text("range") {
        Some(range) if *method == Method::GET && status == StatusCode::OK && may_be_cut(asked, stored) => {
            part(range, length)
        }
        _ => Shape::Whole,
    }
}

fn is_not_modified(asked: Fields<'_>, stored: &HeaderMap) -> bool {
    let mut tags = asked.all("if-none-match").peekable();
    if tags.peek().is_some() {
        let Some(own) = stored.get(header::ETAG).map(|tag| weak(tag.as_bytes())) else { return false };
        return tags.flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).any(|tag| {
            // A comma inside a tag only makes it differ, and then the whole leaves.
            tag == b"*" || weak(tag) == own
        });
    }
    let date = |value: Option<&str>| httpdate::parse_http_date(value?).ok();
    let stored = stored.get(header::LAST_MODIFIED).and_then(|value| value.to_str().ok());
    match (date(asked.text("if-modified-since")), date(stored)) {
        (Some(since), Some(modified)) => modified <= since && since <= SystemTime::now(),
        _ => false,
    }
}

/// Weak comparison (RFC 9110 section 8.8.3.2).
fn weak(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// If-Range compares strongly; an odd one means the whole (RFC 9110 section 13.1.5).
fn may_be_cut(asked: Fields<'_>, stored: &HeaderMap) -> bool {
    let Some(condition) = asked.first("if-range") else { return true };
    let is = |name| stored.get(name).is_some_and(|value: &http::HeaderValue| value.as_bytes() == condition);
    match condition {
        [b'"', ..] => is(header::ETAG),
        _ => is(header::LAST_MODIFIED),
    }
}

/// One range of bytes; several, and other units, are answered by the whole (RFC 9110 section 14.2).
fn part(range: &str, length: usize) -> Shape {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Shape::Whole;
    };
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<usize>().ok()).flatten();
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(0)) if first.is_empty() => Shape::NoSuchPart,
        (None, Some(_)) if first.is_empty() && length == 0 => Shape::NoSuchPart,
        (None, Some(count)) if first.is_empty() => Shape::Part(length.saturating_sub(count)..length),
        (Some(first), Some(last)) if last < first => Shape::Whole,
        (Some(first), Some(_)) if first >= length => Shape::NoSuchPart,
        (Some(first), Some(last)) => Shape::Part(first..last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() && first >= length => Shape::NoSuchPart,
        (Some(first), None) if last.is_empty() => Shape::Part(first..length),
        _ => Shape::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn judge(asked: &[(&'static str, &str)], stored: &[(&'static str, &str)]) -> Shape {
        shape(&Method::GET, Fields::Map(&map(asked)), StatusCode::OK, &map(stored), 100)
    }

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn a_client_that_has_it_already_is_told_so() {
        let tagged = [("etag", "\"a\""), ("last-modified", OLD)];
        for has in [
            ("if-none-match", "\"a\""),
            ("if-none-match", "W/\"a\""),
            ("if-none-match", "\"b\", \"a\""),
            ("if-none-match", "*"),
            ("if-modified-since", OLD),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT"),
        ] {
            assert_eq!(judge(&[has], &tagged), Shape::NotModified, "{has:?}");
        }
        for has_not in [
            ("if-none-match", "\"b\""),
            ("if-none-match", ""),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT"),
            ("if-modified-since", "yesterday"),
            ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"),
        ] {
            assert_eq!(judge(&[has_not], &tagged), Shape::Whole, "{has_not:?}");
        }
        let both = [("if-none-match", "\"b\""), ("if-modified-since", OLD)];
        assert_eq!(judge(&both, &tagged), Shape::Whole, "the tag alone counts where there is one");
        assert_eq!(judge(&[("if-none-match", "\"a\"")], &[]), Shape::Whole);
    }

    #[test]
    fn one_part_is_cut_out_and_everything_else_is_the_whole() {
        let part = |range: &str| judge(&[("range", range)], &[]);
        assert_eq!(part("bytes=0-9"), Shape::Part(0..10));
        assert_eq!(part("bytes=90-"), Shape::Part(90..100));
        assert_eq!(part("bytes=90-900"), Shape::Part(90..100));
        assert_eq!(part("bytes=-10"), Shape::Part(90..100));
        assert_eq!(part("bytes=-1000"), Shape::Part(0..100));
        assert_eq!(part("bytes=0-18446744073709551615"), Shape::Part(0..100));
        for none in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(part(none), Shape::NoSuchPart, "{none}");
        }
        for whole in ["bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=", "bytes=-", "bytes=+1-2"] {
            assert_eq!(part(whole), Shape::Whole, "{whole}");
        }
    }

    #[test]
    fn a_part_of_another_version_is_never_given() {
        let stored = [("etag", "\"a\""), ("last-modified", OLD)];
        let part = |condition: &str| judge(&[("range", "bytes=0-9"), ("if-range", condition)], &stored);
        assert_eq!(part("\"a\""), Shape::Part(0..10));
        assert_eq!(part(OLD), Shape::Part(0..10));
        for other in ["\"b\"", "W/\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT", ""] {
            assert_eq!(part(other), Shape::Whole, "{other}");
        }
    }
}
