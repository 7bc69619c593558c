//! What runs right now, and the only door to change it.
//!
//! One task owns the state, the sockets and the link to the edge, and takes changes from one queue. Each change makes a
//! whole new section; the asker hears when the edge has answered that it holds. When the edge dies, another is started
//! with the same sockets and told everything again; askers go on waiting, because what they asked for still holds.
//! `succession` is the part of it that knows of more than one edge.

mod beside;
mod drains;
mod edge;
mod inherited;
mod plan;
mod purge_keys;
mod rights;
mod sites;
mod sockets;
mod succession;
mod view;
mod waiting;
mod whys;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::control::certs::Certificate;
use crate::control::conf::Conf;
use crate::link::why::{Question, Verdict};
use crate::link::{Down, Generation, Purge, Unwell, Up};
use crate::model::address::Address;
use crate::model::hold::Hold;
use crate::model::host::HostName;
use crate::model::name::Site;
use crate::model::route::UpstreamId;
use crate::model::snapshot::{Section, SectionKind};

use beside::{Beside, after};
use drains::Drains;
use edge::Edge;
pub use edge::EdgeError;
pub use inherited::{Inherited, take as inherited};
use plan::{certificates, routing, settings};
use purge_keys::PurgeKeys;
pub use rights::{Home, RightsError, binary};
pub use sites::{Active, Sites};
pub use sockets::SocketError;
use sockets::Sockets;
use succession::{Started, end};
pub use succession::{Succession, SuccessionError};
pub use view::View;
use waiting::{Reply, Waiting, overdue, without_time};
use whys::Whys;

/// Changes that may wait for the owner; an asker waits when there are more.
const QUEUE: usize = 256;
/// Between two messages that are sent only to see whether the edge still answers.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// What a drain may take beyond its own time before it is taken for done: an edge that was lost says nothing.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the edge refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Succession(#[from] SuccessionError),
    #[error("the edge that runs is older than this control, and does not know the question")]
    Unknown,
    #[error("control is stopping")]
    Stopping,
}

/// A handle to the owner; clones are the same.
#[derive(Debug, Clone)]
pub struct Live {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    unwell: watch::Receiver<Vec<Unwell>>,
}

/// What there is to begin with, so that an edge found running is never told less than it serves.
#[derive(Debug)]
pub struct Beginning {
    pub home: Home,
    pub conf: Arc<Conf>,
    pub sites: Sites,
    pub certificates: Vec<Certificate>,
    pub inherited: Vec<Inherited>,
}

#[derive(Debug)]
enum Command {
    Conf(Arc<Conf>, Reply<()>),
    Certificates(Vec<Certificate>, Reply<()>),
    Activate(Site, Active, Reply<Duration>),
    Replace(Site, Active, Reply<()>),
    Deactivate(Site, Reply<Duration>),
    Hold(Site, Option<Hold>, Reply<()>),
    Drained(Vec<Address>, oneshot::Sender<u64>),
    Purge(Purge, Reply<()>),
    Why(Question, Reply<Verdict>),
    Forget(UpstreamId),
    Succeed(Reply<Succession>),
    StopEdge(Duration, oneshot::Sender<()>),
}

