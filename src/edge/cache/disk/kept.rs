//! A body, or a part of one, that is read as it leaves, because it is too long to be read at once.
//!
//! Found by `disk`, sent by whoever answers. The rule: each block is checked before a byte of it leaves.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, BLOCK, Sums};
use super::segment::{Reading, Segment};

/// What is read at once, in bytes: whole blocks.
const PART: u64 = 4 * BLOCK;

/// Whatever becomes of its segment, it can be read for as long as this is held.
#[derive(Debug, Clone)]
pub struct Kept {
    whole: Arc<Whole>,
    part: Range<u64>,
}

#[derive(Debug)]
struct Whole {
    segment: Arc<Segment>,
    /// Where it begins in the segment.
    at: u64,
    length: u64,
    sums: Sums,
}

impl Kept {
    pub(super) fn new(segment: Arc<Segment>, at: u64, length: u64, sums: Sums) -> Self {
        Self { whole: Arc::new(Whole { segment, at, length, sums }), part: 0..length }
    }

    /// The checksums of the whole body.
    pub(super) fn sums(&self) -> &Sums {
        &self.whole.sums
    }

    /// Writes the whole body to another place; an error as for `next`.
    pub(super) fn copy(&self, to: &Segment, at: u64) -> io::Result<()> {
        let mut from = 0;
        while from < self.whole.length {
            let until = (from + PART).min(self.whole.length);
            to.write(&self.whole.read(from..until, Reading::Patient)?, at + from)?;
            from = until;
        }
        Ok(())
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// Of this the bytes in a range, as far as there are such.
    pub fn slice(&self, range: Range<u64>) -> Self {
        let at = |offset: u64| self.part.start.saturating_add(offset).min(self.part.end);
        Self { whole: self.whole.clone(), part: at(range.start)..at(range.end) }
    }

    /// Takes as much from its begin as is read at once. An error when it cannot be read, or is not what was stored.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        let until = (self.part.start / BLOCK * BLOCK + PART).min(self.part.end);
        let part = self.part.start..until;
        let bytes = match self.whole.read(part.clone(), Reading::AtOnce) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let whole = self.whole.clone();
                let read = tokio::task::spawn_blocking(move || whole.read(part, Reading::Patient)).await;
                read.map_err(io::Error::other)?
            }
            read => read,
        }?;
        self.part.start = until;
        Ok(bytes)
    }
}

impl Whole {
    fn read(&self, part: Range<u64>, reading: Reading) -> io::Result<Bytes> {
        let blocks = record::blocks(&part, self.length);
        let length = (blocks.end - blocks.start) as usize;
        let bytes = self.segment.read(self.at + blocks.start, length, reading)?;
        if !self.sums.vouch(blocks.start, &bytes) {
            self.segment.damaged();
            return Err(io::ErrorKind::InvalidData.into());
        }
        let from = (part.start - blocks.start) as usize;
        Ok(Bytes::from(bytes).slice(from..from + (part.end - part.start) as usize))
    }
}
