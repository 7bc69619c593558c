//! The memory of responses on their way into the cache, all together.
//!
//! Used by `Fill`. A response is kept from its first byte to its last, and a client that stops reading in the middle holds it
//! there. The rule: together they have their share of the cache's memory, and one that finds it taken is not stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the cache's memory that may be on its way into it.
const SHARE: u64 = 4;

#[derive(Debug)]
pub struct Filling {
    most: AtomicU64,
    held: AtomicU64,
}

impl Filling {
    /// For a cache of so many bytes of memory.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { most: AtomicU64::new(bytes / SHARE), held: AtomicU64::new(0) })
    }

    pub fn resize(&self, bytes: u64) {
        self.most.store(bytes / SHARE, Ordering::Relaxed);
    }
}

/// What one response holds.
#[derive(Debug)]
pub struct Held {
    filling: Arc<Filling>,
    bytes: u64,
}

impl Held {
    pub fn new(filling: &Arc<Filling>) -> Self {
        Self { filling: filling.clone(), bytes: 0 }
    }

    /// Takes more; false when there is none left.
    pub fn grow(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.filling.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.filling.most.load(Ordering::Relaxed)
    }

    /// Gives some of it back, as much as there is.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.filling.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&mut self) {
        self.filling.held.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_have_their_share() {
        let filling = Filling::new(400);
        let (mut first, mut second) = (Held::new(&filling), Held::new(&filling));
        assert!(first.grow(60) && second.grow(40));
        assert!(!second.grow(1));
        second.give_back();
        assert!(first.grow(40));
        first.shrink(50);
        assert!(first.grow(50));
        drop(first);
        assert!(second.grow(100));
        filling.resize(800);
        assert!(second.grow(100) && !second.grow(1));
    }
}
