//! The cache: one for every way to an app.
//!
//! `answer` looks, `fetch` and `gateway` fill, `control_link` and `purging` purge. What a request allows is judged by
//! `wish`, what may be stored by `policy`; where it is found says `key`, for whom `vary`; who asks the app for all, `flights`;
//! what has become of it since, `purges`. The rule: what is shown was judged for whoever asks.

pub mod body;
pub mod condition;
mod control;
mod disk;
mod earlier;
mod explain;
mod fill;
mod filling;
mod flight;
mod flights;
mod freshness;
mod key;
mod memory;
pub mod parts;
mod policy;
mod purges;
mod range;
mod reason;
mod refresh;
mod releases;
mod seen;
mod shares;
mod status;
pub mod stored;
pub mod tags;
mod tiers;
mod vary;
mod wish;
mod write;

use std::cell::LazyCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::link::Purge;
use crate::model::route::UpstreamId;

use super::compress::Negotiation;
use super::request::Asked;
use super::routing::Entry;
use super::shared::Shared;
use condition::Shape;
use disk::Event;
pub use disk::{Away, Reading};
pub use earlier::Earlier;
pub use explain::explain;
pub use fill::Fill;
use filling::Filling;
pub use flight::{Coming, End, Next, Reader, Waiter};
pub use flights::Along;
use flights::{Flights, Judge, Lead, Seat};
use key::Key;
use memory::Epoch;
use policy::Terms;
use purges::Purges;
use reason::Reason;
pub use refresh::{Stale, is_for_less};
use releases::Releases;
use seen::Seen;
pub use status::{CacheStatus, Said};
use stored::Stored;
use tiers::Tiers;
use wish::Wish;

/// Before a sweep: whoever purged has his answer by then, and who purges one thing after the other has it swept once.
const SWEEP_DELAY: Duration = Duration::from_millis(100);
/// A pause after a sweep, in times of what the sweep took.
const SWEEP_PAUSE: u32 = 20;

/// The memory, in bytes, by which responses on their way are bounded at the least when there is a disk for them.
const FILLING: u64 = 64 << 20;

/// A stored response that answers a request.
#[derive(Debug)]
pub struct Hit {
    pub stored: Arc<Stored>,
    status: CacheStatus,
    /// Whether neither a condition nor a range asks for less than the whole.
    is_for_whole: bool,
}

impl Hit {
    fn fresh(stored: &Arc<Stored>, ttl: i64, wish: &Wish) -> Self {
        let status = CacheStatus::Hit { ttl, is_spare: false };
        Self { stored: stored.clone(), status, is_for_whole: wish.is_for_whole }
    }

    pub fn status(&self) -> CacheStatus {
        self.status
    }

    /// Whether all of it answers the request: no condition and no range says otherwise.
    pub fn is_whole_for(&self, asked: &Asked<'_>) -> bool {
        self.is_for_whole || self.stored.shape(&asked.method, asked.fields) == Some(Shape::Whole)
    }
}

#[derive(Debug)]
pub enum Look {
    Hit(Hit),
    /// Stale, and good enough as long as somebody fetches a newer one, which is this request's to see to.
    Meanwhile(Hit, Miss),
    Miss(Miss),
    /// What lies on disk may be an answer: to be looked at again when it has been fetched.
    Away(Away),
    /// What is on its way may be an answer: to be looked at again when more is known of it.
    Wait(Waiter, CacheStatus),
    /// What is on its way is one.
    Along(Along, CacheStatus),
    /// Nothing stored answers, and the client wants nothing else.
    Unavailable,
}

/// A request that the app must be asked for.
#[derive(Debug)]
pub struct Miss {
    pub status: CacheStatus,
    /// Present when the cache has to do with the answer.
    pub fill: Option<Box<Fill>>,
    /// What is stored and does not answer it by itself.
    pub stale: Option<Box<Stale>>,
    /// What an earlier release may have stored.
    pub earlier: Option<Box<Earlier>>,
    /// The target by which it is asked, in place of the one that was sent.
    pub target: Option<Box<str>>,
    /// Whether it is to be asked for the whole though the request is for less, behind an answer that is shown meanwhile.
    pub is_of_whole: bool,
}

