//! The edge's end of the link: does what control says, and reports.
//!
//! The one owner of everything that can change: sockets, tables, drains. Run by `mod.rs`. The rule: the newest control is
//! obeyed, and without any the edge goes on with what holds.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::link::keys::Keys;
use crate::link::paths;
use crate::link::{self, Down, Generation, Message, Receiver, Sender, Unwell, Up};
use crate::model::address::Address;
use crate::model::route::UpstreamId;
use crate::model::snapshot::{Certificates, Section, SectionKind, Snapshot};

use super::health::Ailing;
use super::listen::Sockets;
use super::place::Place;
use super::routing::Table;
use super::shared::Shared;
use super::upstream::Upstream;
use super::why::why;
use super::{EdgeError, Start};

/// A control that does not take a report within this is taken for dead.
const REPORT: Duration = Duration::from_secs(5);
/// How long the cache on disk is waited for.
const OPENING: Duration = Duration::from_secs(5);
/// A control that starts an edge comes at once, or is gone.
const FORLORN: Duration = Duration::from_secs(30);
const TRAFFIC: Duration = Duration::from_secs(1);

pub struct ControlLink {
    shared: Arc<Shared>,
    pub sockets: Sockets,
    snapshot: Snapshot,
    /// Where it lies on disk, and the lock that says whose that is.
    place: Arc<Place>,
    holds_lock: bool,
    /// `None` once it is a successor's.
    kept: Option<watch::Sender<Snapshot>>,
    generation: Generation,
    drains: JoinSet<(Arc<Upstream>, u64)>,
    draining: Vec<Arc<Upstream>>,
    control: Option<(Sender, Receiver)>,
    /// The traffic that this control was told of last.
    said: Option<Up>,
    ailing: watch::Receiver<Vec<Ailing>>,
    /// What this control was told of them; `None`: nothing yet.
    unwell: Option<Vec<Unwell>>,
    is_stopping: bool,
    /// Until when an edge that was started beside another waits for the control that did so.
    forlorn: Option<Instant>,
}

/// How an edge is to end.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// How long requests may go on.
    pub within: Duration,
    /// Whether another edge accepts from the same sockets.
    pub has_successor: bool,
}

impl ControlLink {
    /// Makes the snapshot hold when it `binds` its listeners; faults of the other parts are said and passed over. The ends
    /// are those of what shall be on disk, and of what the health checks find.
    pub async fn start(
        sockets: Sockets,
        snapshot: Snapshot,
        (place, start): (Place, Start),
        (kept, ailing): (watch::Sender<Snapshot>, watch::Receiver<Vec<Ailing>>),
    ) -> Result<Self, EdgeError> {
        let mut link = Self {
            shared: sockets.shared().clone(),
            sockets,
            snapshot: Snapshot::default(),
            place: Arc::new(place),
            holds_lock: start != Start::Beside,
            kept: Some(kept),
            generation: 0,
            drains: JoinSet::new(),
            draining: Vec::new(),
            control: None,
            said: None,
            ailing,
            unwell: None,
            is_stopping: false,
            forlorn: (start == Start::Beside).then(|| Instant::now() + FORLORN),
        };
        if start != Start::Alone {
            // Control says everything before it hands over a socket; until then the last snapshot is only kept.
            link.snapshot = snapshot;
            return Ok(link);
        }
        let is_known = snapshot != Snapshot::default();
        let Snapshot { settings, listeners, certificates, routing } = snapshot;
        let mut sections = vec![Section::Settings(settings), Section::Certificates(certificates)];
        sections.extend(is_known.then_some(Section::Routing(routing)));
        for section in sections {
            let kind = section.kind();
            if let Err(fault) = link.apply(section, Vec::new()).await {
                tracing::error!(?kind, fault, "a part of the last snapshot does not hold");
            }
        }
        link.sockets.apply(&listeners, None)?;
        link.shared.listeners.store(Arc::new(listeners.clone()));
        link.snapshot.listeners = listeners;
        Ok(link)
    }

