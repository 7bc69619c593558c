//! What a connection does for a request that takes longer than a look.
//!
//! Called by `door`, which gives itself away meanwhile. The rule: it comes back exactly when the next request may begin at
//! the stream's next byte; in every other case the connection ends, and in a way that shows whether the answer was whole.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::waiting::{self, Waiting};
use super::{Door, connection};
use crate::edge::answer::Fetch;
use crate::edge::cache::Along;
use crate::edge::cache::body::Body;
use crate::edge::exchange::Exchange;
use crate::edge::failure::Failure;
use crate::edge::fetch::along::Wire;
use crate::edge::fetch::{self, Errand, Outcome, http1::Http1};
use crate::edge::passage::Passage;
use crate::edge::request::Asked;
use crate::edge::respond::{Own, Told};
use crate::edge::stream::{Allowance, Stream};
use crate::edge::strict::chunks::Chunks;
use crate::edge::strict::request::{Framing, Version};
use crate::edge::worker::Worker;
use crate::model::hold::Notice;

/// How long a client that is sent away may take to read why, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;
/// How long an unread request body may take to arrive before the connection is given up, and how long it may be, in bytes.
const BODY_REST: Duration = Duration::from_secs(5);
const BODY_REST_BYTES: u64 = 64 << 10;

pub enum Task {
    /// A head that may not enter: the connection ends with a page.
    Refused(Failure),
    Unsent(Unsent),
    Request(Box<Request>),
}

/// An answer that the socket did not take at once.
pub struct Unsent {
    pub parts: [Bytes; 2],
    pub keeps_alive: bool,
}

pub struct Request {
    pub lane: Lane,
    pub exchange: Exchange,
    /// What kinds of pages the client reads.
    pub accept: Box<str>,
    pub method: Method,
    pub framing: Framing,
    pub version: Version,
    pub keeps_alive: bool,
}

/// Who answers.
pub enum Lane {
    /// The edge by itself; and whether what follows can be trusted to be the next request.
    Own(Own, bool),
    /// What another has asked the app for, when it has come.
    Wait(Waiting),
    /// That, while it comes.
    Along(Box<Along>),
    /// The app, with this head, over a connection of ours.
    Light(Box<Fetch>, BytesMut),
    /// The app, with this head, by pingora.
    Pingora(Box<Passage>, BytesMut),
}

impl Lane {
    pub fn refusal(worker: &Worker, failure: Failure, asked: &Asked<'_>, exchange: &Exchange) -> Self {
        worker.shared.metrics.refused(failure);
        Lane::Own(Own::page(failure, asked.fields.text("accept"), &exchange.id), !failure.closes())
    }

    pub fn maintenance(worker: &Worker, notice: &Notice, asked: &Asked<'_>, exchange: &Exchange) -> Self {
        worker.shared.metrics.refused(Failure::Maintenance);
        Lane::Own(Own::notice(notice, asked.fields.text("accept"), &exchange.id), true)
    }
}

/// Does it; the door when another request may come.
pub async fn perform(mut door: Door, task: Task) -> Option<Door> {
    let keeps_alive = match task {
        Task::Refused(failure) => {
            refuse(&mut door, failure).await;
            false
        }
        Task::Unsent(unsent) => send_rest(&mut door, unsent).await,
        Task::Request(mut request) => {
            if let Lane::Wait(..) = request.lane {
                *request = waiting::wait(&mut door, *request).await?;
            }
            match request.lane {
                Lane::Pingora(..) => return pingora(door, *request).await,
                Lane::Own(..) => own(&mut door, *request).await,
                Lane::Light(..) => light(&mut door, *request).await,
                Lane::Along(..) => along(&mut door, *request).await,
                Lane::Wait(..) => false,
            }
        }
    };
    keeps_alive.then_some(door)
}

