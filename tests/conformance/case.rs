//! One case as data: the bytes a client sends, what of them an app must see, and what comes of the rest.
//!
//! `{id}` in the bytes stands for the mark of the case, by which the origin knows it again.

/// What a head or a body that breaks the rules is answered with.
pub const BAD: &[u16] = &[400];
pub const VERSION: &[u16] = &[400, 505];
pub const METHOD: &[u16] = &[400, 405, 501];
/// In place of a status: the connection is closed without a word.
pub const SILENCE: u16 = 0;
pub const LARGE: &[u16] = &[400, 413, 414, 431];

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// Sent one after the other.
    pub parts: Vec<Vec<u8>>,
    /// The requests that are whole and right, in their order.
    pub seen: Vec<Seen>,
    pub then: Then,
    /// The grammar allows it and nobody needs it: it may be refused with one of these as well.
    pub or_refused: &'static [u16],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
}

/// What comes of what follows the requests that are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing follows: the connection serves one more request.
    Another,
    /// Nothing follows: the gateway closes.
    Close,
    /// It is refused with one of these, and the gateway closes.
    Refused(&'static [u16]),
    /// The client stops sending before it is whole: whatever the gateway says, it is not that all went well.
    Cut,
}

impl Case {
    fn new(bytes: &[&[u8]], then: Then) -> Self {
        let bytes = bytes.concat();
        let name = bytes.escape_ascii().to_string().replace("\\r\\n", "⏎").replace("Host: shop.test⏎", "·");
        let name = name.chars().take(200).collect();
        Self { name, parts: vec![bytes], seen: Vec::new(), then, or_refused: &[] }
    }

    pub fn refused(bytes: &[&[u8]], statuses: &'static [u16]) -> Self {
        Self::new(bytes, Then::Refused(statuses))
    }

    /// Refused as bad. A head that lacks its end may be refused for that, as too late.
    pub fn malformed(bytes: &[&[u8]]) -> Self {
        let is_whole = bytes.concat().windows(4).any(|end| end == b"\r\n\r\n");
        Self::refused(bytes, if is_whole { BAD } else { &[400, 408] })
    }

    pub fn cut(bytes: &[&[u8]]) -> Self {
        Self::new(bytes, Then::Cut)
    }

    pub fn passes(bytes: &[&[u8]]) -> Self {
        Self::new(bytes, Then::Another)
    }

    /// May pass, or be refused so.
    pub fn either(bytes: &[&[u8]], statuses: &'static [u16]) -> Self {
        Self { or_refused: statuses, ..Self::passes(bytes) }
    }

    /// The next request that an app sees.
    pub fn sees(mut self, method: &str, target: &str, body: impl AsRef<[u8]>) -> Self {
        self.seen.push(Seen { method: method.into(), target: target.into(), body: body.as_ref().into() });
        self
    }

    pub fn get(self) -> Self {
        self.sees("GET", "/{id}", "")
    }

    pub fn post(self, body: impl AsRef<[u8]>) -> Self {
        self.sees("POST", "/{id}", body)
    }

    pub fn closes(self) -> Self {
        Self { then: Then::Close, ..self }
    }

    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.parts.push(bytes.to_vec());
        self
    }

    /// The case with its mark in place.
    pub fn marked(&self, mark: &str) -> Self {
        let mut case = self.clone();
        for part in &mut case.parts {
            *part = replaced(part, mark);
        }
        for seen in &mut case.seen {
            seen.target = seen.target.replace("{id}", mark);
            seen.body = replaced(&seen.body, mark);
        }
        case
    }
}

pub fn replaced(bytes: &[u8], mark: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some(at) = rest.windows(4).position(|window| window == b"{id}") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(mark.as_bytes());
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

/// `GET /{id}` with these lines behind its Host; each line brings its own end.
pub fn get(lines: &[u8]) -> Vec<u8> {
    [b"GET /{id} HTTP/1.1\r\nHost: shop.test\r\n", lines, b"\r\n"].concat()
}

/// `POST /{id}` likewise, with what follows its head.
pub fn post(lines: &[u8], rest: &[u8]) -> Vec<u8> {
    [b"POST /{id} HTTP/1.1\r\nHost: shop.test\r\n", lines, b"\r\n", rest].concat()
}
