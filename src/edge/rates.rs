//! How many requests a second a site takes, in all and from one address.
//!
//! `routing` makes one `Rates` for each site that has such a limit, `answer` asks it for every request. The rule: a
//! limit that stays keeps its count through a reload, and whoever was refused has used up nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::model::name::Site;
use crate::model::project::SiteLimits;
use crate::model::route::Route;

use super::admission::network;

/// Addresses are remembered in so many sets of so many, over all sites: 64 Ki of them, in about 1 MiB.
const SETS: usize = 8192;
const WAYS: usize = 8;

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// The name it is counted under.
    pub limit: &'static str,
    /// Seconds after which there is room again.
    pub retry_after: u32,
}

/// The limits of one site.
#[derive(Debug)]
pub struct Rates {
    limits: SiteLimits,
    site: Option<Rate>,
    per_address: Option<Rate>,
    /// Of the site's own rate.
    state: AtomicU64,
    /// What tells its addresses from those of other sites.
    key: u64,
    memory: Arc<Memory>,
}

impl Rates {
    /// Counts a request in, or says which limit it would break.
    pub fn admit(&self, client: IpAddr, now: Instant) -> Result<(), Over> {
        let now = self.memory.since_began(now);
        let over = |wait| Over::new("rate", wait);
        let of_site = |state| self.site.map_or(Ok(0), |rate| rate.take(state, now));
        // Looked at first, so that an address does not pay for what the site refuses.
        of_site(self.state.load(Ordering::Relaxed)).map_err(over)?;
        if let Some(rate) = self.per_address {
            let taken = self.memory.take((self.key, network(client)), rate, now);
            taken.map_err(|wait| Over::new("rate_per_address", wait))?;
        }
        let take = |state| of_site(state).ok();
        match self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(state) => of_site(state).map(drop).map_err(over),
        }
    }
}

impl Over {
    fn new(limit: &'static str, wait: u64) -> Self {
        let seconds = Duration::from_nanos(wait).as_millis().div_ceil(1000);
        Self { limit, retry_after: u32::try_from(seconds).unwrap_or(u32::MAX).max(1) }
    }
}

/// All sites that have limits, with what is remembered of their visitors.
#[derive(Debug, Default)]
pub struct RateTable {
    sites: HashMap<Site, Arc<Rates>>,
    memory: Arc<Memory>,
}

impl RateTable {
    /// An empty table that remembers what the one before does.
    pub fn after(before: &RateTable) -> Self {
        Self { sites: HashMap::new(), memory: before.memory.clone() }
    }

    /// The limits of a route's site, as they were `before` if they are the same; `None` when it has none.
    pub fn of(&mut self, route: &Route, before: &RateTable) -> Option<Arc<Rates>> {
        let (site, limits) = (route.site.as_ref()?, route.limits);
        if limits.rate.is_none() && limits.rate_per_address.is_none() {
            return None;
        }
        let known = self.sites.get(site).or_else(|| before.sites.get(site)).filter(|rates| rates.limits == limits);
        let rates = known.cloned().unwrap_or_else(|| self.memory.clone().rates(site, limits));
        self.sites.insert(site.clone(), rates.clone());
        Some(rates)
    }
}

/// A rate as the generic cell rate algorithm has it: what is kept is the instant at which all that was taken is made up
/// for, in nanoseconds since the beginning. One second's worth may come at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Between two requests.
    interval: u64,
    /// How far ahead of now that instant may be.
    tolerance: u64,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1));
        let interval = 1_000_000_000 / per_second;
        Self { interval, tolerance: interval * (per_second - 1) }
    }

    /// The state with one more request, or how long until there is room for it.
    fn take(self, state: u64, now: u64) -> Result<u64, u64> {
        let from = state.max(now);
        match (from - now).saturating_sub(self.tolerance) {
            0 => Ok(from.saturating_add(self.interval)),
            wait => Err(wait),
        }
    }
}

/// What is remembered of addresses. Of a set that is full the one is forgotten that has the least to make up for; one that
/// has nothing more to make up for is as good as unknown.
#[derive(Debug)]
struct Memory {
    began: Instant,
    hasher: RandomState,
    /// Made when the first site needs it.
    sets: OnceLock<Box<[Mutex<[Slot; WAYS]>]>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    state: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { began: Instant::now(), hasher: RandomState::new(), sets: OnceLock::new() }
    }
}

impl Memory {
    fn rates(self: Arc<Self>, site: &Site, limits: SiteLimits) -> Arc<Rates> {
        Arc::new(Rates {
            limits,
            site: limits.rate.map(Rate::new),
            per_address: limits.rate_per_address.map(Rate::new),
            state: AtomicU64::new(0),
            key: self.hasher.hash_one(site),
            memory: self,
        })
    }

