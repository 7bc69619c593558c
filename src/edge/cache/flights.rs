//! The responses that are being asked for right now, so that many who want one cost the app one request.
//!
//! Kept by `cache`. The rule: nobody waits for what is known to be of no use to him. Whom a response is for shows when its
//! head has come; then those it is not for ask by themselves, and a URL whose answers are for one each is remembered for a
//! while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::RandomState;

use super::flight::{Coming, End, Flight, Reader, View, Waiter};
use super::key::Key;
use super::memory::Epoch;
use super::vary::Variant;

const SHARDS: usize = 64;
/// URLs that are remembered; one that falls on another's place takes it.
const REMEMBERED: usize = 16 << 10;
/// For how long, unless an answer for everybody comes before.
const MEMORY: Duration = Duration::from_secs(600);
/// The part of a place that says until when, in bits; the rest tells URLs apart.
const TIME_BITS: u32 = 32;

#[derive(Debug)]
pub struct Flights {
    shards: Box<[Mutex<Shard>]>,
    /// Of URLs whose last answer was for one alone.
    apart: Box<[AtomicU64]>,
    hasher: RandomState,
    since: Instant,
}

type Shard = HashMap<Key, Vec<Arc<Flight>>, RandomState>;

/// Where a request finds its place.
#[derive(Debug)]
pub enum Seat {
    Lead(Lead),
    /// It is not known yet what it is to.
    Wait(Waiter),
    Along(Along),
    /// By itself.
    Apart,
}

/// A response of which at least a part has come, for one who reads along.
#[derive(Debug)]
pub struct Along {
    pub coming: Arc<Coming>,
    pub reader: Reader,
}

/// What a request needs to know of a flight.
pub struct Judge<'j> {
    /// Whether nothing was purged since: what was asked for before is no answer to what comes after it.
    pub holds: &'j dyn Fn(Epoch) -> bool,
    pub is_right: &'j dyn Fn(&Variant) -> bool,
    pub answers: &'j dyn Fn(&Coming) -> bool,
    /// The variant that the request would get, where another of this kind is known.
    pub alike: &'j dyn Fn(&Variant) -> Variant,
}

impl Flights {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            apart: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            since: Instant::now(),
        })
    }

    /// Finds a place for a request. `epoch` is now's.
    pub fn board(self: &Arc<Self>, key: &Key, epoch: Epoch, judge: &Judge<'_>) -> Seat {
        if self.is_apart(key) {
            return Seat::Apart;
        }
        let mut shard = self.shard(key);
        let mut expected = None;
        for flight in shard.get(key).into_iter().flatten().filter(|flight| (judge.holds)(flight.epoch)) {
            match flight.view() {
                View::Asked(None) => return Seat::Wait(flight.wait()),
                View::Asked(Some(variant)) if (judge.is_right)(&variant) => return Seat::Wait(flight.wait()),
                View::Coming(coming, has_begun) if (judge.is_right)(&coming.head.variant) => {
                    if !(judge.answers)(&coming) {
                        return Seat::Apart;
                    }
                    if !has_begun {
                        return Seat::Wait(flight.wait());
                    }
                    return flight.join().map_or(Seat::Apart, |reader| Seat::Along(Along { coming, reader }));
                }
                View::Coming(coming, _) => expected = Some((judge.alike)(&coming.head.variant)),
                View::Asked(_) | View::Over => {}
            }
        }
        let flight = Flight::new(epoch, expected);
        shard.entry(key.clone()).or_default().push(flight.clone());
        drop(shard);
        Seat::Lead(Lead { flights: self.clone(), key: key.clone(), flight })
    }

    fn remove(&self, key: &Key, flight: &Arc<Flight>) {
        let mut shard = self.shard(key);
        if let Some(flights) = shard.get_mut(key) {
            flights.retain(|other| !Arc::ptr_eq(other, flight));
            if flights.is_empty() {
                shard.remove(key);
            }
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_apart(&self, key: &Key) -> bool {
        let (place, mark) = self.place(key);
        let remembered = place.load(Ordering::Relaxed);
        remembered >> TIME_BITS == mark && remembered & ((1 << TIME_BITS) - 1) > self.since.elapsed().as_secs()
    }

    fn remember(&self, key: &Key) {
        let (place, mark) = self.place(key);
        let until = (self.since.elapsed() + MEMORY).as_secs();
        place.store(mark << TIME_BITS | until & ((1 << TIME_BITS) - 1), Ordering::Relaxed);
    }

    /// An answer came that is for everybody.
    pub fn forget(&self, key: &Key) {
        let (place, mark) = self.place(key);
        let remembered = place.load(Ordering::Relaxed);
        if remembered != 0 && remembered >> TIME_BITS == mark {
            place.store(0, Ordering::Relaxed);
        }
    }

    fn place(&self, key: &Key) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        (&self.apart[hash as usize % REMEMBERED], hash >> TIME_BITS)
    }
}

/// Who asks the app for all. Whatever becomes of it, nobody is left waiting.
#[derive(Debug)]
pub struct Lead {
    flights: Arc<Flights>,
    key: Key,
    pub flight: Arc<Flight>,
}

impl Lead {
    /// Shows the head to those who wait.
    pub fn come(&self, coming: Coming) {
        self.flight.come(coming);
    }

    /// Nobody else can do with the answer; `is_its_way` when the next will be no better.
    pub fn refuse(&self, is_its_way: bool) {
        if is_its_way {
            self.flights.remember(&self.key);
        }
        self.over(End::Refused);
    }

    /// It has come whole, and is stored where it was to be.
    pub fn land(&self) {
        self.over(End::Whole);
    }

    /// First out of sight, so that whoever wakes and looks finds what comes after it.
    fn over(&self, end: End) {
        self.flights.remove(&self.key, &self.flight);
        self.flight.end(end);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.over(End::Lost);
    }
}
