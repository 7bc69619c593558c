//! HTTP/2 frames by hand, with header fields as they are given: literals without Huffman, right or wrong (RFC 9113, 7541).

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every peer takes.
const FRAME_MAX: usize = 16 << 10;

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What a connection begins with: as much as fits may come, on each stream and on all of them.
pub fn beginning() -> Vec<u8> {
    const INITIAL_WINDOW: [u8; 2] = [0, 4];
    const MOST: u32 = (1 << 31) - 1;
    let settings = [&INITIAL_WINDOW[..], &MOST.to_be_bytes()].concat();
    let more = (MOST - 65_535).to_be_bytes();
    [PREFACE, &frame(SETTINGS, 0, 0, &settings), &frame(WINDOW_UPDATE, 0, 0, &more)].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block in as many frames as it needs.
pub fn headers(stream: u32, flags: u8, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let mut parts = block.chunks(FRAME_MAX).peekable();
    let first = parts.next().unwrap_or_default();
    let end = |is_last: bool| if is_last { END_HEADERS } else { 0 };
    let mut out = frame(HEADERS, flags | end(parts.peek().is_none()), stream, first);
    while let Some(part) = parts.next() {
        out.extend(frame(CONTINUATION, end(parts.peek().is_none()), stream, part));
    }
    out
}

/// Without indexing, with a new name (RFC 7541 section 6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &length(name.len())[..], name, &length(value.len()), value].concat()
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut out, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

/// Takes one whole frame off the front.
pub fn take(bytes: &mut Vec<u8>) -> Option<Frame> {
    let length = bytes.get(..3)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let payload = bytes.get(9..9 + length)?.to_vec();
    let frame =
        Frame { kind: bytes[3], flags: bytes[4], stream: u32::from_be_bytes(bytes[5..9].try_into().unwrap()), payload };
    bytes.drain(..9 + length);
    Some(frame)
}

/// The status that a header block begins with (RFC 7541 appendices A and B).
pub fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match *block {
        // An update of the table's size comes first.
        [0x20..=0x3e, ..] => status(&block[1..]),
        [first @ 0x88..=0x8e, ..] => Some(INDEXED[usize::from(first - 0x88)]),
        // A literal whose name is indexed: `:status` stands at 8 to 14.
        [0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e, length, ref rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { digits(text) }
        }
        _ => None,
    }
}

/// Digits in Huffman's code: 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> Option<u16> {
    let (mut bits, mut number) = (bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)), 0);
    let mut left = bytes.len() * 8;
    bits <<= 64 - left;
    for _ in 0..3 {
        let (five, six) = (bits >> 59, bits >> 58);
        let (digit, length) = if five < 3 { (five, 5) } else { (six.checked_sub(0x19)? + 3, 6) };
        number = number * 10 + u16::try_from(digit).ok().filter(|digit| *digit < 10)?;
        bits <<= length;
        left = left.checked_sub(length)?;
    }
    Some(number)
}

#[test]
fn a_status_is_read_in_all_its_spellings() {
    assert_eq!(status(&[0x88]), Some(200));
    assert_eq!(status(&[0x3e, 0x8c]), Some(400));
    assert_eq!(status(b"\x48\x03421"), Some(421));
    // 302 and 431, by RFC 7541 C.6.1 and by hand: 011010 011001 00001.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), Some(431));
}

#[test]
fn a_long_block_continues() {
    let mut bytes = headers(1, END_STREAM, &[(b"a".to_vec(), vec![b'b'; 40_000])]);
    let frames: Vec<Frame> = std::iter::from_fn(|| take(&mut bytes)).collect();
    let kinds: Vec<(u8, u8)> = frames.iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(kinds, [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
    assert_eq!(&frames[0].payload[..7], [0, 1, b'a', 127, 0xc1, 0xb7, 0x02]);
}
