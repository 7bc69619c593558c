//! What every connection of the edge shares: snapshots to read, counters to add to, and the engine.
//!
//! Made by `mod.rs`; the snapshots are replaced by `control_link` alone. The rule: nothing here is locked while waiting.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::sync::watch;

use crate::model::machine::Listeners;
use crate::model::snapshot::Settings;

use super::EdgeError;
use super::admission::Admission;
use super::cache::Cache;
use super::gateway::Gateway;
use super::metrics::Metrics;
use super::routing::Table;
use super::tls::{CertTable, TlsSetup};

/// Connections to apps that are kept open, per thread.
const POOL: usize = 256;
/// A complaint of one kind is said at most this often.
const COMPLAINT: Duration = Duration::from_secs(10);

/// The state, with the engine that answers from it.
pub struct Shared {
    pub state: Arc<State>,
    engine: Arc<HttpProxy<Gateway>>,
}

#[derive(Debug)]
pub struct State {
    pub state_dir: PathBuf,
    pub settings: ArcSwap<Settings>,
    pub listeners: ArcSwap<Listeners>,
    pub table: ArcSwap<Table>,
    pub certificates: ArcSwap<CertTable>,
    pub tls: TlsSetup,
    pub cache: Cache,
    pub metrics: Metrics,
    pub admission: Arc<Admission>,
    pub complaints: Complaints,
    pub ids: RequestIds,
    /// Becomes true when the edge begins to stop.
    pub stopping: watch::Sender<bool>,
}

impl Shared {
    pub fn new(state_dir: PathBuf, settings: Settings) -> Result<Arc<Self>, EdgeError> {
        let state = Arc::new(State {
            state_dir,
            cache: Cache::new(settings.cache.memory),
            settings: ArcSwap::from_pointee(settings),
            listeners: ArcSwap::default(),
            table: ArcSwap::default(),
            certificates: ArcSwap::default(),
            tls: TlsSetup::new()?,
            metrics: Metrics::new()?,
            admission: Arc::default(),
            complaints: Complaints::default(),
            ids: RequestIds::new(),
            stopping: watch::Sender::new(false),
        });
        // Apps are spoken to without TLS: an empty trust store spares reading the machine's.
        let conf = ServerConf {
            ca_file: Some("/dev/null".to_owned()),
            upstream_keepalive_pool_size: POOL,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            ..ServerConf::default()
        };
        let mut engine = HttpProxy::new(Gateway::new(state.clone()), Arc::new(conf));
        engine.handle_init_modules();
        Ok(Arc::new(Self { state, engine: Arc::new(engine) }))
    }

    pub fn engine(&self) -> &Arc<HttpProxy<Gateway>> {
        &self.engine
    }
}

impl Deref for Shared {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
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

/// Ids for requests: a random beginning for each run of the edge, and a count.
#[derive(Debug)]
pub struct RequestIds {
    run: u64,
    count: AtomicU64,
}

impl RequestIds {
    pub fn new() -> Self {
        let mut run = [0; 8];
        // Without randomness the ids are still unique in this process, which is all that they must be.
        let _ = aws_lc_rs::rand::fill(&mut run);
        Self { run: u64::from_ne_bytes(run), count: AtomicU64::new(0) }
    }

    pub fn next(&self) -> String {
        format!("{:016x}{:08x}", self.run, self.count.fetch_add(1, Ordering::Relaxed))
    }
}
