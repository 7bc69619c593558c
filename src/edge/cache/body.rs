//! The body of a stored response: in memory, or still on disk.
//!
//! Held by `stored`, sent by whoever answers. The rule: what is on disk is never in memory as a whole.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::disk::Kept;

#[derive(Debug, Clone)]
pub enum Body {
    Here(Bytes),
    Elsewhere(Box<Elsewhere>),
}

/// Set apart, so that what is in memory takes as little of it as its bytes do.
#[derive(Debug, Clone)]
pub enum Elsewhere {
    /// On disk.
    Kept(Kept),
    /// One after the other, some of them on disk.
    Pieces(VecDeque<Body>),
}

impl Body {
    /// In bytes.
    pub fn len(&self) -> usize {
        match self {
            Body::Here(bytes) => bytes.len(),
            Body::Elsewhere(elsewhere) => match &**elsewhere {
                // At most 2 GiB.
                Elsewhere::Kept(kept) => kept.len() as usize,
                Elsewhere::Pieces(pieces) => pieces.iter().map(Body::len).sum(),
            },
        }
    }

    /// One of several.
    pub fn joined(pieces: VecDeque<Body>) -> Self {
        let all: Option<Vec<&[u8]>> = pieces.iter().map(|piece| piece.at_hand().map(|bytes| &bytes[..])).collect();
        match all {
            Some(all) => Body::Here(all.concat().into()),
            None => Body::Elsewhere(Box::new(Elsewhere::Pieces(pieces))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes in memory, in bytes.
    pub fn weight(&self) -> usize {
        self.at_hand().map_or(0, Bytes::len)
    }

    /// All of it, where it is in memory.
    pub fn at_hand(&self) -> Option<&Bytes> {
        match self {
            Body::Here(bytes) => Some(bytes),
            Body::Elsewhere(_) => None,
        }
    }

    /// All of it, where it lies on disk in one piece.
    pub fn kept(&self) -> Option<&Kept> {
        match self {
            Body::Elsewhere(elsewhere) => match &**elsewhere {
                Elsewhere::Kept(kept) => Some(kept),
                Elsewhere::Pieces(_) => None,
            },
            Body::Here(_) => None,
        }
    }

    /// A part of it, which is there.
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Body::Here(bytes) => Body::Here(bytes.slice(range)),
            Body::Elsewhere(elsewhere) => match &**elsewhere {
                Elsewhere::Kept(kept) => kept.slice(range.start as u64..range.end as u64).into(),
                Elsewhere::Pieces(_) => Body::default(),
            },
        }
    }

    /// Takes what is to be sent next, all of it where that is in memory. An error when the disk does not give it back as it
    /// was stored: then the answer is torn.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Body::Here(bytes) => Ok(std::mem::take(bytes)),
            Body::Elsewhere(elsewhere) => elsewhere.next().await,
        }
    }
}

impl Elsewhere {
    async fn next(&mut self) -> io::Result<Bytes> {
        let pieces = match self {
            Elsewhere::Kept(kept) => return kept.next().await,
            Elsewhere::Pieces(pieces) => pieces,
        };
        while pieces.front().is_some_and(Body::is_empty) {
            pieces.pop_front();
        }
        match pieces.front_mut() {
            None => Ok(Bytes::new()),
            Some(Body::Here(bytes)) => Ok(std::mem::take(bytes)),
            Some(Body::Elsewhere(elsewhere)) => match &mut **elsewhere {
                Elsewhere::Kept(kept) => kept.next().await,
                // No piece consists of pieces.
                Elsewhere::Pieces(_) => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::Here(Bytes::new())
    }
}

impl From<Kept> for Body {
    fn from(kept: Kept) -> Self {
        Body::Elsewhere(Box::new(Elsewhere::Kept(kept)))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Here(bytes)
    }
}
