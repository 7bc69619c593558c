//! What the engine may hold after a call that failed: asked to be removed until the engine says that it is gone.
//!
//! Told by the Docker runtime; one task owns it. The rule: a call without an answer left nobody knows what behind, so only
//! the engine's own word counts, and of what was just being made it counts when it is said twice.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::error::RuntimeError;
use super::Docker;
use crate::model::release::Artifact;

#[derive(Debug, Clone)]
pub enum Leftover {
    /// By its id or its name.
    Container(String),
    Image(String),
}

/// Where leftovers are told to their owner. What is too much for it waits for the next start.
pub type Leftovers = mpsc::Sender<Leftover>;

pub fn channel() -> (Leftovers, mpsc::Receiver<Leftover>) {
    mpsc::channel(HELD_MAX)
}

/// Never ends while anybody can tell it something.
pub async fn sweep(docker: Docker, mut told: mpsc::Receiver<Leftover>) {
    let mut held = VecDeque::new();
    while let Some(leftover) = next(&mut held, &mut told).await {
        match docker.remove_leftover(&leftover).await {
            Ok(()) => tracing::info!(?leftover, "what a failed call left in the engine is gone"),
            Err(RuntimeError::InUse(_)) => (),
            Err(error) => {
                tracing::debug!(%error, ?leftover, "this is tried again");
                held.push_back(leftover);
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

async fn next(held: &mut VecDeque<Leftover>, told: &mut mpsc::Receiver<Leftover>) -> Option<Leftover> {
    while held.len() < HELD_MAX
        && let Ok(leftover) = told.try_recv()
    {
        held.push_back(leftover);
    }
    match held.pop_front() {
        Some(leftover) => Some(leftover),
        None => told.recv().await,
    }
}

impl Docker {
    /// Goes on behind, whatever becomes of the caller.
    pub(super) fn remove_later(&self, leftover: Leftover) {
        if let Err(error) = self.leftovers.try_send(leftover) {
            tracing::warn!(%error, "this stays in the engine until the next start");
        }
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), RuntimeError> {
        match leftover {
            Leftover::Container(id) => {
                self.remove_container(id).await?;
                sleep(SURE_AFTER).await;
                self.remove_container(id).await
            }
            Leftover::Image(id) => self.remove_image(&Artifact::Image(id.clone())).await,
        }
    }
}

const HELD_MAX: usize = 1024;
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// A call that was given up may still be under way in the engine for so long.
const SURE_AFTER: Duration = Duration::from_secs(5);
