//! The second tier of the cache: what is stored lies on disk as well, and is there after a restart.
//!
//! Used by `cache`, which looks here when the memory has nothing and tells here what it stores. Records lie in segments
//! that are only added to; an index in memory says where. The rule: nobody ever waits for a write, nobody on a worker for a
//! read, and whatever becomes of the disk costs stored responses and no request.

mod directory;
mod head;
mod index;
mod journal;
mod kept;
mod record;
mod segment;
mod shelves;
#[cfg(test)]
mod tests;
mod time;
mod writer;

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::Bytes;

use super::body::Body;
use super::key::Key;
use super::shares::Shares;
use super::stored::{Head, Stored};
use super::vary::Variant;
use crate::edge::shared::Complaints;
use directory::Directory;
pub use directory::discard;
use index::{Name, Place};
pub use journal::Event;
use journal::Journal;
pub use kept::Kept;
use record::Prefix;
pub use segment::Reading;
use segment::Segment;
use shelves::Shelves;
use time::Clock;
use writer::{Job, Pass, Record, Writer};

/// What may wait to be written, in bytes and in pieces; a response that finds it taken is not stored.
const QUEUE_BYTES: u64 = 32 << 20;
const QUEUE: usize = 4096;

#[derive(Debug)]
pub struct Disk {
    shelves: Arc<Shelves>,
    jobs: SyncSender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// What was purged.
    pub journal: Journal,
    names: hmac::Key,
    clock: Clock,
    complaints: Complaints,
}

/// A response that is written as its body comes. Let go of before its end, it is not stored.
#[derive(Debug)]
pub struct Stream {
    disk: Arc<Disk>,
    pass: Pass,
}

/// What is found on disk for a request.
#[derive(Debug)]
pub enum Found {
    Response(Box<Loaded>),
    /// It takes longer than a look.
    Away(Away),
    Nothing,
}

#[derive(Debug)]
pub struct Loaded {
    pub head: Head,
    pub body: Body,
    pub place: Place,
}

/// A record that is not in the kernel's memory.
#[derive(Debug, Clone)]
pub struct Away {
    segment: Arc<Segment>,
    place: Place,
}

impl Away {
    /// Has the kernel read it; then it is found without waiting, or at least soon.
    pub async fn fetched(&self) {
        let Self { segment, place } = self.clone();
        let read = move || segment.read(u64::from(place.offset), place.length as usize, Reading::Patient);
        // A read that fails does so again where somebody sees it.
        let _ = tokio::task::spawn_blocking(read).await;
    }
}

impl Stream {
    /// Adds a part of the body; false when the disk is too slow for it, and then the response is not stored.
    pub fn add(&self, part: Bytes) -> bool {
        self.disk.enqueue(part.len() as u64, Job::Part(self.pass.clone(), part))
    }

    /// The body has come whole.
    pub fn end(self) {
        // Where this finds no place, the response is not stored.
        self.disk.enqueue(0, Job::End(self.pass.clone()));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The writer takes away what nobody else holds, when it is woken.
        drop(std::mem::take(&mut self.pass));
        let _ = self.disk.jobs.try_send(Job::Note);
    }
}

impl Disk {
    /// Opens the cache below `root`, which holds `limit` bytes at the most. Takes as long as reading the lists of its files.
    pub fn open(root: &Path, limit: u64) -> Result<Self, directory::DirectoryError> {
        let (directory, left) = Directory::open(root)?;
        let (names, clock) = (hmac::Key::new(hmac::HMAC_SHA256, directory.key()), directory.clock());
        let mut shares = Shares::default();
        let listed = left.segments.iter().flat_map(|(_, listed)| listed);
        listed.filter(|listed| !listed.is_removal).for_each(|one| shares.add(&one.name.project(), one.whole));
        let (shelves, journal) = (Arc::new(Shelves::new(left.segments)), left.journal);
        let (jobs, queue) = sync_channel(QUEUE);
        let writer = Writer::new(directory, shelves.clone(), shares, limit);
        let started = Builder::new().name("cache-writer".to_owned()).spawn(move || writer.run(&queue));
        let writer = started.map_err(|error| directory::DirectoryError::Io(root.to_owned(), error))?;
        let (writer, complaints) = (Mutex::new(Some(writer)), Complaints::default());
        Ok(Self { shelves, jobs, writer, journal, names, clock, complaints })
    }

    /// All files together.
    pub fn bytes(&self) -> u64 {
        self.shelves.bytes()
    }

    pub fn resize(&self, limit: u64) {
        // A writer that is too busy hears of it with the next conf; one that ended has nothing to bound.
        let _ = self.jobs.try_send(Job::Resize(limit));
    }

