//! One edge in the place of another: after it died, or because a newer one is to serve.
//!
//! The part of the owner of what is live that knows of more than one edge. The rule: a new edge serves only once it has
//! taken everything and has answered a request; until then, and if it does not, the one before serves on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::beside::Word;
use super::edge::{Edge, EdgeError};
use super::waiting::{ANSWER, Reply, Waiting};
use super::{DRAIN_GRACE, LiveError, Owner};
use crate::ask::Question;
use crate::link::{Down, Up};
use crate::model::address::Address;
use crate::model::app::Protocol;
use crate::model::machine::Listeners;
use crate::model::snapshot::SectionKind;

/// How long a new edge may take to answer a request. It needs a millisecond.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// An edge that serves in place of another.
#[derive(Debug, Clone)]
pub struct Succession {
    pub before: u32,
    pub pid: u32,
    pub version: String,
}

/// Why the edge before serves on.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    #[error("another upgrade is under way")]
    UnderWay,
    #[error("the new edge answered no request: {0}")]
    Unanswered(String),
    #[error("the new edge cannot be put in place: {0}")]
    Unplaced(#[from] io::Error),
    #[error("the new edge does not hold everything: {0}")]
    Unheld(String),
}

/// An edge that was started to take the place of the one that serves, and who waits for that.
pub type Started = (Result<Edge, EdgeError>, Reply<Succession>);

impl Owner {
    /// Waits until everything said so far holds, in the edges beside as well.
    pub(super) async fn settle(&mut self) -> Result<(), LiveError> {
        let ((reply, listens), (also, routed)) = (oneshot::channel(), oneshot::channel());
        let (generation, kind, since) = (self.generation, SectionKind::Listeners, Instant::now());
        self.waiting.push(Waiting { generation, kind, since, reply });
        self.say(SectionKind::Routing, Some(also)).await;
        let mut holds = pin!(async { tokio::join!(listens, routed) });
        let deadline = since + ANSWER;
        loop {
            tokio::select! {
                (listens, routed) = &mut holds => {
                    listens.map_err(|_| LiveError::Stopping)??;
                    return routed.map_err(|_| LiveError::Stopping)?.map(drop);
                }
                word = self.beside.heard() => self.hear_beside(word),
                up = timeout_at(deadline, self.edge.receive()) => match up {
                    Ok(Some(up)) => self.hear(up),
                    Ok(None) => return Err(LiveError::Edge(EdgeError::Silent)),
                    Err(_) => {
                        self.edge.kill();
                        return Err(LiveError::Edge(EdgeError::Silent));
                    }
                },
            }
        }
    }

    /// The edge died or was lost. The sockets are kept here, so whoever connects meanwhile waits in their queues.
    pub(super) async fn find_edge_again(&mut self) {
        tracing::error!(pid = self.edge.pid, "the edge is gone; another is started");
        let before = self.edge.pid;
        self.edge = self.edge.successor().await;
        self.generation = self.generation.max(self.edge.generation);
        if !self.edge.was_adopted {
            // An edge that began anew drains nothing.
            self.drains.gone(before);
        }
        let sockets = std::mem::take(&mut self.edge.sockets);
        self.sockets.adopt(&self.conf.machine.listeners, &self.edge.listeners, sockets);
        // It says anew who is not well.
        self.show_unwell.send_replace(Vec::new());
        let now = Instant::now();
        for waiting in &mut self.waiting {
            waiting.since = now;
        }
        if let Err(error) = self.sockets.bind(&self.conf.machine.listeners) {
            tracing::error!(%error, "a socket could not be bound again");
        }
        self.whys.give_up();
        self.say_everything().await;
        for (_, (purge, reply)) in std::mem::take(&mut self.purges) {
            match self.edge.was_adopted {
                // It may be an older one, which left over this very purge.
                true => drop(reply.send(Err(LiveError::Refused("the link broke before it had purged".to_owned())))),
                false => self.purge(purge, reply).await,
            }
        }
    }

    /// Has an edge started from what is on disk now; nothing waits for it meanwhile.
    pub(super) fn begin_succession(&mut self, reply: Reply<Succession>) {
        if std::mem::replace(&mut self.is_succession_under_way, true) {
            let _ = reply.send(Err(SuccessionError::UnderWay.into()));
            return;
        }
        let (home, started) = (self.edge.home().clone(), self.start.clone());
        tokio::spawn(async move {
            let _ = started.send((Edge::beside(&home).await, reply)).await;
        });
    }

