//! Upstreams and their replicas: choose one, claim it, and drain what is no longer routed.
//!
//! `routing` makes them from a section, `answer` claims, `fetch` and `gateway` ask for a replica, `health` looks after them.
//! The rule: a request that holds a `Claim` may finish, whatever happens to the routes meanwhile; the claim is dropped
//! last and wakes a waiting drain.

mod choice;
mod ejection;
mod in_flight;
mod replica;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::StatusCode;
use prometheus::IntCounter;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::link::UpstreamTraffic;
use crate::model::address::Address;
use crate::model::app::Protocol;
use crate::model::route::UpstreamId;
use crate::model::snapshot::{self, Health};

use choice::Draws;
use ejection::Pass;
use in_flight::InFlight;
pub use replica::{Replica, Turn};

/// What is counted with; under loom `in_flight` and `ejection` are given other atomics.
mod sync {
    pub use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
}
use sync::{AtomicU64, Ordering};

/// How long an app may take, once its drain is over and it is told to stop, to say goodbye to whoever it still answers.
const FAREWELL: Duration = Duration::from_secs(15);

/// Gives every replica of an edge a number of its own. Handed from one table to the next.
#[derive(Debug, Default)]
pub struct ReplicaIds(AtomicU64);

/// The replicas of one release, while it is routed and while it drains.
#[derive(Debug)]
pub struct Upstream {
    pub id: UpstreamId,
    pub protocol: Protocol,
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    health: ArcSwapOption<Health>,
    in_flight: InFlight,
    emptied: Notify,
    cut: watch::Sender<Cut>,
    /// Requests that were cut.
    cuts: AtomicU64,
    draws: Draws,
    ids: Arc<ReplicaIds>,
    ejections: IntCounter,
    answers: AtomicU64,
    errors: AtomicU64,
    began: Instant,
    me: Weak<Self>,
}

impl Upstream {
    /// `ejections` counts those of its site.
    pub fn new(section: &snapshot::Upstream, ids: &Arc<ReplicaIds>, ejections: IntCounter) -> Arc<Self> {
        let upstream = Arc::new_cyclic(|me| Self {
            id: section.id.clone(),
            protocol: section.protocol,
            replicas: ArcSwap::default(),
            health: ArcSwapOption::default(),
            in_flight: InFlight::new(),
            emptied: Notify::new(),
            cut: watch::Sender::new(Cut::Nobody),
            cuts: AtomicU64::new(0),
            draws: Draws::new(0),
            ids: ids.clone(),
            ejections,
            answers: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            began: Instant::now(),
            me: me.clone(),
        });
        upstream.replace(section);
        upstream
    }

    /// Puts other replicas in place; those with an address that was there before keep their counts.
    pub fn replace(&self, section: &snapshot::Upstream) {
        let before = self.replicas.load_full();
        let make = |address: &Address| {
            let known = before.iter().find(|replica| replica.address == *address).cloned();
            known.unwrap_or_else(|| Replica::new(address, self.ids.next(), self))
        };
        self.replicas.store(Arc::new(section.replicas.iter().map(make).collect()));
        self.health.store(section.health.clone().map(Arc::new));
    }

