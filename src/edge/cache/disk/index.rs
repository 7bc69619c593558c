//! Where on disk what is stored lies, as far as this process knows.
//!
//! Asked by `disk` at every miss of the memory, told by `disk` and `writer`. What is about to be written has its place here
//! already and is not found. The rule: under a name lies the newest, or nothing; whatever was removed while it was being
//! written is not there afterwards.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

/// Each has a lock of its own.
const SHARDS: usize = 64;
/// Variants of one URL that are kept at once.
const VARIANTS_MAX: usize = 16;
/// Of `Entry::length`: it was asked for since it was written.
const ASKED_FOR: u32 = 1 << 31;
/// In place of a segment: it is not written yet, `offset` is its ticket, and `length` says whether an older one lies there.
const NOWHERE: u32 = 0;
const OVER_ANOTHER: u32 = 1;

/// Of a hash, the bits that say of which project it is. The table looks at those above and at the lowest, a shard is chosen
/// by those between.
const PROJECT_AT: u32 = 38;
const PROJECT: u64 = 0xffff << PROJECT_AT;

/// What a response is found by: of its key, and of the variant; 0 for the one that answers everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    pub hash: u64,
    pub variant: u32,
}

/// Puts the project into the hash of a key. Two may have the same number; then they count as one.
pub fn within(project: &str, hash: u64) -> u64 {
    let number = u64::from(crc32fast::hash(project.as_bytes()));
    hash & !PROJECT | (number << PROJECT_AT & PROJECT)
}

impl Name {
    /// The number of its project.
    pub fn project(self) -> u16 {
        (self.hash >> PROJECT_AT) as u16
    }
}

/// Where a record lies, and how much of it is read at once, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1, in the order in which they were begun.
    pub segment: u32,
    pub offset: u32,
    /// Below 2 GiB.
    pub length: u32,
}

/// Says who may put a response into the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// What becomes of a record whose segment goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    Gone,
    /// It may be written again.
    Wanted(Ticket),
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    variant: u32,
    segment: u32,
    offset: u32,
    length: u32,
}

#[derive(Debug)]
pub struct Index {
    shards: Box<[Mutex<HashTable<Entry>>]>,
    tickets: AtomicU32,
}

impl Entry {
    fn is_of(&self, name: Name) -> bool {
        self.hash == name.hash && self.variant == name.variant
    }

    fn is_at(&self, place: Place) -> bool {
        (self.segment, self.offset) == (place.segment, place.offset)
    }

    fn is_written(&self) -> bool {
        self.segment != NOWHERE
    }

    /// Whether a record lies on disk that has to be said to be gone when this is.
    fn has_record(&self) -> bool {
        self.is_written() || self.length == OVER_ANOTHER
    }

    fn has(&self, ticket: Ticket) -> bool {
        !self.is_written() && self.offset == ticket.0
    }

    fn place(&self) -> Place {
        Place { segment: self.segment, offset: self.offset, length: self.length & !ASKED_FOR }
    }
}