impl Live {
    /// Binds the sockets, finds or starts the edge, and returns when it holds everything.
    pub async fn begin(beginning: Beginning) -> Result<Self, LiveError> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (show, view) = watch::channel(View::default());
        let (show_unwell, unwell) = watch::channel(Vec::new());
        let mut owner = Owner::new(beginning, queue, (show, show_unwell)).await?;
        owner.say_everything().await;
        owner.settle().await?;
        tokio::spawn(owner.run());
        Ok(Self { commands, view, unwell })
    }

    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Replicas that do not answer their health check as they should.
    pub fn unwell(&self) -> Vec<Unwell> {
        self.unwell.borrow().clone()
    }

    /// Returns when a replica answers nothing at all any more.
    pub async fn stuck(&self, upstream: &UpstreamId, address: &Address) {
        let is_it = |one: &Unwell| one.is_stuck && one.upstream == *upstream && one.address == *address;
        let mut unwell = self.unwell.clone();
        if unwell.wait_for(|unwell| unwell.iter().any(is_it)).await.is_err() {
            // Control is stopping, and nobody looks any more.
            std::future::pending().await
        }
    }

    /// Makes another conf hold: sockets, limits and routes. Nothing changes when a socket cannot be bound.
    pub async fn conf(&self, conf: Arc<Conf>) -> Result<(), LiveError> {
        self.ask(|reply| Command::Conf(conf, reply)).await
    }

    pub async fn certificates(&self, certificates: Vec<Certificate>) -> Result<(), LiveError> {
        self.ask(|reply| Command::Certificates(certificates, reply)).await
    }

    /// The swap: when it returns, every request that starts is answered by this release. Tells how long it took.
    pub async fn activate(&self, site: Site, active: Active) -> Result<Duration, LiveError> {
        self.ask(|reply| Command::Activate(site, active, reply)).await
    }

    /// Other addresses for the release that the site has; nothing happens when it has another by now.
    pub async fn replace(&self, site: Site, active: Active) -> Result<(), LiveError> {
        self.ask(|reply| Command::Replace(site, active, reply)).await
    }

    /// The site has nothing running from now on.
    pub async fn deactivate(&self, site: Site) -> Result<Duration, LiveError> {
        self.ask(|reply| Command::Deactivate(site, reply)).await
    }

    /// Puts something before a site's app, or takes it away. It holds for every request that starts later.
    pub async fn hold(&self, site: Site, hold: Option<Hold>) -> Result<(), LiveError> {
        self.ask(|reply| Command::Hold(site, hold, reply)).await
    }

    /// Waits until replicas that were replaced have no request left; tells how many did not end by themselves.
    pub async fn drained(&self, replicas: Vec<Address>, within: Duration) -> u64 {
        let (reply, drained) = oneshot::channel();
        if self.commands.send(Command::Drained(replicas, reply)).await.is_err() {
            return 0;
        }
        timeout(within + DRAIN_GRACE, drained).await.ok().and_then(Result::ok).unwrap_or(0)
    }

    /// Returns when no request that starts later can see what is purged, or see it as fresh.
    pub async fn purge(&self, purge: Purge) -> Result<(), LiveError> {
        self.ask(|reply| Command::Purge(purge, reply)).await
    }

    /// This release does not come back.
    pub async fn forget(&self, release: UpstreamId) {
        // A control that stops leaves the room to what is stored next.
        let _ = self.commands.send(Command::Forget(release)).await;
    }

    /// What the edge would make of a request.
    pub async fn why(&self, question: Question) -> Result<Verdict, LiveError> {
        timeout(whys::ANSWER, self.ask(|reply| Command::Why(question, reply))).await.map_err(|_| LiveError::Unknown)?
    }

    /// Replaces the edge by one from the file that is on disk now; returns when that one serves. The one before serves on
    /// where it cannot, and finishes what it began where it can.
    pub async fn succeed(&self) -> Result<Succession, LiveError> {
        self.ask(Command::Succeed).await
    }

    /// Ends the edge, and with it the serving.
    pub async fn stop_edge(&self, within: Duration) {
        let (reply, stopped) = oneshot::channel();
        if self.commands.send(Command::StopEdge(within, reply)).await.is_ok() {
            let _ = timeout(within + DRAIN_GRACE, stopped).await;
        }
    }

    /// The URL of a host as people reach it now.
    pub fn url(&self, host: &HostName) -> String {
        let view = self.view.borrow();
        plan::url(&view.listeners, &view.trusted, host)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LiveError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| LiveError::Stopping)?;
        answer.await.map_err(|_| LiveError::Stopping)?
    }
}

#[derive(Debug)]
struct Owner {
    conf: Arc<Conf>,
    sites: Sites,
    certificates: Vec<Certificate>,
    purge_keys: PurgeKeys,
    generation: Generation,
    sockets: Sockets,
    edge: Edge,
    beside: Beside,
    start: mpsc::Sender<Started>,
    started: mpsc::Receiver<Started>,
    is_succession_under_way: bool,
    /// Whether the edge could not take every certificate.
    lacks_certificates: bool,
    queue: mpsc::Receiver<Command>,
    waiting: Vec<Waiting>,
    drains: Drains,
    /// Those that the edge has not answered yet, by their tokens.
    purges: HashMap<u64, (Purge, Reply<()>)>,
    whys: Whys,
    show: watch::Sender<View>,
    show_unwell: watch::Sender<Vec<Unwell>>,
}

