//! One request on its way, from its head to the moment it counts.
//!
//! Made by `door` and `http2` for every request that takes longer than a look; whoever answers writes down what came of it.
//! The rule: it counts exactly once, when it is dropped, whatever ended it.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use crate::model::address::Address;

use super::cache::{CacheStatus, Hit};
use super::clock::Date;
use super::id::RequestId;
use super::metrics::{Busy, Counted, SiteMeter};
use super::request::Asked;
use super::routing::Entry;
use super::worker::Worker;

#[derive(Debug)]
pub struct Exchange {
    worker: Arc<Worker>,
    meter: Arc<SiteMeter>,
    method: Method,
    began: Instant,
    pub id: RequestId,
    /// The answer's, once there is one.
    pub status: Option<StatusCode>,
    pub cache: Option<CacheStatus>,
    /// Bytes of the answer's body that left.
    pub sent: u64,
    /// Bytes of the request's body that came.
    pub received: u64,
    /// Who was asked last.
    pub upstream: Option<Address>,
    _busy: Busy,
}

impl Exchange {
    pub fn new(worker: &Arc<Worker>, asked: &Asked<'_>, entry: Option<&Entry>, id: RequestId) -> Self {
        Self::of(worker, asked.method.clone(), entry, id)
    }

    /// For what could not be understood.
    pub fn stray(worker: &Arc<Worker>, id: RequestId) -> Self {
        Self::of(worker, Method::TRACE, None, id)
    }

    fn of(worker: &Arc<Worker>, method: Method, entry: Option<&Entry>, id: RequestId) -> Self {
        let metrics = &worker.shared.metrics;
        let meter = entry.map_or(metrics.unknown(), |entry| &entry.meter).clone();
        Self {
            _busy: metrics.begin(&meter),
            worker: worker.clone(),
            meter,
            method,
            began: Instant::now(),
            id,
            status: None,
            cache: None,
            sent: 0,
            received: 0,
            upstream: None,
        }
    }

    /// The time as the answer says it.
    pub fn date(&self) -> Date {
        self.worker.clock.date()
    }

    /// Whether the edge stops, so that this answer is the last of its connection.
    pub fn is_last(&self) -> bool {
        self.worker.is_stopping()
    }

    pub fn is_site(&self) -> bool {
        self.meter.is_site()
    }

    /// What is said of the cache on the answer: nothing where it has no part in anything.
    pub fn told_cache(&self) -> Option<CacheStatus> {
        self.cache.filter(|_| self.is_site())
    }

    /// The app could be reached, or not.
    pub fn mark_up(&self, is_up: bool) {
        self.worker.shared.metrics.up(&self.meter, is_up);
    }
}

/// Counts a request that was answered from the cache in one go.
pub fn count_hit(worker: &Worker, asked: &Asked<'_>, entry: Option<&Entry>, hit: &Hit) {
    let metrics = &worker.shared.metrics;
    metrics.count(&Counted {
        meter: entry.map_or(metrics.unknown(), |entry| &entry.meter),
        method: &asked.method,
        status: hit.stored.status.as_u16(),
        cache: Some(hit.status()),
        took: asked.at.elapsed(),
    });
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.worker.shared.metrics.count(&Counted {
            meter: &self.meter,
            method: &self.method,
            status: self.status.map_or(0, |status| status.as_u16()),
            cache: self.cache,
            took: self.began.elapsed(),
        });
    }
}
