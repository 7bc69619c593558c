//! One HTTP/2 connection: a task a stream, closed when idle, and ended with GOAWAY.
//!
//! Called by `connection`. pingora's own loop is not used because its streams cannot be cut when a drain is over, and what
//! is stored or plain is answered without it. The rule: what a client may ask for at once is bounded by `streams`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;
use tokio::sync::futures::OwnedNotified;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::model::machine::Limits;

use super::admission::Place;
use super::answer::{self, Fetch, What};
use super::exchange::{self, Exchange};
use super::fetch::http2::{Http2, PIECE};
use super::fetch::{self, Errand, Outcome};
use super::gateway::Passage;
use super::request::Asked;
use super::respond::{Own, Told};
use super::stream::Stream;
use super::streams::Streams;
use super::timer::Timer;
use super::visit::Visit;
use super::worker::Worker;

/// How long what is left of a request body is taken in after its answer.
const BODY_REST: Duration = Duration::from_secs(5);
/// A body that the codec may keep until its client has room for it, in bytes: no more than it keeps for any other.
const AT_ONCE: usize = 64 << 10;
/// How long streams may take to end after their connection has.
const AFTER: Duration = Duration::from_secs(1);

/// Serves streams until either side has enough.
pub async fn serve(stream: Box<Stream>, worker: Arc<Worker>, place: Place) {
    let limits = worker.shared.settings.load().limits;
    let visit = stream.visit().clone();
    let mut stopped = Some(Box::pin(worker.shared.stopped_waiting.clone().notified_owned()));
    let Some(mut streams) = Streams::begin(stream, worker.shared.clone(), place).await else { return };
    let mut answering = JoinSet::new();
    let mut idle = Timer::new(limits.keepalive_timeout);
    loop {
        match next(&mut streams, &mut answering, &mut stopped, &mut idle).await {
            Event::Request(session, place) => {
                if let Some(rest) = answer_at_once(session, &visit, &worker) {
                    let answer = answer(rest, limits, visit.clone(), worker.clone());
                    answering.spawn(async move {
                        answer.await;
                        drop(place);
                    });
                }
            }
            Event::Answered => {}
            Event::Stop => streams.finish(),
            Event::End => break,
        }
        idle.set(limits.keepalive_timeout);
    }
    // What they still have to do is count and let go; their client is gone.
    let _ = timeout(AFTER, async { while answering.join_next().await.is_some() {} }).await;
}

enum Event {
    Request(Box<HttpSession>, Place),
    Answered,
    Stop,
    /// There will be no more requests, or nobody has asked anything for too long.
    End,
}

/// Waits for what happens next.
async fn next(
    streams: &mut Streams,
    answering: &mut JoinSet<()>,
    stopped: &mut Option<Pin<Box<OwnedNotified>>>,
    idle: &mut Timer,
) -> Event {
    let mut asking = pin!(streams.next());
    poll_fn(|cx| {
        if let Poll::Ready(next) = asking.as_mut().poll(cx) {
            return Poll::Ready(next.map_or(Event::End, |(session, place)| Event::Request(Box::new(session), place)));
        }
        if let Poll::Ready(Some(_)) = answering.poll_join_next(cx) {
            return Poll::Ready(Event::Answered);
        }
        if stopped.as_mut().is_some_and(|stopped| stopped.as_mut().poll(cx).is_ready()) {
            *stopped = None;
            return Poll::Ready(Event::Stop);
        }
        match answering.is_empty() {
            true => idle.poll(cx).map(|()| Event::End),
            false => Poll::Pending,
        }
    })
    .await
}

/// What is to be done with one request.
enum Work {
    Own(Own, Exchange),
    Light(Box<Fetch>, BytesMut, Exchange),
    Pingora(Box<Passage>),
}

/// A request that takes longer than a look, and what is to be done.
type Rest = (HttpSession, Work);

/// Answers what can be answered here and now: a page, a redirect, a small stored answer. A task of its own would cost more.
fn answer_at_once(session: Box<HttpSession>, visit: &Visit, worker: &Arc<Worker>) -> Option<Rest> {
    let mut session = *session;
    match work(&session, visit, worker) {
        Work::Own(own, mut exchange) if own.body.len() <= AT_ONCE && session.is_body_empty() => {
            let has_body = own.has_body(&session.req_header().method);
            let header = own.header(told(&exchange)).ok()?;
            exchange.status = Some(own.status);
            session.write_response_header(header, !has_body).ok()?;
            if has_body && let Some(mut writer) = session.take_response_body_writer() {
                exchange.sent = own.body.len() as u64;
                // Whoever does not take it is gone.
                let _ = writer.send_data(own.body, true);
            }
            None
        }
        work => Some((session, work)),
    }
}

/// Does the rest.
async fn answer((mut session, work): Rest, limits: Limits, visit: Arc<Visit>, worker: Arc<Worker>) {
    session.set_write_timeout(Some(limits.write_timeout));
    session.set_total_drain_timeout(Some(BODY_REST));
    match work {
        Work::Own(own, exchange) => send(session, own, exchange).await,
        Work::Light(fetch, head, exchange) => light(session, (fetch, head), exchange, &worker).await,
        Work::Pingora(passage) => pingora(session, (visit.again(), passage), &worker).await,
    }
}

