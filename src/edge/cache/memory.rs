//! Stored responses in memory, bounded by their bytes.
//!
//! Called by `cache`. The rule: once a URL was removed or a purge has returned, nothing that was stored before it, or was on
//! its way then, can be found. What is evicted to make room is put back where it is of a project's guarded share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ahash::RandomState;
use quick_cache::sync::{Cache as QuickCache, GuardResult};
use quick_cache::{Lifecycle, Weighter};

use super::key::Key;
use super::purges::Purges;
use super::shares::Shares;
use super::stored::Stored;
use super::vary::Variant;

/// What an entry is taken to weigh, in bytes, and the fewest entries that room is made for. As many that were evicted are
/// remembered: with too few of those, what is asked for now and then never gets to stay.
const USUAL: u64 = 4 << 10;
const ENTRIES: usize = 1024;
const ENTRIES_MAX: usize = 1 << 20;
/// Variants of one URL that are kept at once.
const VARIANTS_MAX: usize = 16;
/// Counts of removed URLs. A response on its way is not stored when another URL with its count is removed meanwhile.
const SHARDS: usize = 16 << 10;

/// For each that was evicted, how many may be put back at the most, and how many at least.
const PUT_BACK: usize = 4;
const PUT_BACK_LEAST: usize = 16;

/// The variants of one URL, the newest first. A copy is of references.
#[derive(Debug, Clone)]
struct Variants {
    newest: Arc<Stored>,
    others: Option<Arc<Vec<Arc<Stored>>>>,
}

type Entries = QuickCache<Key, Variants, ByBytes, RandomState, Leaving>;

#[derive(Debug)]
pub struct Memory {
    entries: Entries,
    /// In bytes.
    capacity: AtomicU64,
    shares: Arc<Mutex<Shares<String>>>,
    /// Held while storing, so that whoever removes a URL knows that nothing of it is half stored.
    removals: RwLock<Removals>,
    purges: Arc<Purges>,
}

/// Counts removed URLs, many sharing one count.
#[derive(Debug)]
struct Removals {
    counts: Box<[u64]>,
    hasher: RandomState,
}

/// When a response was asked for, in the cache's own time.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    pub purges: u64,
    removals: u64,
}

impl Removals {
    fn of(&self, key: &Key) -> u64 {
        self.counts[self.shard(key)]
    }

    fn shard(&self, key: &Key) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

impl Variants {
    fn new(newest: Arc<Stored>, others: Vec<Arc<Stored>>) -> Self {
        Self { newest, others: (!others.is_empty()).then(|| Arc::new(others)) }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        std::iter::once(&self.newest).chain(self.others.iter().flat_map(|others| others.iter()))
    }
}

impl Memory {
    pub fn new(bytes: u64, purges: Arc<Purges>) -> Self {
        let removals = RwLock::new(Removals { counts: vec![0; SHARDS].into(), hasher: RandomState::new() });
        let entries = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX).clamp(ENTRIES, ENTRIES_MAX);
        let shares: Arc<Mutex<Shares<String>>> = Arc::default();
        let entries = QuickCache::with(entries, bytes, ByBytes, RandomState::new(), Leaving(shares.clone()));
        Self { entries, capacity: AtomicU64::new(bytes), shares, removals, purges }
    }

    /// The variant that is right for a request.
    pub fn find(&self, key: &Key, is_right: impl Fn(&Variant) -> bool) -> Option<Arc<Stored>> {
        let is_there = |stored: &&Arc<Stored>| is_right(&stored.variant) && self.is_left(key, stored);
        self.entries.get(key)?.iter().find(is_there).cloned()
    }

    /// All variants of a URL, which does not count as a use of them.
    pub fn variants(&self, key: &Key) -> Vec<Arc<Stored>> {
        let variants = self.entries.peek(key);
        let variants = variants.iter().flat_map(|variants| variants.iter());
        variants.filter(|stored| self.is_left(key, stored)).cloned().collect()
    }

    /// To be taken before a response is asked for, and given to `store`.
    pub fn epoch(&self, key: &Key) -> Epoch {
        let removals = self.removals.read().unwrap_or_else(PoisonError::into_inner).of(key);
        Epoch { purges: self.purges.newest(), removals }
    }