async fn refuse(door: &mut Door, failure: Failure) {
    let shared = &door.worker.shared;
    shared.metrics.refused(failure);
    let mut exchange = Exchange::stray(&door.worker, door.stream.visit(), "HTTP/1.1", shared.ids.fresh());
    let mut own = Own::page(failure, None, &exchange.id);
    exchange.status = Some(own.status);
    let head = own.http1(Told { cache: None, ..exchange.told() }, Some("close"));
    let Ok(page) = own.body.next().await else { return };
    if let Ok(true) = timeout(LINGER, send(&mut door.stream, &head, &page)).await {
        linger(&mut door.stream).await;
    }
}

async fn send_rest(door: &mut Door, unsent: Unsent) -> bool {
    for part in &unsent.parts {
        if !send(&mut door.stream, &[], part).await {
            return false;
        }
    }
    if !unsent.keeps_alive {
        linger(&mut door.stream).await;
    }
    unsent.keeps_alive
}

async fn own(door: &mut Door, request: Request) -> bool {
    let Request { lane, mut exchange, method, framing, version, keeps_alive, .. } = request;
    let Lane::Own(answer, is_sound) = lane else { return false };
    let rest = framing.length().filter(|rest| is_sound && *rest <= BODY_REST_BYTES);
    let keeps_alive = keeps_alive && rest.is_some();
    let told = exchange.told();
    let head = answer.http1(told, connection(version, keeps_alive));
    let mut body = if answer.has_body(&method) { answer.body } else { Body::default() };
    exchange.status = Some(answer.status);
    exchange.sent = body.len() as u64;
    let Ok(first) = body.next().await else {
        door.stream.abort();
        return false;
    };
    let mut is_sent = send(&mut door.stream, &head, &first).await;
    while is_sent && !body.is_empty() {
        let Ok(part) = body.next().await else {
            door.stream.abort();
            return false;
        };
        is_sent = send(&mut door.stream, &[], &part).await;
    }
    drop(exchange);
    match rest.filter(|_| keeps_alive) {
        Some(rest) => is_sent && skip(&mut door.stream, rest).await,
        None if is_sent => {
            linger(&mut door.stream).await;
            false
        }
        None => false,
    }
}

async fn light(door: &mut Door, request: Request) -> bool {
    let Request { lane, mut exchange, accept, method, version, keeps_alive, .. } = request;
    let Lane::Light(fetch, head) = lane else { return false };
    let limits = door.worker.shared.settings.load().limits;
    let mut client = Http1 { stream: &mut door.stream, keeps_alive };
    let mut errand = Errand {
        worker: &door.worker,
        limits,
        fetch: *fetch,
        request: head,
        is_head: method == Method::HEAD,
        exchange: &mut exchange,
        timer: &mut door.timer,
    };
    let outcome = fetch::run(&mut client, &mut errand).await;
    let keeps_alive = client.keeps_alive;
    // The claim is let go of last of all.
    let claim = errand.fetch.claim;
    match outcome {
        Outcome::Whole => {
            drop(exchange);
            drop(claim);
            if !keeps_alive {
                linger(&mut door.stream).await;
            }
            keeps_alive
        }
        Outcome::Own(answer) => {
            let (lane, framing) = (Lane::Own(*answer, true), Framing::Length(0));
            own(door, Request { lane, exchange, accept, method, framing, version, keeps_alive }).await
        }
        Outcome::Failed(failure) => {
            door.worker.shared.metrics.refused(failure);
            let lane = Lane::Own(Own::page(failure, Some(&accept), &exchange.id), true);
            let framing = Framing::Length(0);
            own(door, Request { lane, exchange, accept, method, framing, version, keeps_alive }).await
        }
        Outcome::Torn => {
            door.stream.abort();
            false
        }
        Outcome::Gone => false,
    }
}

