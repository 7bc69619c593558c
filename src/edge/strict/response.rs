//! One response head of an app: its status, its fields and where its body ends.
//!
//! Pure. Called by `fetch`. The rule: an app that cannot say where its answer ends is broken, and its connection is never
//! used again; nothing of such an answer is taken for a whole one.

use bytes::BytesMut;
use http::StatusCode;

use crate::edge::failure::Failure;
use crate::edge::field::{Fields, Kind};

use super::lines::{self, Index, Lines};
use super::request::length;

/// Larger heads of apps are refused, in bytes and in fields.
const HEAD_MAX: usize = 128 << 10;
const FIELDS_MAX: usize = 256;

#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// The head's own length in the bytes that were judged.
    pub length: usize,
    pub framing: Framing,
    /// Whether the app is willing to take another request.
    pub keeps_alive: bool,
    /// Whether `Connection` names fields that are none of the connection's own.
    pub has_nominations: bool,
    index: Index,
}

/// What follows the head (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// All there is until the connection ends.
    Close,
}

impl Head {
    /// The fields; `bytes` are those that were judged.
    pub fn lines<'b>(&'b self, bytes: &'b [u8]) -> Lines<'b> {
        self.index.of(bytes)
    }

    pub fn fields<'b>(&'b self, bytes: &'b [u8]) -> Fields<'b> {
        Fields::Raw(self.lines(bytes))
    }

    /// Whether it may say how a body is framed, with or without one (RFC 9110 section 8.6, RFC 9112 section 6.1).
    pub fn may_be_framed(&self) -> bool {
        !self.status.is_informational() && self.status != StatusCode::NO_CONTENT
    }

    /// Adds a line of our own behind the others, with its CR LF, here and in the bytes that were judged.
    pub fn append(&mut self, bytes: &mut BytesMut, line: &'static [u8]) {
        // Before the empty line; what follows makes room.
        let (place, end) = (self.length - 2, bytes.len());
        bytes.resize(end + line.len(), 0);
        bytes.copy_within(place..end, place + line.len());
        bytes[place..place + line.len()].copy_from_slice(line);
        self.length += line.len();
        self.index.append(bytes, place);
    }
}

/// Judges what was read of an answer to a GET, or to a HEAD, which has no body; `None` when more must come.
pub fn judge(bytes: &[u8], is_head: bool) -> Result<Option<Head>, Failure> {
    let head = whole(bytes, is_head).map_err(|_| Failure::Broken)?;
    match head.as_ref().map_or(bytes.len(), |head| head.length) > HEAD_MAX {
        true => Err(Failure::Broken),
        false => Ok(head),
    }
}

fn whole(bytes: &[u8], is_head: bool) -> Result<Option<Head>, Failure> {
    let Some((line, next)) = lines::line(bytes, 0)? else { return Ok(None) };
    let (is_11, status) = status_line(line).ok_or(Failure::Broken)?;
    let mut index = Index::default();
    let Some(end) = lines::fields(bytes, next, &mut index, FIELDS_MAX)? else { return Ok(None) };
    let said = said(index.of(bytes), is_11)?;
    let is_bodiless = is_head || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let framing = match (is_bodiless, said.is_chunked, said.length) {
        (_, true, Some(_)) => return Err(Failure::Broken),
        (true, ..) => Framing::Length(0),
        (false, true, None) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::Close,
    };
    let (keeps_alive, has_nominations) = (said.keeps_alive, said.has_nominations);
    Ok(Some(Head { status, length: end, framing, keeps_alive, has_nominations, index }))
}

/// `HTTP/1.1 200 OK`: whether it is 1.1, and the status.
fn status_line(line: &[u8]) -> Option<(bool, StatusCode)> {
    let is_11 = match line.get(..9)? {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return None,
    };
    let (code, reason) = line.get(9..)?.split_at_checked(3)?;
    let is_reason = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let is_sound = reason.first().is_none_or(|byte| *byte == b' ') && reason.iter().all(is_reason);
    let status = StatusCode::from_bytes(code).ok().filter(|status| is_sound && status.as_u16() < 600)?;
    // Nobody asked for another protocol on this way.
    (status != StatusCode::SWITCHING_PROTOCOLS).then_some((is_11, status))
}

struct Said {
    length: Option<u64>,
    is_chunked: bool,
    keeps_alive: bool,
    has_nominations: bool,
}

fn said(lines: Lines<'_>, is_11: bool) -> Result<Said, Failure> {
    let mut said = Said { length: None, is_chunked: false, keeps_alive: is_11, has_nominations: false };
    let mut closes = false;
    for line in lines.iter() {
        let value = line.value(lines.bytes());
        match line.kind {
            Kind::ContentLength if said.length.is_none() => said.length = Some(length(value)?),
            Kind::TransferEncoding if is_11 && !said.is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                said.is_chunked = true;
            }
            Kind::ContentLength | Kind::TransferEncoding => return Err(Failure::Broken),
            Kind::Connection => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    let is_close = option.eq_ignore_ascii_case(b"close");
                    closes |= is_close;
                    said.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    let is_own = is_close || Kind::of(option) != Kind::Plain;
                    said.has_nominations |= !is_own && !option.is_empty();
                }
            }
            _ => {}
        }
    }
    said.keeps_alive &= !closes;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<(u16, Framing, bool)>, Failure> {
        let head = judge(head.as_bytes(), false)?;
        Ok(head.map(|head| (head.status.as_u16(), head.framing, head.keeps_alive)))
    }

    #[test]
    fn the_end_of_an_answer_is_known() {
        let known = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), true)),
            ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", (200, Framing::Chunked, true)),
            ("HTTP/1.1 200 \r\nConnection: close\r\n\r\n", (200, Framing::Close, false)),
            ("HTTP/1.1 204 \r\nConnection: close, keep-alive\r\n\r\n", (204, Framing::Length(0), false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", (200, Framing::Length(0), false)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (204, Framing::Length(0), true)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", (304, Framing::Length(0), true)),
            ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", (103, Framing::Length(0), true)),
        ];
        for (head, expected) in known {
            assert_eq!(read(head), Ok(Some(expected)), "{head:?}");
        }
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true).unwrap().unwrap().framing, {
            Framing::Length(0)
        });
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
    }

    #[test]
    fn an_app_that_speaks_in_riddles_is_broken() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(200_000));
        for odd in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            long.as_str(),
        ] {
            assert_eq!(read(odd), Err(Failure::Broken), "{odd:?}");
        }
    }
}
