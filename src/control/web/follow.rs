//! A deployment told live: its stages, and the lines of its build as they come.
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
use crate::model::deployment::{Deployment, Stage};

/// Between two looks at a growing file.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Pieces that may wait for a slow follower.
const AHEAD: usize = 64;

/// JSON lines of `Followed`, from how it stands now until it serves or has ended.
pub fn deployment(office: Arc<Office>, now: Deployment, changes: broadcast::Receiver<Deployment>) -> Body {
    let (pieces, body) = channel();
    tokio::spawn(tell(office, now, changes, pieces));
    Body::from_stream(body)
}

async fn tell(
    office: Arc<Office>,
    mut now: Deployment,
    mut changes: broadcast::Receiver<Deployment>,
    pieces: mpsc::Sender<Bytes>,
) {
    let mut log = Lines { tail: Tail::new(office.workshop.build_log(&now)), partial: Vec::new() };
    let mut told = None;
    loop {
        for line in log.more().await {
            if send(&pieces, &Followed::Log(line)).await.is_err() {
                return;
            }
        }
        if told.as_ref() != Some(&now) {
            if send(&pieces, &Followed::Stage(Box::new(now.clone()))).await.is_err() {
                return;
            }
            told = Some(now.clone());
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
            () = pieces.closed() => return,
        }
    }
}

async fn send(pieces: &mpsc::Sender<Bytes>, followed: &Followed) -> Result<(), ()> {
    let mut line = serde_json::to_vec(followed).map_err(drop)?;
    line.push(b'\n');
    pieces.send(line.into()).await.map_err(drop)
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