fn told(exchange: &Exchange) -> Told<'_> {
    Told { id: &exchange.id, cache: exchange.told_cache(), date: exchange.date() }
}

fn work(session: &HttpSession, visit: &Visit, worker: &Arc<Worker>) -> Work {
    let shared = &worker.shared;
    let settings = shared.settings.load();
    let header = session.req_header();
    let asked = match Asked::http2(header, visit, &settings) {
        Ok(asked) => asked,
        Err(failure) => {
            shared.metrics.refused(failure);
            let exchange = Exchange::stray(worker, visit, "HTTP/2", shared.ids.fresh());
            return Work::Own(Own::page(failure, None, &exchange.id), exchange);
        }
    };
    let announced = match session.is_body_empty() {
        true => Some(0),
        false => asked.fields.text("content-length").and_then(|length| length.parse().ok()),
    };
    let answer = answer::decide(shared, visit, &asked, announced);
    let id = shared.ids.of(asked.fields, asked.is_trusted);
    let call = exchange::call(worker, visit, &asked, answer.entry.as_deref(), &id);
    let mut exchange = Exchange::new(worker, &asked, &call, answer.entry.as_deref(), id.clone());
    match answer.what {
        What::Refuse(failure) => {
            shared.metrics.refused(failure);
            Work::Own(Own::page(failure, asked.fields.text("accept"), &exchange.id), exchange)
        }
        What::Redirect(location) => Work::Own(Own::redirect(&location), exchange),
        What::Stored(hit) => {
            exchange.cache = Some(hit.status());
            Work::Own(Own::stored(&hit, &asked), exchange)
        }
        What::Fetch(fetch) if is_plain(&asked, announced) && fetch.is_light() => {
            let head = fetch::request::head(&asked, visit, &exchange.id);
            Work::Light(Box::new(fetch), head, exchange)
        }
        What::Fetch(fetch) => {
            let mut passage = Passage::new(&asked, visit, fetch, &exchange);
            passage.exchange = Some(exchange);
            Work::Pingora(Box::new(passage))
        }
    }
}

/// Whether nothing but its fields must be carried.
fn is_plain(asked: &Asked<'_>, announced: Option<u64>) -> bool {
    let has_no_body = announced == Some(0) && !asked.fields.has("expect");
    has_no_body && matches!(asked.method, Method::GET | Method::HEAD)
}

/// Sends a whole answer of our own.
async fn send(mut session: HttpSession, own: Own, mut exchange: Exchange) {
    let has_body = own.has_body(&session.req_header().method);
    let Ok(header) = own.header(told(&exchange)) else { return };
    exchange.status = Some(own.status);
    if session.write_response_header(header, !has_body).is_err() {
        return;
    }
    if has_body {
        exchange.sent = own.body.len() as u64;
        // In parts, for the time to write is that of one.
        let mut rest = own.body;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(PIECE));
            if session.write_body(part, rest.is_empty()).await.is_err() {
                return;
            }
        }
    }
    // A stream let go of while its body still comes takes its answer along; how that ends is of no interest.
    let _ = session.drain_request_body().await;
}

async fn light(
    session: HttpSession,
    (fetch, request): (Box<Fetch>, BytesMut),
    mut exchange: Exchange,
    worker: &Arc<Worker>,
) {
    let limits = worker.shared.settings.load().limits;
    let upstream = fetch.claim.upstream().clone();
    let is_head = session.req_header().method == Method::HEAD;
    let mut client = Http2 { session };
    let mut timer = Timer::new(limits.upstream_timeout);
    let mut errand =
        Errand { worker, limits, fetch: *fetch, request, is_head, exchange: &mut exchange, timer: &mut timer };
    let outcome = tokio::select! {
        biased;
        outcome = fetch::run(&mut client, &mut errand) => outcome,
        () = upstream.until_cut() => Outcome::Torn,
    };
    let claim = errand.fetch.claim;
    let mut session = client.session;
    match outcome {
        Outcome::Whole => {}
        Outcome::Failed(failure) => {
            worker.shared.metrics.refused(failure);
            let accept = session.req_header().headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
            let own = Own::page(failure, accept, &exchange.id);
            send(session, own, exchange).await;
        }
        Outcome::Torn | Outcome::Gone => session.shutdown(),
    }
    drop(claim);
}

async fn pingora(mut session: HttpSession, (visit, passage): (Arc<Visit>, Box<Passage>), worker: &Worker) {
    let upstream = passage.upstream().clone();
    visit.leave(passage);
    if let Some(digest) = session.digest_mut() {
        digest.proxy_digest = Some(visit.digest());
    }
    let session = ServerSession::new_http2(session);
    tokio::select! {
        _ = worker.engine().process_new_http(session, &worker.stopping) => {}
        () = upstream.until_cut() => {}
    }
    drop(visit.take());
}