    /// Counts one request in; `None` when the upstream drains, and then the routes have a newer one.
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        self.in_flight.enter().then(|| Claim(self.clone()))
    }

    /// A replica that is not `tried` yet: of two the one with fewer requests in flight. One that is ejected or sick only when
    /// there is no other.
    pub fn choose(&self, tried: &[Address]) -> Option<Turn> {
        self.choose_at(|| self.began.elapsed(), tried)
    }

    fn choose_at(&self, now: impl Fn() -> Duration, tried: &[Address]) -> Option<Turn> {
        let replicas = self.replicas.load();
        let is_untried = |replica: &Replica| !tried.contains(&replica.address);
        let is_open = |replica: &Replica| is_untried(replica) && replica.ejection.is_open(&now);
        // Shut again by the time it is entered, it is not open at the next look.
        while let Some(replica) = choice::of_two(&replicas, &self.draws, is_open) {
            if let Some(pass) = replica.ejection.enter(&now) {
                return Some(Turn::begin(replica, pass));
            }
        }
        let replica = choice::of_two(&replicas, &self.draws, is_untried)?;
        Some(Turn::begin(replica, replica.ejection.enter_anyway()))
    }

    /// A request to one of its replicas failed.
    fn has_failed(&self, replica: &Replica, pass: Pass) {
        let replicas = self.replicas.load();
        let is_last = || !replicas.iter().any(|other| other.id != replica.id && other.ejection.is_well());
        let Some(ejected) = replica.ejection.failed(pass, self.began.elapsed(), is_last) else { return };
        self.ejections.inc();
        if ejected.is_first {
            let (upstream, address, pause) = (&self.id.0, &replica.address, ejected.pause);
            tracing::warn!(upstream, %address, ?pause, "a replica fails again and again; the others serve for it");
        }
    }

    /// Counts what its app made of a request: the status, or `None` where it gave no answer.
    pub fn count(&self, status: Option<StatusCode>) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if status.is_none_or(|status| status.is_server_error()) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn traffic(&self) -> UpstreamTraffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        UpstreamTraffic { upstream: self.id.clone(), answers: read(&self.answers), errors: read(&self.errors) }
    }

    pub fn has_replicas(&self) -> bool {
        !self.replicas.load().is_empty()
    }

    pub fn replicas(&self) -> Arc<Vec<Arc<Replica>>> {
        self.replicas.load_full()
    }

    /// How its replicas are asked whether they are well.
    pub fn health(&self) -> Option<Arc<Health>> {
        self.health.load_full()
    }

    /// Whether the last that was heard of any replica was good.
    pub fn is_up(&self) -> bool {
        self.replicas.load().iter().any(|replica| replica.ejection.is_up())
    }

    /// Lets nobody in and waits for those inside: up to `within` for the beginning of their answers, up to `long` for the
    /// end. What is left then its app may still end in its own words, until it is cut `FAREWELL` later. How many did not
    /// end by themselves.
    pub async fn drain(self: &Arc<Self>, within: Duration, long: Duration) -> u64 {
        if self.in_flight.drain() || timeout(within, self.emptied.notified()).await.is_ok() {
            return 0;
        }
        let (inside, left) = (self.in_flight.count(), long.saturating_sub(within));
        self.cut.send_replace(Cut::Unanswered);
        if !left.is_zero() && timeout(left, self.emptied.notified()).await.is_ok() {
            return self.cuts.load(Ordering::Relaxed);
        }
        let rest = if left.is_zero() { inside } else { self.cuts.load(Ordering::Relaxed) + self.in_flight.count() };
        let upstream = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            upstream.cut.send_replace(Cut::Everybody);
        });
        rest
    }

    /// Cuts whatever is in flight: the edge ends.
    pub fn cut(&self) {
        self.cut.send_replace(Cut::Everybody);
    }

    /// Returns when a request that is still in flight is to be cut.
    pub async fn until_cut(&self, is_answered: impl Fn() -> bool) {
        // The sender lives in `self`, so that waiting cannot fail.
        let mut cut = self.cut.subscribe();
        let is_cut = |cut: &Cut| *cut == Cut::Everybody || (*cut == Cut::Unanswered && !is_answered());
        let _ = cut.wait_for(is_cut).await;
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who of those in flight is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nobody,
    /// Those whose answers have not begun.
    Unanswered,
    Everybody,
}

/// The right of one request to use an upstream.
#[derive(Debug)]
pub struct Claim(Arc<Upstream>);

impl Claim {
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.0.in_flight.leave() {
            self.0.emptied.notify_one();
        }
    }
}

impl ReplicaIds {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(replicas: &[&str]) -> Arc<Upstream> {
        let replicas = replicas.iter().map(|address| address.parse().unwrap()).collect();
        let id = UpstreamId("shop/master#r1".to_owned());
        let (protocol, drain) = (Default::default(), Duration::from_secs(1));
        let drain_long = drain;
        let section = snapshot::Upstream { id, replicas, protocol, drain, drain_long, health: None };
        Upstream::new(&section, &Arc::default(), IntCounter::new("ejections", "Ejections.").unwrap())
    }

    #[test]
    fn the_least_busy_replica_is_chosen_and_a_tried_one_is_not() {
        let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2"]);
        let first = upstream.choose(&[]).unwrap();
        let second = upstream.choose(&[]).unwrap();
        assert_ne!(first.replica().address, second.replica().address);
        drop(first);
        let tried = vec![second.replica().address.clone()];
        let third = upstream.choose(&tried).unwrap();
        assert_ne!(third.replica().address, second.replica().address);
        let both = vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        assert!(upstream.choose(&both).is_none());
    }

    /// Where so many requests go, one after the other, before any ejection is over.
    fn chosen(upstream: &Upstream, count: usize) -> Vec<Address> {
        let choose = |_| upstream.choose_at(|| Duration::ZERO, &[]).unwrap();
        (0..count).map(choose).map(|turn| turn.replica().address.clone()).collect()
    }

    fn fail(upstream: &Upstream, address: &Address, count: usize) {
        let others: Vec<_> = upstream.replicas().iter().map(|replica| replica.address.clone()).collect();
        let others: Vec<_> = others.into_iter().filter(|other| other != address).collect();
        (0..count).for_each(|_| upstream.choose(&others).unwrap().failed());
    }