    fn since_began(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    fn take(&self, who: (u64, IpAddr), rate: Rate, now: u64) -> Result<(), u64> {
        let key = self.hasher.hash_one(who);
        let sets = self.sets.get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        // The other bits of the key tell the addresses of a set apart.
        let Some(set) = usize::try_from(key % SETS as u64).ok().and_then(|at| sets.get(at)) else { return Ok(()) };
        let mut slots = set.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = slots.iter().any(|slot| slot.key == key);
        let slot = slots.iter_mut().min_by_key(|slot| if slot.key == key { (0, 0) } else { (1, slot.state) });
        let Some(slot) = slot else { return Ok(()) };
        let state = if is_known { slot.state } else { 0 };
        *slot = Slot { key, state: rate.take(state, now)? };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: Option<u32>, rate_per_address: Option<u32>) -> SiteLimits {
        SiteLimits { body_max: None, rate, rate_per_address }
    }

    fn route(limits: SiteLimits) -> Route {
        let (host, to) = ("shop.test".parse().unwrap(), crate::model::route::Target::Absent);
        let site = Some("shop".parse().unwrap());
        let (cache, compression) = Default::default();
        let (path, https_only, purge_key, is_unlisted, replaced, hold) = Default::default();
        Route { host, path, to, site, https_only, cache, limits, compression, purge_key, is_unlisted, replaced, hold }
    }

    fn rates(limits: SiteLimits) -> Arc<Rates> {
        RateTable::default().of(&route(limits), &RateTable::default()).unwrap()
    }

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    /// How many of `asked` requests are let in, which come evenly over `within`.
    fn admitted(rates: &Rates, client: IpAddr, from: Instant, within: Duration, asked: u32) -> u32 {
        let at = |n: u32| from + within.mul_f64(f64::from(n) / f64::from(asked));
        (0..asked).filter(|n| rates.admit(client, at(*n)).is_ok()).count() as u32
    }

    #[test]
    fn a_second_of_requests_may_come_at_once_and_then_as_many_as_the_rate() {
        for (rate, asked) in [(1, 100), (5, 100), (1000, 50_000)] {
            let rates = rates(limits(Some(rate), None));
            let now = Instant::now();
            assert_eq!(admitted(&rates, address(1), now, Duration::ZERO, asked), rate);
            // Being refused costs nothing: who asks too fast gets exactly the rate.
            let later = now + Duration::from_secs(1);
            let served = admitted(&rates, address(2), later, Duration::from_secs(10), asked * 10);
            assert!((rate * 11 - 1..=rate * 11 + 1).contains(&served), "{rate}: {served}");
        }
    }

    #[test]
    fn who_is_refused_hears_which_limit_and_when_to_come_again() {
        let now = Instant::now();
        let both = rates(limits(Some(3), Some(2)));
        let (one, two) = (address(1), address(2));
        assert_eq!([(); 2].map(|()| both.admit(one, now)), [Ok(()); 2]);
        assert_eq!(both.admit(one, now), Err(Over { limit: "rate_per_address", retry_after: 1 }));
        assert_eq!(both.admit(two, now), Ok(()));
        assert_eq!(both.admit(two, now), Err(Over { limit: "rate", retry_after: 1 }));
        assert_eq!(both.admit(one, now + Duration::from_secs(1)), Ok(()));
        let one_a_second = rates(limits(Some(1), None));
        let now = Instant::now();
        assert_eq!(one_a_second.admit(one, now + Duration::from_millis(1)), Ok(()));
        assert!(one_a_second.admit(one, now + Duration::from_millis(1000)).is_err());
        assert_eq!(one_a_second.admit(one, now + Duration::from_millis(1001)), Ok(()));
    }

    #[test]
    fn one_household_of_ipv6_is_one_address() {
        let (rates, now) = (rates(limits(None, Some(1))), Instant::now());
        let admit = |address: &str| rates.admit(address.parse().unwrap(), now).is_ok();
        assert!(admit("2001:db8::1") && !admit("2001:db8::2") && admit("2001:db8:0:1::1"));
        assert!(admit("192.0.2.1") && !admit("::ffff:192.0.2.1"));
    }

    #[test]
    fn a_limit_that_stays_keeps_its_count_and_sites_do_not_share_one() {
        let now = Instant::now();
        let first = &mut RateTable::default();
        let shop = route(limits(Some(2), Some(1)));
        first.of(&shop, &RateTable::default()).unwrap().admit(address(1), now).unwrap();
        let mut second = RateTable::after(first);
        let same = second.of(&shop, first).unwrap();
        assert_eq!(same.admit(address(1), now).unwrap_err().limit, "rate_per_address");
        assert_eq!(same.admit(address(2), now), Ok(()));
        assert_eq!(same.admit(address(3), now).unwrap_err().limit, "rate");
        let blog = Route { site: Some("blog".parse().unwrap()), ..shop.clone() };
        assert_eq!(second.of(&blog, first).unwrap().admit(address(1), now), Ok(()));
        let more = Route { limits: limits(Some(3), None), ..shop.clone() };
        assert_eq!(RateTable::after(&second).of(&more, &second).unwrap().admit(address(1), now), Ok(()));
        assert!(second.of(&Route { limits: limits(None, None), ..shop }, first).is_none());
    }

    #[test]
    fn a_million_addresses_take_no_more_room_and_the_worst_is_not_forgotten() {
        let (rates, now) = (rates(limits(None, Some(50))), Instant::now());
        let worst = address(0);
        assert_eq!(admitted(&rates, worst, now, Duration::ZERO, 100), 50);
        let others = (1..1_000_000).filter(|n| rates.admit(address(*n), now).is_ok()).count();
        assert_eq!(others, 999_999, "strangers are let in");
        assert!(rates.admit(worst, now).is_err());
        let slots: usize = rates.memory.sets.get().unwrap().iter().map(|set| set.lock().unwrap().len()).sum();
        assert_eq!(slots, SETS * WAYS);
    }
}
