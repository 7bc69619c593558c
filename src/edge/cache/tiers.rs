//! The two tiers of the cache as one: memory before disk.
//!
//! Used by `cache` and those who fill it. What is stored goes to both; what is found on disk comes back to memory. The rule:
//! whatever one tier does not show any more, the other does not show either.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustix::fs::statvfs;

use super::body::Body;
use super::disk::{self, Away, Disk, Event, Found, Loaded, Reading, Stream};
use super::key::Key;
use super::memory::{Epoch, Memory};
use super::purges::Purges;
use super::stored::Stored;
use super::vary::Variant;

/// The part of the memory that one response may take when there is a disk.
const LARGE: u64 = 16;
/// How long an end may take to leave everything on disk.
const CLOSING: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Tiers {
    pub memory: Memory,
    disk: ArcSwapOption<Disk>,
    /// Held while the disk tier is opened or closed.
    changing: Mutex<()>,
    purges: Arc<Purges>,
    /// Held while both tiers are told, so that they count alike.
    telling: Mutex<()>,
    /// Whether something was removed while there was no disk to be told.
    has_missed: AtomicBool,
}

impl Tiers {
    /// With so many bytes of memory, and nothing on disk yet.
    pub fn new(bytes: u64, purges: Arc<Purges>) -> Self {
        Self {
            memory: Memory::new(bytes, purges.clone()),
            disk: ArcSwapOption::empty(),
            changing: Mutex::default(),
            purges,
            telling: Mutex::default(),
            has_missed: AtomicBool::new(false),
        }
    }

    /// The variant that is right for a request; an error when it takes longer than a look.
    pub fn find(
        &self,
        key: &Key,
        is_right: impl Fn(&Variant) -> bool,
        reading: Reading,
    ) -> Result<Option<Arc<Stored>>, Away> {
        let found = self.memory.find(key, &is_right);
        if found.is_some() {
            return Ok(found);
        }
        let disk = self.disk.load();
        let Some(disk) = disk.as_ref() else { return Ok(None) };
        let epoch = self.memory.epoch(key);
        let loaded = match disk.find(key, is_right, reading) {
            Found::Response(loaded) => loaded,
            Found::Away(away) => return Err(away),
            Found::Nothing => return Ok(None),
        };
        let place = loaded.place;
        let Some(stored) = left(disk, key, *loaded) else {
            disk.remove(key);
            return Ok(None);
        };
        if matches!(stored.body, Body::Here(_)) {
            self.memory.recall(key, &stored, epoch);
            if !disk.has(key, place) {
                // A newer one came at this very moment, and the older may have taken its place.
                self.memory.drop_all(key);
            }
        }
        Ok(Some(stored))
    }

    /// All that is stored for a URL, for whatever requests, in the order in which `find` looks. Waits for the disk, and leaves
    /// no trace.
    pub fn variants(&self, key: &Key) -> Vec<Arc<Stored>> {
        let mut variants = self.memory.variants(key);
        let disk = self.disk.load_full();
        for loaded in disk.iter().flat_map(|disk| disk.variants(key)) {
            let is_here = variants.iter().any(|here| here.variant == loaded.head.variant);
            variants.extend(disk.as_ref().filter(|_| !is_here).and_then(|disk| left(disk, key, loaded)));
        }
        variants
    }

    /// Whether anything is stored for a URL that `find` has looked for.
    pub fn has_any(&self, key: &Key, reading: Reading) -> bool {
        if !self.memory.variants(key).is_empty() {
            return true;
        }
        match self.disk.load().as_ref().map(|disk| (disk, disk.find(key, |_| true, reading))) {
            Some((disk, Found::Response(loaded))) => left(disk, key, *loaded).is_some(),
            _ => false,
        }
    }

    /// Stores a response, unless it was purged since it was asked for; on disk alone when it would take much of the memory.
    pub fn store(&self, key: &Key, stored: Arc<Stored>, asked: Epoch) {
        let is_for_disk = !stored.is_part() && stored.weight() as u64 > self.memory.capacity() / LARGE;
        if is_for_disk && let Some(disk) = &*self.disk.load() {
            self.memory.replace(key, asked, || disk.store(key, &stored, asked.purges));
        } else {
            self.memory.store(key, stored, asked, |stored| self.write(key, stored, asked.purges));
        }
    }

    /// Stores a response on disk alone whose body, of at most so many bytes, is still to come; `None` when there is no disk
    /// for it, or it was purged since it was asked for.
    pub fn begin(&self, key: &Key, stored: &Arc<Stored>, asked: Epoch, most: u64) -> Option<Stream> {
        let disk = self.disk.load_full()?;
        self.memory.replace(key, asked, || disk.begin(key, stored, asked.purges, most))?
    }

