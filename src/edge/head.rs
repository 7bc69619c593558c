//! Finds one HTTP/1 request head in what was read, bounds it, and learns where its body ends.
//!
//! Called by `http1`. Pure. The rule: when it is not certain where a message ends, the message is refused, because
//! whoever stands behind might read it differently (RFC 9112 section 11.2, request smuggling).

use bytes::{Buf, BytesMut};

use crate::model::host::HostName;
use crate::model::machine::Limits;

use super::failure::Failure;

/// A head up to and with its empty line.
#[derive(Debug)]
pub struct Head {
    pub bytes: BytesMut,
    pub framing: Framing,
}

/// What follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A body of so many bytes, then the next request.
    Length(u64),
    /// A chunked body, or another protocol after an upgrade: pingora finds its end.
    Open,
}

/// Takes a whole head off the front; `None` when more must be read. `searched` is kept between two calls, so that a
/// client that sends byte by byte does not have its head searched as often.
pub fn take(ahead: &mut BytesMut, searched: &mut usize, limits: &Limits) -> Result<Option<Head>, Failure> {
    // Empty lines before a request are passed over (RFC 9112 section 2.2).
    while *searched == 0 && ahead.starts_with(b"\r\n") {
        ahead.advance(2);
    }
    let end = find_end(&ahead[*searched..]).map(|end| *searched + end);
    if end.unwrap_or(ahead.len()) as u64 > limits.header_bytes {
        return Err(Failure::HeadTooLarge);
    }
    let Some(end) = end else {
        *searched = ahead.len().saturating_sub(END.len() - 1);
        return Ok(None);
    };
    let framing = judge(&ahead[..end], limits)?;
    let bytes = in_origin_form(ahead.split_to(end))?;
    Ok(Some(Head { bytes, framing }))
}

/// A head whose target is a path, so that route, cache and app all judge the same bytes. An absolute target is taken
/// apart, when its host is the one that Host names (RFC 9112 section 3.2.2); everything else is refused.
fn in_origin_form(head: BytesMut) -> Result<BytesMut, Failure> {
    let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(Failure::Malformed);
    };
    if target.contains(&b'#') {
        return Err(Failure::Malformed);
    }
    if target.starts_with(b"/") || (method == b"OPTIONS" && target == b"*") {
        return Ok(head);
    }
    if method == b"CONNECT" {
        return Err(Failure::Method);
    }
    let target = std::str::from_utf8(target).map_err(|_| Failure::Malformed)?;
    let (scheme, rest) = target.split_once("://").ok_or(Failure::Malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Failure::Malformed);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if HostName::from_authority(authority).ok() != host(&head) || host(&head).is_none() {
        return Err(Failure::BadHost);
    }
    let mut rewritten = BytesMut::with_capacity(head.len() + 1);
    rewritten.extend_from_slice(method);
    rewritten.extend_from_slice(if path.starts_with('/') { b" " } else { b" /" });
    rewritten.extend_from_slice(path.as_bytes());
    rewritten.extend_from_slice(b" ");
    rewritten.extend_from_slice(version);
    rewritten.extend_from_slice(&head[line.len()..]);
    Ok(rewritten)
}

/// The host that the first Host field names; whether there is just one is judged later.
fn host(head: &[u8]) -> Option<HostName> {
    let field = head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        name.eq_ignore_ascii_case(b"host").then(|| value[1..].trim_ascii())
    })?;
    HostName::from_authority(std::str::from_utf8(field).ok()?).ok()
}

const END: &[u8] = b"\r\n\r\n";

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

fn judge(head: &[u8], limits: &Limits) -> Result<Framing, Failure> {
    let lone = |(at, byte): (usize, &u8)| match byte {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        0 => true,
        _ => false,
    };
    if head.iter().enumerate().any(lone) {
        return Err(Failure::Malformed);
    }
    let mut lines = head[..head.len() - END.len()].split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
    let request = lines.next().unwrap_or_default();
    if request.iter().filter(|byte| **byte == b' ').count() != 2 {
        return Err(Failure::Malformed);
    }
    let mut fields = Fields::default();
    for (number, line) in lines.enumerate() {
        if number as u64 >= u64::from(limits.headers) {
            return Err(Failure::HeadTooLarge);
        }
        fields.note(line)?;
    }
    fields.framing()
}

