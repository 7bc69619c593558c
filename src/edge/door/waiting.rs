//! A request that waits for what another has asked the app for, for the disk, or for a pause to end.
//!
//! Called by `lanes`. The rule: whenever something is known of it the request is decided about anew, as if it came then; it
//! waits no longer than the app itself may take, or than a pause lets it.

use std::future::poll_fn;

use bytes::BytesMut;
use tokio::select;
use tokio::time::Instant;

use super::Door;
use super::lanes::{Lane, Request};
use crate::edge::answer::{self, Awaited, Time, What};
use crate::edge::exchange::Exchange;
use crate::edge::request::Asked;
use crate::edge::respond::Own;
use crate::edge::strict::request as strict;

pub struct Waiting {
    pub awaited: Awaited,
    /// The request's head.
    pub head: BytesMut,
}

/// Waits until somebody can answer; `None` when the client is gone.
pub async fn wait(door: &mut Door, mut request: Request) -> Option<Request> {
    let limit = door.worker.shared.settings.load().limits.upstream_timeout;
    let mut deadline = Instant::now() + limit;
    while let Lane::Wait(waiting) = request.lane {
        let until = waiting.awaited.until();
        let left = until.unwrap_or(deadline).saturating_duration_since(Instant::now());
        let stream = &mut door.stream;
        let settling = async {
            select! {
                time = waiting.awaited.settled() => Some(time),
                _ = poll_fn(|cx| stream.poll_end(cx)) => None,
            }
        };
        let time = match door.timer.within(left, settling).await {
            Some(Some(time)) => time,
            Some(None) => return None,
            None => {
                let failure = waiting.awaited.failure();
                let page = Own::page(failure, Some(&request.accept), &request.exchange.id);
                door.worker.shared.metrics.refused(failure);
                request.lane = Lane::Own(page, true);
                return Some(request);
            }
        };
        if until.is_some() {
            deadline = Instant::now() + limit;
        }
        (request.lane, request.exchange) = door.decide_again(waiting, request.exchange, time)?;
    }
    Some(request)
}

impl Door {
    fn decide_again(&self, waiting: Waiting, mut exchange: Exchange, time: Time) -> Option<(Lane, Exchange)> {
        let (shared, visit, bytes) = (&self.worker.shared, self.stream.visit(), &waiting.head[..]);
        let settings = shared.settings.load();
        // It was understood before; only other limits, since then, can make that no.
        let head = strict::judge(bytes, &settings.limits).ok()??;
        let asked = Asked::http1(&head, bytes, visit, &settings).ok()?;
        let answer = answer::decide(shared, visit, &asked, head.framing.length(), time);
        if let What::Stored(hit) = &answer.what {
            exchange.cache = Some(waiting.awaited.status(hit));
            return Some((Lane::Own(Own::stored(&hit.stored, &asked.method, asked.fields, asked.at), true), exchange));
        }
        Some(self.lane(&asked, answer.what, exchange, (&head, bytes)))
    }
}
