//! The one thread that writes to the cache's directory, and takes away what is oldest.
//!
//! Started by `disk`, fed by a bounded queue; nobody waits for it. The rule: what cannot be written is not stored, and
//! nothing else comes of it; all files together never take more than conf allows, but for the one that is being replaced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::directory::Directory;
use super::head;
use super::index::{Name, Place, Released, Ticket};
use super::record::{Prefix, Span, Summing, Sums, prefix_length};
use super::segment::{Listed, Reading, START, Segment, read_at_once};
use super::shelves::Shelves;
use super::time::Clock;
use crate::edge::cache::key::Key;
use crate::edge::cache::shares::Shares;
use crate::edge::cache::stored::Stored;

/// All files together are about so many segments.
const SEGMENTS: u64 = 128;
const SEGMENT_MIN: u64 = 256 << 10;
const SEGMENT_MAX: u64 = 1 << 30;
/// The part of the whole that one response may take.
const SHARE: u64 = 4;
/// The part of a segment's bytes that may be written again when it goes, because it was asked for.
const AGAIN: u64 = 2;
/// The longest response that is written again, in bytes: it is read whole.
const AGAIN_MAX: u64 = 16 << 20;
/// For how long nothing is tried after a write has failed.
const REST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub enum Job {
    Store(Box<Record>),
    /// A response whose body comes in parts, each with its pass.
    Begin(Pass, Box<Record>),
    Part(Pass, Bytes),
    /// Its body has come whole.
    End(Pass),
    /// Something was removed.
    Note,
    /// How many bytes all files together may take.
    Resize(u64),
    Close(SyncSender<()>),
}

/// Stands for one body that comes in parts. Once nobody but the writer has it, the rest will not come.
pub type Pass = Arc<()>;

/// A response to be written.
#[derive(Debug)]
pub struct Record {
    pub name: Name,
    pub ticket: Ticket,
    pub key: Key,
    pub stored: Arc<Stored>,
    /// How many purges there had been when the app was asked for it.
    pub purges: u64,
    /// What its body may be at the most, in bytes, where it comes in parts.
    pub most: u64,
}

#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    clock: Clock,
    shelves: Arc<Shelves>,
    /// By the number of the project. What was replaced or removed counts for as long as it lies there.
    shares: Shares<u16>,
    limit: u64,
    /// The number of the next segment.
    next: u32,
    open: Option<Open>,
    coming: Vec<Coming>,
    /// Records of segments that went, to be written again.
    wanted: Vec<Wanted>,
    /// When to try again, after a write has failed.
    resting: Option<Instant>,
}

/// The segment that is added to.
#[derive(Debug)]
struct Open {
    segment: Arc<Segment>,
    end: u64,
    listed: Vec<Listed>,
}

/// A response whose body comes in parts: it has a segment of its own.
#[derive(Debug)]
struct Coming {
    pass: Pass,
    record: Box<Record>,
    head: Box<[u8]>,
    segment: Arc<Segment>,
    body: Span,
    summing: Summing,
}

#[derive(Debug)]
struct Wanted {
    name: Name,
    ticket: Ticket,
    segment: Arc<Segment>,
    place: Place,
    whole: u64,
    /// Whether nobody had to ask for it.
    is_guarded: bool,
}

impl Writer {
    pub fn new(directory: Directory, shelves: Arc<Shelves>, shares: Shares<u16>, limit: u64) -> Self {
        let next = shelves.ids().last().map_or(1, |last| last + 1);
        let clock = directory.clock();
        let (open, coming, wanted) = (None, Vec::new(), Vec::new());
        Self { directory, clock, shelves, shares, limit, next, open, coming, wanted, resting: None }
    }