impl Owner {
    async fn new(
        beginning: Beginning,
        queue: mpsc::Receiver<Command>,
        (show, show_unwell): (watch::Sender<View>, watch::Sender<Vec<Unwell>>),
    ) -> Result<Self, LiveError> {
        let Beginning { home, conf, sites, certificates, inherited } = beginning;
        let mut edge = Edge::find(&home).await?;
        let mut sockets = Sockets::default();
        sockets.adopt(&conf.machine.listeners, &edge.listeners, std::mem::take(&mut edge.sockets));
        sockets.inherit(&conf.machine.listeners, inherited);
        if let Err(error) = sockets.bind(&conf.machine.listeners) {
            if !edge.was_adopted {
                end(edge).await;
            }
            return Err(error.into());
        }
        let (generation, purge_keys) = (edge.generation, PurgeKeys::read(&conf).await);
        let (waiting, drains, purges, whys) = (Vec::new(), Drains::default(), HashMap::new(), Whys::default());
        let others = edge.others().await;
        let (start, started) = mpsc::channel(1);
        let mut owner = Self {
            conf,
            sites,
            certificates,
            purge_keys,
            generation,
            sockets,
            edge,
            beside: Beside::new(),
            start,
            started,
            is_succession_under_way: false,
            lacks_certificates: false,
            queue,
            waiting,
            drains,
            purges,
            whys,
            show,
            show_unwell,
        };
        others.into_iter().for_each(|edge| owner.see_out(edge));
        Ok(owner)
    }

    async fn run(mut self) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = self.queue.recv() => match command {
                    Some(Command::StopEdge(within, reply)) => {
                        self.stop(within).await;
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                up = self.edge.receive() => match up {
                    Some(up) => self.hear(up),
                    None => self.find_edge_again().await,
                },
                word = self.beside.heard() => self.hear_beside(word),
                Some(started) = self.started.recv() => self.succeed(started).await,
                // A section that holds already changes nothing.
                _ = heartbeat.tick() => self.say(SectionKind::Settings, Some(oneshot::channel().0)).await,
                () = overdue(self.waiting.first()) => {
                    tracing::error!(pid = self.edge.pid, "the edge does not answer; it is ended");
                    self.edge.kill();
                    self.find_edge_again().await;
                }
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Conf(conf, reply) => self.change_conf(conf, reply).await,
            Command::Certificates(certificates, reply) => {
                self.certificates = certificates;
                self.show_edge();
                self.say(SectionKind::Certificates, None).await;
                // Whether a host is sent to HTTPS depends on its certificate.
                self.say(SectionKind::Routing, Some(without_time(reply))).await;
            }
            Command::Activate(site, active, reply) => {
                self.sites.running.insert(site, active);
                self.say(SectionKind::Routing, Some(reply)).await;
            }
            Command::Replace(site, active, reply) => match self.sites.running.get_mut(&site) {
                Some(running) if running.upstream == active.upstream => {
                    *running = active;
                    self.say(SectionKind::Routing, Some(without_time(reply))).await;
                }
                _ => drop(reply.send(Ok(()))),
            },
            Command::Deactivate(site, reply) => {
                self.sites.running.remove(&site);
                self.say(SectionKind::Routing, Some(reply)).await;
            }
            Command::Hold(site, hold, reply) => {
                self.sites.hold(site, hold);
                self.say(SectionKind::Routing, Some(without_time(reply))).await;
            }
            Command::Drained(addresses, reply) => {
                while let Some(word) = self.beside.heard_already() {
                    self.hear_beside(word);
                }
                self.drains.ask(addresses, reply);
            }
            Command::Purge(purge, reply) => self.purge(purge, reply).await,
            Command::Forget(upstream) => self.send(&Down::Forget { upstream }).await,
            Command::Why(question, reply) => {
                self.generation += 1;
                self.whys.ask(self.generation, reply);
                self.send(&Down::Why { token: self.generation, question }).await;
            }
            Command::Succeed(reply) => self.begin_succession(reply),
            Command::StopEdge(..) => {}
        }
    }

    async fn purge(&mut self, purge: Purge, reply: Reply<()>) {
        self.generation += 1;
        let message = Down::Purge { token: self.generation, purge: purge.clone() };
        self.purges.insert(self.generation, (purge, after(self.beside.tell(&message), reply)));
        self.send(&message).await;
    }