    /// Obeys until control says stop. What is left to do then may be done meanwhile by calling it again.
    pub async fn run(&mut self, listener: &UnixListener) -> Stop {
        let mut tick = interval(TRAFFIC);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.greet(stream).await,
                    Err(error) => {
                        tracing::error!(%error, "control cannot connect");
                        tokio::time::sleep(TRAFFIC).await;
                    }
                },
                message = next(&mut self.control) => match message {
                    Some(Message { message: Down::Stop { within, has_successor }, .. }) => {
                        return Stop { within, has_successor };
                    }
                    Some(message) => self.obey(message).await,
                    None => self.control = None,
                },
                Some(drained) = self.drains.join_next(), if !self.drains.is_empty() => match drained {
                    Ok((upstream, cut)) => self.drained(&upstream, cut).await,
                    Err(error) => tracing::error!(%error, "a drain broke off"),
                },
                () = until(self.forlorn) => return Stop { within: Duration::ZERO, has_successor: false },
                () = self.place.own(), if self.may_own() => self.own().await,
                Ok(()) = self.ailing.changed() => self.tell_unwell().await,
                _ = tick.tick(), if self.control.is_some() => self.tell_traffic().await,
            }
        }
    }

    async fn greet(&mut self, stream: UnixStream) {
        self.control = Some(link::split(stream));
        self.forlorn = None;
        self.said = None;
        self.unwell = None;
        let hello = Up::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: self.generation,
            listeners: self.sockets.listeners(),
            binary: link::own_binary(),
            is_stopping: self.is_stopping,
        };
        let Some((sender, _)) = &mut self.control else { return };
        if !matches!(timeout(REPORT, sender.send(&hello, &self.sockets.descriptors())).await, Ok(Ok(()))) {
            self.control = None;
        }
        self.tell_draining().await;
        self.tell_unwell().await;
    }

    async fn obey(&mut self, message: Message<Down>) {
        match message.message {
            Down::Section { generation, section } => {
                let kind = section.kind();
                let fault = self.apply(section, message.descriptors).await.err();
                self.generation = self.generation.max(generation);
                if kind == SectionKind::Routing {
                    // Before the answer, so that control never takes a drain that begins for one that is over.
                    self.tell_draining().await;
                    // And never takes a replica for one that was there before.
                    self.tell_unwell().await;
                }
                self.report(Up::Applied { generation, kind, fault }).await;
                // Nobody waits for the disk.
                self.keep_snapshot();
            }
            Down::Purge { token, purge } => {
                self.shared.cache.purge(&purge);
                self.report(Up::Purged { token }).await;
            }
            Down::Forget { upstream } if !self.is_routed(&upstream) => self.shared.cache.forget(&upstream),
            Down::Why { token, question } => {
                let shared = self.shared.clone();
                let verdict = tokio::task::spawn_blocking(move || why(&shared, &question)).await;
                match verdict {
                    Ok(verdict) => self.report(Up::Why { token, verdict }).await,
                    Err(error) => tracing::error!(%error, "a question broke off"),
                }
            }
            Down::Forget { .. } | Down::Stop { .. } | Down::Unknown => {}
        }
    }

    /// Whether the lock of the edge before is waited for. Who listens nowhere may never come to serve.
    fn may_own(&self) -> bool {
        !self.holds_lock && !self.is_stopping && !self.sockets.is_empty()
    }

    /// The edge before is gone, or has let go: what it wrote is this edge's from now on.
    async fn own(&mut self) {
        self.holds_lock = true;
        let disk = self.shared.settings.load().cache.disk;
        self.keep_on_disk(disk).await;
        self.keep_snapshot();
    }

    fn keep_snapshot(&self) {
        let Some(kept) = self.kept.as_ref().filter(|_| self.holds_lock) else { return };
        kept.send_if_modified(|kept| {
            let is_new = *kept != self.snapshot;
            kept.clone_from(&self.snapshot);
            is_new
        });
    }

    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Lets control connect from now on.
    pub fn listen(&self) -> io::Result<UnixListener> {
        self.place.listen()
    }

    /// Begins to stop. To a successor what is kept on disk is left at once.
    pub fn stop(&mut self, stop: Stop) {
        self.is_stopping = true;
        self.sockets.close(stop.has_successor);
        self.shared.stop(stop.has_successor);
        if stop.has_successor {
            self.holds_lock = false;
            self.kept = None;
            // Here nobody else would tell what is routed that its time is over.
            for routed in self.shared.table.load().upstreams.values().cloned() {
                tokio::spawn(async move {
                    tokio::time::sleep(routed.drain_long).await;
                    routed.upstream.cut();
                });
            }
        }
    }

    /// Makes a section hold for every request that starts later.
    async fn apply(&mut self, section: Section, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let shared = &self.shared;
        let fault = match &section {
            Section::Settings(settings) => {
                shared.settings.store(Arc::new(settings.clone()));
                shared.cache.resize(settings.cache.memory);
                if self.holds_lock {
                    self.keep_on_disk(settings.cache.disk).await;
                }
                shared.access_log.configure(settings.access_log);
                None
            }
            Section::Listeners(listeners) => {
                self.sockets.apply(listeners, Some(descriptors)).map_err(|error| error.to_string())?;
                shared.listeners.store(Arc::new(listeners.clone()));
                None
            }
            Section::Certificates(certificates) => self.certify(certificates.clone(), descriptors).await?,
            Section::Routing(routing) => {
                let before = shared.table.load_full();
                let table = Table::compile(routing, &before, &shared.metrics).map_err(|error| error.to_string())?;
                let gone = table.gone(&before);
                // What is replaced may answer still. Before the first request that could make one of its answers untrue.
                let replaced = routing.routes.iter().flat_map(|route| &route.replaced).map(|one| &one.upstream);
                shared.cache.begin(replaced.chain(table.upstreams.keys()));
                let table = Arc::new(table);
                shared.table.store(table.clone());
                before.pauses.end(&table.pauses);
                for routed in gone {
                    self.draining.push(routed.upstream.clone());
                    self.drains.spawn(async move {
                        let cut = routed.upstream.drain(routed.drain, routed.drain_long).await;
                        (routed.upstream, cut)
                    });
                }
                None
            }
        };
        self.snapshot.put(section);
        fault.map_or(Ok(()), Err)
    }

    /// Has the cache on disk opened, or changed. A disk that is slow to answer keeps nobody waiting: it joins in later.
    async fn keep_on_disk(&self, bytes: u64) {
        let (shared, dir) = (self.shared.clone(), paths::cache(&self.shared.state_dir));
        let kept = tokio::task::spawn_blocking(move || shared.cache.keep_on_disk(&dir, bytes));
        if timeout(OPENING, kept).await.is_err() {
            tracing::warn!("the cache on disk takes long to open; going on without it meanwhile");
        }
    }

    /// Takes the certificates; the faults of those that are not taken.
    async fn certify(&self, section: Certificates, descriptors: Vec<OwnedFd>) -> Result<Option<String>, String> {
        let shared = self.shared.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let keys = descriptors.into_iter().next().map(Keys::open).transpose()?;
            let (table, faults) = shared.tls.table(&section.certificates, keys.as_ref(), &shared.certificates.load());
            shared.certificates.store(Arc::new(table));
            Ok::<_, io::Error>(faults)
        });
        let taken = taken.await.map_err(|error| error.to_string())?;
        let faults = taken.map_err(|error| format!("the certificates that came cannot be read: {error}"))?;
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Ok((!faults.is_empty()).then(|| faults.join("; ")))
    }

    async fn drained(&mut self, upstream: &Arc<Upstream>, cut: u64) {
        self.draining.retain(|other| !Arc::ptr_eq(other, upstream));
        // The same replicas may have been routed anew meanwhile, and even replaced again: then they are not to be stopped.
        let drains_again = |address: &Address| {
            self.draining.iter().any(|other| other.replicas().iter().any(|replica| replica.address == *address))
        };
        let mut addresses = self.addresses(upstream);
        addresses.retain(|address| !drains_again(address));
        if !addresses.is_empty() {
            self.report(Up::Drained { upstream: upstream.id.clone(), addresses, cut }).await;
        }
        self.tell_draining().await;
    }

    /// The replicas of an upstream that drains, but for those that are routed anew.
    fn addresses(&self, upstream: &Upstream) -> Vec<Address> {
        let table = self.shared.table.load();
        let routed = table.upstreams.get(&upstream.id).map(|routed| routed.upstream.replicas());
        let is_routed = |address: &Address| routed.iter().flat_map(|all| all.iter()).any(|one| one.address == *address);
        let addresses = upstream.replicas().iter().map(|replica| replica.address.clone()).collect::<Vec<_>>();
        addresses.into_iter().filter(|address| !is_routed(address)).collect()
    }

    fn is_routed(&self, id: &UpstreamId) -> bool {
        self.shared.table.load().upstreams.contains_key(id)
    }

    async fn tell_draining(&mut self) {
        let ids = self.draining.iter().map(|upstream| upstream.id.clone());
        let upstreams = ids.filter(|id| !self.is_routed(id)).collect();
        let addresses = self.draining.iter().flat_map(|upstream| self.addresses(upstream)).collect();
        self.report(Up::Draining { upstreams, addresses }).await;
    }

    /// Those that are routed: the health checks may not know yet who is there no more.
    async fn tell_unwell(&mut self) {
        let table = self.shared.table.load_full();
        let is_routed = |ailing: &&Ailing| {
            let routed = table.upstreams.get(&ailing.upstream);
            routed.is_some_and(|routed| routed.upstream.replicas().iter().any(|one| one.id == ailing.replica.id))
        };
        let unwell = |ailing: &Ailing| Unwell {
            upstream: ailing.upstream.clone(),
            address: ailing.replica.address.clone(),
            is_stuck: ailing.is_stuck,
        };
        let replicas: Vec<_> = self.ailing.borrow_and_update().iter().filter(is_routed).map(unwell).collect();
        if self.unwell.as_ref() != Some(&replicas) {
            self.unwell = Some(replicas.clone());
            self.report(Up::Unwell { replicas }).await;
        }
    }

    async fn tell_traffic(&mut self) {
        let table = self.shared.table.load_full();
        let upstreams = table.upstreams.values().map(|routed| routed.upstream.traffic());
        let mut upstreams: Vec<_> = upstreams.filter(|traffic| traffic.answers > 0).collect();
        upstreams.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        let traffic = Up::Traffic { sites: self.shared.metrics.traffic(), upstreams };
        if self.said.as_ref() != Some(&traffic) {
            self.said = Some(traffic.clone());
            self.report(traffic).await;
        }
    }

    async fn report(&mut self, report: Up) {
        let Some((sender, _)) = &mut self.control else { return };
        match timeout(REPORT, sender.send(&report, &[])).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => self.control = None,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The next message of the control that is obeyed; `None` when it left. Waits for ever when there is none.
async fn next(control: &mut Option<(Sender, Receiver)>) -> Option<Message<Down>> {
    match control {
        None => std::future::pending().await,
        Some((_, receiver)) => match receiver.receive().await {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "the link to control broke; going on alone");
                None
            }
        },
    }
}
