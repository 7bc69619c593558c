//! The head of a request as an app gets it, over HTTP/1.1.
//!
//! Made while the client's own head is at hand. The rule: what `headers` says is dropped is dropped, what it says is added
//! is added, and everything else passes byte for byte.

use bytes::BytesMut;
use http::HeaderMap;

use crate::edge::field::{Fields, Kind};
use crate::edge::headers::{self, Sink};
use crate::edge::id::RequestId;
use crate::edge::request::Asked;
use crate::edge::strict::Lines;
use crate::edge::visit::Visit;

/// What a head grows by on its way, in bytes; about.
const ADDED: usize = 384;

pub fn head(asked: &Asked<'_>, visit: &Visit, id: &RequestId) -> BytesMut {
    let mut head = BytesMut::with_capacity(ADDED + asked.target.len() + length(asked.fields));
    for part in [asked.method.as_str(), " ", asked.target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    match asked.fields {
        Fields::Raw(lines) => copy(&mut head, lines, asked.is_trusted),
        Fields::Map(map) => write(&mut head, map, asked),
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

fn copy(head: &mut BytesMut, lines: Lines<'_>, is_trusted: bool) {
    for line in lines.iter().filter(|line| !headers::is_dropped(line.kind, is_trusted)) {
        head.extend_from_slice(lines.bytes().get(line.range()).unwrap_or_default());
    }
}

fn write(head: &mut BytesMut, map: &HeaderMap, asked: &Asked<'_>) {
    head.put("Host", &[asked.authority.as_bytes()]);
    let cookie = headers::crumbs(map);
    for (name, value) in map {
        let kind = Kind::of(name.as_str().as_bytes());
        let is_said = kind == Kind::Host || (kind == Kind::Cookie && cookie.is_some());
        if is_said || headers::is_dropped(kind, asked.is_trusted) {
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
