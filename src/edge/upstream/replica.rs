//! One running instance, and the turns that requests have at it.
//!
//! Made by `upstream`, held by a request from its choice to its answer's end. The rule: whoever has a turn says how it
//! went as soon as that is known, by `worked` or `failed`; the first word counts, and no word is no judgement.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use crate::model::address::Address;
use crate::model::app::Protocol;
use crate::model::route::UpstreamId;

use super::Upstream;
use super::ejection::{Ejection, Pass};
use super::sync::{AtomicU8, AtomicU64, Ordering};

/// Added to a replica's load by a turn whose answer has begun; the bits below count all turns.
const ANSWERING: u64 = 1 << 32;
/// What a turn's verdict is.
const NONE: u8 = 0;
const WORKED: u8 = 1;
const FAILED: u8 = 2;

#[derive(Debug)]
pub struct Replica {
    pub address: Address,
    /// Never the same for two replicas of one edge, whatever becomes of their upstreams.
    pub id: u64,
    /// Keeps the pooled connections of two releases apart: never the same for two upstreams.
    pub group: u64,
    pub protocol: Protocol,
    pub(super) ejection: Ejection,
    upstream: Weak<Upstream>,
    load: AtomicU64,
}

impl Replica {
    pub(super) fn new(address: &Address, id: u64, upstream: &Upstream) -> Arc<Self> {
        Arc::new(Self {
            address: address.clone(),
            id,
            group: group_key(&upstream.id),
            protocol: upstream.protocol,
            ejection: Ejection::new(),
            upstream: upstream.me.clone(),
            load: AtomicU64::new(0),
        })
    }

    pub fn in_flight(&self) -> u64 {
        self.load.load(Ordering::Relaxed) & (ANSWERING - 1)
    }

    /// Its health check is not answered as it should be: it has no requests while there is another.
    pub fn sicken(&self) {
        self.ejection.sicken();
    }

    pub fn recover(&self) {
        self.ejection.recover();
    }

    /// Whether an answer of its is under way, or was given while it was sick, since this was asked last.
    pub fn shows_life(&self) -> bool {
        let is_answering = self.load.load(Ordering::Relaxed) >= ANSWERING;
        self.ejection.take_sign() || is_answering
    }
}

fn group_key(id: &UpstreamId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// One request's turn at a replica: counts until it is dropped.
#[derive(Debug)]
pub struct Turn {
    replica: Arc<Replica>,
    pass: Pass,
    verdict: AtomicU8,
}

impl Turn {
    pub(super) fn begin(replica: &Arc<Replica>, pass: Pass) -> Self {
        replica.load.fetch_add(1, Ordering::Relaxed);
        Self { replica: replica.clone(), pass, verdict: AtomicU8::new(NONE) }
    }

    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// A whole response head has come, whatever its status.
    pub fn worked(&self) {
        if self.is_first_word(WORKED) {
            self.replica.load.fetch_add(ANSWERING, Ordering::Relaxed);
            self.replica.ejection.worked(self.pass);
        }
    }

    /// It could not be reached, broke off before a whole response head, or took too long for one.
    pub fn failed(&self) {
        if self.is_first_word(FAILED)
            && let Some(upstream) = self.replica.upstream.upgrade()
        {
            upstream.has_failed(&self.replica, self.pass);
        }
    }

    /// A turn has one owner, who says one thing after the other.
    fn is_first_word(&self, verdict: u8) -> bool {
        let is_first = self.verdict.load(Ordering::Relaxed) == NONE;
        if is_first {
            self.verdict.store(verdict, Ordering::Relaxed);
        }
        is_first
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let answering = if *self.verdict.get_mut() == WORKED { ANSWERING } else { 0 };
        self.replica.load.fetch_sub(1 + answering, Ordering::Relaxed);
        self.replica.ejection.leave(self.pass);
    }
}