impl Index {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), tickets: AtomicU32::new(0) }
    }

    /// The records of a key, the newest first.
    pub fn find(&self, hash: u64) -> Vec<Place> {
        let mut shard = self.shard(hash);
        let mut places = Vec::new();
        for entry in shard.iter_hash_mut(hash).filter(|entry| entry.hash == hash && entry.is_written()) {
            entry.length |= ASKED_FOR;
            places.push(entry.place());
        }
        drop(shard);
        places.sort_unstable_by_key(|place| std::cmp::Reverse((place.segment, place.offset)));
        places
    }

    /// Whether a record of a key lies there still.
    pub fn has(&self, hash: u64, place: Place) -> bool {
        self.shard(hash).iter_hash(hash).any(|entry| entry.hash == hash && entry.is_at(place))
    }

    /// Keeps a place for what is about to be written. What it replaces is not found from now on.
    pub fn claim(&self, name: Name) -> Ticket {
        let mut shard = self.shard(name.hash);
        let length = if replace(&mut shard, name) { OVER_ANOTHER } else { 0 };
        let ticket = self.ticket();
        let entry = Entry { hash: name.hash, variant: name.variant, segment: NOWHERE, offset: ticket.0, length };
        shard.insert_unique(name.hash, entry, |entry| entry.hash);
        ticket
    }

    /// Says where what was claimed has been written; false when it was removed or replaced meanwhile.
    pub fn commit(&self, name: Name, ticket: Ticket, place: Place) -> bool {
        let mut shard = self.shard(name.hash);
        let Some(entry) = shard.find_mut(name.hash, |entry| entry.is_of(name) && entry.has(ticket)) else {
            return false;
        };
        (entry.segment, entry.offset, entry.length) = (place.segment, place.offset, place.length);
        true
    }

    /// Gives up the place of what will not be written; whether an older one lies there.
    pub fn give_up(&self, name: Name, ticket: Ticket) -> bool {
        let mut shard = self.shard(name.hash);
        remove(&mut shard, name.hash, |entry| entry.is_of(name) && entry.has(ticket))
    }

    /// Removes all records of a key; whether one of them lies there.
    pub fn remove(&self, hash: u64) -> bool {
        remove(&mut self.shard(hash), hash, |entry| entry.hash == hash)
    }

    /// Lets go of a record whose segment is about to go. `is_guarded` says whether it stays even if nobody asked for it.
    pub fn release(&self, name: Name, place: Place, is_guarded: bool) -> Option<Released> {
        let mut shard = self.shard(name.hash);
        let is_it = |entry: &Entry| entry.is_of(name) && entry.is_at(place);
        let entry = shard.find_mut(name.hash, is_it)?;
        if is_guarded || entry.length & ASKED_FOR != 0 {
            let ticket = self.ticket();
            (entry.segment, entry.offset, entry.length) = (NOWHERE, ticket.0, 0);
            return Some(Released::Wanted(ticket));
        }
        remove(&mut shard, name.hash, is_it);
        Some(Released::Gone)
    }

    /// Puts a record of an earlier process in its place, in the order in which they were written.
    pub fn restore(&self, name: Name, place: Place) {
        let mut shard = self.shard(name.hash);
        replace(&mut shard, name);
        let Place { segment, offset, length } = place;
        let entry = Entry { hash: name.hash, variant: name.variant, segment, offset, length };
        shard.insert_unique(name.hash, entry, |entry| entry.hash);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// What it takes in memory, in bytes.
    #[cfg(test)]
    fn weight(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).allocation_size()).sum()
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// By bits that the table itself does not look at.
    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Entry>> {
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<HashTable<Entry>>) -> MutexGuard<'_, HashTable<Entry>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what a response takes the place of: its own variant, whatever answers everybody, and all if it does so itself.
/// Whether one of them lies on disk.
fn replace(shard: &mut HashTable<Entry>, name: Name) -> bool {
    let is_replaced = |entry: &Entry| {
        entry.hash == name.hash && (name.variant == 0 || entry.variant == 0 || entry.variant == name.variant)
    };
    let had = remove(shard, name.hash, is_replaced);
    let of_key = || shard.iter_hash(name.hash).filter(|entry| entry.hash == name.hash);
    if of_key().count() < VARIANTS_MAX {
        return had;
    }
    let oldest = of_key().map(|entry| (entry.segment, entry.offset)).min();
    remove(shard, name.hash, |entry| entry.hash == name.hash && Some((entry.segment, entry.offset)) == oldest) | had
}

