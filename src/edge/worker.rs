//! One of the edge's workers: a thread with a runtime of its own, and what its connections share with nobody else.
//!
//! Started by `mod.rs`, one a core. A connection stays with the worker that accepted it, and so do the connections to apps
//! that it uses: nothing is handed from core to core on the way of a request. The rule: a worker ends when it is dropped.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::clock::Clock;
use super::fetch::pool::{Buffers, Pool};
use super::gateway::Gateway;
use super::shared::Shared;

/// Connections to apps that pingora keeps open, a worker.
const POOL: usize = 256;

pub struct Worker {
    pub number: usize,
    pub shared: Arc<Shared>,
    pub pool: Pool,
    pub buffers: Buffers,
    pub clock: Clock,
    /// Changes when the edge begins to stop.
    pub stopping: watch::Receiver<bool>,
    engine: Arc<HttpProxy<Gateway>>,
}

impl Worker {
    pub fn new(number: usize, shared: &Arc<Shared>) -> Arc<Self> {
        // Apps are spoken to without TLS: an empty trust store spares reading the machine's.
        let conf = ServerConf {
            ca_file: Some("/dev/null".to_owned()),
            upstream_keepalive_pool_size: POOL,
            threads: 1,
            ..ServerConf::default()
        };
        let mut engine = HttpProxy::new(Gateway::new(shared.clone()), Arc::new(conf));
        engine.handle_init_modules();
        Arc::new(Self {
            number,
            shared: shared.clone(),
            pool: Pool::default(),
            buffers: Buffers::default(),
            clock: Clock::new(),
            stopping: shared.stopping.subscribe(),
            engine: Arc::new(engine),
        })
    }

    pub fn engine(&self) -> &Arc<HttpProxy<Gateway>> {
        &self.engine
    }

    /// Whether the edge has begun to stop. Costs a look at a number.
    pub fn is_stopping(&self) -> bool {
        !matches!(self.stopping.has_changed(), Ok(false))
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("number", &self.number).finish_non_exhaustive()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Workers(Vec<Running>);

#[derive(Debug)]
struct Running {
    worker: Arc<Worker>,
    runtime: Handle,
    /// Ends the thread when it is dropped.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts as many as there are cores to run on.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        (0..count).map(|number| start(Worker::new(number, shared))).collect::<io::Result<_>>().map(Self)
    }

    /// Each with the handle of its runtime.
    pub fn each(&self) -> impl Iterator<Item = (&Arc<Worker>, &Handle)> {
        self.0.iter().map(|running| (&running.worker, &running.runtime))
    }
}

fn start(worker: Arc<Worker>) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    let name = format!("worker-{}", worker.number);
    let sweeping = worker.clone();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = sweeping.pool.keep_fresh() => {}
            }
        });
        // What is still running has had its time.
        runtime.shutdown_background();
    })?;
    Ok(Running { worker, runtime: handle, end: Some(end), thread: Some(thread) })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
