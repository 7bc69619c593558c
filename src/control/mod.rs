//! Floor 2, the control plane: conf, hooks, git, builds, containers, certificates, history, the command line's ears.
//!
//! `serve` makes every part once, top to bottom, on this screen. What it owns may crash or be upgraded: the edge goes on
//! serving what it was told last, and the next `serve` finds store, edge and apps as they are.

/// A place where a story may kill control, by its name; nothing at all in a release build.
macro_rules! crash_point {
    ($($name:tt)+) => {
        #[cfg(debug_assertions)]
        $crate::control::crash::point(&format!($($name)+));
    };
}

pub mod certs;
pub mod child;
pub mod conf;
#[cfg(debug_assertions)]
mod crash;
pub mod deploy;
pub mod forge;
pub mod hooks;
pub mod https;
pub mod live;
pub mod observe;
mod previews;
mod reload;
pub mod runtime;
pub mod secret;
pub mod source;
pub mod store;
pub mod web;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::time::timeout;

use crate::link::{self, paths};
use crate::model::deployment::Deployment;
use crate::report::Fault;
use certs::Certificate;
use certs::challenge::Challenges;
use certs::renew::{self, Wanted};
use conf::{Conf, Loaded};
use deploy::desk::Desk;
use deploy::drains::Drains;
use deploy::history::History;
use deploy::look::Looker;
use deploy::monitor::{self, Monitor};
use deploy::{DeployError, Standby, Workshop, garbage, look_around, tell};
use forge::Forge;
use hooks::Hooks;
use live::{Beginning, Home, Inherited, Live, LiveError, RightsError};
use observe::Observed;
use previews::Previews;
use reload::Reload;
use runtime::{Runtime, RuntimeError};
use source::Source;
use store::{Store, StoreError};
use web::admin::Office;
use web::deliveries::Deliveries;
use web::public::Counter;
use web::{Rates, api};

/// Changes of deployments that a slow follower may miss before it must look into the store.
const PROGRESS: usize = 1024;
/// Certificates for the first hosts come from the disk or from the local CA: milliseconds.
const FIRST_CERTIFICATES: Duration = Duration::from_secs(5);
/// Between two looks whether conf that had faults is mended.
const MENDED: Duration = Duration::from_secs(2);
/// How long requests may go on after Ctrl-C, and then apps.
const STOP_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("conf has faults")]
    Conf(Vec<Fault>),
    #[error("{path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error(transparent)]
    Rights(#[from] RightsError),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// How a control ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Edge and apps end with it.
    Stop,
    /// They go on, for the next control to find.
    Leave,
    /// As `Leave`, and this process begins again, from the file that is on disk now.
    Again,
}

/// Runs control until a signal ends it, with the sockets that were opened for it. `ready` is called once everything is served.
pub async fn serve(
    dir: PathBuf,
    inherited: Vec<Inherited>,
    ready: impl FnOnce(&api::Status),
) -> Result<Ending, ServeError> {
    child::reap_inherited();
    let files = conf::watch(dir.clone()).await;
    let loaded = load(&dir)?;
    let (state_dir, faults) = (loaded.conf.machine.state_dir.clone(), loaded.faults);
    let home = Home::of(&loaded.conf.machine)?;

    let store = Store::open(&state_dir).await?;
    let observed = Observed::new()?;
    let history = History::new(store);
    let conf = Arc::new(loaded.conf.with_previews(&history.previewed().await?));
    let runtime = Runtime::choose(&conf.machine).await?;
    let mut found = look_around(&conf, &history, &runtime).await?;
    found.clean(&history, &runtime).await;

    let control_socket = bind(&paths::control_socket(&state_dir))?;
    let metrics_socket = bind(&paths::metrics_socket(&state_dir))?;
    let admin_socket = bind(&paths::admin_socket(&state_dir))?;
    tokio::spawn(web::serve(metrics_socket, web::metrics(observed.clone())));

    let (publish, conf_seen) = watch::channel(conf.clone());
    let challenges = Challenges::default();
    let certificates = keep_certificates(conf_seen.clone(), challenges.clone()).await;

    let (first, sites) = (certificates.borrow().clone(), std::mem::take(&mut found.sites));
    let live = Live::begin(Beginning { home, conf: conf.clone(), sites, certificates: first, inherited }).await?;
    tokio::spawn(certify(live.clone(), certificates.clone(), observed.clone()));

    let (monitor, words) = Monitor::new();
    let workshop = Arc::new(Workshop {
        history,
        source: Source::new(&state_dir),
        runtime,
        live: live.clone(),
        observed: observed.clone(),
        conf: conf_seen,
        state_dir,
        monitor,
        standby: Standby::default(),
        drains: Drains::default(),
        builds: Semaphore::new(conf.machine.build.parallel),
        progress: broadcast::channel(PROGRESS).0,
        stopping: watch::Sender::new(false),
    });
    found.take_up(&workshop);
    let reload = Reload::begin(dir.clone(), faults, publish, workshop.clone());
    let office = open_office(&workshop, found.unfinished, &reload, certificates).await;
    tokio::spawn(monitor::run(workshop.clone(), office.desk.clone(), words));
    answer(&office, challenges, control_socket, admin_socket);

    ready(&web::admin::status_of(&office).await);
    tokio::spawn(renew_edge(live));
    let ending = until_ended(files, &reload, &office.again).await?;
    end(&workshop, ending).await;
    Ok(ending)
}