    /// Lets an edge that was started take the place of the one that serves, if it can.
    pub(super) async fn succeed(&mut self, (started, reply): Started) {
        let outcome = match started {
            Ok(next) => self.take_over(next).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, pid = self.edge.pid, "no new edge takes over; the one that serves goes on");
        }
        self.is_succession_under_way = false;
        let _ = reply.send(outcome);
    }

    async fn take_over(&mut self, next: Edge) -> Result<Succession, LiveError> {
        self.have_answered().await;
        let asked = self.generation;
        let before = std::mem::replace(&mut self.edge, next);
        let held = match self.hold_everything().await {
            Ok(()) => self.edge.promote(&before).map_err(SuccessionError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = held {
            let unfit = std::mem::replace(&mut self.edge, before);
            // What was asked of the edge before it still answers.
            self.waiting.retain(|waiting| waiting.generation <= asked);
            unfit.kill();
            unfit.gone().await;
            unfit.remove_socket();
            self.show_edge();
            return Err(error.into());
        }
        self.show_unwell.send_replace(Vec::new());
        self.show_edge();
        let succession = Succession { before: before.pid, pid: self.edge.pid, version: self.edge.version.clone() };
        tracing::info!(before = before.pid, pid = self.edge.pid, "a new edge serves; the one before finishes");
        self.see_out(before);
        for (_, (purge, reply)) in std::mem::take(&mut self.purges) {
            self.purge(purge, reply).await;
        }
        Ok(succession)
    }

    /// Lets an edge that serves no more finish.
    pub(super) fn see_out(&mut self, edge: Edge) {
        let within = self.sites.running.values().map(|active| active.drain_long).max().unwrap_or_default();
        self.beside.add(edge, Down::Stop { within: within.max(ANSWER), has_successor: true });
    }

    /// Waits until the edge that serves has answered what was asked of it; one that does not is not waited for any longer
    /// than it would be at another time.
    async fn have_answered(&mut self) {
        let deadline = Instant::now() + ANSWER;
        while !(self.waiting.is_empty() && self.purges.is_empty()) {
            match timeout_at(deadline, self.edge.receive()).await {
                Ok(Some(up)) => self.hear(up),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Makes everything hold in the edge, the listeners last and only once it has answered over one that nobody else knows.
    async fn hold_everything(&mut self) -> Result<(), SuccessionError> {
        let may_lack = self.lacks_certificates;
        self.holds(SectionKind::Settings).await?;
        match self.holds(SectionKind::Certificates).await {
            // The edge before does without them, too.
            Err(SuccessionError::Unheld(_)) if may_lack => {}
            outcome => outcome?,
        }
        self.holds(SectionKind::Routing).await?;
        self.answers().await?;
        self.holds(SectionKind::Listeners).await
    }

    async fn holds(&mut self, kind: SectionKind) -> Result<(), SuccessionError> {
        let (reply, answer) = oneshot::channel();
        self.say(kind, Some(reply)).await;
        self.heard(answer).await
    }

    /// Asks the edge for anything, over a socket of the loopback that is its alone.
    async fn answers(&mut self) -> Result<(), SuccessionError> {
        let socket = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?;
        let own = Listeners { http: vec![address], ..Listeners::default() };
        let (reply, answer) = oneshot::channel();
        self.generation += 1;
        let (generation, kind, since) = (self.generation, SectionKind::Listeners, Instant::now());
        self.waiting.push(Waiting { generation, kind, since, reply });
        // A failure shows as the end of the link.
        let _ = self.edge.listen(generation, own, &[socket.as_fd()]).await;
        self.heard(answer).await?;
        let question = Question { protocol: Protocol::Http1, path: "/", host: "new-edge.invalid" };
        match timeout(FIRST_ANSWER, question.ask(&Address::Tcp(address))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(SuccessionError::Unanswered(error.to_string())),
            Err(_) => Err(SuccessionError::Unanswered(format!("not within {} s", FIRST_ANSWER.as_secs()))),
        }
    }

    /// Listens to the edge until it has answered.
    async fn heard(
        &mut self,
        mut answer: oneshot::Receiver<Result<Duration, LiveError>>,
    ) -> Result<(), SuccessionError> {
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Ok(outcome) = answer.try_recv() {
                return outcome.map(drop).map_err(|error| SuccessionError::Unheld(error.to_string()));
            }
            match timeout_at(deadline, self.edge.receive()).await {
                Ok(Some(up)) => self.hear(up),
                Ok(None) => return Err(SuccessionError::Unheld("it ended".to_owned())),
                Err(_) => return Err(SuccessionError::Unheld(format!("no answer within {} s", ANSWER.as_secs()))),
            }
        }
    }

    /// Takes in what an edge says that was replaced.
    pub(super) fn hear_beside(&mut self, (pid, word): (u32, Word)) {
        match word {
            Word::Said(Up::Draining { addresses, .. }) => self.drains.are(pid, addresses),
            Word::Said(Up::Drained { addresses, cut, .. }) => self.drains.end(pid, &addresses, cut),
            Word::Said(Up::Why { token, verdict }) => self.whys.answer(token, verdict),
            Word::Said(_) => {}
            Word::Gone => self.drains.gone(pid),
        }
    }

    /// Ends the edges, and with them the serving.
    pub(super) async fn stop(&mut self, within: Duration) {
        let stop = Down::Stop { within, has_successor: false };
        let _ = self.edge.send(&stop, &[]).await;
        self.beside.end(stop, within + DRAIN_GRACE).await;
        while self.edge.receive().await.is_some() {}
        self.edge.gone().await;
    }
}

/// Ends an edge that was started for nothing.
pub(super) async fn end(mut edge: Edge) {
    let _ = edge.send(&Down::Stop { within: Duration::ZERO, has_successor: false }, &[]).await;
    let _ = timeout(DRAIN_GRACE, async { while edge.receive().await.is_some() {} }).await;
}
