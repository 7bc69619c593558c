//! One deadline of a connection, moved at almost no cost.
//!
//! Used by `door` and `fetch`. Asking tokio's wheel of timers for a new place costs more than a request read from memory;
//! most deadlines are moved on before they are reached. The rule: a deadline that moves on only writes a number down, and
//! the timer looks at it when it wakes.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug)]
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Timer {
    pub fn new(after: Duration) -> Self {
        let deadline = Instant::now() + after;
        Self { sleep: Box::pin(sleep_until(deadline)), deadline }
    }

    /// Moves the deadline.
    pub fn set(&mut self, after: Duration) {
        self.move_to(Instant::now() + after);
    }

    /// Moves the deadline; `now` was looked at a moment ago.
    pub fn set_from(&mut self, now: std::time::Instant, after: Duration) {
        self.move_to(Instant::from_std(now) + after);
    }

    fn move_to(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if self.deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(self.deadline);
        }
    }

    /// Ready when the deadline is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
        Poll::Pending
    }

    /// Waits for `work` at most this long; `None` when its time was over.
    pub async fn within<F: Future>(&mut self, after: Duration, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut is_set = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            // What is done at once needs no deadline.
            if !is_set {
                self.set(after);
                is_set = true;
            }
            self.poll(cx).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_kept_however_it_was_moved() {
        let start = Instant::now();
        let mut timer = Timer::new(Duration::from_secs(60));
        assert!(timer.within(Duration::from_secs(5), std::future::pending::<()>()).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 5, "an earlier one is kept");
        assert!(timer.within(Duration::from_secs(90), std::future::pending::<()>()).await.is_none());
        assert_eq!(start.elapsed().as_secs(), 95, "and a later one");
        assert_eq!(timer.within(Duration::from_secs(1), std::future::ready(7)).await, Some(7));
    }
}