/// Answers the public and the shell.
fn answer(office: &Arc<Office>, challenges: Challenges, public: UnixListener, admin: UnixListener) {
    let counter = Counter::new(office.clone(), Hooks::default(), challenges);
    tokio::spawn(web::public::keep_key(counter.clone()));
    tokio::spawn(web::serve(public, web::public::router(counter)));
    tokio::spawn(web::serve(admin, web::admin::router(office.clone())));
}

/// Takes up work: what was left unfinished, and whatever is asked from now on.
async fn open_office(
    workshop: &Arc<Workshop>,
    unfinished: Vec<Deployment>,
    reload: &Reload,
    certificates: watch::Receiver<Vec<Certificate>>,
) -> Arc<Office> {
    let forge = forge();
    tokio::spawn(keep_room(workshop.clone()));
    tokio::spawn(tell::run(workshop.clone(), forge.clone()));
    let desk = Desk::open(workshop.clone(), unfinished);
    Arc::new(Office {
        workshop: workshop.clone(),
        previews: Previews::begin(workshop.clone(), reload.clone()),
        looker: Looker::begin(workshop.clone(), desk.clone(), forge.clone()),
        desk,
        forge,
        deliveries: Deliveries::begin(workshop.history.clone()).await,
        reload: reload.clone(),
        rates: Rates::begin(workshop.live.clone()),
        certificates,
        again: Notify::new(),
    })
}

/// Until control ends.
async fn keep_room(workshop: Arc<Workshop>) {
    workshop.while_running(garbage::run(workshop.clone())).await;
}

/// Who asks CIs and forges; without it only hooks are heard.
fn forge() -> Option<Forge> {
    Forge::new().inspect_err(|error| tracing::warn!(%error, "no CI or forge can be asked")).ok()
}

/// Reads conf, and what an earlier control kept of it for projects whose files have faults. Makes the state directory.
fn load(dir: &Path) -> Result<Loaded, ServeError> {
    let previous = conf::state_dir(dir).ok().and_then(|state_dir| conf::last(dir, &state_dir));
    let loaded = conf::load(dir, previous.as_ref()).map_err(ServeError::Conf)?;
    prepare(&loaded.conf.machine.state_dir)?;
    conf::keep(dir, &loaded.conf, &loaded.faults)
        .unwrap_or_else(|error| tracing::warn!(%error, "conf could not be kept"));
    Ok(loaded)
}

/// The state directory and what is always in it, for this user alone.
fn prepare(state_dir: &Path) -> Result<(), ServeError> {
    for dir in [state_dir.to_owned(), state_dir.join("run"), state_dir.join("logs")] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| ServeError::Directory { path: dir, source })?;
    }
    Ok(())
}

fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    web::bind(path).map_err(|source| ServeError::Directory { path: path.to_owned(), source })
}

