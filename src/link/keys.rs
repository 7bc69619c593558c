//! Certificates with their keys, on their way to an edge that may not read the files: one sealed file in memory, whose
//! descriptor travels beside the section that names them.
//!
//! Written by control, read by the edge. The rule: a key is never on a disk for the edge's sake, and what was handed over
//! cannot be changed by either side. A record is a line of JSON, then the bytes of the chain, then those of the key.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

/// The longest line of a record, in bytes: a digest and two numbers, and room for words that a later version adds.
const LINE_MAX: usize = 512;

#[derive(Serialize, Deserialize)]
struct Record {
    /// As in the section.
    digest: String,
    /// In bytes.
    chain: usize,
    key: usize,
}

/// SHA-256 over the chain's bytes, then the key's, in lower-case hexadecimal.
pub fn digest(chain: &[u8], key: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(chain);
    context.update(key);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pairs being packed.
#[derive(Debug)]
pub struct Packing(File);

impl Packing {
    pub fn begin() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3, which does not know that flag.
            Err(rustix::io::Errno::INVAL) => memfd_create(NAME, flags)?,
            memory => memory?,
        };
        Ok(Self(memory.into()))
    }

    pub fn add(&mut self, digest: &str, chain: &[u8], key: &[u8]) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Record { digest: digest.to_owned(), chain: chain.len(), key: key.len() })?;
        line.push(b'\n');
        [&line, chain, key].into_iter().try_for_each(|bytes| self.0.write_all(bytes))
    }

    /// What travels.
    pub fn seal(self) -> io::Result<OwnedFd> {
        fcntl_add_seals(&self.0, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(self.0.into())
    }
}

/// Pairs that were handed over, by their digests.
#[derive(Debug)]
pub struct Keys {
    memory: File,
    places: HashMap<String, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    chain: usize,
    key: usize,
}

impl Keys {
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        let memory = File::from(memory);
        let (size, mut at, mut places) = (memory.metadata()?.len(), 0, HashMap::new());
        while at < size {
            let mut start = [0; LINE_MAX];
            let read = memory.read_at(&mut start, at)?;
            let length = start[..read].iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::InvalidData)?;
            let Record { digest, chain, key } = serde_json::from_slice(&start[..length])?;
            let place = Place { at: at + length as u64 + 1, chain, key };
            at = place.end().filter(|end| *end <= size).ok_or(io::ErrorKind::UnexpectedEof)?;
            places.insert(digest, place);
        }
        Ok(Self { memory, places })
    }

    /// The bytes of chain and key; `None` when this pair did not travel.
    pub fn pair(&self, digest: &str) -> Option<io::Result<(Vec<u8>, Vec<u8>)>> {
        let place = *self.places.get(digest)?;
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            self.memory.read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        Some(read(place.at, place.chain).and_then(|chain| Ok((chain, read(place.at + place.chain as u64, place.key)?))))
    }
}

impl Place {
    /// Where the next record begins; `None` for lengths that no file has.
    fn end(self) -> Option<u64> {
        self.at.checked_add(self.chain as u64)?.checked_add(self.key as u64)
    }
}

/// As /proc shows it.
const NAME: &str = "opri certificates";

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(pairs: &[(&str, &[u8], &[u8])]) -> OwnedFd {
        let mut packing = Packing::begin().unwrap();
        pairs.iter().for_each(|(digest, chain, key)| packing.add(digest, chain, key).unwrap());
        packing.seal().unwrap()
    }

    #[test]
    fn every_pair_arrives_as_it_was_and_no_other_is_there() {
        let chains: Vec<_> = (0..10_000).map(|n| format!("chain {n}\n").repeat(n % 7 * 40)).collect();
        let digests: Vec<_> = (0..10_000).map(|n| format!("{n:064x}")).collect();
        let pair = |n: usize| (digests[n].as_str(), chains[n].as_bytes(), b"key".as_slice());
        let keys = Keys::open(packed(&(0..10_000).map(pair).collect::<Vec<_>>())).unwrap();
        for n in [0, 1, 5, 4_711, 9_999] {
            assert_eq!(keys.pair(&digests[n]).unwrap().unwrap(), (chains[n].clone().into_bytes(), b"key".to_vec()));
        }
        assert!(keys.pair("none").is_none());
        assert!(Keys::open(packed(&[])).unwrap().pair("none").is_none());
    }

    #[test]
    fn nobody_changes_what_was_handed_over() {
        let memory = File::from(packed(&[("a", b"chain", b"key")]));
        assert!(memory.write_at(b"x", 0).is_err());
        assert!(memory.set_len(0).is_err() && memory.set_len(1 << 20).is_err());
    }

    #[test]
    fn bytes_that_are_no_records_are_refused() {
        let huge = format!("{{\"digest\":\"a\",\"chain\":{},\"key\":{}}}\n", usize::MAX, usize::MAX);
        let (short, endless) = ("{\"digest\":\"a\",\"chain\":9,\"key\":9}\nshort", "x".repeat(LINE_MAX));
        for text in ["no record\n", "{}", short, &huge, &endless] {
            let mut packing = Packing::begin().unwrap();
            packing.0.write_all(text.as_bytes()).unwrap();
            assert!(Keys::open(packing.seal().unwrap()).is_err(), "{text:.40}");
        }
    }
}