impl Miss {
    fn of(reason: Reason, fill: Option<Fill>) -> Look {
        let status = CacheStatus::forward(reason);
        let (stale, earlier, target) = (None, None, None);
        Look::Miss(Self { status, fill: fill.map(Box::new), stale, earlier, target, is_of_whole: false })
    }
}

#[derive(Debug)]
pub struct Cache {
    tiers: Arc<Tiers>,
    held: Arc<Filling>,
    flights: Arc<Flights>,
    purges: Arc<Purges>,
    releases: Releases,
    /// Whether there have been routes since the process began.
    has_begun: AtomicBool,
}

impl Cache {
    /// A cache of at most so many bytes.
    pub fn new(bytes: u64) -> Self {
        let (purges, held) = (Arc::new(Purges::new()), Filling::new(bytes));
        let (tiers, releases) = (Arc::new(Tiers::new(bytes, purges.clone())), Releases::default());
        let has_begun = AtomicBool::new(false);
        Self { tiers, held, flights: Flights::new(), purges, releases, has_begun }
    }

    pub fn resize(&self, bytes: u64) {
        self.tiers.memory.resize(bytes);
        self.make_room();
    }

    /// In memory.
    pub fn bytes(&self) -> u64 {
        self.tiers.memory.bytes()
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.tiers.bytes_on_disk()
    }

    /// Has at most so many bytes lie in a directory, which is the edge's own; 0 for none. Takes its time.
    pub fn keep_on_disk(&self, dir: &Path, bytes: u64) {
        self.tiers.keep_on_disk(dir, bytes);
        self.make_room();
    }

    /// What is to lie on disk is collected in memory first, however little of that there is.
    fn make_room(&self) {
        let least = if self.tiers.has_disk() { FILLING } else { 0 };
        self.held.resize(self.tiers.memory.capacity().max(least));
    }

    /// Leaves on disk what lies there. Takes its time.
    pub fn close(&self) {
        self.tiers.close();
    }

    /// Makes responses unreachable, or stale, for every request that starts later.
    pub fn purge(&self, purge: &Purge) {
        self.tiers.tell(&Event::Purge(purge.clone()));
    }

    /// From now on these releases are routed, or answer for those that are. What is stored of one may be there from an earlier time: from before a restart
    /// when it was routed all along, for else what has become untrue of it meanwhile was not noticed.
    pub fn begin<'r>(&self, releases: impl Iterator<Item = &'r UpstreamId>) {
        let is_first = !self.has_begun.swap(true, Ordering::AcqRel);
        for release in releases {
            if !is_first && !self.releases.has(release) {
                self.tiers.tell(&Event::Release(release.clone()));
            }
            if let Some(oldest) = self.releases.note(release) {
                self.forget(&oldest);
            }
        }
    }

    /// This release does not come back.
    pub fn forget(&self, release: &UpstreamId) {
        self.releases.forget(release);
        self.tiers.tell(&Event::Release(release.clone()));
    }

    /// Removes a URL, under every release of its site.
    fn remove(&self, key: &Key) {
        self.releases.all(key).iter().for_each(|key| self.tiers.remove(key));
    }
}

/// Gives back the room of what was purged, a moment after each purge. Never ends.
pub async fn sweep(shared: Arc<Shared>) {
    loop {
        shared.cache.purges.happened.notified().await;
        tokio::time::sleep(SWEEP_DELAY).await;
        let (began, swept) = (Instant::now(), shared.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || swept.cache.tiers.memory.sweep()).await {
            tracing::error!(%error, "a sweep of the cache broke off");
        }
        // Whoever purges without end makes it no more than a small part of the machine's work.
        tokio::time::sleep(began.elapsed() * SWEEP_PAUSE).await;
    }
}

