//! Upstreams and their replicas: choose one, claim it, and drain what is no longer routed.
//!
//! `routing` makes them from a section, `answer` claims, `gateway` asks for a replica. The rule: a request that holds a
//! `Claim` may finish, whatever happens to the routes meanwhile; the claim is dropped last and wakes a waiting drain.

mod in_flight;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::model::address::Address;
use crate::model::app::Protocol;
use crate::model::route::UpstreamId;
use crate::model::snapshot;

use in_flight::InFlight;

/// What `in_flight` counts with; under loom it is given other atomics.
mod sync {
    pub use std::sync::atomic::{AtomicU64, Ordering};
}
use sync::Ordering;

/// The replicas of one release, while it is routed and while it drains.
#[derive(Debug)]
pub struct Upstream {
    pub id: UpstreamId,
    pub protocol: Protocol,
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    in_flight: InFlight,
    emptied: Notify,
    cut: watch::Sender<bool>,
}

impl Upstream {
    pub fn new(section: &snapshot::Upstream) -> Arc<Self> {
        let upstream = Self {
            id: section.id.clone(),
            protocol: section.protocol,
            replicas: ArcSwap::default(),
            in_flight: InFlight::new(),
            emptied: Notify::new(),
            cut: watch::Sender::new(false),
        };
        upstream.replace(&section.replicas);
        Arc::new(upstream)
    }

    /// Puts other replicas in place; those with an address that was there before keep their counts.
    pub fn replace(&self, addresses: &[Address]) {
        let before = self.replicas.load_full();
        let keep = |address: &Address| before.iter().find(|replica| replica.address == *address).cloned();
        let group = group_key(&self.id);
        let new = |address: &Address| Replica::new(address, group, self.protocol);
        let after = addresses.iter().map(|address| keep(address).unwrap_or_else(|| new(address)));
        self.replicas.store(Arc::new(after.collect()));
    }

    /// Counts one request in; `None` when the upstream drains, and then the routes have a newer one.
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        self.in_flight.enter().then(|| Claim(self.clone()))
    }

    /// The replica with the fewest requests in flight, of those not `tried` yet.
    pub fn choose(&self, tried: &[Address]) -> Option<Turn> {
        let replicas = self.replicas.load();
        let untried = replicas.iter().filter(|replica| !tried.contains(&replica.address));
        let replica = untried.min_by_key(|replica| replica.in_flight.load(Ordering::Relaxed))?.clone();
        replica.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Turn(replica))
    }

    pub fn has_replicas(&self) -> bool {
        !self.replicas.load().is_empty()
    }

    /// Lets nobody in, waits for those inside up to `within`, then cuts them. How many were cut.
    pub async fn drain(&self, within: Duration) -> u64 {
        if self.in_flight.drain() || tokio::time::timeout(within, self.emptied.notified()).await.is_ok() {
            return 0;
        }
        let rest = self.in_flight.count();
        self.cut.send_replace(true);
        rest
    }

    /// Returns when the requests that are still in flight are to be cut.
    pub async fn until_cut(&self) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.cut.subscribe().wait_for(|cut| *cut).await;
    }
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

/// One running instance.
#[derive(Debug)]
pub struct Replica {
    pub address: Address,
    /// Keeps the pooled connections of two releases apart: never the same for two upstreams.
    pub group: u64,
    pub protocol: Protocol,
    in_flight: AtomicUsize,
}

impl Replica {
    fn new(address: &Address, group: u64, protocol: Protocol) -> Arc<Self> {
        Arc::new(Self { address: address.clone(), group, protocol, in_flight: AtomicUsize::new(0) })
    }
}

/// One request's turn at a replica: counts until it is dropped.
#[derive(Debug)]
pub struct Turn(Arc<Replica>);

impl Turn {
    pub fn replica(&self) -> &Arc<Replica> {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn group_key(id: &UpstreamId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(replicas: &[&str]) -> Arc<Upstream> {
        let replicas = replicas.iter().map(|address| address.parse().unwrap()).collect();
        let id = UpstreamId("shop/master#r1".to_owned());
        Upstream::new(&snapshot::Upstream { id, replicas, protocol: Default::default(), drain: Duration::from_secs(1) })
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

    #[tokio::test]
    async fn a_drain_waits_for_claims_and_refuses_new_ones() {
        let upstream = upstream(&["127.0.0.1:1"]);
        let claim = upstream.claim().unwrap();
        let draining = tokio::spawn({
            let upstream = upstream.clone();
            async move { upstream.drain(Duration::from_secs(60)).await }
        });
        while upstream.claim().is_some() {
            tokio::task::yield_now().await;
        }
        drop(claim);
        assert_eq!(draining.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_outlives_the_drain_is_cut() {
        let upstream = upstream(&[]);
        let claim = upstream.claim().unwrap();
        assert_eq!(upstream.drain(Duration::ZERO).await, 1);
        claim.upstream().until_cut().await;
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
