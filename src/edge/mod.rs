//! The data plane: accept, decrypt, route, cache, proxy. Knows nothing of deployments, and outlives control.
//!
//! Composition root, called by `opri edge`. A request's way: `listen` → `connection` → `door` or `http2` → `strict` →
//! `request` → `answer` → `respond`, `fetch` or `gateway` → `upstream`. The rule: one edge a state directory, and it goes on serving whatever becomes of
//! control.

mod access_log;
mod admission;
mod answer;
mod cache;
mod clock;
mod connect;
mod connection;
mod control_link;
mod door;
mod duplex;
mod exchange;
mod failure;
mod fetch;
mod field;
mod frames;
mod gateway;
mod headers;
mod health;
mod http2;
mod id;
mod listen;
mod metrics;
mod pace;
mod patience;
pub mod proxy_protocol;
mod rates;
mod request;
mod respond;
mod routing;
mod shared;
mod snapshot_file;
mod sound;
mod stream;
mod streams;
mod strict;
#[cfg(test)]
mod tests;
mod timer;
mod tls;
mod upstream;
mod visit;
mod visitor;
mod watched;
mod wire;
mod worker;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::link::paths;
use crate::model::snapshot::Snapshot;

use control_link::ControlLink;
use listen::Sockets;
use shared::Shared;
use worker::Workers;

/// How long requests may take after a signal to stop.
const STOP: Duration = Duration::from_secs(10);
/// How long the last snapshot, and the last lines of the access log, may take to reach the disk.
const KEPT: Duration = Duration::from_secs(2);

/// How an edge is to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub state_dir: PathBuf,
    /// Whether control hands the listening sockets over; else they are bound from the last snapshot.
    pub await_sockets: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("another edge runs on {0} already; stop it first, or let `opri serve` adopt it")]
    Taken(PathBuf),
    #[error("cannot use {path}: {error}")]
    State { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the edge cannot start: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs an edge to its end, on a runtime of its own.
pub fn main_loop(options: Options) -> Result<(), EdgeError> {
    raise_descriptors();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

/// Runs an edge until it is told to stop, by control or by a signal.
pub async fn run(options: Options) -> Result<(), EdgeError> {
    // Ours must be the process' TLS library before pingora installs its own; an error means that it is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _lock = lock(&options.state_dir)?;
    let snapshot = snapshot_file::load(&options.state_dir);
    let shared = Shared::new(options.state_dir.clone(), snapshot.settings.clone())?;
    let (kept, keeping) = watch::channel(Snapshot::default());
    let sockets = Sockets::new(shared.clone(), Workers::start(&shared)?);
    let (tell, ailing) = watch::channel(Vec::new());
    let mut link = ControlLink::start(sockets, snapshot, !options.await_sockets, (kept, ailing)).await?;
    let watching = tokio::spawn(health::watch(shared.clone(), tell));
    let log = tokio::spawn(shared.access_log.clone().carry(paths::access_log(&options.state_dir)));
    let keeper = tokio::spawn(snapshot_file::keep(options.state_dir.clone(), keeping));
    let listener = listen(&options.state_dir)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let within = tokio::select! {
        within = link.run(&listener) => within,
        _ = terminate.recv() => STOP,
        _ = interrupt.recv() => STOP,
    };
    watching.abort();
    link.sockets.close();
    shared.stop();
    if tokio::time::timeout(within, shared.admission.emptied()).await.is_err() {
        tracing::warn!("requests were still running when the time to stop was over");
    }
    // The keeper ends when there is nothing left to keep.
    drop(link);
    shared.access_log.end();
    let _ = tokio::time::timeout(KEPT, async { tokio::join!(keeper, log) }).await;
    Ok(())
}

/// Takes all the descriptors that the process may have: shells give 1,024 by default, one connection needs up to two.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}

/// One edge a state directory, for as long as the file stays open.
fn lock(state_dir: &Path) -> Result<File, EdgeError> {
    let run = state_dir.join("run");
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |error| EdgeError::State { path, error }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&run).map_err(wrong(&run))?;
    let path = run.join("edge.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(wrong(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EdgeError::Taken(state_dir.to_owned())),
        Err(error) => Err(wrong(&path)(error.into())),
    }
}

/// The socket for control; one that an edge before left behind is replaced, for the lock is ours.
fn listen(state_dir: &Path) -> Result<UnixListener, EdgeError> {
    let path = paths::edge_socket(state_dir);
    let removed = match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed.and_then(|()| UnixListener::bind(&path)).map_err(|error| EdgeError::State { path, error })
}
