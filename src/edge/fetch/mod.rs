//! Our own way to an app, for requests without a body: GET and HEAD, from HTTP/1 and HTTP/2 clients alike.
//!
//! Called by `door` and `http2`. It says to app and client what `gateway` says, by the same pieces. The rule: a request is
//! asked again only when no app can have acted on it: nothing was sent yet, or a connection that had been used before ended
//! before it brought a byte.

pub mod along;
pub mod behind;
mod coded;
pub mod http1;
pub mod http2;
pub mod pool;
mod relay;
pub mod request;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::model::address::Address;
use crate::model::machine::Limits;

use super::answer::Fetch;
use super::cache::{CacheStatus, Reader};
use super::exchange::Exchange;
use super::failure::Failure;
use super::respond::Own;
use super::strict::response::{Head, judge};
use super::timer::Timer;
use super::upstream::Turn;
use super::worker::Worker;
use pool::Line;

/// Interim answers that an app may give to one request.
const INTERIMS: usize = 16;

/// Whoever waits for the answer.
pub trait Client {
    /// Whether a chunked body is passed on with its framing.
    const TAKES_CHUNKS: bool;
    /// What one read of a large body takes, in bytes.
    const PART: usize;

    /// An answer before the answer, such as 103; it is not waited for.
    fn interim(&mut self, head: &Head, bytes: &[u8]) -> impl Future<Output = Result<(), Gone>> + Send;

    /// The answer's head; it may be held back until something follows.
    fn begin(&mut self, head: &Head, bytes: &[u8], exchange: &Exchange) -> Result<(), Gone>;

    /// A part of its body, perhaps an empty one, and all that was held back.
    fn part(&mut self, part: &[u8]) -> impl Future<Output = Result<(), Gone>> + Send;

    /// The last part of it, perhaps an empty one.
    fn end(&mut self, part: &[u8]) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Ready when nobody waits any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Nobody waits for the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// How it went.
#[derive(Debug)]
pub enum Outcome {
    Whole,
    /// Nothing has left yet, and this is to: what is stored, by the app's word or for want of a better.
    Own(Box<Own>),
    /// Nothing of an answer has left yet.
    Failed(Failure),
    /// The app broke off in the middle: what has left must not look whole.
    Torn,
    Gone,
}

/// One request on its way.
#[derive(Debug)]
pub struct Errand<'e> {
    pub worker: &'e Arc<Worker>,
    pub limits: Limits,
    pub fetch: Fetch,
    /// The head as the app gets it.
    pub request: BytesMut,
    pub is_head: bool,
    pub exchange: &'e mut Exchange,
    pub timer: &'e mut Timer,
}

/// Why there is no answer.
enum Lost {
    /// The connection ended before a byte came.
    Unanswered,
    Failed(Failure),
    Gone,
}

/// Fetches an answer and hands it on as it comes, until that is done or the upstream's drain is over.
pub async fn run<C: Client>(client: &mut C, errand: &mut Errand<'_>) -> Outcome {
    let upstream = errand.fetch.claim.upstream().clone();
    let is_answered = AtomicBool::new(false);
    let outcome = tokio::select! {
        biased;
        outcome = carry(client, errand, &is_answered) => outcome,
        () = upstream.until_cut(|| is_answered.load(Ordering::Relaxed)) => Outcome::Torn,
    };
    // Those who waited for the same need not wait until this client has read what it gets.
    errand.fetch.unfilled(matches!(outcome, Outcome::Failed(_)));
    let failure = match outcome {
        Outcome::Failed(failure) => failure,
        // Its time is over, and there is still somebody who can be told so.
        Outcome::Torn if errand.exchange.status.is_none() => Failure::Slow,
        outcome => return outcome,
    };
    let spare = errand.fetch.stale.take().and_then(|stale| stale.instead(None));
    spare.map_or(Outcome::Failed(failure), |spare| errand.own(spare))
}

async fn carry<C: Client>(client: &mut C, errand: &mut Errand<'_>, is_answered: &AtomicBool) -> Outcome {
    let mut tried: Vec<Address> = Vec::new();
    let mut last = Failure::Absent;
    loop {
        let Some(turn) = errand.fetch.claim.upstream().choose(&tried) else { return Outcome::Failed(last) };
        let (mut line, is_reused) = match errand.worker.pool.take(turn.replica()) {
            Some(line) => (line, true),
            None => match errand.connect(&turn).await {
                Ok(line) => (line, false),
                Err(failure) => {
                    turn.failed();
                    last = failure;
                    tried.push(turn.replica().address.clone());
                    continue;
                }
            },
        };
        if errand.exchange.upstream.as_ref() != Some(&turn.replica().address) {
            errand.exchange.upstream = Some(turn.replica().address.clone());
        }
        let mut buffer = errand.worker.buffers.take();
        buffer.reserve(C::PART);
        match errand.ask(client, &mut line, &mut buffer).await {
            Ok(head) => {
                turn.worked();
                errand.count(Some(head.status));
                is_answered.store(true, Ordering::Relaxed);
                let body = head.length;
                let answer = relay::Answer { head, buffer, body, line, turn };
                return match errand.settle(&answer) {
                    Some(own) => {
                        answer.put_back(errand);
                        own
                    }
                    None => relay::run(client, errand, answer).await,
                };
            }
            Err(Lost::Unanswered) if is_reused => {}
            Err(Lost::Unanswered) => {
                turn.failed();
                errand.count(None);
                return Outcome::Failed(Failure::Broken);
            }
            Err(Lost::Failed(failure)) => {
                turn.failed();
                errand.count(None);
                return Outcome::Failed(failure);
            }
            Err(Lost::Gone) => return Outcome::Gone,
        }
        errand.worker.buffers.put(buffer);
    }
}

