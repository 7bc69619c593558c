//! A chunked body, judged as it passes: where its data lies and where it ends (RFC 9112 section 7.1).
//!
//! Pure. Called by `stream` for what clients send and by `fetch` for what apps answer. The rule: the first byte that breaks
//! the rules ends the message as a broken one, so that nobody behind takes it for whole.

use super::lines::is_token;

/// A chunk's extensions that are passed on, in bytes. Nobody is known to use any.
const EXTENSION_MAX: u16 = 256;
/// Trailer fields altogether, in bytes.
const TRAILERS_MAX: u16 = 8 << 10;

/// The bytes are not chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// Bytes of the size line's extension, or of the trailers, so far.
    spent: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
        value: u64,
    },
    Extension {
        value: u64,
    },
    SizeFeed {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataFeed,
    /// At the beginning of a trailer line, or of the empty line that ends everything.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerFeed,
    EndFeed,
    Done,
}

/// What one look at the front of some bytes found: so many bytes are framing, then so many are data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub framing: usize,
    pub data: usize,
}

impl Default for Chunks {
    /// At the beginning of a body.
    fn default() -> Self {
        Self { state: State::Size { digits: 0, value: 0 }, spent: 0 }
    }
}

impl Chunks {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Judges the front of `bytes`: framing up to some data, and the data. Call it again with the rest until it is done or
    /// the bytes are used up.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Broken> {
        let mut framing = 0;
        while !self.is_done() {
            if let State::Data { left } = self.state {
                let here = bytes.len() - framing;
                let data = here.min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
                if data > 0 || here == 0 {
                    return Ok(Step { framing, data });
                }
            }
            let Some(byte) = bytes.get(framing) else { break };
            self.state = self.next(*byte)?;
            framing += 1;
        }
        Ok(Step { framing, data: 0 })
    }

    /// Judges as many bytes as belong to this body; how many those are.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut passed = 0;
        while !self.is_done() && passed < bytes.len() {
            let step = self.step(&bytes[passed..])?;
            passed += step.framing + step.data;
        }
        Ok(passed)
    }

    fn next(&mut self, byte: u8) -> Result<State, Broken> {
        Ok(match (self.state, byte) {
            (State::Size { digits, value }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                // Sixteen digits of a length, and some servers count further in fewer bits.
                let value = value.checked_mul(16).filter(|_| digits < 15).ok_or(Broken)? + digit;
                State::Size { digits: digits + 1, value }
            }
            (State::Size { digits: 1.., value }, b'\r') => State::SizeFeed { value },
            (State::Size { digits: 1.., value }, b';') => State::Extension { value },
            (State::Extension { value }, b'\r') => State::SizeFeed { value },
            (State::Extension { value }, _) if is_text(byte) => {
                self.spend(EXTENSION_MAX)?;
                State::Extension { value }
            }
            (State::SizeFeed { value: 0 }, b'\n') => {
                self.spent = 0;
                State::TrailerStart
            }
            (State::SizeFeed { value }, b'\n') => State::Data { left: value },
            (State::DataReturn, b'\r') => State::DataFeed,
            (State::DataFeed, b'\n') => {
                self.spent = 0;
                State::Size { digits: 0, value: 0 }
            }
            (State::TrailerStart, b'\r') => State::EndFeed,
            (State::TrailerValue, b'\r') => State::TrailerFeed,
            (State::TrailerName, b':') => self.trailer(State::TrailerValue)?,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => self.trailer(State::TrailerName)?,
            (State::TrailerValue, _) if is_text(byte) => self.trailer(State::TrailerValue)?,
            (State::TrailerFeed, b'\n') => State::TrailerStart,
            (State::EndFeed, b'\n') => State::Done,
            _ => return Err(Broken),
        })
    }

    fn trailer(&mut self, next: State) -> Result<State, Broken> {
        self.spend(TRAILERS_MAX)?;
        Ok(next)
    }

    fn spend(&mut self, most: u16) -> Result<(), Broken> {
        self.spent += 1;
        if self.spent <= most { Ok(()) } else { Err(Broken) }
    }
}

/// What ends a chunked body that has no trailers.
pub const LAST: &[u8] = b"0\r\n\r\n";

/// Writes a chunk; none at all for no data, since that would be the end.
pub fn write(to: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        to.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        to.extend_from_slice(data);
        to.extend_from_slice(b"\r\n");
    }
}

/// What may stand in an extension or a trailer.
fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Broken> {
        let (mut chunks, mut data, mut at) = (Chunks::new(), Vec::new(), 0);
        while !chunks.is_done() {
            let step = chunks.step(&bytes[at..])?;
            let from = at + step.framing;
            data.extend_from_slice(&bytes[from..from + step.data]);
            at = from + step.data;
            if step == (Step { framing: 0, data: 0 }) {
                return Ok(None);
            }
        }
        Ok(Some((data, at)))
    }

    #[test]
    fn data_is_found_and_what_follows_is_left() {
        let body = b"4\r\nWiki\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";
        assert_eq!(read(body), Ok(Some((b"Wiki0123456789".to_vec(), body.len() - 5))));
        assert_eq!(read(b"0\r\n\r\n"), Ok(Some((Vec::new(), 5))));
        assert_eq!(read(b"4\r\nWi"), Ok(None));
    }

    #[test]
    fn what_is_no_chunk_breaks_the_message() {
        let long = format!("4;{}\r\nWiki\r\n0\r\n\r\n", "x".repeat(300));
        for odd in [
            "0x4\r\nWiki\r\n0\r\n\r\n",
            "+4\r\nWiki\r\n0\r\n\r\n",
            " 4\r\nWiki\r\n0\r\n\r\n",
            "4 \r\nWiki\r\n0\r\n\r\n",
            "4_0\r\nWiki\r\n0\r\n\r\n",
            "\r\n",
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWiki\n0\r\n\r\n",
            "4\r\nWikix\r\n0\r\n\r\n",
            "4;a\nb\r\nWiki\r\n0\r\n\r\n",
            "4;\0\r\nWiki\r\n0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0000000000000004\r\nWiki\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n: b\r\n\r\n",
            "0\r\n2\r\nhi\r\n0\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "0\r\n\n",
            long.as_str(),
        ] {
            assert_eq!(read(odd.as_bytes()), Err(Broken), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_come(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'2'), Just(b';'), any::<u8>()
        ], 0..40), cut in 0_usize..40) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut parts) = (Chunks::new(), Chunks::new());
            let at_once = whole.pass(&bytes);
            let first = parts.pass(&bytes[..cut]);
            let by_parts = first.and_then(|first| match parts.is_done() {
                true => Ok(first),
                false => parts.pass(&bytes[cut..]).map(|second| first + second),
            });
            prop_assert_eq!(at_once, by_parts);
            if at_once.is_ok() {
                prop_assert_eq!(whole, parts);
            }
        }
    }
}
