//! One request on its way, from its head to the moment it counts.
//!
//! Made by `door` and `http2` for every request that takes longer than a look; whoever answers writes down what came of it.
//! The rule: it counts exactly once, when it is dropped, whatever ended it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Method, StatusCode};

use crate::model::address::Address;
use crate::model::cache::CdnFields;

use super::access_log::{Call, End, Kept};
use super::cache::{self, CacheStatus, Hit, Said};
use super::clock::Date;
use super::id::RequestId;
use super::metrics::{Busy, Counted, SiteMeter};
use super::request::Asked;
use super::respond::Told;
use super::routing::Entry;
use super::visit::Visit;
use super::visitor::visitor;
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
    /// The cache's key, where answers show it.
    key: Option<Box<str>>,
    /// Of what the app says to caches, what leaves.
    pub passes: CdnFields,
    is_unlisted: bool,
    /// Bytes of the answer's body that left.
    pub sent: u64,
    /// Bytes of the request's body that came.
    pub received: u64,
    /// Who was asked last.
    pub upstream: Option<Address>,
    /// What the access log is to say of it.
    kept: Option<Kept>,
    /// Nothing is counted where there is none.
    busy: Option<Busy>,
}

impl Exchange {
    pub fn new(worker: &Arc<Worker>, asked: &Asked<'_>, call: &Call<'_>, entry: Option<&Entry>, id: RequestId) -> Self {
        let kept = worker.shared.access_log.keep(worker.number, call);
        let mut exchange = Self::of(worker, asked.method.clone(), kept, entry, id);
        exchange.key = entry.and_then(|entry| cache::shown_key(entry, asked));
        exchange
    }

    /// For what could not be understood.
    pub fn stray(worker: &Arc<Worker>, visit: &Visit, protocol: &'static str, id: RequestId) -> Self {
        let call = Call {
            site: None,
            client: visit.peer(),
            method: "",
            scheme: visit.scheme(),
            host: "",
            target: "",
            protocol,
            id: id.as_bytes(),
            user_agent: None,
            referer: None,
        };
        let kept = worker.shared.access_log.keep(worker.number, &call);
        Self::of(worker, Method::TRACE, kept, None, id)
    }

    fn of(worker: &Arc<Worker>, method: Method, kept: Option<Kept>, entry: Option<&Entry>, id: RequestId) -> Self {
        let metrics = &worker.shared.metrics;
        let meter = entry.map_or(metrics.unknown(), |entry| &entry.meter).clone();
        Self {
            busy: Some(metrics.begin(&meter)),
            worker: worker.clone(),
            meter,
            method,
            began: Instant::now(),
            id,
            status: None,
            cache: None,
            key: None,
            passes: entry.map(|entry| entry.cache.passes).unwrap_or_default(),
            is_unlisted: entry.is_some_and(|entry| entry.is_unlisted),
            sent: 0,
            received: 0,
            upstream: None,
            kept,
        }
    }

    /// For what no visitor waits for: it counts as no request.
    pub fn behind(worker: &Arc<Worker>, id: RequestId) -> Self {
        Self {
            busy: None,
            worker: worker.clone(),
            meter: worker.shared.metrics.unknown().clone(),
            method: Method::GET,
            began: Instant::now(),
            id,
            status: None,
            cache: None,
            key: None,
            passes: CdnFields::default(),
            is_unlisted: false,
            sent: 0,
            received: 0,
            upstream: None,
            kept: None,
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

    /// What is said with the answer beside its own fields.
    pub fn told(&self) -> Told<'_> {
        Told { id: &self.id, cache: self.told_cache(), date: self.date(), is_unlisted: self.is_unlisted }
    }

    /// What is said of the cache on the answer: nothing where it has no part in anything.
    fn told_cache(&self) -> Option<Said<'_>> {
        let status = self.cache.filter(|_| self.is_site())?;
        Some(Said { status, key: self.key.as_deref() })
    }
}

/// What a request asks for, as the access log tells it.
pub fn call<'a>(
    worker: &Worker,
    visit: &Visit,
    asked: &'a Asked<'_>,
    entry: Option<&'a Entry>,
    id: &'a RequestId,
) -> Call<'a> {
    let client =
        if asked.is_trusted { visitor(asked.fields, visit, &worker.shared.settings.load()) } else { asked.peer };
    Call {
        site: entry.and_then(|entry| entry.site.as_ref()),
        client,
        method: asked.method.as_str(),
        scheme: asked.scheme,
        host: asked.host.as_str(),
        target: asked.target,
        protocol: asked.protocol,
        id: id.as_bytes(),
        user_agent: asked.fields.first("user-agent"),
        referer: asked.fields.first("referer"),
    }
}

/// Counts and notes a request that was answered from the cache in one go.
pub fn count_hit(worker: &Worker, asked: &Asked<'_>, call: &Call<'_>, entry: Option<&Entry>, hit: &Hit) {
    let (shared, took) = (&worker.shared, asked.at.elapsed());
    shared.metrics.count(&Counted {
        meter: entry.map_or(shared.metrics.unknown(), |entry| &entry.meter),
        method: &asked.method,
        status: hit.stored.status.as_u16(),
        cache: Some(hit.status()),
        took,
    });
    let end = End {
        at: SystemTime::now(),
        duration: took,
        status: Some(hit.stored.status),
        sent: if asked.method == Method::HEAD { 0 } else { hit.stored.body.len() as u64 },
        received: 0,
        cache: Some(hit.status().name()),
        upstream: None,
    };
    shared.access_log.record(worker.number, call, &end);
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.busy.is_none() {
            return;
        }
        let (shared, took) = (&self.worker.shared, self.began.elapsed());
        shared.metrics.count(&Counted {
            meter: &self.meter,
            method: &self.method,
            status: self.status.map_or(0, |status| status.as_u16()),
            cache: self.cache,
            took,
        });
        let Some(kept) = &self.kept else { return };
        let end = End {
            at: SystemTime::now(),
            duration: took,
            status: self.status,
            sent: self.sent,
            received: self.received,
            cache: self.told_cache().map(|said| said.status.name()),
            upstream: self.upstream.as_ref(),
        };
        shared.access_log.record_kept(self.worker.number, kept, &end);
    }
}