    /// Works until nobody is there to give it any.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        self.make_room(0);
        let mut done = None;
        while let Ok(job) = jobs.recv() {
            self.note_removed();
            if let Job::Close(told) = job {
                done = Some(told);
                break;
            }
            self.perform(job);
            self.write_again();
            self.let_go();
        }
        self.close();
        // Whoever waited may have given up.
        let _ = done.map(|told| told.send(()));
    }

    fn perform(&mut self, job: Job) {
        match job {
            Job::Store(record) => {
                let written = self.store(&record);
                let is_written = written.is_ok();
                if !self.settle(&record, written) && is_written {
                    // It was removed meanwhile.
                    self.remove(record.name);
                }
                self.shelves.queued.fetch_sub(record.stored.weight() as u64, Ordering::Relaxed);
            }
            Job::Begin(pass, record) => match self.begin(pass, record) {
                Ok(coming) => self.coming.push(coming),
                Err((record, error)) => {
                    self.settle(&record, Err(error));
                }
            },
            Job::Part(pass, part) => {
                self.part(&pass, &part);
                self.shelves.queued.fetch_sub(part.len() as u64, Ordering::Relaxed);
            }
            Job::End(pass) => {
                if let Some(coming) = self.take(&pass) {
                    self.end(coming, true);
                }
            }
            Job::Resize(limit) => {
                self.limit = limit;
                self.make_room(0);
            }
            Job::Note | Job::Close(_) => {}
        }
    }

    fn segment_size(&self) -> u64 {
        (self.limit / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX)
    }

    fn store(&mut self, record: &Record) -> io::Result<Place> {
        let stored = &record.stored;
        let (length, sums) = match (stored.body.at_hand(), stored.body.kept()) {
            (Some(bytes), _) => (bytes.len() as u64, Sums::of(bytes)),
            // It lies there already, with an older head.
            (None, Some(kept)) => (kept.len(), kept.sums().clone()),
            (None, None) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        self.judge(length.max(stored.weight() as u64))?;
        let head = head::write(stored, self.clock.now(), Instant::now()).into_boxed_slice();
        let key = Box::from(record.key.text());
        let at = prefix_length(record.key.text().len(), head.len(), length) as u32;
        let (body, purges) = (Span { at, length }, record.purges);
        let prefix = Prefix { name: record.name, is_removal: false, purges, key, head, body, sums };
        self.append_by(&prefix, |segment, at| match (stored.body.at_hand(), stored.body.kept()) {
            (Some(bytes), _) => segment.write(bytes, at),
            // What is damaged is nobody's fault here.
            (None, Some(kept)) => kept.copy(segment, at).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => io::ErrorKind::WouldBlock.into(),
                _ => error,
            }),
            (None, None) => Err(io::ErrorKind::WouldBlock.into()),
        })
    }

    /// Writes a record behind the others.
    fn append(&mut self, prefix: &Prefix, body: &[u8]) -> io::Result<Place> {
        self.append_by(prefix, |segment, at| segment.write(body, at))
    }

    /// As `append`; `write` puts the body in its place.
    fn append_by(&mut self, prefix: &Prefix, write: impl FnOnce(&Segment, u64) -> io::Result<()>) -> io::Result<Place> {
        let bytes = prefix.bytes().ok_or(io::ErrorKind::FileTooLarge)?;
        let whole = bytes.len() as u64 + prefix.body.length;
        if self.open.as_ref().is_some_and(|open| open.end > START && open.end + whole > self.segment_size()) {
            self.seal()?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => Open { segment: self.create(self.segment_size().max(whole))?, end: START, listed: Vec::new() },
        };
        let open = self.open.insert(open);
        let (segment, end) = (open.segment.clone(), open.end);
        let written = segment.write(&bytes, end).and_then(|()| write(&segment, end + bytes.len() as u64));
        if let Err(error) = written {
            // What stays behind of it is no whole record.
            let _ = segment.cut(end);
            return Err(error);
        }
        open.end += whole;
        let offset = u32::try_from(end).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let place = Place { segment: segment.id, offset, length: read_at_once(whole, prefix) };
        open.listed.push(Listed { name: prefix.name, place, whole, is_removal: prefix.is_removal });
        if !prefix.is_removal {
            self.shares.add(&prefix.name.project(), whole);
        }
        self.shelves.grow(whole);
        Ok(place)
    }

    /// Whether a response of so many bytes may be written now.
    fn judge(&self, bytes: u64) -> io::Result<()> {
        match self.resting {
            Some(until) if Instant::now() < until => Err(io::ErrorKind::WouldBlock.into()),
            _ if bytes > self.limit / SHARE => Err(io::ErrorKind::FileTooLarge.into()),
            _ => Ok(()),
        }
    }

    /// Begins a segment, and makes room for it.
    fn create(&mut self, size: u64) -> io::Result<Arc<Segment>> {
        if !self.make_room(size) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let segment = Arc::new(Segment::create(self.directory.path(), self.next)?);
        self.next += 1;
        self.shelves.put(segment.clone());
        self.shelves.grow(START);
        Ok(segment)
    }

    fn seal(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        match open.segment.seal(&open.listed, open.end) {
            Ok(length) => {
                self.shelves.grow(length - open.end);
                Ok(())
            }
            Err(error) => {
                // It is added to until there is room for its list.
                let _ = open.segment.cut(open.end);
                self.open = Some(open);
                Err(error)
            }
        }
    }

    /// Puts what was written into the index, or gives up its place; whether it is there.
    fn settle(&mut self, record: &Record, written: io::Result<Place>) -> bool {
        let Record { name, ticket, .. } = *record;
        match written {
            Ok(place) => {
                self.went_well();
                self.shelves.index.commit(name, ticket, place)
            }
            Err(error) => {
                self.went_wrong(&error);
                if self.shelves.index.give_up(name, ticket) {
                    self.remove(name);
                }
                false
            }
        }
    }

    /// Has the files say that what they have under this name is gone.
    fn remove(&mut self, name: Name) {
        self.shelves.note_removed(name.hash);
        self.note_removed();
    }

    fn went_well(&mut self) {
        if self.resting.take().is_some() {
            tracing::info!("the cache on disk stores again");
        }
    }

    fn went_wrong(&mut self, error: &io::Error) {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, WouldBlock};
        // The tier's own bounds are nobody's fault.
        if matches!(error.kind(), WouldBlock | FileTooLarge | QuotaExceeded) {
            return;
        }
        if self.resting.is_none() {
            tracing::warn!(%error, path = %self.directory.path().display(), "the cache on disk cannot store; trying again");
        }
        self.resting = Some(Instant::now() + REST);
    }

    /// Writes down what was removed, if need be in the place of what is oldest: it must not come back with a restart.
    fn note_removed(&mut self) {
        let mut hashes = self.shelves.take_removed().into_iter();
        while let Some(hash) = hashes.next() {
            let removal = Prefix::removal(hash);
            let is_written =
                self.append(&removal, &[]).is_ok() || (self.recycle_oldest() && self.append(&removal, &[]).is_ok());
            if !is_written {
                self.shelves.note_removed(hash);
                return hashes.for_each(|hash| self.shelves.note_removed(hash));
            }
        }
    }
}