    #[test]
    fn idle_replicas_share_and_busy_ones_are_spared() {
        for replicas in [&["127.0.0.1:1", "127.0.0.1:2"][..], &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]] {
            let upstream = upstream(replicas);
            let all = chosen(&upstream, 300);
            for replica in upstream.replicas().iter() {
                let count = all.iter().filter(|address| **address == replica.address).count();
                assert!(count > 200 / replicas.len(), "{count} of {} for {}", all.len(), replica.address);
            }
            let held: Vec<_> = (0..30 * replicas.len()).map(|_| upstream.choose(&[]).unwrap()).collect();
            for replica in upstream.replicas().iter() {
                assert!((20..=40).contains(&replica.in_flight()), "{}", replica.in_flight());
            }
            drop(held);
            assert!(upstream.replicas().iter().all(|replica| replica.in_flight() == 0));
        }
    }

    #[test]
    fn a_replica_that_fails_is_left_alone_and_the_last_one_never() {
        let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]);
        let addresses: Vec<_> = upstream.replicas().iter().map(|replica| replica.address.clone()).collect();
        for out in 1..4 {
            fail(&upstream, &addresses[out - 1], 3);
            assert!(chosen(&upstream, 100).iter().all(|address| !addresses[..out].contains(address)));
        }
        fail(&upstream, &addresses[3], 10);
        assert!(chosen(&upstream, 100).iter().all(|address| *address == addresses[3]));
        assert_eq!(upstream.ejections.get(), 3);
        assert!(!upstream.is_up());
        // What cannot go to the last goes to one that is out.
        assert!(upstream.choose(&addresses[3..]).is_some());
    }

    #[test]
    fn when_all_are_sick_all_are_used() {
        let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2"]);
        for replica in upstream.replicas().iter() {
            replica.sicken();
        }
        let all = chosen(&upstream, 100);
        assert!(upstream.replicas().iter().all(|replica| all.contains(&replica.address)));
    }

    #[test]
    fn only_the_first_word_of_a_turn_counts_and_an_answer_under_way_is_life() {
        let upstream = upstream(&["127.0.0.1:1"]);
        let turn = upstream.choose(&[]).unwrap();
        assert!(!turn.replica().shows_life());
        turn.worked();
        turn.failed();
        assert!(upstream.is_up() && turn.replica().shows_life());
        let replica = upstream.replicas()[0].clone();
        drop(turn);
        assert!(!replica.shows_life());
        assert_eq!(replica.in_flight(), 0);
    }

    #[test]
    fn a_replica_keeps_its_number_and_no_two_have_the_same() {
        let ids = Arc::default();
        let section = |id: &str, ports: &[u16]| snapshot::Upstream {
            id: UpstreamId(id.to_owned()),
            replicas: ports.iter().map(|port| Address::Tcp(([127, 0, 0, 1], *port).into())).collect(),
            protocol: Default::default(),
            drain: Duration::ZERO,
            drain_long: Duration::ZERO,
            health: None,
        };
        let new = |id, ports: &[u16]| Upstream::new(&section(id, ports), &ids, IntCounter::new("e", "E.").unwrap());
        let numbers = |upstream: &Upstream| upstream.replicas().iter().map(|replica| replica.id).collect::<Vec<_>>();
        let (one, other) = (new("a#r1", &[1, 2]), new("a#r1", &[1, 2]));
        let before = [numbers(&one), numbers(&other)].concat();
        one.replace(&section("a#r1", &[2, 3]));
        let after = numbers(&one);
        assert_eq!(after[0], before[1]);
        let all: std::collections::BTreeSet<_> = before.iter().chain(&after[1..]).collect();
        assert_eq!(all.len(), 5);
    }

    #[tokio::test]
    async fn a_drain_waits_for_claims_and_refuses_new_ones() {
        let upstream = upstream(&["127.0.0.1:1"]);
        let claim = upstream.claim().unwrap();
        let draining = tokio::spawn({
            let upstream = upstream.clone();
            async move { upstream.drain(Duration::from_secs(60), Duration::from_secs(60)).await }
        });
        while upstream.claim().is_some() {
            tokio::task::yield_now().await;
        }
        drop(claim);
        assert_eq!(draining.await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_is_cut_after_the_drain_and_what_is_after_the_long_one() {
        let upstream = upstream(&[]);
        let (unanswered, answered) = (upstream.claim().unwrap(), upstream.claim().unwrap());
        let began = tokio::time::Instant::now();
        let cut = async |claim: Claim, is_answered: bool| {
            claim.upstream().until_cut(|| is_answered).await;
            drop(claim);
            began.elapsed().as_secs()
        };
        let (short, long) = (Duration::from_secs(30), Duration::from_secs(600));
        let (count, first, second) =
            tokio::join!(upstream.drain(short, long), cut(unanswered, false), cut(answered, true));
        assert_eq!((count, first, second), (2, 30, 615));
    }

    #[test]
    fn threads_that_claim_while_it_drains_leave_nothing_behind() {
        let upstream = upstream(&["127.0.0.1:1"]);
        let emptied = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while upstream.claim().is_some() {});
            }
            upstream.in_flight.drain()
        });
        assert_eq!(upstream.in_flight.count(), 0);
        assert!(upstream.claim().is_none());
        // Either the drain found it empty, or the last claim left a wake-up behind: never both, never neither.
        let woken = futures_util::FutureExt::now_or_never(upstream.emptied.notified()).is_some();
        assert_ne!(emptied, woken);
    }
}
