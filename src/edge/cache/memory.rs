//! Stored responses in memory, bounded by their bytes.
//!
//! Called by `cache`. The rule: once a purge has returned, nothing that was stored before it, or was on its way then,
//! can be found.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quick_cache::Weighter;
use quick_cache::sync::Cache as QuickCache;

use super::key::Key;
use super::stored::{Stored, Variant};

/// Entries that room is made for at the start.
const ENTRIES: usize = 1024;
/// Codings of one URL that are kept at once.
const VARIANTS_MAX: usize = 8;
/// Counts of removed URLs.
const SHARDS: usize = 64;

/// The codings of one URL.
type Variants = Arc<[Arc<Stored>]>;

#[derive(Debug)]
pub struct Memory {
    entries: QuickCache<Key, Variants, ByBytes>,
    /// Held while storing, so that a purge knows that nothing is half stored.
    epochs: RwLock<Epochs>,
}

/// Counts what was made unreachable: everything at once, and single URLs, many sharing one count.
#[derive(Debug)]
struct Epochs {
    purges: u64,
    removals: [u64; SHARDS],
}

/// When a response was asked for, in the cache's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    purges: u64,
    removals: u64,
}

impl Epochs {
    fn of(&self, key: &Key) -> Epoch {
        Epoch { purges: self.purges, removals: self.removals[shard(key)] }
    }
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let epochs = RwLock::new(Epochs { purges: 0, removals: [0; SHARDS] });
        Self { entries: QuickCache::with_weighter(ENTRIES, bytes, ByBytes), epochs }
    }

    /// The variant that is right for a request.
    pub fn find(&self, key: &Key, is_right: impl Fn(&Variant) -> bool) -> Option<Arc<Stored>> {
        self.entries.get(key)?.iter().find(|stored| is_right(&stored.variant)).cloned()
    }

    /// To be taken before a response is asked for, and given to `store`.
    pub fn epoch(&self, key: &Key) -> Epoch {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner).of(key)
    }

    /// Stores a response, unless it was purged since it was asked for.
    pub fn store(&self, key: Key, stored: Stored, asked: Epoch) {
        let now = self.epochs.read().unwrap_or_else(PoisonError::into_inner);
        if now.of(&key) != asked {
            return;
        }
        let before = self.entries.peek(&key);
        let others = before
            .iter()
            .flat_map(|variants| variants.iter())
            .filter(|other| ![&other.variant, &stored.variant].contains(&&Variant::All))
            .filter(|other| other.variant != stored.variant);
        let others: Vec<_> = others.take(VARIANTS_MAX - 1).cloned().collect();
        let variants = std::iter::once(Arc::new(stored)).chain(others).collect();
        self.entries.insert(key, variants);
    }

    /// Removes one URL.
    pub fn remove(&self, key: &Key) {
        self.forbid_running(|epochs| epochs.removals[shard(key)] += 1);
        self.entries.remove(key);
    }

    /// Removes what matches; how many responses.
    pub fn purge(&self, matches: impl Fn(&Key) -> bool) -> u64 {
        self.forbid_running(|epochs| epochs.purges += 1);
        let removed = AtomicU64::new(0);
        self.entries.retain(|key, variants| {
            let is_match = matches(key);
            if is_match {
                removed.fetch_add(variants.len() as u64, Ordering::Relaxed);
            }
            !is_match
        });
        removed.into_inner()
    }

    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    pub fn resize(&self, bytes: u64) {
        self.entries.set_capacity(bytes);
    }

    /// After this, whoever asked before cannot store any more, and whoever was storing has finished.
    fn forbid_running(&self, step: impl FnOnce(&mut Epochs)) {
        step(&mut self.epochs.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn shard(key: &Key) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Variants> for ByBytes {
    fn weight(&self, key: &Key, variants: &Variants) -> u64 {
        (key.weight() + variants.iter().map(|stored| stored.weight()).sum::<usize>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::super::policy::Freshness;
    use super::super::stored::Head;
    use super::*;
    use crate::edge::compress::Coding;
    use crate::edge::request::tests::asking;
    use crate::model::route::UpstreamId;

    fn key(target: &str) -> Key {
        let id = UpstreamId("shop/master#r1".to_owned());
        asking(target, "Host: shop.test\r\n", false, |asked| Key::new(&"shop".parse().unwrap(), &id, &asked.unwrap()))
    }

    fn stored(body: &'static [u8], variant: Variant) -> Stored {
        let freshness = Freshness { lifetime: Duration::from_secs(60), age: Duration::ZERO };
        let head =
            Head { status: StatusCode::OK, headers: HeaderMap::new(), variant, freshness, since: Instant::now() };
        Stored::new(head, Bytes::from_static(body))
    }

    fn put(memory: &Memory, target: &str, stored: Stored) {
        memory.store(key(target), stored, memory.epoch(&key(target)));
    }

    #[test]
    fn what_was_asked_for_before_a_purge_is_not_stored_after_it() {
        let memory = Memory::new(1 << 20);
        let (before, other) = (memory.epoch(&key("/a")), memory.epoch(&key("/b")));
        assert_eq!(memory.purge(|_| true), 0);
        memory.store(key("/a"), stored(b"old", Variant::All), before);
        memory.store(key("/b"), stored(b"old", Variant::All), other);
        assert!(memory.find(&key("/a"), |_| true).is_none() && memory.find(&key("/b"), |_| true).is_none());
        put(&memory, "/a", stored(b"new", Variant::All));
        let running = memory.epoch(&key("/a"));
        memory.remove(&key("/a"));
        memory.store(key("/a"), stored(b"old", Variant::All), running);
        assert!(memory.find(&key("/a"), |_| true).is_none());
    }

    #[test]
    fn each_coding_has_its_own_answer_unless_there_is_one_for_all() {
        let memory = Memory::new(1 << 20);
        let of_app = |accepted: &str| Variant::AcceptEncoding(accepted.to_owned());
        let (brotli, none) = (Variant::Coding(Some(Coding::Brotli)), Variant::Coding(None));
        for (body, variant) in [(&b"gzip"[..], of_app("gzip")), (b"br", brotli.clone()), (b"plain", none.clone())] {
            put(&memory, "/", stored(body, variant));
        }
        let body = |wanted: &Variant| {
            memory.find(&key("/"), |own| *own == Variant::All || own == wanted).map(|stored| stored.body.clone())
        };
        assert_eq!((body(&of_app("gzip")), body(&brotli)), (Some("gzip".into()), Some("br".into())));
        assert_eq!((body(&none), body(&of_app(""))), (Some("plain".into()), None));
        put(&memory, "/", stored(b"newer", brotli.clone()));
        assert_eq!((body(&brotli), body(&none)), (Some("newer".into()), Some("plain".into())));
        put(&memory, "/", stored(b"all", Variant::All));
        assert_eq!((body(&brotli), body(&none)), (Some("all".into()), Some("all".into())));
        assert_eq!(memory.purge(|_| true), 1);
    }

    #[test]
    fn bytes_are_bounded_and_none_may_be_had() {
        let memory = Memory::new(64 << 10);
        for number in 0..1000 {
            put(&memory, &format!("/{number}"), stored(&[0; 1000], Variant::All));
        }
        assert!(memory.bytes() <= 64 << 10, "{}", memory.bytes());
        let none = Memory::new(0);
        put(&none, "/", stored(b"x", Variant::All));
        assert!(none.find(&key("/"), |_| true).is_none());
    }
}