fn remove(shard: &mut HashTable<Entry>, hash: u64, is_it: impl Fn(&Entry) -> bool) -> bool {
    let mut had = false;
    while let Ok(entry) = shard.find_entry(hash, &is_it) {
        had |= entry.remove().0.has_record();
    }
    had
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(hash: u64, variant: u32) -> Name {
        Name { hash, variant }
    }

    fn at(segment: u32, offset: u32) -> Place {
        Place { segment, offset, length: 9 }
    }

    fn put(index: &Index, name: Name, place: Place) {
        let ticket = index.claim(name);
        assert!(index.commit(name, ticket, place));
    }

    #[test]
    fn the_newest_is_found_once_it_is_written() {
        let index = Index::new();
        let ticket = index.claim(name(1, 0));
        assert!(index.find(1).is_empty());
        assert!(index.commit(name(1, 0), ticket, at(1, 16)));
        assert_eq!(index.find(1), [at(1, 16)]);
        let newer = index.claim(name(1, 0));
        assert!(index.find(1).is_empty(), "an older one is never shown while a newer one is written");
        assert!(index.give_up(name(1, 0), newer), "the older one lies there");
        assert!(index.find(1).is_empty() && !index.commit(name(1, 0), newer, at(1, 99)));
    }

    #[test]
    fn what_is_removed_or_replaced_while_it_is_written_does_not_come_back() {
        let index = Index::new();
        let ticket = index.claim(name(1, 0));
        assert!(!index.remove(1), "nothing of it lies on disk yet");
        assert!(!index.commit(name(1, 0), ticket, at(1, 16)));
        let first = index.claim(name(1, 0));
        let second = index.claim(name(1, 0));
        assert!(!index.give_up(name(1, 0), first), "it is not its place any more");
        assert!(index.commit(name(1, 0), second, at(1, 50)) && !index.commit(name(1, 0), first, at(1, 16)));
        index.claim(name(1, 0));
        assert!(index.remove(1) && index.find(1).is_empty(), "an older one lies there");
    }

    #[test]
    fn variants_stand_beside_each_other_unless_there_is_one_for_all() {
        let index = Index::new();
        put(&index, name(1, 5), at(1, 16));
        put(&index, name(1, 6), at(1, 50));
        put(&index, name(2, 6), at(1, 70));
        assert_eq!(index.find(1), [at(1, 50), at(1, 16)]);
        put(&index, name(1, 5), at(1, 90));
        assert_eq!(index.find(1), [at(1, 90), at(1, 50)]);
        put(&index, name(1, 0), at(2, 16));
        assert_eq!((index.find(1), index.find(2)), (vec![at(2, 16)], vec![at(1, 70)]));
        for variant in 1..100 {
            put(&index, name(1, variant), at(3, variant));
        }
        let found = index.find(1);
        assert_eq!((found.len(), found[0]), (VARIANTS_MAX, at(3, 99)), "the newest");
    }

    #[test]
    fn what_was_asked_for_outlives_its_segment() {
        let index = Index::new();
        put(&index, name(1, 0), at(1, 16));
        put(&index, name(2, 0), at(1, 50));
        index.find(1);
        assert_eq!(index.release(name(2, 0), at(1, 50), false), Some(Released::Gone));
        let Some(Released::Wanted(ticket)) = index.release(name(1, 0), at(1, 16), false) else { panic!() };
        assert!(index.find(1).is_empty() && index.commit(name(1, 0), ticket, at(2, 16)));
        assert_eq!(index.release(name(1, 0), at(1, 16), true), None, "it lies elsewhere by now");
        let Some(Released::Wanted(ticket)) = index.release(name(1, 0), at(2, 16), true) else { panic!() };
        assert!(index.commit(name(1, 0), ticket, at(3, 16)));
        assert_eq!(index.release(name(1, 0), at(3, 16), false), Some(Released::Gone));
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn it_takes_little_memory() {
        let index = Index::new();
        for number in 0..100_000_u64 {
            index.restore(name(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0), at(1, number as u32));
        }
        assert!(index.weight() / index.len() < 64, "{} bytes an object", index.weight() / index.len());
    }
}