impl Errand<'_> {
    async fn connect(&mut self, turn: &Turn) -> Result<Line, Failure> {
        let connecting = Line::connect(&turn.replica().address);
        let connected = self.timer.within(self.limits.upstream_connect_timeout, connecting).await;
        match connected {
            Some(Ok(line)) => Ok(line),
            Some(Err(error)) if is_nobody_there(&error) => Err(Failure::Absent),
            Some(Err(_)) => Err(Failure::Broken),
            None => Err(Failure::Slow),
        }
    }

    /// Sends the request and waits for the head of its answer, which then stands at the beginning of `buffer`.
    async fn ask<C: Client>(&mut self, client: &mut C, line: &mut Line, buffer: &mut BytesMut) -> Result<Head, Lost> {
        match self.timer.within(self.limits.upstream_timeout, line.write_all(&self.request)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(Lost::Unanswered),
            None => return Err(Lost::Failed(Failure::Slow)),
        }
        let mut interims = 0;
        loop {
            match judge(buffer, self.is_head) {
                Err(failure) => return Err(Lost::Failed(failure)),
                Ok(Some(head)) if !head.status.is_informational() => return Ok(head),
                Ok(Some(_)) if interims == INTERIMS => return Err(Lost::Failed(Failure::Broken)),
                Ok(Some(head)) => {
                    interims += 1;
                    // Nobody asked whether to go on.
                    if head.status != StatusCode::CONTINUE {
                        client.interim(&head, buffer).await.map_err(|Gone| Lost::Gone)?;
                    }
                    buffer.advance(head.length);
                    continue;
                }
                Ok(None) => {}
            }
            match self.timer.within(self.limits.upstream_timeout, read_or_gone(client, line, buffer)).await {
                Some(Some(Ok(1..))) => {}
                Some(Some(Ok(0) | Err(_))) if buffer.is_empty() && interims == 0 => return Err(Lost::Unanswered),
                Some(Some(Ok(0) | Err(_))) => return Err(Lost::Failed(Failure::Broken)),
                Some(None) => return Err(Lost::Gone),
                None => return Err(Lost::Failed(Failure::Slow)),
            }
        }
    }

    fn count(&self, status: Option<StatusCode>) {
        self.fetch.claim.upstream().count(status);
    }

    /// Lets what is stored leave in place of the app's answer, where that says so.
    fn settle(&mut self, answer: &relay::Answer) -> Option<Outcome> {
        let fields = answer.head.fields(&answer.buffer);
        let settled = self.fetch.settle(&self.worker.shared.cache, answer.head.status, fields)?;
        Some(self.own(settled))
    }

    fn own(&mut self, (own, status): (Own, CacheStatus)) -> Outcome {
        self.exchange.cache = Some(status);
        Outcome::Own(Box::new(own))
    }

    /// Writes down a part of the body that leaves.
    fn note(&mut self, part: &[u8]) {
        self.exchange.sent += part.len() as u64;
        self.keep(part);
    }

    /// Writes down a part of the body for the cache, and for those who read along.
    fn keep(&mut self, part: &[u8]) {
        if let Some(fill) = &mut self.fetch.fill {
            fill.add(part);
        }
    }

    fn end_fill(&mut self) {
        if let Some(mut fill) = self.fetch.fill.take() {
            fill.end(&self.worker.shared.cache);
        }
    }

    /// A place among those who read along, where there may be any.
    fn share(&self) -> Option<Reader> {
        self.fetch.fill.as_ref()?.share()
    }

    /// Writes down what the cache makes of the answer.
    fn judge_fill(&mut self, (head, buffer): (&Head, &[u8])) {
        let shared = &self.worker.shared;
        self.exchange.cache = Some(self.fetch.status);
        let Some(fill) = &mut self.fetch.fill else { return };
        let machine_max = shared.settings.load().cache.object_max;
        let is_stored = fill.begin(&shared.cache, head.status, head.fields(buffer), machine_max);
        self.exchange.cache = Some(self.fetch.status.stored(is_stored));
        if !is_stored {
            self.fetch.fill = None;
        }
    }
}

/// Reads some more of an answer; `None` when nobody waits for it any more.
async fn read_or_gone<C: Client>(client: &mut C, line: &mut Line, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
    let mut reading = std::pin::pin!(line.read_buf(buffer));
    std::future::poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(Some(read)),
        Poll::Pending => client.poll_gone(cx).map(|()| None),
    })
    .await
}

/// Its socket's file is gone, or nobody accepts on it.
fn is_nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}