/// Bodies that come in parts.
impl Writer {
    fn take(&mut self, pass: &Pass) -> Option<Coming> {
        let number = self.coming.iter().position(|coming| Arc::ptr_eq(&coming.pass, pass))?;
        Some(self.coming.swap_remove(number))
    }

    /// Takes away what will not come whole.
    fn let_go(&mut self) {
        while let Some(number) = self.coming.iter().position(|coming| Arc::strong_count(&coming.pass) == 1) {
            let coming = self.coming.swap_remove(number);
            self.end(coming, false);
        }
    }

    fn begin(&mut self, pass: Pass, record: Box<Record>) -> Result<Coming, (Box<Record>, io::Error)> {
        let head = head::write(&record.stored, self.clock.now(), Instant::now()).into_boxed_slice();
        let most = record.most.min(self.limit / SHARE);
        let at = prefix_length(record.key.text().len(), head.len(), most) as u32;
        let segment = self.judge(0).and_then(|()| self.create(self.segment_size()));
        let (body, summing) = (Span { at, length: 0 }, Summing::default());
        match segment {
            Ok(segment) => Ok(Coming { pass, record, head, segment, body, summing }),
            Err(error) => Err((record, error)),
        }
    }

    fn part(&mut self, pass: &Pass, part: &[u8]) {
        let Some(mut coming) = self.take(pass) else { return };
        let length = part.len() as u64;
        let end = START + u64::from(coming.body.at) + coming.body.length;
        let is_room = coming.body.length + length <= coming.record.most && self.make_room(length);
        let written = match is_room {
            true => coming.segment.write(part, end),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        };
        if let Err(error) = written {
            self.went_wrong(&error);
            return self.end(coming, false);
        }
        coming.summing.add(part);
        coming.body.length += length;
        self.shelves.grow(length);
        self.coming.push(coming);
    }

    fn end(&mut self, coming: Coming, is_whole: bool) {
        let Coming { record, head, segment, body, summing, .. } = coming;
        let Record { name, purges, .. } = *record;
        let (key, sums) = (Box::from(record.key.text()), summing.end());
        let prefix = Prefix { name, is_removal: false, purges, key, head, body, sums };
        let whole = u64::from(body.at) + body.length;
        let written = match prefix.bytes().filter(|_| is_whole) {
            Some(bytes) => segment.write(&bytes, START),
            None => Err(io::ErrorKind::FileTooLarge.into()),
        };
        let place = Place { segment: segment.id, offset: START as u32, length: read_at_once(whole, &prefix) };
        let listed = [Listed { name, place, whole, is_removal: false }];
        let sealed = written.and_then(|()| segment.seal(&listed, START + whole));
        let length = sealed.as_ref().map_or(body.length, |length| length - START);
        self.shelves.grow(length - body.length);
        if self.settle(&record, sealed.map(|_| place)) {
            self.shares.add(&name.project(), whole);
        } else {
            self.discard(&segment, START + length);
        }
    }

