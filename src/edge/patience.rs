//! How long one direction of a connection waits for its client: a deadline that moves on with what the client moves.
//!
//! Made by `wire` when a client is waited for the first time. The rule: it is over when one wait is too long, or all of them
//! together are for what came of it.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::pace::Pace;
use super::timer::Timer;

#[derive(Debug)]
pub struct Patience {
    pace: Pace,
    /// What a single wait may take.
    longest: Duration,
    timer: Timer,
}

/// What a client did to have its wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Moved nothing for too long.
    Stalled,
    /// Moved too little.
    TooSlow,
}

impl Patience {
    pub fn new(pace: Pace, longest: Duration) -> Self {
        Self { pace, longest, timer: Timer::new(longest) }
    }

    /// Waits; ready when that is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let now = Instant::now();
        if let Some(left) = self.pace.wait(now) {
            self.timer.set_from(now, left.min(self.longest));
        }
        ready!(self.timer.poll(cx));
        Poll::Ready(if self.pace.is_too_slow(Instant::now()) { Over::TooSlow } else { Over::Stalled })
    }

    /// The client moved so many bytes.
    pub fn moved(&mut self, bytes: usize) {
        self.pace.moved(bytes, Instant::now());
    }
}
