//! The form of one record: what a stored response is on disk.
//!
//! Pure. Written by `writer`, read by `segment` at the start and by `disk` at a hit. A record is a prefix (its lengths, the
//! key, the head, and a checksum of every block of the body) and the body. The rule: the prefix vouches for itself and for
//! the body, so a record is there whole, or it is not there; numbers are little-endian.

use std::ops::Range;

use super::index::Name;

/// What one checksum is of, in bytes of a body.
pub const BLOCK: u64 = 64 << 10;
/// What a prefix is at the least, in bytes.
pub const FIXED: usize = 48;
/// Longer ones are not stored, in bytes; and nothing that claims to be longer is believed.
const KEY_MAX: u32 = 256 << 10;
const HEAD_MAX: u32 = 1 << 20;
pub const BODY_MAX: u64 = 2 << 30;
/// The first bytes of a response, and of the note that what came before under its name is gone.
const RESPONSE: u32 = u32::from_le_bytes(*b"opR1");
const REMOVAL: u32 = u32::from_le_bytes(*b"opX1");

/// All that is said of a response before its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    pub name: Name,
    pub is_removal: bool,
    /// How many purges there had been when the app was asked for it.
    pub purges: u64,
    pub key: Box<str>,
    /// In the form of `head`.
    pub head: Box<[u8]>,
    pub body: Span,
    pub sums: Sums,
}

/// Where a body lies, counted from the first byte of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub at: u32,
    pub length: u64,
}

/// The checksum of each block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums(Box<[u32]>);

/// What the first bytes say of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    pub prefix: usize,
    pub body: Span,
}

impl Lengths {
    /// Of a record of which at least the first bytes are here; `None` when they are not those of a record.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let is_known = matches!(u32_at(bytes, 0)?, RESPONSE | REMOVAL);
        let (key, head) = (u32_at(bytes, 20)?, u32_at(bytes, 24)?);
        let body = Span { at: u32_at(bytes, 28)?, length: u64_at(bytes, 32)? };
        let is_possible = is_known && key <= KEY_MAX && head <= HEAD_MAX && body.length <= BODY_MAX;
        let prefix = prefix_length(key as usize, head as usize, body.length.min(BODY_MAX));
        (is_possible && body.at as usize >= prefix).then_some(Self { prefix, body })
    }

    pub fn whole(&self) -> u64 {
        u64::from(self.body.at) + self.body.length
    }
}

impl Prefix {
    /// That everything before it under this name is gone.
    pub fn removal(hash: u64) -> Self {
        let body = Span { at: FIXED as u32, length: 0 };
        let (key, head) = (Box::default(), Box::default());
        let name = Name { hash, variant: 0 };
        Self { name, is_removal: true, purges: 0, key, head, body, sums: Sums::default() }
    }

    /// Reads one; `None` when it is not whole, or damaged.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Lengths { prefix, body } = Lengths::of(bytes)?;
        let bytes = bytes.get(..prefix)?;
        if u32_at(bytes, 4)? != crc32fast::hash(&bytes[8..]) {
            return None;
        }
        let key_end = FIXED + u32_at(bytes, 20)? as usize;
        let head_end = key_end + u32_at(bytes, 24)? as usize;
        let sums = bytes[head_end..].as_chunks().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        Some(Self {
            name: Name { hash: u64_at(bytes, 8)?, variant: u32_at(bytes, 16)? },
            is_removal: u32_at(bytes, 0)? == REMOVAL,
            purges: u64_at(bytes, 40)?,
            key: std::str::from_utf8(&bytes[FIXED..key_end]).ok()?.into(),
            head: bytes[key_end..head_end].into(),
            body,
            sums: Sums(sums),
        })
    }

    /// How many bytes come before the body.
    pub fn body_begins(&self) -> u64 {
        u64::from(self.body.at)
    }

    /// Writes it; `None` when a part of it is too long.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let (key, head) = (u32::try_from(self.key.len()).ok()?, u32::try_from(self.head.len()).ok()?);
        let mut bytes = Vec::with_capacity(prefix_length(self.key.len(), self.head.len(), self.body.length));
        bytes.extend_from_slice(&if self.is_removal { REMOVAL } else { RESPONSE }.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.name.hash.to_le_bytes());
        for number in [self.name.variant, key, head, self.body.at] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.body.length.to_le_bytes());
        bytes.extend_from_slice(&self.purges.to_le_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(&self.head);
        self.sums.0.iter().for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
        let sum = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        let is_sound = Lengths::of(&bytes).is_some_and(|lengths| lengths.prefix == bytes.len());
        is_sound.then_some(bytes)
    }
}

