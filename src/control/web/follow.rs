//! A deployment told live: its stages, and the lines of its build as they come; or those lines alone.
//!
//! Called by the admin API. A follower that goes away ends its task; one that is slow keeps nobody else waiting.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{Stream, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::{broadcast, mpsc};
use tokio::time::sleep;

use super::admin::Office;
use super::api::Followed;
use crate::control::runtime::ByteStream;
use crate::model::deployment::{Deployment, Stage};

/// Between two looks at a growing file.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pieces that may wait for a slow follower.
const AHEAD: usize = 64;

/// JSON lines of `Followed`, from how it stands now until it serves or has ended.
pub fn deployment(office: Arc<Office>, now: Deployment, changes: broadcast::Receiver<Deployment>) -> Body {
    let (pieces, body) = channel();
    tokio::spawn(tell(office, now, changes, Told { pieces, only_last: None }));
    Body::from_stream(body)
}

/// The last lines of its build, and what is added until it serves or has ended.
pub fn build_log(
    office: Arc<Office>,
    now: Deployment,
    changes: broadcast::Receiver<Deployment>,
    lines: usize,
) -> ByteStream {
    let (pieces, body) = channel();
    tokio::spawn(tell(office, now, changes, Told { pieces, only_last: Some(lines) }));
    Box::pin(body)
}

async fn tell(office: Arc<Office>, mut now: Deployment, mut changes: broadcast::Receiver<Deployment>, mut told: Told) {
    let mut log = Lines { tail: Tail::new(office.workshop.build_log(&now)), partial: Vec::new() };
    let mut last = None;
    loop {
        if told.lines(log.more().await).await.is_err() {
            return;
        }
        if last.as_ref() != Some(&now) {
            if told.stage(&now).await.is_err() {
                return;
            }
            last = Some(now.clone());
        }
        if now.is_over() || now.stage >= Stage::Draining {
            return;
        }
        tokio::select! {
            changed = changes.recv() => match changed {
                Ok(deployment) if deployment.id == now.id => now = deployment,
                Ok(_) => {}
                // Whoever fell behind looks into the store again.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    if let Ok(Some(stored)) = office.workshop.history.deployment(&now.id).await {
                        now = stored;
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = sleep(LOOK_AGAIN) => {}
            () = told.pieces.closed() => return,
        }
    }
}

/// To whom it is told, and how.
struct Told {
    pieces: mpsc::Sender<Bytes>,
    /// Plain lines alone, and of those that there are already only so many; `None`: JSON lines with everything.
    only_last: Option<usize>,
}

impl Told {
    async fn lines(&mut self, lines: Vec<String>) -> Result<(), ()> {
        let Some(wanted) = self.only_last.as_mut().filter(|_| !lines.is_empty()) else {
            for line in lines {
                self.send(&Followed::Log(line)).await?;
            }
            return Ok(());
        };
        // From now on all.
        let first = lines.len().saturating_sub(std::mem::replace(wanted, usize::MAX));
        let text: String = lines[first..].iter().map(|line| format!("{line}\n")).collect();
        self.pieces.send(text.into()).await.map_err(drop)
    }

    async fn stage(&self, now: &Deployment) -> Result<(), ()> {
        match self.only_last {
            Some(_) => Ok(()),
            None => self.send(&Followed::Stage(Box::new(now.clone()))).await,
        }
    }

    async fn send(&self, followed: &Followed) -> Result<(), ()> {
        let mut line = serde_json::to_vec(followed).map_err(drop)?;
        line.push(b'\n');
        self.pieces.send(line.into()).await.map_err(drop)
    }
}

fn channel() -> (mpsc::Sender<Bytes>, impl Stream<Item = io::Result<Bytes>> + Send) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let body = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
        receiver.recv().await.map(|piece| (Ok(piece), receiver))
    });
    (sender, body)
}

/// What is added to a file that may not be there yet.
struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// Everything since the last time; nothing when it cannot be read.
    async fn more(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path).await
            && file.seek(SeekFrom::Start(self.offset)).await.is_ok()
            && file.read_to_end(&mut bytes).await.is_err()
        {
            bytes.clear();
        }
        self.offset += bytes.len() as u64;
        bytes
    }
}

/// A file's new lines, each whole.
struct Lines {
    tail: Tail,
    partial: Vec<u8>,
}

impl Lines {
    async fn more(&mut self) -> Vec<String> {
        self.partial.extend(self.tail.more().await);
        let end = self.partial.iter().rposition(|b| *b == b'\n').map_or(0, |place| place + 1);
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}
