//! Askers who wait for a section to hold, and for how long the edge may let them.
//!
//! Kept by the owner of what is live. The rule: whoever asks is answered, even when control ends meanwhile.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::LiveError;
use crate::link::Generation;
use crate::model::snapshot::SectionKind;

/// How long the edge may take to make a section hold, before it is taken for broken and replaced. It needs about 1 ms;
/// reading 10,000 certificates takes seconds.
pub const ANSWER: Duration = Duration::from_secs(15);

pub type Reply<T> = oneshot::Sender<Result<T, LiveError>>;

/// An asker who waits for a section to hold.
#[derive(Debug)]
pub struct Waiting {
    pub generation: Generation,
    pub kind: SectionKind,
    pub since: Instant,
    pub reply: Reply<Duration>,
}

/// Returns when the edge should have answered long ago.
pub async fn overdue(oldest: Option<&Waiting>) {
    match oldest {
        Some(waiting) => sleep_until(waiting.since + ANSWER).await,
        None => std::future::pending().await,
    }
}

/// For askers who do not care how long it took.
pub fn without_time(reply: Reply<()>) -> Reply<Duration> {
    let (with_time, answer) = oneshot::channel();
    tokio::spawn(async move {
        let answer = answer.await.unwrap_or(Err(LiveError::Stopping));
        let _ = reply.send(answer.map(drop));
    });
    with_time
}
