//! The PROXY header, versions 1 and 2: what a proxy writes before a visitor's bytes to say who the visitor is.
//!
//! Called by `connection` on listeners of this kind; `parse` is pure. The rule (HAProxy's proxy-protocol.txt): a header
//! is taken whole and exactly as it is specified, or the connection is refused; nothing behind it is touched.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest header that is taken, in bytes. Version 2 could have 64 KiB; what proxies add takes some hundreds.
pub const HEADER_MAX: usize = 4096;
/// The longest line of version 1, with its end (section 2.1).
const LINE_MAX: usize = 107;
const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 up to its length: signature, version and command, family and transport, length (section 2.2).
const FIXED: usize = 16;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has.
    pub length: usize,
    pub origin: Origin,
}

/// Whose bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Visitor {
        source: SocketAddr,
        /// What the visitor connected to.
        destination: SocketAddr,
    },
    /// The proxy's own, to see whether somebody answers.
    Proxy,
    /// A visitor's, whose address the proxy does not know or cannot say.
    Unnamed,
}

/// Not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with a PROXY header")]
pub struct Malformed;

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Nothing was sent at all.
    #[error("the proxy left")]
    Left,
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Reads the header that `tcp` begins with, and not a byte beyond it.
pub async fn read(tcp: &mut TcpStream) -> Result<Origin, Unread> {
    let mut bytes = vec![0; HEADER_MAX];
    let mut taken = 0;
    loop {
        let waiting = match tcp.peek(&mut bytes[taken..]).await? {
            0 if taken == 0 => return Err(Unread::Left),
            0 => return Err(Malformed.into()),
            waiting => waiting,
        };
        let header = parse(&bytes[..taken + waiting])?;
        // All of an unfinished header is the header's: it is taken, so that the next look waits for more.
        let whole = header.map_or(taken + waiting, |header| header.length);
        tcp.read_exact(&mut bytes[taken..whole]).await?;
        taken = whole;
        if let Some(header) = header {
            return Ok(header.origin);
        }
    }
}

/// The header that `bytes` begin with; `None` when more of them are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match (begins(bytes, SIGNATURE_1), begins(bytes, SIGNATURE_2)) {
        (true, _) => version_1(bytes),
        (_, true) => version_2(bytes),
        _ => Err(Malformed),
    }
}

/// Whether `bytes`, so far as they are there, are those of `signature`.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, of_signature)| byte == of_signature)
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < LINE_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = line.get(SIGNATURE_1.len()..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ');
    let origin = match words.next() {
        Some("TCP4") => visitor::<Ipv4Addr>(words)?,
        Some("TCP6") => visitor::<Ipv6Addr>(words)?,
        // What follows the word is not to be looked at.
        Some("UNKNOWN") => Origin::Unnamed,
        _ => return Err(Malformed),
    };
    Ok(Some(Header { length: end + 1, origin }))
}

/// Both addresses, then both ports.
fn visitor<'w, A: FromStr + Into<IpAddr>>(words: impl Iterator<Item = &'w str>) -> Result<Origin, Malformed> {
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else { return Err(Malformed) };
    let end = |address: &str, number: &str| {
        let address: A = address.parse().map_err(|_| Malformed)?;
        Ok(SocketAddr::new(address.into(), port(number)?))
    };
    Ok(Origin::Visitor { source: end(source, source_port)?, destination: end(destination, destination_port)? })
}

/// A number as one writes it: no sign, and no zero before others.
fn port(text: &str) -> Result<u16, Malformed> {
    let number: u16 = text.parse().map_err(|_| Malformed)?;
    if number.to_string() == text { Ok(number) } else { Err(Malformed) }
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_MAX || !matches!(command, 0x20 | 0x21) {
        return Err(Malformed);
    }
    let Some(block) = bytes.get(FIXED..length) else { return Ok(None) };
    let origin = match (command, family) {
        (0x20, _) => Origin::Proxy,
        (_, 0x00) => Origin::Unnamed,
        // TCP and UDP: a proxy may have been spoken to by QUIC.
        (_, 0x11 | 0x12) => addresses::<4>(block)?,
        (_, 0x21 | 0x22) => addresses::<16>(block)?,
        (_, 0x31 | 0x32) => {
            extensions(block.get(UNIX..).ok_or(Malformed)?)?;
            Origin::Unnamed
        }
        _ => return Err(Malformed),
    };
    Ok(Some(Header { length, origin }))
}

/// Two paths of 108 bytes.
const UNIX: usize = 216;

/// Both addresses, then both ports, then extensions.
fn addresses<const N: usize>(block: &[u8]) -> Result<Origin, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>().ok_or(Malformed)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(Malformed)?;
    let (source_port, rest) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
    let (destination_port, rest) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
    extensions(rest)?;
    let end = |address: [u8; N], port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    Ok(Origin::Visitor { source: end(*source, *source_port), destination: end(*destination, *destination_port) })
}