    /// New sockets are bound before anything else changes.
    async fn change_conf(&mut self, conf: Arc<Conf>, reply: Reply<()>) {
        if let Err(error) = self.sockets.bind(&conf.machine.listeners) {
            self.sockets.keep(&self.conf.machine.listeners);
            let _ = reply.send(Err(error.into()));
            return;
        }
        self.purge_keys = PurgeKeys::read(&conf).await;
        let old = std::mem::replace(&mut self.conf, conf);
        if settings(&old) != settings(&self.conf) {
            self.say(SectionKind::Settings, None).await;
        }
        if old.machine.listeners != self.conf.machine.listeners {
            self.say(SectionKind::Listeners, None).await;
            self.sockets.keep(&self.conf.machine.listeners);
        }
        self.say(SectionKind::Routing, Some(without_time(reply))).await;
    }

    async fn say_everything(&mut self) {
        self.say(SectionKind::Settings, None).await;
        self.say(SectionKind::Certificates, None).await;
        self.say(SectionKind::Routing, None).await;
        // Last, so that no request comes before there are routes.
        self.say(SectionKind::Listeners, None).await;
    }

    async fn say(&mut self, kind: SectionKind, reply: Option<Reply<Duration>>) {
        let since = Instant::now();
        let section = match kind {
            SectionKind::Settings => Section::Settings(settings(&self.conf)),
            SectionKind::Certificates => Section::Certificates(certificates(&self.certificates)),
            SectionKind::Routing => {
                let now = SystemTime::now();
                Section::Routing(routing(&self.conf, &self.sites, &self.certificates, &self.purge_keys, now))
            }
            SectionKind::Listeners => return self.say_listeners(reply).await,
        };
        self.generation += 1;
        let generation = self.generation;
        let message = Down::Section { generation, section };
        let told = if kind == SectionKind::Routing { self.beside.tell(&message) } else { Vec::new() };
        if let Some(reply) = reply {
            let reply = after(told, reply);
            self.waiting.push(Waiting { generation, kind, since, reply });
        }
        self.send(&message).await;
    }

    async fn say_listeners(&mut self, reply: Option<Reply<Duration>>) {
        self.generation += 1;
        let (generation, kind, since) = (self.generation, SectionKind::Listeners, Instant::now());
        let (listeners, descriptors) = self.sockets.section(&self.conf.machine.listeners, &self.edge.listeners);
        if let Err(error) = self.edge.listen(generation, listeners, &descriptors).await {
            tracing::warn!(%error, "the edge was not told");
        }
        self.waiting.extend(reply.map(|reply| Waiting { generation, kind, since, reply }));
        self.show_edge();
    }

    /// A failure shows as the end of the link, which the loop then meets.
    async fn send(&mut self, message: &Down) {
        if let Err(error) = self.edge.send(message, &[]).await {
            tracing::warn!(%error, "the edge was not told");
        }
    }

    fn hear(&mut self, up: Up) {
        match up {
            Up::Applied { generation, kind, fault } => self.answer(generation, kind, fault),
            Up::Draining { addresses, .. } => self.drains.are(self.edge.pid, addresses),
            Up::Drained { addresses, cut, .. } => self.drains.end(self.edge.pid, &addresses, cut),
            Up::Purged { token } => {
                if let Some((_, reply)) = self.purges.remove(&token) {
                    let _ = reply.send(Ok(()));
                }
            }
            Up::Why { token, verdict } => self.whys.answer(token, verdict),
            Up::Traffic { sites, upstreams } => self.show.send_modify(|view| view.count(sites, upstreams)),
            Up::Unwell { replicas } => drop(self.show_unwell.send_replace(replicas)),
            Up::Hello { .. } | Up::Unknown => {}
        }
    }

    fn answer(&mut self, generation: Generation, kind: SectionKind, fault: Option<String>) {
        if kind == SectionKind::Certificates {
            self.lacks_certificates = fault.is_some();
        }
        if let Some(fault) = &fault {
            tracing::error!(?kind, fault, "the edge could not take everything");
        }
        let is_answered = |waiting: &mut Waiting| waiting.kind == kind && waiting.generation <= generation;
        for waiting in self.waiting.extract_if(.., is_answered) {
            let _ = waiting.reply.send(match &fault {
                None => Ok(waiting.since.elapsed()),
                Some(fault) => Err(LiveError::Refused(fault.clone())),
            });
        }
    }

    fn show_edge(&self) {
        self.show.send_modify(|view| view.show(&self.edge, &self.certificates));
    }
}