/// Starts the keeper of certificates and waits for what it has at once.
async fn keep_certificates(
    mut conf: watch::Receiver<Arc<Conf>>,
    challenges: Challenges,
) -> watch::Receiver<Vec<Certificate>> {
    let wanted = |conf: &Conf| Wanted {
        certs_dir: conf.machine.certs_dir.clone(),
        hosts: conf.hosts(),
        acme: conf.machine.acme.clone(),
    };
    let (want, wants) = watch::channel(wanted(&conf.borrow()));
    let (out, mut certificates) = watch::channel(Vec::new());
    tokio::spawn(renew::run(wants, challenges, out));
    tokio::spawn(async move {
        while conf.changed().await.is_ok() {
            // Also when nothing of it changed: a reload looks into the certificates' directory again.
            want.send_replace(wanted(&conf.borrow_and_update()));
        }
    });
    if timeout(FIRST_CERTIFICATES, certificates.changed()).await.is_err() {
        tracing::warn!("no certificate is ready yet");
    }
    certificates
}

/// Hands new certificates to the edge as they come.
async fn certify(live: Live, mut certificates: watch::Receiver<Vec<Certificate>>, observed: Observed) {
    loop {
        let now = certificates.borrow_and_update().clone();
        observed.certified(&now);
        if let Err(error) = live.certificates(now).await {
            tracing::error!(%error, "the edge did not take every certificate");
        }
        if certificates.changed().await.is_err() {
            return;
        }
    }
}

/// Replaces an edge that was found running and is from another file than this control.
async fn renew_edge(live: Live) {
    let view = live.view();
    if view.edge_was_adopted && view.edge_binary != link::own_binary() {
        tracing::info!(pid = view.edge_pid, "the edge that runs is from another file; it is replaced");
        // What came of it is said where it was done.
        let _ = live.succeed().await;
    }
}

/// Reloads conf for SIGHUP and for changed files until a signal ends control.
async fn until_ended(mut files: watch::Receiver<u64>, reload: &Reload, again: &Notify) -> Result<Ending, ServeError> {
    let on = |kind| signal(kind).map_err(ServeError::Signals);
    let (mut hangup, mut interrupt) = (on(SignalKind::hangup())?, on(SignalKind::interrupt())?);
    let (mut terminate, mut leave) = (on(SignalKind::terminate())?, on(SignalKind::user_defined2())?);
    loop {
        tokio::select! {
            // A fault that is taken back at once looks to the watch as if nothing had been.
            () = tokio::time::sleep(MENDED) => reload.if_mended().await,
            _ = hangup.recv() => drop(reload.now().await),
            Ok(()) = files.changed() => drop(reload.now().await),
            _ = interrupt.recv() => return Ok(Ending::Stop),
            _ = terminate.recv() => return Ok(Ending::Stop),
            _ = leave.recv() => return Ok(Ending::Leave),
            () = again.notified() => return Ok(Ending::Again),
        }
    }
}

async fn end(workshop: &Workshop, ending: Ending) {
    match ending {
        Ending::Stop => stop(workshop).await,
        Ending::Leave | Ending::Again => tracing::info!("control leaves; edge and apps go on"),
    }
}

/// First no more requests, then no more apps.
async fn stop(workshop: &Workshop) {
    tracing::info!("stopping");
    workshop.stopping.send_replace(true);
    // Before the first is: a control that is killed in the midst of this meant to stop them all.
    if let Err(error) = workshop.history.stopping().await {
        tracing::warn!(%error, "it could not be stored that the apps are stopped on purpose");
    }
    workshop.live.stop_edge(STOP_WITHIN).await;
    let running = workshop.runtime.running().await.unwrap_or_else(|error| {
        tracing::error!(%error, "the apps that run could not be listed");
        Vec::new()
    });
    let stopping = running.iter().map(|replica| workshop.runtime.stop(replica, STOP_WITHIN));
    for outcome in futures_util::future::join_all(stopping).await {
        if let Err(error) = outcome {
            tracing::error!(%error, "an app could not be stopped");
        }
    }
}
