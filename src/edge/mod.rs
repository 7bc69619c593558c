//! The data plane: accept, decrypt, route, cache, proxy. Knows nothing of deployments, and outlives control.
//!
//! Composition root, called by `opri edge`. A request's way: `listen` → `connection` → `door` or `http2` → `strict` →
//! `request` → `answer` → `respond`, `fetch` or `gateway` → `upstream`. The rule: one edge a state directory, and it goes on serving whatever becomes of
//! control.

mod access_log;
mod admission;
mod answer;
mod cache;
mod carried;
mod clock;
mod compress;
mod connect;
mod connection;
mod control_link;
mod door;
mod duplex;
mod exchange;
pub mod failure;
mod fetch;
pub mod field;
pub mod forwarded;
mod frames;
mod gateway;
mod headers;
mod health;
mod hold;
mod http2;
mod id;
mod listen;
mod metrics;
mod pace;
mod passage;
mod patience;
mod peer;
mod place;
pub mod proxy_protocol;
mod purging;
mod rates;
mod request;
mod respond;
mod rights;
mod routing;
mod session;
mod shared;
mod snapshot_file;
mod sound;
mod stream;
mod streams;
pub mod strict;
#[cfg(test)]
mod tests;
mod timer;
mod tls;
mod upstream;
mod visit;
mod visitor;
mod watched;
mod why;
mod wire;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::link::paths;
use crate::model::snapshot::Snapshot;
use crate::model::user::User;

use control_link::{ControlLink, Stop};
use listen::Sockets;
use place::Place;
use shared::Shared;
use worker::Workers;

/// How long requests may take after a signal to stop.
const STOP: Duration = Duration::from_secs(10);
/// How long the last snapshot, the last lines of the access log and the cache may take to reach the disk.
const KEPT: Duration = Duration::from_secs(2);

/// How an edge is to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub state_dir: PathBuf,
    pub start: Start,
}

/// Where an edge has what it needs to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It binds its sockets itself, and serves its last snapshot.
    Alone,
    /// Control hands everything over.
    Led,
    /// The same, while another edge serves that it is to replace.
    Beside,
}

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("another edge runs on {0} already; stop it first, or let `opri serve` adopt it")]
    Taken(PathBuf),
    #[error("cannot use {path}: {error}")]
    State { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Rights(#[from] rights::RightsError),
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the edge cannot start: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs an edge to its end, as `user` when one is named, on a runtime of its own. For a process that has one thread.
pub fn main_loop(options: Options, user: Option<User>) -> Result<(), EdgeError> {
    raise_descriptors();
    let place = Place::take(&options.state_dir, user, options.start == Start::Beside)?;
    rights::give_up(user, options.start == Start::Alone)?;
    user.map_or(Ok(()), |user| rights::reach(&options.state_dir, user))?;
    give_memory_back();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(options, place))
}

/// Lets a thread of the allocator's give back what connections that closed had. Not before the rights are given up: a thread
/// keeps those it begins with.
fn give_memory_back() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "memory is given back only while there is traffic");
    }
}

/// Runs an edge in a process that keeps its rights.
pub async fn run(options: Options) -> Result<(), EdgeError> {
    let place = Place::take(&options.state_dir, None, false)?;
    serve(options, place).await
}

/// Serves until it is told to stop, by control or by a signal.
async fn serve(options: Options, place: Place) -> Result<(), EdgeError> {
    // Ours must be the process' TLS library before pingora installs its own; an error means that it is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let snapshot = snapshot_file::load(&options.state_dir);
    let shared = Shared::new(options.state_dir.clone(), snapshot.settings.clone())?;
    let (kept, keeping) = watch::channel(Snapshot::default());
    let sockets = Sockets::new(shared.clone(), Workers::start(&shared)?);
    let (tell, ailing) = watch::channel(Vec::new());
    let mut link = ControlLink::start(sockets, snapshot, (place, options.start), (kept, ailing)).await?;
    let watching = tokio::spawn(health::watch(shared.clone(), tell));
    let sweeping = tokio::spawn(cache::sweep(shared.clone()));
    let log = tokio::spawn(shared.access_log.clone().carry(paths::access_log(&options.state_dir)));
    let mut keeper = Some(tokio::spawn(snapshot_file::keep(options.state_dir.clone(), keeping)));
    let listener = link.listen()?;
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = until_stop(&mut link, &listener, &mut signals).await;
    watching.abort();
    link.stop(stop);
    let handing = hand_over(shared.clone(), link.place().clone(), keeper.take_if(|_| stop.has_successor));
    let finished = async { tokio::join!(handing, shared.admission.emptied()) };
    if !see_out(&mut link, &listener, &mut signals, (stop.within, finished)).await {
        tracing::warn!("requests were still running when the time to stop was over");
    }
    sweeping.abort();
    let cache = shared.clone();
    let closed = tokio::task::spawn_blocking(move || cache.cache.close());
    // The keeper ends when there is nothing left to keep.
    drop(link);
    shared.access_log.end();
    let kept = async { futures_util::future::OptionFuture::from(keeper).await };
    let _ = tokio::time::timeout(KEPT, async { tokio::join!(kept, log, closed) }).await;
    Ok(())
}

type Signals = (Signal, Signal);

/// Obeys control until it, or a person, says stop.
async fn until_stop(link: &mut ControlLink, listener: &UnixListener, signals: &mut Signals) -> Stop {
    let now = Stop { within: STOP, has_successor: false };
    tokio::select! {
        stop = link.run(listener) => stop,
        _ = signals.0.recv() => now,
        _ = signals.1.recv() => now,
    }
}

/// Goes on obeying until everything is finished; false when the time for it was over before.
async fn see_out(
    link: &mut ControlLink,
    listener: &UnixListener,
    signals: &mut Signals,
    (within, finished): (Duration, impl Future),
) -> bool {
    let mut finished = std::pin::pin!(finished);
    let mut deadline = Instant::now() + within;
    loop {
        let sooner = tokio::select! {
            _ = &mut finished => return true,
            () = sleep_until(deadline) => return false,
            stop = until_stop(link, listener, signals) => stop,
        };
        link.stop(sooner);
        deadline = deadline.min(Instant::now() + sooner.within);
    }
}

/// Leaves to a successor what one edge alone may write, once nothing more is written here.
async fn hand_over(shared: Arc<Shared>, place: Arc<Place>, keeper: Option<JoinHandle<()>>) {
    let Some(keeper) = keeper else { return };
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the last snapshot may not be on disk");
    }
    if let Err(error) = tokio::task::spawn_blocking(move || shared.cache.close()).await {
        tracing::error!(%error, "the cache on disk was not closed");
    }
    place.let_go();
}

/// Takes all the descriptors that the process may have: shells give 1,024 by default, one connection needs up to two.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays low");
    }
}
