//! One file of records, which is only ever added to, and then sealed with the list of what lies in it.
//!
//! Written by `writer`, read by `disk` at a hit and by `directory` at the start. The rule: a list is believed when its
//! checksum is right; where there is none, because an edge ended before it was written, every record is judged by itself
//! and the file ends where the first does that is not whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::index::{Name, Place};
use super::record::{FIXED, Lengths, Prefix, u32_at, u64_at};

/// What a file begins with, before its number.
const MAGIC: &[u8; 8] = b"opri-seg";
/// Where the first record lies.
pub const START: u64 = 16;
/// What a sealed file ends with, before how many records it has and the checksum of their list.
const SEAL: &[u8; 8] = b"opri-end";
const SEAL_LENGTH: u64 = 24;
const LISTED_LENGTH: usize = 32;
/// A record up to this long is read in one go, with its body, in bytes; of a longer one the prefix is.
pub const AT_ONCE: u64 = 256 << 10;
/// How much of a file is read at once where every record is judged.
const SCANNED: usize = 1 << 20;

#[derive(Debug)]
pub struct Segment {
    /// Counted from 1, in the order in which they were begun.
    pub id: u32,
    path: PathBuf,
    file: File,
    /// Whether what was read of it was not what had been written.
    is_damaged: AtomicBool,
}

/// A record of a segment, as its list has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub name: Name,
    pub place: Place,
    /// With its body, in bytes.
    pub whole: u64,
    pub is_removal: bool,
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What the kernel has in memory, and else nothing.
    AtOnce,
    Patient,
}

#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("{0} is no segment of the cache")]
    Strange(PathBuf),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

