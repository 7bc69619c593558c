//! What of a stored response answers a request with conditions or for a part of it.
//!
//! Pure. Called by `respond` for every hit. The rule: a condition that cannot be understood is taken as not there
//! (RFC 9110 sections 13 and 14), and then the whole leaves.

use std::ops::Range;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::range::{Wanted, wanted};
use crate::edge::field::Fields;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// The client has it already: 304.
    NotModified,
    /// These bytes of it: 206.
    Parts(Vec<Range<usize>>),
    /// There are no such bytes: 416.
    NoSuchPart,
}

/// By which a stored response is told from others.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'s> {
    pub tag: Option<&'s [u8]>,
    pub modified: Option<&'s [u8]>,
}

/// Judges in the order of RFC 9110 section 13.2.2.
pub fn shape(method: &Method, asked: Fields<'_>, status: StatusCode, stored: Validators<'_>, length: usize) -> Shape {
    if is_not_modified(asked, stored) {
        return Shape::NotModified;
    }
    match asked.text("range") {
        Some(range) if *method == Method::GET && status == StatusCode::OK && may_be_cut(asked, stored) => {
            match wanted(range, length) {
                Wanted::Whole => Shape::Whole,
                Wanted::Parts(parts) => Shape::Parts(parts),
                Wanted::Nothing => Shape::NoSuchPart,
            }
        }
        _ => Shape::Whole,
    }
}

fn is_not_modified(asked: Fields<'_>, stored: Validators<'_>) -> bool {
    let mut tags = asked.all("if-none-match").peekable();
    if tags.peek().is_some() {
        let Some(own) = stored.tag.map(weak) else { return false };
        return tags.flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii).any(|tag| {
            // A comma inside a tag only makes it differ, and then the whole leaves.
            tag == b"*" || weak(tag) == own
        });
    }
    let date = |value: Option<&str>| httpdate::parse_http_date(value?).ok();
    let stored = stored.modified.and_then(|value| std::str::from_utf8(value).ok());
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
fn may_be_cut(asked: Fields<'_>, stored: Validators<'_>) -> bool {
    let Some(condition) = asked.first("if-range") else { return true };
    match condition {
        [b'"', ..] => stored.tag == Some(condition),
        _ => stored.modified == Some(condition),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn judge(asked: &[(&'static str, &str)], stored: &[(&'static str, &str)]) -> Shape {
        let stored = map(stored);
        let value = |name| stored.get(name).map(http::HeaderValue::as_bytes);
        let stored = Validators { tag: value("etag"), modified: value("last-modified") };
        shape(&Method::GET, Fields::Map(&map(asked)), StatusCode::OK, stored, 100)
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
    fn parts_are_cut_out_and_what_is_no_range_is_the_whole() {
        let part = |range: &str| judge(&[("range", range)], &[]);
        assert_eq!(part("bytes=0-9"), parts(0..10));
        assert_eq!(part("bytes=100-"), Shape::NoSuchPart);
        assert_eq!(part("items=0-1"), Shape::Whole);
    }

    fn parts(range: Range<usize>) -> Shape {
        Shape::Parts(vec![range])
    }

    #[test]
    fn a_part_of_another_version_is_never_given() {
        let stored = [("etag", "\"a\""), ("last-modified", OLD)];
        let part = |condition: &str| judge(&[("range", "bytes=0-9"), ("if-range", condition)], &stored);
        assert_eq!(part("\"a\""), parts(0..10));
        assert_eq!(part(OLD), parts(0..10));
        for other in ["\"b\"", "W/\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT", ""] {
            assert_eq!(part(other), Shape::Whole, "{other}");
        }
    }
}