    fn discard(&mut self, segment: &Segment, length: u64) {
        self.shelves.take(segment.id);
        segment.remove();
        self.shelves.shrink(length);
    }
}

/// What is oldest goes.
impl Writer {
    /// Makes room for so many bytes more; whether there is.
    fn make_room(&mut self, bytes: u64) -> bool {
        while self.shelves.bytes() + bytes > self.limit {
            if !self.recycle_oldest() {
                return false;
            }
        }
        true
    }

    /// Takes away the oldest segment that nothing is written to; whether there was one.
    fn recycle_oldest(&mut self) -> bool {
        let in_use: Vec<u32> = self.coming.iter().map(|coming| coming.segment.id).collect();
        let open = self.open.as_ref().map(|open| open.segment.id);
        let mut ids = self.shelves.ids().into_iter();
        let oldest = ids.find(|id| Some(*id) != open && !in_use.contains(id));
        let Some(segment) = oldest.and_then(|id| self.shelves.take(id)) else { return false };
        // The places of a list that cannot be read any more lead nowhere, and are taken away as they are found.
        for listed in segment.relist().unwrap_or_default().into_iter().filter(|listed| !listed.is_removal) {
            let Listed { name, place, whole, .. } = listed;
            let is_guarded = self.shares.guard(&name.project(), self.limit);
            match self.shelves.index.release(name, place, is_guarded) {
                Some(Released::Wanted(ticket)) => {
                    self.wanted.push(Wanted { name, ticket, segment: segment.clone(), place, whole, is_guarded });
                }
                Some(Released::Gone) | None => self.shares.give_back(&name.project(), whole),
            }
        }
        self.shelves.shrink(segment.length().unwrap_or(0));
        segment.remove();
        true
    }

    /// Writes behind the others what is guarded, and what was asked for as far as it is little enough.
    fn write_again(&mut self) {
        let mut left = self.segment_size() / AGAIN;
        while let Some(wanted) = self.wanted.pop() {
            let Wanted { name, ticket, segment, place, whole, is_guarded } = wanted;
            self.shares.give_back(&name.project(), whole);
            let is_little = whole <= AGAIN_MAX && (is_guarded || whole <= left);
            let Some((prefix, body)) = is_little.then(|| read_whole(&segment, place)).flatten() else {
                self.shelves.index.give_up(name, ticket);
                continue;
            };
            if !is_guarded {
                left -= whole;
            }
            let placed = self.append(&prefix, &body);
            let is_there = placed.as_ref().is_ok_and(|place| self.shelves.index.commit(name, ticket, *place));
            if !is_there {
                self.shelves.index.give_up(name, ticket);
            }
            if !is_there && placed.is_ok() {
                self.remove(name);
            }
        }
    }

    /// Leaves everything on disk.
    fn close(&mut self) {
        self.note_removed();
        for coming in std::mem::take(&mut self.coming) {
            self.end(coming, false);
        }
        let sealed = self.seal();
        let synced = sealed.and_then(|()| {
            self.shelves.ids().into_iter().filter_map(|id| self.shelves.segment(id)).try_for_each(|one| one.sync())
        });
        let closed = synced.map_err(|error| error.to_string());
        let closed = closed.and_then(|()| self.directory.close().map_err(|error| error.to_string()));
        if let Err(error) = closed {
            tracing::warn!(error, "the cache on disk could not be closed; it holds until the machine is started anew");
        }
    }
}

/// A record and its body, to be written one behind the other, where both can be read and are right.
fn read_whole(segment: &Segment, place: Place) -> Option<(Prefix, Vec<u8>)> {
    let at = u64::from(place.offset);
    let bytes = segment.read(at, place.length as usize, Reading::Patient).ok()?;
    let mut prefix = Prefix::read(&bytes)?;
    let body = segment.read(at + prefix.body_begins(), prefix.body.length as usize, Reading::Patient).ok()?;
    // Before a body that came in parts there is room for the checksums of a longer one.
    prefix.body.at = prefix_length(prefix.key.len(), prefix.head.len(), prefix.body.length) as u32;
    prefix.sums.vouch(0, &body).then_some((prefix, body))
}
