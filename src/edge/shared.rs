//! What every connection of the edge shares: snapshots to read, and counters to add to.
//!
//! Made by `mod.rs`; the snapshots are replaced by `control_link` alone. The rule: nothing here is locked while waiting.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::model::machine::Listeners;
use crate::model::snapshot::Settings;

use super::EdgeError;
use super::access_log::AccessLog;
use super::admission::Admission;
use super::cache::Cache;
use super::compress::Encoders;
use super::id::RequestIds;
use super::metrics::Metrics;
use super::routing::Table;
use super::tls::{CertTable, TlsSetup};

/// A complaint of one kind is said at most this often.
const COMPLAINT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Shared {
    pub state_dir: PathBuf,
    pub settings: ArcSwap<Settings>,
    pub listeners: ArcSwap<Listeners>,
    pub table: ArcSwap<Table>,
    pub certificates: ArcSwap<CertTable>,
    pub tls: TlsSetup,
    pub cache: Cache,
    pub encoders: Encoders,
    pub metrics: Metrics,
    pub access_log: Arc<AccessLog>,
    pub admission: Arc<Admission>,
    pub complaints: Complaints,
    pub ids: RequestIds,
    /// Becomes true when the edge begins to stop.
    pub stopping: watch::Sender<bool>,
    /// Whether another edge accepts from the same sockets by then, so that this one may wait for whoever is silent.
    has_successor: AtomicBool,
    /// Wakes the connections that wait for a request then.
    pub stopped_waiting: Arc<Notify>,
}

impl Shared {
    pub fn new(state_dir: PathBuf, settings: Settings) -> Result<Arc<Self>, EdgeError> {
        let metrics = Metrics::new()?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Self {
            access_log: AccessLog::new(workers, settings.access_log, metrics.access_log_dropped.clone()),
            state_dir,
            cache: Cache::new(settings.cache.memory),
            encoders: Encoders::new(),
            settings: ArcSwap::from_pointee(settings),
            listeners: ArcSwap::default(),
            table: ArcSwap::default(),
            certificates: ArcSwap::default(),
            tls: TlsSetup::new()?,
            metrics,
            admission: Admission::new(),
            complaints: Complaints::default(),
            ids: RequestIds::new(),
            stopping: watch::Sender::new(false),
            has_successor: AtomicBool::new(false),
            stopped_waiting: Arc::default(),
        }))
    }

    /// Begins to stop: every connection is told that its next request is its last.
    pub fn stop(&self, has_successor: bool) {
        self.has_successor.store(has_successor, Ordering::Release);
        self.stopping.send_replace(true);
        self.stopped_waiting.notify_waiters();
    }

    /// Whether whoever has not asked for anything yet is to be hurried: the edge ends soon.
    pub fn hurries(&self) -> bool {
        *self.stopping.borrow() && !self.has_successor.load(Ordering::Acquire)
    }
}

/// Keeps what the Internet can trigger from filling the log.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashMap<&'static str, Instant>>);

impl Complaints {
    /// Says it, unless one of this kind was said a moment ago.
    pub fn say(&self, kind: &'static str, complaint: impl FnOnce()) {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.get(kind).is_none_or(|before| now.duration_since(*before) >= COMPLAINT);
        if is_due {
            last.insert(kind, now);
            drop(last);
            complaint();
        }
    }
}