/// The bytes before a body of this length at the least.
pub fn prefix_length(key: usize, head: usize, body: u64) -> usize {
    FIXED + key + head + 4 * body.div_ceil(BLOCK) as usize
}

impl Sums {
    pub fn of(body: &[u8]) -> Self {
        Self(body.chunks(BLOCK as usize).map(crc32fast::hash).collect())
    }

    /// Whether these bytes, which begin with a block and end with one or with the body, are the body's from `from` on.
    pub fn vouch(&self, from: u64, bytes: &[u8]) -> bool {
        let first = (from / BLOCK) as usize;
        let mut blocks = bytes.chunks(BLOCK as usize).enumerate();
        blocks.all(|(number, block)| self.0.get(first + number) == Some(&crc32fast::hash(block)))
    }
}

/// The whole blocks that a part of a body lies in.
pub fn blocks(part: &Range<u64>, length: u64) -> Range<u64> {
    part.start / BLOCK * BLOCK..part.end.next_multiple_of(BLOCK).min(length)
}

/// Reckons the checksums of a body that comes in parts.
#[derive(Debug, Default)]
pub struct Summing {
    sums: Vec<u32>,
    block: crc32fast::Hasher,
    in_block: usize,
}

impl Summing {
    pub fn add(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let (here, rest) = part.split_at(part.len().min(BLOCK as usize - self.in_block));
            self.block.update(here);
            self.in_block += here.len();
            part = rest;
            if self.in_block == BLOCK as usize {
                self.end_block();
            }
        }
    }

    pub fn end(mut self) -> Sums {
        if self.in_block > 0 {
            self.end_block();
        }
        Sums(self.sums.into())
    }

    fn end_block(&mut self) {
        self.sums.push(std::mem::take(&mut self.block).finalize());
        self.in_block = 0;
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(body: &[u8]) -> Prefix {
        let (key, head): (Box<str>, Box<[u8]>) = ("shop\0/".into(), b"head".as_slice().into());
        let at = prefix_length(key.len(), head.len(), body.len() as u64) as u32;
        let (body, sums) = (Span { at, length: body.len() as u64 }, Sums::of(body));
        let name = Name { hash: 0x0123_4567_89ab_cdef, variant: 7 };
        Prefix { name, is_removal: false, purges: 3, key, head, body, sums }
    }

    #[test]
    fn a_prefix_is_read_as_it_was_written_or_not_at_all() {
        let body = vec![b'x'; 3 * BLOCK as usize / 2];
        for prefix in [prefix(&body), prefix(b""), Prefix::removal(5)] {
            let bytes = prefix.bytes().unwrap();
            assert_eq!(Prefix::read(&bytes).unwrap(), prefix);
            for length in 0..bytes.len() {
                assert_eq!(Prefix::read(&bytes[..length]), None, "cut off at {length}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Prefix::read(&bytes), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_body_is_vouched_for_block_by_block_however_it_came() {
        let body: Vec<u8> = (0..5 * BLOCK / 2).map(|number| number as u8).collect();
        let sums = Sums::of(&body);
        for part in [1, 7, BLOCK as usize, body.len()] {
            let mut summing = Summing::default();
            body.chunks(part).for_each(|part| summing.add(part));
            assert_eq!(summing.end(), sums);
        }
        let block = BLOCK as usize;
        assert!(
            sums.vouch(0, &body) && sums.vouch(BLOCK, &body[block..]) && sums.vouch(BLOCK, &body[block..2 * block])
        );
        assert!(!sums.vouch(0, &body[block..]) && !sums.vouch(0, &body[..block - 1]) && !sums.vouch(3 * BLOCK, b"x"));
        assert_eq!(blocks(&(5..6), 100), 0..100);
        assert_eq!(blocks(&(BLOCK - 1..BLOCK + 1), 5 * BLOCK), 0..2 * BLOCK);
        assert_eq!(blocks(&(BLOCK..2 * BLOCK), 5 * BLOCK), BLOCK..2 * BLOCK);
    }
}