/// What the fields that decide about framing say.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    is_chunked: bool,
    is_upgrade: bool,
}

impl Fields {
    fn note(&mut self, line: &[u8]) -> Result<(), Failure> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Failure::Malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err(Failure::Malformed);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            // Once, and digits alone: `+4`, `4, 4` and a second field are read differently here and there.
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && self.length.is_none();
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            self.length = Some(length.ok_or(Failure::Malformed)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Failure::Malformed);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.is_upgrade = true;
        }
        Ok(())
    }

    fn framing(self) -> Result<Framing, Failure> {
        match (self.length, self.is_chunked, self.is_upgrade) {
            (Some(_), true, _) => Err(Failure::Malformed),
            (_, true, _) | (_, _, true) => Ok(Framing::Open),
            (length, false, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<Framing>, Failure> {
        let limits = Limits { header_bytes: 200, headers: 4, ..Limits::default() };
        take(&mut BytesMut::from(text), &mut 0, &limits).map(|head| head.map(|head| head.framing))
    }

    #[test]
    fn every_target_leaves_as_a_path() {
        let settled = |target: &str| {
            let head = format!("GET {target} HTTP/1.1\r\nHost: shop.test:80\r\n\r\n");
            let settled = in_origin_form(BytesMut::from(head.as_str()))?;
            let line = String::from_utf8_lossy(&settled).lines().next().unwrap_or_default().to_owned();
            Ok::<_, Failure>(line)
        };
        assert_eq!(settled("/a?b=/c").unwrap(), "GET /a?b=/c HTTP/1.1");
        assert_eq!(settled("http://SHOP.test/a").unwrap(), "GET /a HTTP/1.1");
        assert_eq!(settled("http://shop.test").unwrap(), "GET / HTTP/1.1");
        assert_eq!(settled("http://shop.test?x=/static/app.js").unwrap(), "GET /?x=/static/app.js HTTP/1.1");
        for target in ["http://other.test/", "ftp://shop.test/", "shop.test", "*", "/a#b", "http://shop.test#/a", ""] {
            assert!(settled(target).is_err(), "{target}");
        }
    }

    #[test]
    fn the_framing_of_a_good_head_is_known() {
        assert_eq!(head("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some(Framing::Length(0))));
        assert_eq!(head("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some(Framing::Length(0))));
        assert_eq!(head("POST / HTTP/1.1\r\ncontent-length: 12\r\n\r\n"), Ok(Some(Framing::Length(12))));
        assert_eq!(head("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"), Ok(Some(Framing::Open)));
        assert_eq!(head("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), Ok(Some(Framing::Open)));
        assert_eq!(head("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn doubtful_heads_are_refused() {
        let doubtful = [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        for text in doubtful {
            assert_eq!(head(text), Err(Failure::Malformed), "{text:?}");
        }
    }

    #[test]
    fn long_heads_are_refused_before_they_are_whole() {
        assert_eq!(head(&format!("GET /{} HTTP/1.1", "x".repeat(300))), Err(Failure::HeadTooLarge));
        assert_eq!(head("GET / HTTP/1.1\r\nA:1\r\nA:2\r\nA:3\r\nA:4\r\nA:5\r\n\r\n"), Err(Failure::HeadTooLarge));
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_found_and_what_follows_stays() {
        let (mut ahead, mut searched, limits) = (BytesMut::new(), 0, Limits::default());
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r" {
            ahead.extend_from_slice(&[*byte]);
            assert!(take(&mut ahead, &mut searched, &limits).unwrap().is_none());
        }
        ahead.extend_from_slice(b"\nGET");
        assert!(take(&mut ahead, &mut searched, &limits).unwrap().is_some());
        assert_eq!(&ahead[..], b"GET");
    }

    proptest! {
        #[test]
        fn what_is_taken_is_whole_whatever_comes(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()
        ], 0..80)) {
            let all = [b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat();
            let mut ahead = BytesMut::from(&all[..]);
            if let Ok(Some(head)) = take(&mut ahead, &mut 0, &Limits::default()) {
                prop_assert!(head.bytes.ends_with(END));
                prop_assert_eq!([&head.bytes[..], &ahead[..]].concat(), all);
            }
        }
    }
}