/// Looks for a stored response, or says what is to become of the one that the app will give. `is_apart` when this request has
/// waited for one and was refused; `reading` says whether the disk may be waited for.
pub fn look(
    cache: &Cache,
    (entry, upstream): (&Entry, &UpstreamId),
    asked: &Asked<'_>,
    is_apart: bool,
    reading: Reading,
) -> Look {
    let Some(seen) = Seen::of(entry, asked) else { return Miss::of(Reason::Off, None) };
    let wish = match seen.wish {
        Ok(wish) => wish,
        Err(reason) => {
            // Kept so that a successful write can make the stored page unreachable.
            let is_write = !asked.method.is_safe();
            return Miss::of(reason, is_write.then(|| Fill::invalidating(seen.key(upstream, asked), &entry.cache)));
        }
    };
    let key = seen.key(upstream, asked);
    let found = match cache.tiers.find(&key, seen.is_right(asked), reading) {
        Ok(found) => found,
        Err(away) => return Look::Away(away),
    };
    let has_others = || cache.tiers.has_any(&key, reading);
    let reason = match seen.judge(&wish, found.as_ref(), has_others, asked) {
        Ok((stored, ttl)) => return Look::Hit(Hit::fresh(stored, ttl, &wish)),
        Err(reason) => reason,
    };
    // What is not for this visitor is as good as not there, and a part is of use only where it is all that is asked for.
    let found = found.filter(|stored| !reason.is_of_visitor() && !stored.is_part());
    let (terms, status) = (seen.terms(wish), CacheStatus::forward(reason));
    Forwarding { cache, entry, seen, asked, key, terms, found, status }.look(is_apart)
}

/// The key of a request as answers show it, where conf asks for it: the URL, and the cookies that are part of it.
pub fn shown_key(entry: &Entry, asked: &Asked<'_>) -> Option<Box<str>> {
    if !entry.cache.shows_key {
        return None;
    }
    Some(status::quoted(&Seen::of(entry, asked)?.text(asked)))
}

/// A request that nothing stored answers as it is.
struct Forwarding<'l> {
    cache: &'l Cache,
    entry: &'l Entry,
    seen: Seen<'l>,
    asked: &'l Asked<'l>,
    key: Key,
    terms: Terms,
    /// What is stored all the same.
    found: Option<Arc<Stored>>,
    status: CacheStatus,
}