impl Segment {
    /// No long body is read from it any more.
    pub fn damaged(&self) {
        self.is_damaged.store(true, Ordering::Relaxed);
    }

    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    pub fn create(dir: &Path, id: u32) -> io::Result<Self> {
        let path = dir.join(format!("{id:08x}.seg"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let segment = Self { id, path, file, is_damaged: AtomicBool::new(false) };
        let begun = segment.write(&[&MAGIC[..], &id.to_le_bytes(), &[0; 4]].concat(), 0);
        begun.inspect_err(|_| segment.remove())?;
        Ok(segment)
    }

    /// Opens one of an earlier process, and the list of its records. It is sealed from now on.
    pub fn open(path: &Path) -> Result<(Self, Vec<Listed>), SegmentError> {
        let failed = |error| SegmentError::Io(path.to_owned(), error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let mut begin = [0; START as usize];
        let length = file.metadata().map_err(failed)?.len();
        // An edge may have ended before it had written these.
        let is_begun = length >= START;
        if is_begun {
            file.read_exact_at(&mut begin, 0).map_err(failed)?;
        }
        let name = path.file_stem().and_then(|name| u32::from_str_radix(name.to_str()?, 16).ok());
        let id = name.filter(|id| *id > 0 && (!is_begun || u32_at(&begin, 8) == Some(*id)));
        let is_known = !is_begun || begin.starts_with(MAGIC);
        let id = id.filter(|_| is_known).ok_or_else(|| SegmentError::Strange(path.to_owned()))?;
        let segment = Self { id, path: path.to_owned(), file, is_damaged: AtomicBool::new(false) };
        let listed = match segment.list(length).map_err(failed)? {
            Some(listed) => listed,
            None => segment.mend(length).map_err(failed)?,
        };
        Ok((segment, listed))
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Takes away what lies behind `length`.
    pub fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes the list of what lies in it behind the records, which end at `end`; how long the file is then.
    pub fn seal(&self, listed: &[Listed], end: u64) -> io::Result<u64> {
        let mut bytes = Vec::with_capacity(listed.len() * LISTED_LENGTH + SEAL_LENGTH as usize);
        for one in listed {
            bytes.extend_from_slice(&one.name.hash.to_le_bytes());
            let kind = u32::from(one.is_removal);
            for number in [one.name.variant, one.place.offset, one.place.length, kind] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&one.whole.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(SEAL);
        bytes.extend_from_slice(&(listed.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        self.write(&bytes, end)?;
        Ok(end + bytes.len() as u64)
    }

    /// The list that a file of this length ends with; `None` when it has none that can be believed.
    fn list(&self, length: u64) -> io::Result<Option<Vec<Listed>>> {
        let Some(seal_at) = length.checked_sub(SEAL_LENGTH).filter(|at| *at >= START) else { return Ok(None) };
        let mut seal = [0; SEAL_LENGTH as usize];
        self.file.read_exact_at(&mut seal, seal_at)?;
        let is_own = seal.starts_with(SEAL) && u32_at(&seal, 20) == Some(self.id);
        let size = u64_at(&seal, 8).and_then(|count| count.checked_mul(LISTED_LENGTH as u64)).filter(|_| is_own);
        let Some(at) = size.and_then(|size| seal_at.checked_sub(size)).filter(|at| *at >= START) else {
            return Ok(None);
        };
        let mut bytes = vec![0; (seal_at - at) as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        let is_right = u32_at(&seal, 16) == Some(crc32fast::hash(&bytes));
        Ok(is_right.then(|| bytes.chunks_exact(LISTED_LENGTH).filter_map(|bytes| self.listed(bytes)).collect()))
    }

    fn listed(&self, bytes: &[u8]) -> Option<Listed> {
        let name = Name { hash: u64_at(bytes, 0)?, variant: u32_at(bytes, 8)? };
        let place = Place { segment: self.id, offset: u32_at(bytes, 12)?, length: u32_at(bytes, 16)? };
        Some(Listed { name, place, whole: u64_at(bytes, 24)?, is_removal: u32_at(bytes, 20)? == 1 })
    }

    /// The list again, of a sealed one.
    pub fn relist(&self) -> io::Result<Vec<Listed>> {
        self.list(self.length()?)?.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Judges every record, cuts off what is not whole, and seals the file.
    fn mend(&self, length: u64) -> io::Result<Vec<Listed>> {
        let (mut listed, mut at) = (Vec::new(), START);
        while let Some((prefix, whole)) = self.record(at, length)? {
            let Ok(offset) = u32::try_from(at) else { break };
            let place = Place { segment: self.id, offset, length: read_at_once(whole, &prefix) };
            listed.push(Listed { name: prefix.name, place, whole, is_removal: prefix.is_removal });
            at += whole;
        }
        self.cut(at.min(length))?;
        if !listed.is_empty() {
            self.seal(&listed, at)?;
        }
        Ok(listed)
    }

    /// A record that is whole, and its length.
    fn record(&self, at: u64, end: u64) -> io::Result<Option<(Prefix, u64)>> {
        let mut fixed = [0; FIXED];
        if at + FIXED as u64 > end {
            return Ok(None);
        }
        self.file.read_exact_at(&mut fixed, at)?;
        let lengths = Lengths::of(&fixed).filter(|lengths| at + lengths.whole() <= end);
        let Some(lengths) = lengths else { return Ok(None) };
        let mut bytes = vec![0; lengths.prefix];
        self.file.read_exact_at(&mut bytes, at)?;
        let Some(prefix) = Prefix::read(&bytes) else { return Ok(None) };
        let (mut from, body_at) = (0, at + u64::from(prefix.body.at));
        let mut part = vec![0; SCANNED.min(prefix.body.length as usize)];
        while from < prefix.body.length {
            let here = (prefix.body.length - from).min(SCANNED as u64);
            let part = &mut part[..here as usize];
            self.file.read_exact_at(part, body_at + from)?;
            if !prefix.sums.vouch(from, part) {
                return Ok(None);
            }
            from += here;
        }
        Ok(Some((prefix, lengths.whole())))
    }

    /// Reads exactly so many bytes; `WouldBlock` when that would take longer than the one who asks waits.
    pub fn read(&self, at: u64, length: usize, reading: Reading) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match reading {
            Reading::Patient => self.file.read_exact_at(&mut bytes, at)?,
            Reading::AtOnce => {
                let read = preadv2(&self.file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT);
                match read {
                    Ok(read) if read == length => {}
                    // A part of it lies in memory, or the file system cannot tell.
                    Ok(_) | Err(Errno::OPNOTSUPP | Errno::AGAIN | Errno::NOSYS) => {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(bytes)
    }

    /// Whoever reads from it goes on doing so.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a file of the cache stays behind");
        }
    }
}

/// How much of a record is read first.
pub fn read_at_once(whole: u64, prefix: &Prefix) -> u32 {
    let length = if whole <= AT_ONCE { whole } else { prefix.body_begins() };
    u32::try_from(length).unwrap_or(u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Span, Sums, prefix_length};
    use super::*;

    fn record(hash: u64, body: &[u8]) -> Vec<u8> {
        let at = prefix_length(3, 4, body.len() as u64) as u32;
        let (span, sums) = (Span { at, length: body.len() as u64 }, Sums::of(body));
        let (key, head) = ("key".into(), b"head".as_slice().into());
        let name = Name { hash, variant: 0 };
        let prefix = Prefix { name, is_removal: false, purges: 0, key, head, body: span, sums };
        [&prefix.bytes().unwrap(), body].concat()
    }

    /// A file with two records that an edge ended at, and where the second begins and ends.
    fn left_behind(dir: &Path) -> (PathBuf, Vec<u8>, [usize; 2]) {
        let segment = Segment::create(dir, 1).unwrap();
        let records = [record(1, b"first"), record(2, b"second")];
        let second = START as usize + records[0].len();
        segment.write(&records[0], START).unwrap();
        segment.write(&records[1], second as u64).unwrap();
        let bytes = fs::read(&segment.path).unwrap();
        (segment.path.clone(), bytes, [second, second + records[1].len()])
    }

    fn hashes(listed: &[Listed]) -> Vec<u64> {
        listed.iter().map(|listed| listed.name.hash).collect()
    }

    #[test]
    fn a_record_that_is_cut_off_anywhere_is_not_there_and_the_one_before_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, [second, end]) = left_behind(dir.path());
        for length in second..=end {
            fs::write(&path, &bytes[..length]).unwrap();
            let (_, listed) = Segment::open(&path).unwrap();
            assert_eq!(hashes(&listed), if length == end { vec![1, 2] } else { vec![1] }, "{length} of {end}");
            let (_, again) = Segment::open(&path).unwrap();
            assert_eq!(again, listed, "it is sealed by now");
        }
        for length in 0..second {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(Segment::open(&path).unwrap().1.is_empty(), "{length}");
        }
    }

    #[test]
    fn a_record_with_any_bit_wrong_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes, [second, end]) = left_behind(dir.path());
        for bit in second * 8..end * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(hashes(&Segment::open(&path).unwrap().1), [1], "bit {bit}");
        }
    }

    #[test]
    fn a_list_that_was_cut_off_or_is_wrong_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, records, [_, end]) = left_behind(dir.path());
        drop(Segment::open(&path).unwrap());
        let sealed = fs::read(&path).unwrap();
        assert_eq!(sealed.len(), end + 2 * LISTED_LENGTH + SEAL_LENGTH as usize);
        for length in end..sealed.len() {
            fs::write(&path, &sealed[..length]).unwrap();
            assert_eq!(hashes(&Segment::open(&path).unwrap().1), [1, 2]);
            assert_eq!(fs::read(&path).unwrap(), sealed);
        }
        for bit in end * 8..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(hashes(&Segment::open(&path).unwrap().1), [1, 2], "bit {bit}");
        }
        fs::write(&path, [&b"something else entirely"[..], &records].concat()).unwrap();
        assert!(matches!(Segment::open(&path), Err(SegmentError::Strange(_))));
    }
}
