//! The head of an answer once it was negotiated: what it says of its coding, and what is no longer true of it.
//!
//! Called through `compress`: by `fetch` with the app's bytes, by `gateway` with a map. The rule: both say the same, and
//! whoever stores the answer on its way can tell it from the one without a coding (RFC 9110 sections 8.8.3.3 and 12.5.5).

use bytes::BytesMut;
use http::header;
use pingora::http::ResponseHeader;

use crate::edge::field::{Fields, Kind};
use crate::edge::headers::Sink;
use crate::edge::strict::response::{Framing, Head};

use super::Coding;

/// What is said anew, or not at all, where a coding was applied.
const CHANGED: [&str; 2] = ["etag", "accept-ranges"];

/// Says in a head that an answer without a coding of ours could have had one; false when the app says so itself.
pub fn mark(head: &mut Head, bytes: &mut BytesMut) -> bool {
    let is_new = !varies(head.fields(bytes));
    if is_new {
        head.append(bytes, b"Vary: Accept-Encoding\r\n");
    }
    is_new
}

/// Writes the head in `bytes` to `to` as it leaves in this coding.
pub fn rewrite(to: &mut BytesMut, head: &Head, bytes: &[u8], coding: Coding) {
    let (fields, lines) = (head.fields(bytes), head.lines(bytes));
    let first = lines.iter().next().map_or(head.length - 2, |line| line.range().start);
    to.extend_from_slice(bytes.get(..first).unwrap_or_default());
    for line in lines.iter() {
        let name = line.name(bytes);
        let is_framing = matches!(line.kind, Kind::ContentLength | Kind::TransferEncoding);
        if !is_framing && !CHANGED.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes())) {
            to.extend_from_slice(bytes.get(line.range()).unwrap_or_default());
        }
    }
    if !varies(fields) {
        to.put("Vary", &[VARY]);
    }
    to.put("Content-Encoding", &[coding.name().as_bytes()]);
    if let Some(tag) = fields.first("etag") {
        to.put("ETag", &weak(tag));
    }
    // A body that ends with its connection still does.
    if head.framing != Framing::Close {
        to.put("Transfer-Encoding", &[b"chunked"]);
    }
    to.extend_from_slice(b"\r\n");
}

/// Does for an answer that goes pingora's way what `mark` and `rewrite` do.
pub fn rewrite_map(header: &mut ResponseHeader, coding: Option<Coding>) {
    if !varies(Fields::Map(&header.headers)) {
        header.put("Vary", &[VARY]);
    }
    let Some(coding) = coding else { return };
    let tag = header.headers.get(header::ETAG).cloned();
    let had_length = header.remove_header(&header::CONTENT_LENGTH).is_some();
    for name in CHANGED {
        header.remove_header(name);
    }
    header.put("Content-Encoding", &[coding.name().as_bytes()]);
    if let Some(tag) = tag {
        header.put("ETag", &weak(tag.as_bytes()));
    }
    if had_length {
        header.put("Transfer-Encoding", &[b"chunked"]);
    }
}

/// What an answer that was negotiated depends on.
const VARY: &[u8] = b"Accept-Encoding";

/// Whether it says so already.
fn varies(fields: Fields<'_>) -> bool {
    let mut names = fields.all("vary").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    names.any(|name| name == b"*" || name.eq_ignore_ascii_case(VARY))
}

/// A tag for what means the same, in the parts of its value.
fn weak(tag: &[u8]) -> [&[u8]; 2] {
    let mark: &[u8] = if tag.starts_with(b"\"") { b"W/" } else { b"" };
    [mark, tag]
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::edge::strict::response::judge;

    const HEAD: &str = "HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nContent-Length: 900\r\nETag: \"a\"\r\n\
        Vary: Cookie\r\nAccept-Ranges: bytes\r\nvary: origin,\r\nX-App: 1\r\n\r\n";

    fn by_bytes(head: &str, coding: Option<Coding>) -> String {
        let mut own = judge(head.as_bytes(), false).unwrap().unwrap();
        let mut to = BytesMut::new();
        match coding {
            Some(coding) => rewrite(&mut to, &own, head.as_bytes(), coding),
            None => {
                to.extend_from_slice(head.as_bytes());
                to.extend_from_slice(b"body");
                assert!(mark(&mut own, &mut to));
                assert_eq!(&to.split_off(own.length)[..], b"body");
            }
        }
        let again = judge(&to, false).unwrap().unwrap();
        assert!(again.length == to.len());
        if coding.is_none() {
            assert!(again.fields(&to).all("vary").eq(own.fields(&to).all("vary")));
        }
        String::from_utf8(to.to_vec()).unwrap()
    }

    fn fields(head: &str) -> Vec<String> {
        let mut fields: Vec<_> = head.trim_end().lines().skip(1).map(str::to_ascii_lowercase).collect();
        fields.sort();
        fields
    }

    #[test]
    fn what_is_no_longer_true_is_not_said() {
        let coded = by_bytes(HEAD, Some(Coding::Brotli));
        assert!(coded.starts_with("HTTP/1.1 200 Fine\r\n"), "{coded}");
        let expected = [
            "content-encoding: br",
            "content-type: text/plain",
            "etag: w/\"a\"",
            "transfer-encoding: chunked",
            "vary: accept-encoding",
            "vary: cookie",
            "vary: origin,",
            "x-app: 1",
        ];
        assert_eq!(fields(&coded), expected);
        let plain = by_bytes(HEAD, None);
        assert!(plain.contains("Content-Length: 900\r\n") && plain.contains("ETag: \"a\"\r\n"), "{plain}");
        assert!(plain.ends_with("X-App: 1\r\nVary: Accept-Encoding\r\n\r\n"), "{plain}");
        let closed = by_bytes("HTTP/1.1 200 OK\r\nVary: *\r\nETag: W/\"a\"\r\n\r\n", Some(Coding::Gzip));
        assert_eq!(fields(&closed), ["content-encoding: gzip", "etag: w/\"a\"", "vary: *"]);
    }

    #[test]
    fn both_ways_say_the_same() {
        for coding in [None, Some(Coding::Gzip)] {
            let mut header = ResponseHeader::build(StatusCode::OK, None).unwrap();
            for line in HEAD.trim_end().lines().skip(1) {
                let (name, value) = line.split_once(": ").unwrap();
                header.append_header(name, value).unwrap();
            }
            rewrite_map(&mut header, coding);
            let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                format!("{name}: {}", value.to_str().unwrap().to_ascii_lowercase())
            };
            let mut by_map: Vec<_> = header.headers.iter().map(field).collect();
            by_map.sort();
            assert_eq!(by_map, fields(&by_bytes(HEAD, coding)));
        }
    }
}
