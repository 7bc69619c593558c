//! What lies on disk, as readers and the writer both see it.
//!
//! Made by `disk`. The rule: a segment that is not on its shelf is not read any more, whatever the index says of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::index::Index;
use super::segment::{Listed, Segment};

#[derive(Debug)]
pub struct Shelves {
    pub index: Index,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    /// Keys of which it is not on disk yet that what lies there is gone. No more of them than lay there.
    removed: Mutex<HashSet<u64>>,
    /// All files together.
    bytes: AtomicU64,
    /// Waiting to be written.
    pub queued: AtomicU64,
}

impl Shelves {
    /// With what an earlier process left.
    pub fn new(left: Vec<(Segment, Vec<Listed>)>) -> Self {
        let index = Index::new();
        let (mut segments, mut bytes) = (BTreeMap::new(), 0);
        for (segment, listed) in left {
            for one in listed {
                match one.is_removal {
                    true => drop(index.remove(one.name.hash)),
                    false => index.restore(one.name, one.place),
                }
            }
            // A file that cannot be measured counts for nothing until it is the oldest.
            bytes += segment.length().unwrap_or(0);
            segments.insert(segment.id, Arc::new(segment));
        }
        let (removed, queued) = (Mutex::default(), AtomicU64::new(0));
        Self { index, segments: RwLock::new(segments), removed, bytes: AtomicU64::new(bytes), queued }
    }

    pub fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn put(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.id, segment);
    }

    pub fn take(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// The numbers of all segments, the oldest first.
    pub fn ids(&self) -> Vec<u32> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes.min(self.bytes()), Ordering::Relaxed);
    }

    /// Has it written down that what lies on disk of a key is gone.
    pub fn note_removed(&self, hash: u64) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    pub fn take_removed(&self) -> HashSet<u64> {
        std::mem::take(&mut *self.removed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