    /// Looks for a response that is right for a request, the newest first.
    pub fn find(&self, key: &Key, is_right: impl Fn(&Variant) -> bool, reading: Reading) -> Found {
        let hash = self.hash(key);
        for place in self.shelves.index.find(hash) {
            let Some(segment) = self.shelves.segment(place.segment) else { continue };
            match self.load(&segment, place, key, reading) {
                Ok(Some(loaded)) if is_right(&loaded.head.variant) => return Found::Response(Box::new(loaded)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Found::Away(Away { segment, place }),
                Err(error) => {
                    self.complaints.say("cache", || tracing::warn!(%error, ?segment, "a part of the cache is lost"));
                    self.remove_hash(hash);
                    return Found::Nothing;
                }
            }
        }
        Found::Nothing
    }

    /// All that can be read of a key, the newest first. Waits for the disk.
    pub fn variants(&self, key: &Key) -> Vec<Loaded> {
        let load = |place: Place| {
            let segment = self.shelves.segment(place.segment)?;
            self.load(&segment, place, key, Reading::Patient).ok()?
        };
        self.shelves.index.find(self.hash(key)).into_iter().filter_map(load).collect()
    }

    /// Whether a record is what is found under its key still.
    pub fn has(&self, key: &Key, place: Place) -> bool {
        self.shelves.index.has(self.hash(key), place)
    }

    /// A record; `None` when it is another key's.
    fn load(&self, segment: &Arc<Segment>, place: Place, key: &Key, reading: Reading) -> io::Result<Option<Loaded>> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let at = u64::from(place.offset);
        let bytes = segment.read(at, place.length as usize, reading)?;
        let Prefix { key: own, head, body, sums, purges, .. } = Prefix::read(&bytes).ok_or_else(damaged)?;
        if *own != *key.text() {
            return Ok(None);
        }
        let now = Instant::now();
        let mut head = head::read(&head, |time| self.clock.since(time), now).ok_or_else(damaged)?;
        head.purges = purges;
        let (begin, whole) = (body.at as usize, u64::from(body.at) + body.length);
        if bytes.len() as u64 != whole {
            // It is looked at block by block when it leaves, and then it is late to learn of it.
            if segment.is_damaged() {
                return Err(damaged());
            }
            let kept = Kept::new(segment.clone(), at + u64::from(body.at), body.length, sums);
            return Ok(Some(Loaded { head, body: kept.into(), place }));
        }
        if !sums.vouch(0, &bytes[begin..]) {
            return Err(damaged());
        }
        let body = Body::Here(Bytes::from(bytes).slice(begin..));
        Ok(Some(Loaded { head, body, place }))
    }

    /// Has a response written, which was asked for after so many purges. Whatever lies there in its place is not found from
    /// now on.
    pub fn store(&self, key: &Key, stored: &Arc<Stored>, purges: u64) {
        let weight = stored.weight() as u64;
        self.put(key, (stored, purges, 0), |record| self.enqueue(weight, Job::Store(record)));
    }

    /// As `store`, for a response whose body, of at most so many bytes, is still to come.
    pub fn begin(self: &Arc<Self>, key: &Key, stored: &Arc<Stored>, purges: u64, most: u64) -> Option<Stream> {
        let stream = Stream { disk: self.clone(), pass: Pass::default() };
        let begin = |record| self.enqueue(0, Job::Begin(stream.pass.clone(), record));
        self.put(key, (stored, purges, most), begin).then_some(stream)
    }

    /// Whether it is going to be written.
    fn put(
        &self,
        key: &Key,
        (stored, purges, most): (&Arc<Stored>, u64, u64),
        send: impl FnOnce(Box<Record>) -> bool,
    ) -> bool {
        let name = self.name(key, &stored.variant);
        let ticket = self.shelves.index.claim(name);
        let record = Record { name, ticket, key: key.clone(), stored: stored.clone(), purges, most };
        let is_taken = send(Box::new(record));
        if !is_taken && self.shelves.index.give_up(name, ticket) {
            self.note_removed(name.hash);
        }
        is_taken
    }

    /// Removes a key with all its variants.
    pub fn remove(&self, key: &Key) {
        self.remove_hash(self.hash(key));
    }

    fn remove_hash(&self, hash: u64) {
        if self.shelves.index.remove(hash) {
            self.note_removed(hash);
        }
    }

    fn note_removed(&self, hash: u64) {
        self.shelves.note_removed(hash);
        // Whatever else it is to do, the writer looks at these first.
        let _ = self.jobs.try_send(Job::Note);
    }

    /// Whether it was taken.
    fn enqueue(&self, bytes: u64, job: Job) -> bool {
        let queued = self.shelves.queued.fetch_add(bytes, Ordering::Relaxed);
        // One alone may be longer than the queue.
        let is_taken = (queued == 0 || queued + bytes <= QUEUE_BYTES) && self.jobs.try_send(job).is_ok();
        if !is_taken {
            self.shelves.queued.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Writes what waits and leaves everything on disk, as far as `within` allows.
    pub fn close(&self, within: Duration) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (told, done) = sync_channel(1);
        if self.jobs.send(Job::Close(told)).is_ok() && done.recv_timeout(within).is_ok() {
            // It has said that it is done.
            let _ = writer.join();
        }
    }

    fn hash(&self, key: &Key) -> u64 {
        let hash = record::u64_at(hmac::sign(&self.names, key.text().as_bytes()).as_ref(), 0).unwrap_or_default();
        index::within(key.project(), hash)
    }

    fn name(&self, key: &Key, variant: &Variant) -> Name {
        let of_variant = |variant| {
            let bytes = hmac::sign(&self.names, &head::variant(variant));
            record::u32_at(bytes.as_ref(), 0).unwrap_or_default().max(1)
        };
        let number = if variant.is_for_all() { 0 } else { of_variant(variant) };
        Name { hash: self.hash(key), variant: number }
    }
}
