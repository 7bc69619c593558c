//! One HTTP/2 connection: a task a stream, closed when idle, and ended with GOAWAY.
//!
//! Called by `connection`. pingora's own loop is not used because its streams cannot be cut when a drain is over, and what
//! is stored or plain is answered without it. The rule: what a client may ask for at once is bounded by `streams`.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use pingora::apps::HttpServerApp;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::model::machine::Limits;

use super::admission::Place;
use super::answer::{self, Fetch, What};
use super::exchange::{self, Exchange};
use super::fetch::{self, Errand, Outcome, http2::Http2};
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
/// How long streams may take to end after their connection has.
const AFTER: Duration = Duration::from_secs(1);

/// Serves streams until either side has enough.
pub async fn serve(stream: Box<Stream>, worker: Arc<Worker>, place: Place) {
    let limits = worker.shared.settings.load().limits;
    let mut stopping = worker.stopping.clone();
    let first = stream.visit().clone();
    let Some(mut streams) = Streams::begin(stream, worker.shared.clone(), place).await else { return };
    let mut answering = JoinSet::new();
    let mut is_stopping = false;
    let mut idle = Instant::now() + limits.keepalive_timeout;
    let mut visit = first.again();
    let mut digest = digest_of(&visit);
    loop {
        tokio::select! {
            next = streams.next(&digest) => match next {
                Some((session, place)) => {
                    let answer = answer_one(session, limits, visit, worker.clone());
                    answering.spawn(async move {
                        answer.await;
                        drop(place);
                    });
                    visit = first.again();
                    digest = digest_of(&visit);
                }
                None => break,
            },
            Some(_) = answering.join_next(), if !answering.is_empty() => {
                idle = Instant::now() + limits.keepalive_timeout;
            }
            _ = stopping.changed(), if !is_stopping => {
                is_stopping = true;
                streams.finish();
            }
            () = sleep_until(idle), if answering.is_empty() => break,
        }
    }
    // What they still have to do is count and let go; their client is gone.
    let _ = timeout(AFTER, async { while answering.join_next().await.is_some() {} }).await;
}

/// What is to be done with one request.
enum Work {
    Own(Own, Exchange),
    Light(Box<Fetch>, BytesMut, Exchange),
    Pingora(Box<Passage>),
}

/// Answers one request.
async fn answer_one(session: HttpSession, limits: Limits, visit: Arc<Visit>, worker: Arc<Worker>) {
    match work(&session, &visit, &worker) {
        Work::Own(own, exchange) => send(session, own, exchange).await,
        Work::Light(fetch, head, exchange) => light(session, (fetch, head), exchange, &worker).await,
        Work::Pingora(passage) => pingora(session, limits, (visit, passage), &worker).await,
    }
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
    let told = Told { id: &exchange.id, cache: exchange.told_cache(), date: exchange.date() };
    let has_body = own.has_body(&session.req_header().method);
    let Ok(header) = own.header(told) else { return };
    exchange.status = Some(own.status);
    if session.write_response_header(header, !has_body).is_err() {
        return;
    }
    if has_body {
        exchange.sent = own.body.len() as u64;
        if session.write_body(own.body, true).await.is_err() {
            return;
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

async fn pingora(session: HttpSession, limits: Limits, (visit, passage): (Arc<Visit>, Box<Passage>), worker: &Worker) {
    let upstream = passage.upstream().clone();
    visit.leave(passage);
    let mut session = ServerSession::new_http2(session);
    session.set_write_timeout(Some(limits.write_timeout));
    session.set_total_drain_timeout(Some(BODY_REST));
    tokio::select! {
        _ = worker.engine().process_new_http(session, &worker.stopping) => {}
        () = upstream.until_cut() => {}
    }
    drop(visit.take());
}

fn digest_of(visit: &Arc<Visit>) -> Arc<Digest> {
    Arc::new(Digest { proxy_digest: Some(visit.digest()), ..Digest::default() })
}