    /// Whether a response that was asked for then can be shown to a request that starts now, whatever it is going to say.
    pub fn holds(&self, key: &Key, asked: Epoch) -> bool {
        let removals = self.removals.read().unwrap_or_else(PoisonError::into_inner).of(key);
        removals == asked.removals && self.purges.hold(key, asked.purges)
    }

    /// Stores a response, unless its URL was removed since it was asked for; then it is so wherever `then` puts it as well.
    /// What was purged is not found.
    pub fn store(&self, key: &Key, stored: Arc<Stored>, asked: Epoch, then: impl FnOnce(&Arc<Stored>)) {
        let now = self.removals.read().unwrap_or_else(PoisonError::into_inner);
        if now.of(key) != asked.removals || !self.is_left(key, &stored) {
            return;
        }
        then(&stored);
        let before = self.entries.peek(key);
        let others = before
            .iter()
            .flat_map(|variants| variants.iter())
            .filter(|other| !other.variant.is_for_all() && !stored.variant.is_for_all())
            .filter(|other| other.variant != stored.variant && self.is_left(key, other));
        let others = others.take(VARIANTS_MAX - 1).cloned().collect();
        self.put(key, Variants::new(stored, others));
    }

    /// Puts a URL in the place of what is asked for least, but for what is guarded. To be called while nothing is removed:
    /// for a moment, what is put back is nowhere.
    fn put(&self, key: &Key, variants: Variants) {
        lock(&self.shares).add(key.project(), ByBytes.weight(key, &variants));
        let mut leaving = self.entries.insert_with_lifecycle(key.clone(), variants);
        // Nearly all of a corner may be guarded, though of the whole no more than a part is.
        let mut left = leaving.len() * PUT_BACK + PUT_BACK_LEAST;
        while let Some((own, variants)) = leaving.pop() {
            let bytes = ByBytes.weight(&own, &variants);
            // What it replaces leaves by the same way.
            let stays = own != *key && left > 0 && lock(&self.shares).guard(own.project(), self.capacity());
            match stays.then(|| self.put_back(&own, variants)).flatten() {
                Some(more) => leaving.extend(more),
                None => lock(&self.shares).give_back(own.project(), bytes),
            }
            left = left.saturating_sub(1);
        }
    }

    /// What leaves for it; `None` when another is there by now.
    fn put_back(&self, key: &Key, variants: Variants) -> Option<Evicted> {
        match self.entries.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Guard(place) => place.insert_with_lifecycle(variants).ok(),
            GuardResult::Value(_) | GuardResult::Timeout => None,
        }
    }

    fn take(&self, key: &Key, is_it: impl Fn(&Variants) -> bool) {
        if let Some((key, variants)) = self.entries.remove_if(key, is_it) {
            lock(&self.shares).give_back(key.project(), ByBytes.weight(&key, &variants));
        }
    }

    /// Lets go of a URL for what takes its place elsewhere; `None`, and nothing does, when it was removed since then.
    pub fn replace<T>(&self, key: &Key, asked: Epoch, place: impl FnOnce() -> T) -> Option<T> {
        let now = self.removals.read().unwrap_or_else(PoisonError::into_inner);
        if now.of(key) != asked.removals {
            return None;
        }
        self.take(key, |_| true);
        Some(place())
    }

    /// Takes back a response from another tier, unless a newer one is here, or it was purged since that was looked at.
    pub fn recall(&self, key: &Key, stored: &Arc<Stored>, looked: Epoch) {
        let is_replaced = |own: &Arc<Stored>| own.variant.is_for_all() || own.variant == stored.variant;
        if self.entries.peek(key).is_none_or(|variants| !variants.iter().any(is_replaced)) {
            self.store(key, stored.clone(), looked, |_| {});
        }
    }

    /// Lets go of a URL, which may be found elsewhere.
    pub fn drop_all(&self, key: &Key) {
        self.take(key, |_| true);
    }

    /// Puts a response in the place of the one that it renews, unless that is not there any more; whether it did.
    pub fn renew(
        &self,
        key: &Key,
        before: &Arc<Stored>,
        renewed: Arc<Stored>,
        asked: Epoch,
        then: impl FnOnce(&Arc<Stored>),
    ) -> bool {
        let now = self.removals.read().unwrap_or_else(PoisonError::into_inner);
        let may_be = now.of(key) == asked.removals && self.is_left(key, &renewed);
        let Some(variants) = self.entries.peek(key).filter(|_| may_be) else { return false };
        if !variants.iter().any(|stored| Arc::ptr_eq(stored, before)) {
            return false;
        }
        then(&renewed);
        let in_place = |stored: &Arc<Stored>| if Arc::ptr_eq(stored, before) { &renewed } else { stored }.clone();
        let mut all = variants.iter().map(in_place);
        if let Some(newest) = all.next() {
            self.put(key, Variants::new(newest, all.collect()));
        }
        true
    }

    /// Removes one URL.
    pub fn remove(&self, key: &Key) {
        let mut removals = self.removals.write().unwrap_or_else(PoisonError::into_inner);
        // After this, whoever asked before cannot store any more, and whoever was storing has finished.
        let shard = removals.shard(key);
        removals.counts[shard] += 1;
        drop(removals);
        self.take(key, |_| true);
    }

    /// Gives back the room of what was purged. Takes its time, and nobody waits for it.
    pub fn sweep(&self) {
        let upto = self.purges.newest();
        // Each is judged, so that those which stay need not be judged by the same purges again.
        let is_empty =
            |key: &Key, variants: &Variants| variants.iter().filter(|stored| self.is_left(key, stored)).count() == 0;
        for (key, variants) in self.entries.iter() {
            if is_empty(&key, &variants) {
                self.take(&key, |variants| is_empty(&key, variants));
            }
        }
        self.purges.forget(upto);
    }

    /// Whether no purge has taken it.
    fn is_left(&self, key: &Key, stored: &Stored) -> bool {
        self.purges.allow(key, &stored.standing)
    }

    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// What is more than that is evicted, whoever's it is.
    pub fn resize(&self, bytes: u64) {
        self.capacity.store(bytes, Ordering::Relaxed);
        self.entries.set_capacity(bytes);
    }
}

