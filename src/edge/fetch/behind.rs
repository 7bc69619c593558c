//! A newer answer for the cache, that nobody waits for (RFC 5861 section 3).
//!
//! Begun by `door` and `http2` when they have shown a stale one. The rule: it is the visitor's own request as the app would
//! have got it, and counts as none.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::{Client, Errand, Gone, run};
use crate::edge::answer::Fetch;
use crate::edge::exchange::Exchange;
use crate::edge::id::RequestId;
use crate::edge::strict::response::Head;
use crate::edge::timer::Timer;
use crate::edge::worker::Worker;

/// Fetches with this head. When that fails, the next visitor tries again.
pub fn fetch(worker: &Arc<Worker>, fetch: Fetch, request: BytesMut, id: RequestId) {
    let worker = worker.clone();
    // Boxed, because tokio moves what it is given a dozen times.
    tokio::spawn(Box::pin(async move {
        let limits = worker.shared.settings.load().limits;
        let (mut exchange, mut timer) = (Exchange::behind(&worker, id), Timer::new(limits.upstream_timeout));
        let mut errand = Errand {
            worker: &worker,
            limits,
            fetch,
            request,
            is_head: false,
            exchange: &mut exchange,
            timer: &mut timer,
        };
        let _ = run(&mut Nobody, &mut errand).await;
    }));
}

struct Nobody;

impl Client for Nobody {
    const TAKES_CHUNKS: bool = false;
    const PART: usize = 64 << 10;

    async fn interim(&mut self, _: &Head, _: &[u8]) -> Result<(), Gone> {
        Ok(())
    }

    fn begin(&mut self, _: &Head, _: &[u8], _: &Exchange) -> Result<(), Gone> {
        Ok(())
    }

    async fn part(&mut self, _: &[u8]) -> Result<(), Gone> {
        Ok(())
    }

    async fn end(&mut self, _: &[u8]) -> Result<(), Gone> {
        Ok(())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