    /// Puts a response in the place of the one that it renews, unless that is not there any more; whether it did.
    pub fn renew(&self, key: &Key, before: &Arc<Stored>, renewed: Stored, asked: Epoch) -> bool {
        let renewed = Arc::new(renewed);
        let write = |stored: &Arc<Stored>| self.write(key, stored, asked.purges);
        self.memory.renew(key, before, renewed.clone(), asked, write) || self.renew_on_disk(key, before, renewed, asked)
    }

    /// As `renew`, for what lies on disk alone. A long body is copied there, which is worth it only where that spares the next
    /// question.
    fn renew_on_disk(&self, key: &Key, before: &Stored, renewed: Arc<Stored>, asked: Epoch) -> bool {
        let Some(disk) = self.disk.load_full() else { return false };
        let found = match disk.find(key, |variant| *variant == before.variant, Reading::AtOnce) {
            Found::Response(loaded) => left(&disk, key, *loaded),
            Found::Away(_) | Found::Nothing => None,
        };
        if !found.is_some_and(|found| found.is_same(before)) {
            return false;
        }
        if renewed.body.at_hand().is_some() {
            self.store(key, renewed, asked);
            return true;
        }
        renewed.freshness().is_fresh()
            && self.memory.replace(key, asked, || disk.store(key, &renewed, asked.purges)).is_some()
    }

    /// Removes one URL.
    pub fn remove(&self, key: &Key) {
        self.memory.remove(key);
        // Whoever was storing it has finished by now.
        match &*self.disk.load() {
            Some(disk) => disk.remove(key),
            None => self.has_missed.store(true, Ordering::Release),
        }
    }

    /// Makes responses unreachable, or stale, for every request that starts later: after a restart as well.
    pub fn tell(&self, event: &Event) {
        let _one = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.purges.newest() + 1;
        match &*self.disk.load() {
            Some(disk) => disk.journal.add(number, event),
            None => self.has_missed.store(true, Ordering::Release),
        }
        match event {
            Event::Purge(purge) => self.purges.add(purge, Instant::now()),
            Event::Release(release) => self.purges.add_release(release),
            Event::Everything => {}
        }
        self.purges.go_on_from(number);
    }

    /// Takes a disk whose journal may be ahead of the memory, or behind it.
    fn take(&self, disk: Disk) {
        let _one = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.purges.go_on_from(disk.journal.newest());
        if self.has_missed.load(Ordering::Acquire) {
            disk.journal.add(self.purges.newest() + 1, &Event::Everything);
            self.purges.go_on_from(disk.journal.newest());
        }
        self.disk.store(Some(Arc::new(disk)));
    }

    fn write(&self, key: &Key, stored: &Arc<Stored>, purges: u64) {
        match &*self.disk.load() {
            // Parts are put together in memory alone; the whole that lies on disk may be another by now.
            Some(disk) if stored.is_part() => disk.remove(key),
            Some(disk) => disk.store(key, stored, purges),
            None => {}
        }
    }

    pub fn has_disk(&self) -> bool {
        self.disk.load().is_some()
    }

    /// What lies on disk, in bytes.
    pub fn bytes_on_disk(&self) -> u64 {
        self.disk.load().as_ref().map_or(0, |disk| disk.bytes())
    }

    /// As `Cache::keep_on_disk`.
    pub fn keep_on_disk(&self, dir: &Path, bytes: u64) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes == 0 {
            return self.discard(dir);
        }
        if self.disk.load().is_none() {
            match Disk::open(dir, bytes) {
                Ok(disk) => self.take(disk),
                Err(error) => return tracing::warn!(%error, "there is no cache on disk"),
            }
        }
        if let Some(disk) = &*self.disk.load() {
            disk.resize(bytes.min(room(dir, disk.bytes())));
        }
    }

    fn discard(&self, dir: &Path) {
        let disk = self.disk.swap(None);
        disk.inspect(|disk| disk.close(CLOSING));
        if let Err(error) = disk::discard(dir) {
            tracing::warn!(%error, "the cache on disk stays behind");
        }
    }

    /// As `Cache::close`.
    pub fn close(&self) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.disk.swap(None).inspect(|disk| disk.close(CLOSING));
    }
}

/// A response from disk, unless a purge has taken it.
fn left(disk: &Disk, key: &Key, loaded: Loaded) -> Option<Arc<Stored>> {
    let asked = loaded.head.purges;
    let stored = Stored::new(loaded.head, loaded.body);
    disk.journal.allows(key, &stored.standing, asked).then(|| Arc::new(stored))
}

/// What a cache that takes so many bytes may take: half of what there would be without it, in bytes.
fn room(dir: &Path, own: u64) -> u64 {
    let free = statvfs(dir).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    free.map_or(u64::MAX, |free| free.saturating_add(own) / 2)
}