fn lock(shares: &Mutex<Shares<String>>) -> MutexGuard<'_, Shares<String>> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Variants> for ByBytes {
    fn weight(&self, key: &Key, variants: &Variants) -> u64 {
        (key.weight() + variants.iter().map(|stored| stored.weight()).sum::<usize>()) as u64
    }
}

/// What an insertion has evicted or replaced.
type Evicted = Vec<(Key, Variants)>;

/// Hands it on to whoever inserts; else it counts for nobody any more.
#[derive(Debug, Clone)]
struct Leaving(Arc<Mutex<Shares<String>>>);

impl Lifecycle<Key, Variants> for Leaving {
    type RequestState = Evicted;

    fn begin_request(&self) -> Evicted {
        Vec::new()
    }

    fn on_evict(&self, evicted: &mut Evicted, key: Key, variants: Variants) {
        evicted.push((key, variants));
    }

    fn end_request(&self, evicted: Evicted) {
        let mut shares = lock(&self.0);
        evicted.iter().for_each(|(key, variants)| shares.give_back(key.project(), ByBytes.weight(key, variants)));
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::super::freshness::Freshness;
    use super::super::stored::Head;
    use super::super::vary::Asking;
    use super::*;
    use crate::edge::compress::Coding;
    use crate::edge::field::Fields;
    use crate::edge::request::tests::asking;
    use crate::link::{Purge, PurgeScope};
    use crate::model::route::UpstreamId;

    pub fn key(target: &str) -> Key {
        key_of("shop", target)
    }

    pub fn key_of(project: &str, target: &str) -> Key {
        let id = UpstreamId(format!("{project}/master#r1"));
        asking(target, "Host: a.test\r\n", false, |asked| Key::new(&project.parse().unwrap(), &id, &asked.unwrap()))
    }

    pub fn room(bytes: u64) -> Memory {
        Memory::new(bytes, Arc::new(Purges::new()))
    }

    /// Asked for before anything was purged.
    pub fn stored_head(variant: Variant) -> Head {
        let freshness = Freshness {
            lifetime: Duration::from_secs(60),
            age: Duration::ZERO,
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            is_always_asked: false,
            is_strict: false,
            is_for_everybody: false,
            is_doubtful: false,
        };
        let (status, headers, since) = (StatusCode::OK, HeaderMap::new(), Instant::now());
        let (part, tags, purges) = (None, Box::default(), 0);
        let passes = Default::default();
        Head { status, headers, variant, tag: None, freshness, passes, since, part, tags, purges }
    }

    fn stored(body: &'static [u8], variant: Variant) -> Stored {
        Stored::new(stored_head(variant), Bytes::from_static(body).into())
    }

    fn body_of(stored: &Stored) -> Bytes {
        stored.body.at_hand().unwrap().clone()
    }

    fn put(memory: &Memory, target: &str, stored: Stored) {
        store(memory, target, stored, memory.epoch(&key(target)));
    }

    fn store(memory: &Memory, target: &str, stored: Stored, asked: Epoch) {
        memory.store(&key(target), Arc::new(stored), asked, |_| {});
    }

    fn renew(memory: &Memory, before: &Arc<Stored>, renewed: Stored, asked: Epoch) -> bool {
        memory.renew(&key("/"), before, Arc::new(renewed), asked, |_| {})
    }

    #[test]
    fn what_was_asked_for_before_its_url_was_removed_is_not_stored_after_it() {
        let memory = room(1 << 20);
        put(&memory, "/a", stored(b"new", Variant::default()));
        let running = memory.epoch(&key("/a"));
        assert!(memory.holds(&key("/a"), running));
        memory.remove(&key("/a"));
        assert!(!memory.holds(&key("/a"), running));
        store(&memory, "/a", stored(b"old", Variant::default()), running);
        assert!(memory.find(&key("/a"), |_| true).is_none());
    }

    #[test]
    fn what_was_purged_gives_back_its_room_and_nothing_else_does() {
        let memory = room(1 << 20);
        let [seven, eight] = [b"7", b"8"].map(|tag| memory.purges.tags([&tag[..]]));
        for (target, tags) in [("/a", &seven), ("/b", &seven), ("/c", &eight)] {
            let head = Head { tags: tags.clone(), ..stored_head(Variant::default()) };
            let stored = Stored::new(head, Bytes::from_static(&[0; 1000]).into());
            store(&memory, target, stored, memory.epoch(&key(target)));
        }
        let before = memory.bytes();
        let (scope, project) = (PurgeScope::Tag("7".to_owned()), "shop".parse().unwrap());
        memory.purges.add(&Purge { project, branch: None, scope, is_soft: false }, Instant::now());
        let is_there = |target| memory.find(&key(target), |_| true).is_some();
        assert_eq!((["/a", "/b", "/c"].map(is_there), memory.bytes()), ([false, false, true], before));
        memory.sweep();
        assert!(memory.bytes() * 2 < before, "{} of {before}", memory.bytes());
        assert_eq!(["/a", "/b", "/c"].map(is_there), [false, false, true]);
        let late = stored(b"late", Variant::default());
        store(&memory, "/a", late, memory.epoch(&key("/a")));
        assert!(!is_there("/a"), "nobody knows any more what was purged meanwhile");
    }

    fn variant(vary: &str, accepted: &str, coding: Option<Option<Coding>>) -> Variant {
        let vary = HeaderMap::from_iter([(http::header::VARY, vary.parse().unwrap())]);
        asking("/", &format!("Host: a\r\nAccept-Encoding: {accepted}\r\n"), false, |asked| {
            Variant::of(Fields::Map(&vary), &Asking::of(&asked.unwrap(), None), coding).unwrap()
        })
    }

    /// Of an app that looks at Accept-Encoding.
    fn of_app(accepted: &str) -> Variant {
        variant("accept-encoding", accepted, None)
    }

    #[test]
    fn each_variant_has_its_own_answer_unless_there_is_one_for_all() {
        let memory = room(1 << 20);
        let all = Variant::default();
        let [brotli, none] = [Some(Coding::Brotli), None].map(|coding| variant("", "gzip", Some(coding)));
        for (body, variant) in [(&b"gzip"[..], of_app("gzip")), (b"br", brotli.clone()), (b"plain", none.clone())] {
            put(&memory, "/", stored(body, variant));
        }
        let body = |wanted: &Variant| {
            memory.find(&key("/"), |own| *own == all || own == wanted).map(|stored| body_of(&stored))
        };
        assert_eq!((body(&of_app("gzip")), body(&brotli)), (Some("gzip".into()), Some("br".into())));
        assert_eq!((body(&none), body(&of_app(""))), (Some("plain".into()), None));
        put(&memory, "/", stored(b"newer", brotli.clone()));
        assert_eq!((body(&brotli), body(&none)), (Some("newer".into()), Some("plain".into())));
        put(&memory, "/", stored(b"all", all.clone()));
        assert_eq!((body(&brotli), body(&none)), (Some("all".into()), Some("all".into())));
        memory.remove(&key("/"));
        for number in 0..100 {
            put(&memory, "/", stored(b"x", of_app(&format!("x-{number}"))));
        }
        assert_eq!(memory.variants(&key("/")).len(), VARIANTS_MAX, "the newest");
        memory.remove(&key("/"));
    }

    #[test]
    fn only_what_was_asked_about_is_renewed() {
        let memory = room(1 << 20);
        let find = |variant: &Variant| memory.find(&key("/"), |own| own == variant);
        let (one, other) = (of_app("gzip"), of_app("br"));
        put(&memory, "/", stored(b"one", one.clone()));
        put(&memory, "/", stored(b"other", other.clone()));
        let (before, epoch) = (find(&one).unwrap(), memory.epoch(&key("/")));
        assert!(renew(&memory, &before, stored(b"renewed", one.clone()), epoch));
        assert_eq!(
            (body_of(&find(&one).unwrap()), body_of(&find(&other).unwrap())),
            ("renewed".into(), "other".into())
        );
        assert!(!renew(&memory, &before, stored(b"late", one.clone()), epoch), "a newer one is there");
        let (before, epoch) = (find(&one).unwrap(), memory.epoch(&key("/")));
        memory.remove(&key("/"));
        assert!(!renew(&memory, &before, stored(b"late", one.clone()), epoch) && find(&one).is_none());
    }

    #[test]
    fn bytes_are_bounded_and_none_may_be_had() {
        let memory = room(64 << 10);
        for number in 0..1000 {
            put(&memory, &format!("/{number}"), stored(&[0; 1000], Variant::default()));
        }
        assert!(memory.bytes() <= 64 << 10, "{}", memory.bytes());
        let none = room(0);
        put(&none, "/", stored(b"x", Variant::default()));
        assert!(none.find(&key("/"), |_| true).is_none());
    }

    #[test]
    fn what_is_of_a_guarded_share_is_evicted_by_nobody_else() {
        let memory = room(4 << 20);
        let put = |project, number, body: usize| {
            let key = key_of(project, &format!("/{number}"));
            let stored = Stored::new(stored_head(Variant::default()), Bytes::from(vec![0; body]).into());
            memory.store(&key, Arc::new(stored), memory.epoch(&key), |_| {});
        };
        let left = |project, count| {
            let is_there = |number: &u32| !memory.variants(&key_of(project, &format!("/{number}"))).is_empty();
            (0..count).filter(is_there).count()
        };
        // Half in three shares: about 700,000 bytes for each. The first has less, the second more.
        (0..400).for_each(|number| put("quiet", number, 1000));
        (0..1500).for_each(|number| put("middle", number, 1000));
        for number in 0..30_000 {
            put("loud", number, if number % 100 == 0 { 50_000 } else { 1000 });
            if number % 1000 == 0 {
                assert_eq!(left("quiet", 400), 400, "after {number}");
            }
        }
        let middle = left("middle", 1500);
        assert!((350..1000).contains(&middle), "{middle} of what was more than its share");
        assert!(left("loud", 30_000) > 1000);
        assert!(memory.bytes() <= 4 << 20, "{}", memory.bytes());
        (0..400).for_each(|number| memory.remove(&key_of("quiet", &format!("/{number}"))));
        (0..1500).for_each(|number| memory.remove(&key_of("middle", &format!("/{number}"))));
        assert_eq!((left("quiet", 400), left("middle", 1500)), (0, 0), "what is put back can be removed");
        assert!(!lock(&memory.shares).guard("loud", u64::MAX), "the others have nothing left");
        memory.resize(0);
        put("last", 0, 1000);
        assert_eq!((memory.bytes(), left("last", 1)), (0, 0));
        memory.resize(1 << 20);
        put("last", 0, 1000);
        assert!(left("last", 1) == 1 && !lock(&memory.shares).guard("last", u64::MAX), "nobody else has anything");
    }
}
