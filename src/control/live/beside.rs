//! Edges beside the one that serves: those that were replaced, and finish what they began.
//!
//! Kept by the owner of what is live. The rule: what holds for visitors from now on holds in them as well before anybody is
//! told so, for a connection that was there before may bring another request.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::edge::Edge;
use super::waiting::{ANSWER, Reply};
use crate::link::{Down, Up};

/// What may wait to be told to one of them.
const QUEUE: usize = 64;

/// What one of them has said, or that it is gone.
#[derive(Debug)]
pub enum Word {
    Said(Up),
    Gone,
}

#[derive(Debug)]
pub struct Beside {
    edges: Vec<Seen>,
    speak: mpsc::Sender<(u32, Word)>,
    words: mpsc::Receiver<(u32, Word)>,
}

#[derive(Debug)]
struct Seen {
    pid: u32,
    tell: mpsc::Sender<Told>,
}

#[derive(Debug)]
struct Told {
    message: Down,
    reply: oneshot::Sender<()>,
}

impl Beside {
    pub fn new() -> Self {
        let (speak, words) = mpsc::channel(QUEUE);
        Self { edges: Vec::new(), speak, words }
    }

    /// Tells an edge to stop, and sees it out.
    pub fn add(&mut self, edge: Edge, stop: Down) {
        let (tell, told) = mpsc::channel(QUEUE);
        self.edges.push(Seen { pid: edge.pid, tell });
        tokio::spawn(see_out(edge, stop, told, self.speak.clone()));
    }

    /// What one of them says next, with its pid. Waits for ever when there is none.
    pub async fn heard(&mut self) -> (u32, Word) {
        match self.words.recv().await {
            Some(word) => self.noted(word),
            // Never: one of those who speak is kept here.
            None => std::future::pending().await,
        }
    }

    /// What one of them has said already.
    pub fn heard_already(&mut self) -> Option<(u32, Word)> {
        self.words.try_recv().ok().map(|word| self.noted(word))
    }

    fn noted(&mut self, (pid, word): (u32, Word)) -> (u32, Word) {
        if matches!(word, Word::Gone) {
            self.edges.retain(|edge| edge.pid != pid);
        }
        (pid, word)
    }

    /// Tells all of them. What comes back is answered by each, or let go of when it is gone.
    pub fn tell(&self, message: &Down) -> Vec<oneshot::Receiver<()>> {
        let told = self.edges.iter().map(|edge| {
            let (reply, answer) = oneshot::channel();
            // One whose queue is full answers nothing, and is not waited for.
            let _ = edge.tell.try_send(Told { message: message.clone(), reply });
            answer
        });
        told.collect()
    }

    /// Lets them finish for so long and no longer, and waits for that.
    pub async fn end(&mut self, stop: Down, within: Duration) {
        drop(self.tell(&stop));
        let _ = tokio::time::timeout(within, async {
            while !self.edges.is_empty() {
                self.heard().await;
            }
        })
        .await;
    }
}

/// A reply that is given on once those who were told have answered as well.
pub fn after<T: Send + 'static>(told: Vec<oneshot::Receiver<()>>, reply: Reply<T>) -> Reply<T> {
    if told.is_empty() {
        return reply;
    }
    let (sooner, answer) = oneshot::channel();
    tokio::spawn(async move {
        let Ok(answer) = answer.await else { return };
        futures_util::future::join_all(told).await;
        let _ = reply.send(answer);
    });
    sooner
}

/// Who waits for an answer, to which message, and since when.
struct Asker {
    message: Down,
    since: Instant,
    reply: oneshot::Sender<()>,
}

impl Asker {
    fn is_answered(&self, up: &Up) -> bool {
        match (&self.message, up) {
            (Down::Section { generation, .. }, Up::Applied { generation: applied, .. }) => generation <= applied,
            (Down::Purge { token, .. }, Up::Purged { token: purged }) => token == purged,
            _ => false,
        }
    }
}

/// Tells an edge what it is told until it is gone.
async fn see_out(mut edge: Edge, stop: Down, mut told: mpsc::Receiver<Told>, speak: mpsc::Sender<(u32, Word)>) {
    let pid = edge.pid;
    // An older one says nothing once it was told to stop, and hurries whoever might ask again.
    let obeys = edge.binary.is_some();
    let mut askers: Vec<Asker> = Vec::new();
    if edge.send(&stop, &[]).await.is_ok() {
        loop {
            let oldest = askers.first().map(|asker| asker.since + ANSWER);
            tokio::select! {
                next = told.recv() => {
                    // Control leaves, and the next one finds the edge.
                    let Some(Told { message, reply }) = next else { return };
                    if edge.send(&message, &[]).await.is_err() {
                        break;
                    }
                    if obeys {
                        askers.push(Asker { message, since: Instant::now(), reply });
                    }
                }
                up = edge.receive() => match up {
                    Some(up) => {
                        for asker in askers.extract_if(.., |asker| asker.is_answered(&up)) {
                            let _ = asker.reply.send(());
                        }
                        if speak.send((pid, Word::Said(up))).await.is_err() {
                            return;
                        }
                    }
                    None => break,
                },
                () = until(oldest) => {
                    tracing::error!(pid, "an edge that was replaced does not answer; it is ended");
                    edge.kill();
                    break;
                }
            }
        }
    }
    drop(askers);
    edge.gone().await;
    edge.remove_socket();
    // The owner may be gone as well.
    let _ = speak.send((pid, Word::Gone)).await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
