//! The id of a request: on its answer, in the log and at the app, so that one word finds all three.
//!
//! Made by `door` and `http2`. The rule: only a trusted proxy may name a request, and only in harmless words.

use std::sync::atomic::{AtomicU64, Ordering};

use super::field::Fields;

/// What an id of somebody else's may be at most, in bytes.
const ID_MAX: usize = 128;
/// Digits of an id of our own.
const DIGITS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    Own([u8; DIGITS]),
    Theirs(Box<[u8]>),
}

impl RequestId {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            RequestId::Own(digits) => digits,
            RequestId::Theirs(theirs) => theirs,
        }
    }
}

/// Gives ids: a random beginning for each run of the edge, and a count.
#[derive(Debug)]
pub struct RequestIds {
    run: [u8; DIGITS / 2],
    count: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Self {
        let mut run = [0; 8];
        // Without randomness the ids are still unique in this process, which is all that they must be.
        let _ = aws_lc_rs::rand::fill(&mut run);
        Self { run: hex(u64::from_ne_bytes(run)), count: AtomicU64::new(0) }
    }

    pub fn fresh(&self) -> RequestId {
        let mut digits = [b'0'; DIGITS];
        let (run, count) = digits.split_at_mut(DIGITS / 2);
        run.copy_from_slice(&self.run);
        count.copy_from_slice(&hex(self.count.fetch_add(1, Ordering::Relaxed)));
        RequestId::Own(digits)
    }

    /// A trusted proxy's own id, if it is harmless to pass on and to log, else a fresh one.
    pub fn of(&self, fields: Fields<'_>, is_trusted: bool) -> RequestId {
        let is_harmless = |id: &&[u8]| (1..=ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        match is_trusted.then(|| fields.first("x-request-id")).flatten().filter(is_harmless) {
            Some(theirs) => RequestId::Theirs(theirs.into()),
            None => self.fresh(),
        }
    }
}

fn hex(number: u64) -> [u8; DIGITS / 2] {
    let mut digits = [b'0'; DIGITS / 2];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::asking;
    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_in_harmless_words() {
        let ids = RequestIds { run: hex(0x0123), count: AtomicU64::new(15) };
        let id = |is_trusted, theirs: &str| {
            let lines = format!("Host: a\r\nX-Request-Id: {theirs}\r\n");
            asking("/", &lines, is_trusted, |asked| {
                let asked = asked.unwrap();
                ids.of(asked.fields, asked.is_trusted).as_str().to_owned()
            })
        };
        assert_eq!(id(true, "theirs"), "theirs");
        assert_eq!(id(false, "theirs"), "0000000000000123000000000000000f");
        assert_eq!(id(true, "a b"), "00000000000001230000000000000010");
        assert_eq!(id(true, &"a".repeat(129)), "00000000000001230000000000000011");
    }
}