impl Forwarding<'_> {
    fn look(self, is_apart: bool) -> Look {
        let meanwhile = self.meanwhile();
        if self.terms.wish.only_if_cached {
            return meanwhile.map_or(Look::Unavailable, Look::Hit);
        }
        let epoch = self.cache.tiers.memory.epoch(&self.key);
        if is_apart {
            return Look::Miss(self.miss(epoch, None));
        }
        if !self.may_be_for_many() {
            return match meanwhile {
                Some(hit) => self.behind(epoch, hit),
                None => Look::Miss(self.miss(epoch, None)),
            };
        }
        match (self.board(epoch), meanwhile) {
            (Seat::Wait(_), Some(hit)) => Look::Hit(hit),
            (Seat::Wait(waiter), None) => Look::Wait(waiter, self.status),
            (Seat::Along(along), _) => Look::Along(along, self.status),
            (Seat::Apart, _) => Look::Miss(self.miss(epoch, None)),
            (Seat::Lead(lead), meanwhile) => {
                // It may have come between the first look and now.
                let found = self.cache.tiers.memory.find(&self.key, self.seen.is_right(self.asked));
                let wish = &self.terms.wish;
                let answers = |stored: &Arc<Stored>| stored.answers(wish, self.asked.at).ok();
                if let Some(stored) = found.filter(|stored| !stored.is_part())
                    && let Some(ttl) = answers(&stored)
                {
                    return Look::Hit(Hit::fresh(&stored, ttl, wish));
                }
                let miss = self.miss(epoch, Some(lead));
                match meanwhile {
                    Some(hit) => Look::Meanwhile(hit, miss),
                    None => Look::Miss(miss),
                }
            }
        }
    }

    /// What is stored, where it does until a newer one has been fetched.
    fn meanwhile(&self) -> Option<Hit> {
        let (wish, now) = (&self.terms.wish, self.asked.at);
        let stored = self.found.as_ref().filter(|stored| stored.answers_meanwhile(wish, now))?;
        let status = CacheStatus::Hit { ttl: stored.ttl(now), is_spare: false };
        Some(Hit { stored: stored.clone(), status, is_for_whole: wish.is_for_whole })
    }

    /// What is shown to a request whose own answer would be for nobody else: for a part, a HEAD, one with credentials. Behind
    /// it the app is asked for the whole, where that may be kept.
    fn behind(mut self, epoch: Epoch, hit: Hit) -> Look {
        let wish = self.terms.wish;
        if !wish.may_be_kept || self.is_of_cookies() {
            return Look::Hit(hit);
        }
        self.terms.wish = Wish { may_store: true, may_renew: true, may_store_part: false, is_for_whole: true, ..wish };
        match self.board(epoch) {
            Seat::Lead(lead) => Look::Meanwhile(hit, Miss { is_of_whole: true, ..self.miss(epoch, Some(lead)) }),
            Seat::Wait(_) | Seat::Along(_) | Seat::Apart => Look::Hit(hit),
        }
    }

    /// Whether cookies that are not in the key may decide about the answer: then it is not stored.
    fn is_of_cookies(&self) -> bool {
        self.terms.wish.has_cookie && self.terms.keys_cookies
    }

    /// Whether the answer to this request could be the answer to others.
    fn may_be_for_many(&self) -> bool {
        let wish = &self.terms.wish;
        // A condition of the client's own is put to the app where there is no better one, and the answer is for it alone.
        let is_whole = wish.is_for_whole || self.found.as_ref().is_some_and(|stored| stored.can_be_asked_about());
        wish.may_store && wish.takes_stored && !wish.is_authorized && is_whole && !self.is_of_cookies()
    }

    fn board(&self, epoch: Epoch) -> Seat {
        let coding = LazyCell::new(|| Negotiation::of(&self.entry.compression, self.asked).coding());
        self.cache.flights.board(
            &self.key,
            epoch,
            &Judge {
                holds: &|asked| self.cache.tiers.memory.holds(&self.key, asked),
                is_right: &self.seen.is_right(self.asked),
                answers: &|coming| coming.head.answers(&self.terms.wish, self.asked.at).is_ok(),
                alike: &|variant| variant.alike(&self.seen.asking(self.asked), *coding),
            },
        )
    }

    fn miss(&self, epoch: Epoch, lead: Option<Lead>) -> Miss {
        let Self { cache, entry, seen, asked, key, terms, found, status } = self;
        let stale = found.as_ref().map(|stored| {
            let remembered = cache.purges.remember(epoch.purges);
            Stale::new((stored.clone(), key.clone(), epoch, remembered), terms.clone(), asked, *status)
        });
        let fill = match found {
            _ if terms.wish.may_store || terms.wish.may_store_part => {
                let at = (key.clone(), epoch);
                Some(Fill::storing(cache, at, terms.clone(), seen.asking(asked), entry.cache.object_max, lead))
            }
            Some(stored) if asked.method == Method::HEAD => Some(Fill::comparing(key.clone(), stored.clone())),
            _ => None,
        };
        let earlier = match found {
            None => Earlier::of(entry, seen, asked, key, *status).map(Box::new),
            Some(_) => None,
        };
        let (status, target) = (*status, seen.target.as_deref().map(Box::from));
        Miss { status, fill: fill.map(Box::new), stale: stale.map(Box::new), earlier, target, is_of_whole: false }
    }
}