async fn along(door: &mut Door, request: Request) -> bool {
    let Request { lane, mut exchange, version, keeps_alive, .. } = request;
    let Lane::Along(along) = lane else { return false };
    let Along { coming, reader } = *along;
    let answer = Own::coming(&coming, Instant::now());
    // Before HTTP/1.1 there were no chunks: the end of the connection is the end of the body.
    let (answer, wire, keeps_alive) = match (coming.length, version) {
        (Some(_), _) => (answer, Wire::Plain, keeps_alive),
        (None, Version::Http11) => (answer.chunked(), Wire::Chunks, keeps_alive),
        (None, Version::Http10) => (answer, Wire::Plain, false),
    };
    let told = exchange.told();
    let head = answer.http1(told, connection(version, keeps_alive));
    door.stream.gathered().extend_from_slice(&head);
    exchange.status = Some(answer.status);
    let mut client = Http1 { stream: &mut door.stream, keeps_alive };
    match fetch::along::follow(&mut client, reader, wire, &mut exchange.sent).await {
        Outcome::Whole => {
            drop(exchange);
            if !keeps_alive {
                linger(&mut door.stream).await;
            }
            keeps_alive
        }
        Outcome::Gone => false,
        Outcome::Own(_) | Outcome::Failed(_) | Outcome::Torn => {
            door.stream.abort();
            false
        }
    }
}

async fn pingora(door: Door, request: Request) -> Option<Door> {
    let Request { lane, exchange, framing, keeps_alive, version, .. } = request;
    let Lane::Pingora(mut passage, mut head) = lane else { return None };
    let Door { mut stream, worker, timer, left, waiting, stopped, hears_stop } = door;
    let limits = worker.shared.settings.load().limits;
    let upstream = passage.upstream().clone();
    passage.exchange = Some(exchange);
    give(&mut stream, &mut head, framing);
    let visit = stream.visit().clone();
    visit.leave(passage);
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(head);
    // Before HTTP/1.1 there were no interim answers (RFC 9110 section 15.2).
    session.set_ignore_info_resp(version == Version::Http10);
    session.set_keepalive_reuses_remaining(Some(if keeps_alive { left } else { 0 }));
    session.set_read_timeout(Some(limits.body_timeout));
    session.set_total_drain_timeout(Some(BODY_REST));
    let reused = tokio::select! {
        reused = worker.engine().process_new_http(session, &worker.stopping) => reused,
        () = upstream.until_cut(|| visit.is_answered()) => None,
    };
    drop(visit.take());
    let stream = reused?.consume().0.into_any().downcast::<Stream>().ok()?;
    // A body that nobody read to its end would be taken for the next request.
    let may_go_on = keeps_alive && stream.allowance().is_over();
    may_go_on.then_some(Door { stream, worker, timer, left, waiting, stopped, hears_stop })
}

/// Lets pingora have the request's body and no byte more; what came of it already goes with the head.
fn give(stream: &mut Stream, head: &mut BytesMut, framing: Framing) {
    let allowance = match framing {
        Framing::Length(length) => {
            let here = stream.ahead().len().min(usize::try_from(length).unwrap_or(usize::MAX));
            head.unsplit(stream.ahead().split_to(here));
            Allowance::Exactly(length - here as u64)
        }
        Framing::Chunked => Allowance::Chunked(Chunks::new()),
        Framing::WebSocket => Allowance::Open,
    };
    stream.allow(allowance);
}

/// Writes both; whether they left.
async fn send(stream: &mut Stream, head: &[u8], body: &[u8]) -> bool {
    stream.gathered().extend_from_slice(head);
    stream.send(body).await.is_ok()
}

/// Ends the connection from our side. Closing with bytes unread would reset it, and the answer with it: reads on for a
/// moment.
async fn linger(stream: &mut Stream) {
    // However this ends, the connection is over.
    let _ = timeout(LINGER, async {
        AsyncWriteExt::shutdown(stream).await?;
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

/// Reads a body that nobody wants; whether all of it came in time.
async fn skip(stream: &mut Stream, mut rest: u64) -> bool {
    let skipped = timeout(BODY_REST, async {
        while rest > 0 {
            if stream.ahead().is_empty() && stream.read_ahead().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = stream.ahead().len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            stream.ahead().advance(here);
            rest -= here as u64;
        }
        io::Result::Ok(())
    });
    matches!(skipped.await, Ok(Ok(())))
}
