//! The head of a request as an app gets it, over HTTP/1.1.
//!
//! Made while the client's own head is at hand. The rule: what `headers` says is dropped is dropped, what it says is added
//! is added, and everything else passes byte for byte.

use bytes::BytesMut;
use http::HeaderMap;

use crate::edge::answer::Fetch;
use crate::edge::cache::is_for_less;
use crate::edge::field::{Fields, Kind};
use crate::edge::headers::{self, Sink};
use crate::edge::id::RequestId;
use crate::edge::request::Asked;
use crate::edge::strict::Lines;
use crate::edge::visit::Visit;

/// What a head grows by on its way, in bytes; about.
const ADDED: usize = 384;

/// `fetch` says what the app is asked about and by which target, in place of what the client would have asked.
pub fn head(asked: &Asked<'_>, visit: &Visit, id: &RequestId, fetch: &Fetch) -> BytesMut {
    let (stale, target) = (fetch.stale.as_deref(), fetch.target.as_deref().unwrap_or(asked.target));
    let mut head = BytesMut::with_capacity(ADDED + target.len() + length(asked.fields));
    let method = if fetch.is_of_whole { "GET" } else { asked.method.as_str() };
    let is_gone = |name: &[u8]| {
        let is_answered = || stale.is_some_and(|stale| stale.takes_place_of(name));
        (fetch.is_of_whole && is_for_less(name)) || is_answered()
    };
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    match asked.fields {
        Fields::Raw(lines) => copy(&mut head, lines, asked.is_trusted, is_gone),
        Fields::Map(map) => write(&mut head, map, asked, is_gone),
    }
    if let Some(stale) = stale {
        stale.ask(&mut head);
    }
    headers::identify(&mut head, asked, visit, id);
    head.extend_from_slice(b"\r\n");
    head
}

fn length(fields: Fields<'_>) -> usize {
    match fields {
        Fields::Raw(lines) => lines.bytes().len(),
        Fields::Map(map) => map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum(),
    }
}

fn copy(head: &mut BytesMut, lines: Lines<'_>, is_trusted: bool, is_gone: impl Fn(&[u8]) -> bool) {
    for line in lines.iter().filter(|line| !headers::is_dropped(line.kind, is_trusted)) {
        if is_gone(line.name(lines.bytes())) {
            continue;
        }
        head.extend_from_slice(lines.bytes().get(line.range()).unwrap_or_default());
    }
}

fn write(head: &mut BytesMut, map: &HeaderMap, asked: &Asked<'_>, is_gone: impl Fn(&[u8]) -> bool) {
    head.put("Host", &[asked.authority.as_bytes()]);
    let cookie = headers::crumbs(map);
    for (name, value) in map {
        let kind = Kind::of(name.as_str().as_bytes());
        let is_said = kind == Kind::Host || (kind == Kind::Cookie && cookie.is_some());
        if is_said || is_gone(name.as_str().as_bytes()) || headers::is_dropped(kind, asked.is_trusted) {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    if let Some(cookie) = cookie {
        head.put("Cookie", &[&cookie]);
    }
}
