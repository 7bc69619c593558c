//! The encoders, each given a body in parts.
//!
//! Made through `compress` for one answer. The rule: a part that an app sends without saying how much will follow reaches
//! the client at once; and what encoders hold is bounded, however long a body is and however slowly it is taken.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use brotli::CompressorWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::Coding;

/// Levels at which one more costs more than it saves.
const GZIP_LEVEL: u32 = 5;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// How far back the encoders look, as powers of two in bytes.
const WINDOW_MIN: u32 = 14;
const WINDOW_MAX: u32 = 18;
/// What brotli gathers before it hands on, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// Encoders at work at once. While its client takes its time each holds 0.4 MB (gzip), 1.2 MB (zstd) or 1.7 MB (brotli).
const ENCODERS: usize = 64;

/// Where encoders come from.
#[derive(Debug)]
pub struct Encoders(Arc<Semaphore>);

impl Encoders {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(ENCODERS)))
    }

    /// For a body of `length` bytes, where that is known; `None` when all are at work: then an answer leaves as it is.
    pub fn take(&self, coding: Coding, length: Option<u64>) -> Option<Encoder> {
        let place = self.0.clone().try_acquire_owned().ok()?;
        Encoder::new(coding, length, place).ok()
    }
}

pub struct Encoder {
    kind: Kind,
    _place: OwnedSemaphorePermit,
    /// Whether nobody knows how much will come: an app that makes its page while it sends it.
    is_open: bool,
    has_news: bool,
}

enum Kind {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding, length: Option<u64>, place: OwnedSemaphorePermit) -> io::Result<Self> {
        let window = length.map_or(WINDOW_MAX, |length| length.max(1).ilog2() + 1).clamp(WINDOW_MIN, WINDOW_MAX);
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
            Coding::Brotli => {
                Kind::Brotli(Box::new(CompressorWriter::new(Vec::new(), BROTLI_BUFFER, BROTLI_LEVEL, window)))
            }
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(window))?;
                Kind::Zstd(encoder)
            }
        };
        Ok(Self { kind, _place: place, is_open: length.is_none(), has_news: false })
    }

    /// Takes in a part of the body.
    pub fn add(&mut self, part: &[u8]) -> io::Result<()> {
        self.has_news |= !part.is_empty();
        self.writer().write_all(part)
    }

    /// What can leave by now, perhaps nothing.
    pub fn part(&mut self) -> io::Result<Vec<u8>> {
        if self.is_open && std::mem::take(&mut self.has_news) {
            self.writer().flush()?;
        }
        Ok(std::mem::take(match &mut self.kind {
            Kind::Gzip(encoder) => encoder.get_mut(),
            Kind::Brotli(encoder) => encoder.get_mut(),
            Kind::Zstd(encoder) => encoder.get_mut(),
        }))
    }

    /// All that is left, with the end of the coding.
    pub fn end(self) -> io::Result<Vec<u8>> {
        match self.kind {
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Brotli(encoder) => Ok(encoder.into_inner()),
            Kind::Zstd(encoder) => encoder.finish(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.kind {
            Kind::Gzip(encoder) => encoder,
            Kind::Brotli(encoder) => encoder,
            Kind::Zstd(encoder) => encoder,
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Read;

    use super::*;

    pub fn decode(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap(),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain).unwrap(),
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut plain).unwrap(),
        };
        plain
    }

    #[test]
    fn a_body_comes_out_as_it_went_in() {
        let body: Vec<u8> = (0..150_000_u64).flat_map(|number| (number * number).to_string().into_bytes()).collect();
        for coding in Coding::ALL {
            for length in [None, Some(body.len() as u64)] {
                let mut encoder = Encoders::new().take(coding, length).unwrap();
                let mut coded = Vec::new();
                for part in body.chunks(60_000) {
                    encoder.add(part).unwrap();
                    coded.extend(encoder.part().unwrap());
                }
                coded.extend(encoder.end().unwrap());
                assert!(decode(coding, &coded) == body && coded.len() * 2 < body.len(), "{coding:?} {}", coded.len());
            }
            let empty = Encoders::new().take(coding, Some(0)).unwrap().end().unwrap();
            assert_eq!(decode(coding, &empty), b"");
        }
    }

    #[test]
    fn what_has_no_known_end_is_not_held_back() {
        for coding in Coding::ALL {
            let mut encoder = Encoders::new().take(coding, None).unwrap();
            encoder.add(b"the first line").unwrap();
            assert!(encoder.part().unwrap().len() > 14, "{coding:?}");
            assert!(encoder.part().unwrap().is_empty(), "{coding:?}: nothing new");
        }
    }

    #[test]
    fn there_are_only_so_many_at_once() {
        let encoders = Encoders::new();
        let mut all: Vec<_> = (0..ENCODERS).map(|_| encoders.take(Coding::Gzip, None).unwrap()).collect();
        assert!(encoders.take(Coding::Gzip, None).is_none());
        all.pop().unwrap().end().unwrap();
        assert!(encoders.take(Coding::Gzip, None).is_some());
    }
}
