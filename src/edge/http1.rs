//! One HTTP/1 connection: wait for a request, read its head, let pingora answer it, and begin again.
//!
//! Called by `connection`. This is the place of the door: whatever can be answered without pingora will be answered
//! between `read` and `answer_one`. The rule: a head is read here, whole, under one deadline; pingora never waits for one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::model::machine::Limits;

use super::admission::Place;
use super::failure::{self, Failure};
use super::head::{self, Framing, Head};
use super::shared::Shared;
use super::stream::{Allowance, Stream};

/// How long an idle connection may still send a request after the edge began to stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long a refused client may take to read why, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;
/// How long an unread request body may take to arrive before the connection is given up.
const BODY_REST: Duration = Duration::from_secs(5);

/// Serves requests until either side has enough.
pub async fn serve(mut stream: Box<Stream>, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>, _place: Place) {
    let mut left = shared.settings.load().limits.keepalive_requests;
    loop {
        stream.rest();
        let limits = shared.settings.load().limits;
        if !wait(&mut stream, limits.keepalive_timeout, &mut stopping).await {
            return;
        }
        let head = match read(&mut stream, &limits).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(failure) => return refuse(stream, &shared, failure).await,
        };
        left = left.saturating_sub(1);
        // Boxed, so that a connection that waits does not carry the room of one that works.
        match Box::pin(answer_one(stream, head, &limits, left, &shared, &stopping)).await {
            Some(same) => stream = same,
            None => return,
        }
    }
}

/// Waits for the first byte of a request; false when there will be none.
async fn wait(stream: &mut Stream, idle: Duration, stopping: &mut watch::Receiver<bool>) -> bool {
    if !stream.ahead().is_empty() {
        return true;
    }
    let idle = Instant::now() + idle;
    let first = if *stopping.borrow() {
        timeout_at(idle.min(Instant::now() + LAST_REQUEST), stream.read_ahead()).await
    } else {
        tokio::select! {
            first = stream.read_ahead() => Ok(first),
            () = sleep_until(idle) => return false,
            _ = stopping.changed() => timeout(LAST_REQUEST, stream.read_ahead()).await,
        }
    };
    matches!(first, Ok(Ok(read)) if read > 0)
}

/// Reads one head within its deadline and limits; `None` when the client left.
async fn read(stream: &mut Stream, limits: &Limits) -> Result<Option<Head>, Failure> {
    let deadline = Instant::now() + limits.header_timeout;
    let mut searched = 0;
    loop {
        if let Some(head) = head::take(stream.ahead(), &mut searched, limits)? {
            return Ok(Some(head));
        }
        match timeout_at(deadline, stream.read_ahead()).await {
            Ok(Ok(0) | Err(_)) => return Ok(None),
            Ok(Ok(_)) => {}
            Err(_) => return Err(Failure::HeadTimeout),
        }
    }
}

/// Lets pingora answer one request; gives the connection back when another may follow.
async fn answer_one(
    mut stream: Box<Stream>,
    head: Head,
    limits: &Limits,
    left: u32,
    shared: &Shared,
    stopping: &watch::Receiver<bool>,
) -> Option<Box<Stream>> {
    let mut bytes = head.bytes;
    let allowance = match head.framing {
        Framing::Length(length) => {
            let here = stream.ahead().len().min(usize::try_from(length).unwrap_or(usize::MAX));
            bytes.unsplit(stream.ahead().split_to(here));
            Allowance::Exactly(length - here as u64)
        }
        Framing::Open => Allowance::Open,
    };
    stream.allow(allowance);
    let visit = stream.visit().clone();
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(bytes);
    session.set_keepalive_reuses_remaining(Some(left));
    session.set_read_timeout(Some(limits.body_timeout));
    session.set_write_timeout(Some(limits.write_timeout));
    session.set_total_drain_timeout(Some(BODY_REST));
    let reused = tokio::select! {
        reused = shared.engine().process_new_http(session, stopping) => reused,
        () = visit.until_cut() => None,
    };
    visit.at(None);
    let stream = reused?.consume().0.into_any().downcast::<Stream>().ok()?;
    // A body that nobody read to its end would be taken for the next request.
    let is_at_boundary = matches!((head.framing, stream.allowance()), (Framing::Open, _) | (_, Allowance::Exactly(0)));
    is_at_boundary.then_some(stream)
}

/// Tells a client why its request is not taken, and closes.
async fn refuse(mut stream: Box<Stream>, shared: &Shared, failure: Failure) {
    shared.metrics.refused(failure);
    let answer = failure::raw_answer(failure, &shared.ids.next());
    // Closing with bytes unread would reset the connection, and the answer with it: read on for a moment.
    let _ = timeout(LINGER, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        let mut rest = 0;
        while rest < LINGER_BYTES {
            stream.ahead().clear();
            match stream.read_ahead().await? {
                0 => break,
                read => rest += read,
            }
        }
        io::Result::Ok(())
    })
    .await;
}