/// Passes over what else the proxy says: a type, a length, a value each (section 2.2).
fn extensions(mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (_, after) = rest.split_first().ok_or(Malformed)?;
        let (length, after) = after.split_first_chunk::<2>().ok_or(Malformed)?;
        rest = after.get(usize::from(u16::from_be_bytes(*length))..).ok_or(Malformed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(source: &str, destination: &str) -> Origin {
        Origin::Visitor { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[command, family], &length, block].concat()
    }

    fn inet(rest: &[u8]) -> Vec<u8> {
        [&[192, 0, 2, 1, 10, 0, 0, 1, 0xdb, 0x5a, 0x01, 0xbb][..], rest].concat()
    }

    fn inet6() -> Vec<u8> {
        let mut block = vec![0; 36];
        (block[0], block[1], block[15], block[31], block[33], block[35]) = (0x20, 0x01, 1, 2, 80, 81);
        block
    }

    /// Headers with what they say.
    fn good() -> Vec<(Vec<u8>, Origin)> {
        let visitor = named("192.0.2.1:56154", "10.0.0.1:443");
        let long = "f".repeat(44);
        vec![
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56154 443\r\n".to_vec(), visitor),
            (b"PROXY TCP6 2001::1 ::2 80 0\r\n".to_vec(), named("[2001::1]:80", "[::2]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Origin::Unnamed),
            (format!("PROXY UNKNOWN {long} {long}  \r\n").into_bytes(), Origin::Unnamed),
            (v2(0x21, 0x11, &inet(&[])), visitor),
            (v2(0x21, 0x12, &inet(&[0x04, 0, 2, 9, 9, 0xee, 0, 0])), visitor),
            (v2(0x21, 0x21, &inet6()), named("[2001::1]:80", "[::2]:81")),
            (v2(0x21, 0x31, &[7; UNIX]), Origin::Unnamed),
            (v2(0x21, 0x00, b"whatever"), Origin::Unnamed),
            (v2(0x20, 0x11, &inet(&[])), Origin::Proxy),
            (v2(0x20, 0xff, &[]), Origin::Proxy),
        ]
    }

    #[test]
    fn a_header_is_taken_whole_and_nothing_behind_it() {
        for (header, origin) in good() {
            let shown = String::from_utf8_lossy(&header).into_owned();
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{end} of {shown:?}");
            }
            for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n\0", b"PROXY "] {
                let all = [&header[..], behind].concat();
                assert_eq!(parse(&all), Ok(Some(Header { length: header.len(), origin })), "{shown:?}");
            }
        }
    }

    #[test]
    fn what_is_not_exactly_a_header_is_refused() {
        let lines = [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
            "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%1 ::2 1 2\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
        ];
        for line in lines {
            assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; LINE_MAX]].concat();
        assert_eq!(parse(&endless), Err(Malformed));
        let mut other_signature = v2(0x21, 0x11, &inet(&[]));
        other_signature[11] = b'\r';
        let blocks = [
            other_signature,
            v2(0x11, 0x11, &inet(&[])),
            v2(0x22, 0x11, &inet(&[])),
            v2(0x21, 0x10, &inet(&[])),
            v2(0x21, 0x41, &inet(&[])),
            v2(0x21, 0x01, &[]),
            v2(0x21, 0x11, &inet(&[])[..11]),
            v2(0x21, 0x21, &inet(&[])),
            v2(0x21, 0x31, &[0; UNIX - 1]),
            v2(0x21, 0x11, &inet(&[4])),
            v2(0x21, 0x11, &inet(&[4, 0, 2, 9])),
            v2(0x20, 0x00, &[0; HEADER_MAX]),
        ];
        for block in blocks {
            assert_eq!(parse(&block), Err(Malformed), "{block:?}");
        }
    }

    fn scribbles() -> impl Strategy<Value = Vec<u8>> {
        let (line, block) = (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), v2(0x21, 0x11, &inet(&[4, 0, 1, 0])));
        let begins = prop_oneof![Just(Vec::new()), Just(line), Just(block), Just(SIGNATURE_2.to_vec())];
        let change = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        (begins, change, proptest::collection::vec(any::<u8>(), 0..64)).prop_map(|(mut bytes, changes, rest)| {
            for (at, byte) in changes.into_iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(rest);
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_more_of_them_never_change_a_verdict(bytes in scribbles()) {
            let mut settled = None;
            for end in 0..=bytes.len() {
                let parsed = parse(&bytes[..end]);
                if let Some(before) = settled {
                    prop_assert_eq!(parsed, before);
                } else if parsed != Ok(None) {
                    prop_assert!(parsed.ok().flatten().is_none_or(|header| header.length == end));
                    settled = Some(parsed);
                }
            }
        }
    }
}
