//! One HTTP/2 connection: a task a stream, closed when idle, and ended with GOAWAY.
//!
//! Called by `connection`. What nothing simpler can carry goes through pingora, a stream at a time (`carried`): its own loop
//! could not cut one when a drain is over. The rule: what a client may ask for at once is bounded by `streams`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use h2::Reason;
use http::Method;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use tokio::sync::futures::OwnedNotified;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::model::machine::Limits;

use super::admission::Place;
use super::answer::{self, Awaited, Fetch, Time, What};
use super::cache::Along;
use super::cache::body::Body;
use super::carried::Carried;
use super::exchange::{self, Exchange};
use super::failure::Failure;
use super::fetch::along::Wire;
use super::fetch::http2::{Http2, PIECE};
use super::fetch::{self, Errand, Outcome};
use super::passage::Passage;
use super::request::Asked;
use super::respond::Own;
use super::session::Session;
use super::stream::Stream;
use super::streams::Streams;
use super::timer::Timer;
use super::visit::Visit;
use super::worker::Worker;

/// A body that the codec may keep until its client has room for it, in bytes: no more than it keeps for any other.
const AT_ONCE: usize = 64 << 10;
/// How long streams may take to end after their connection, or their client's interest in them, has.
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
                    // Boxed, because tokio moves what it is given a dozen times.
                    let answer = Box::pin(answer(rest, limits, visit.clone(), worker.clone()));
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
    Request(Box<Session>, Place),
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
    /// Waits for what another has asked the app for or for the disk, or reads along.
    Wait(Awaited, Exchange),
    Along(Box<Along>, Exchange),
    Light(Box<Fetch>, BytesMut, Exchange),
    Pingora(Box<Passage>),
}

/// A request that takes longer than a look, and what is to be done.
type Rest = (Session, Work);

/// Answers what can be answered here and now: a page, a redirect, a small stored answer. A task of its own would cost more.
fn answer_at_once(session: Box<Session>, visit: &Visit, worker: &Arc<Worker>) -> Option<Rest> {
    let mut session = *session;
    match begin(&session, visit, worker) {
        Work::Own(mut own, mut exchange) if is_small(&own.body) && session.is_body_empty() => {
            let has_body = own.has_body(&session.head.method);
            exchange.status = Some(own.status);
            session.begin(own.status, own.fields(exchange.told()), !has_body).ok()?;
            if let Some(body) = own.body.at_hand().filter(|_| has_body) {
                exchange.sent = body.len() as u64;
                // Whoever does not take it is gone.
                let _ = session.say(body.clone(), true);
            }
            None
        }
        work => Some((session, work)),
    }
}

fn is_small(body: &Body) -> bool {
    body.at_hand().is_some_and(|body| body.len() <= AT_ONCE)
}

/// Does the rest.
async fn answer((mut session, mut work): Rest, limits: Limits, visit: Arc<Visit>, worker: Arc<Worker>) {
    let mut deadline = Instant::now() + limits.upstream_timeout;
    while let Work::Wait(awaited, exchange) = work {
        let until = awaited.until();
        let last = until.unwrap_or(deadline);
        let Some(known) = wait(&mut session, &awaited, exchange, (&visit, &worker), last).await else { return };
        if until.is_some() {
            deadline = Instant::now() + limits.upstream_timeout;
        }
        work = known;
    }
    match work {
        Work::Own(own, exchange) => send(session, own, exchange).await,
        Work::Along(along, exchange) => read_along(session, *along, exchange).await,
        Work::Wait(..) => {}
        Work::Light(fetch, head, exchange) => light(session, (fetch, head), exchange, &worker).await,
        Work::Pingora(passage) => pingora(session, (visit.again(), passage), &worker).await,
    }
}

/// Understands a request and decides about it.
fn begin(session: &Session, visit: &Visit, worker: &Arc<Worker>) -> Work {
    let shared = &worker.shared;
    let settings = shared.settings.load();
    let asked = match Asked::http2(&session.head, visit, &settings) {
        Ok(asked) => asked,
        Err(failure) => {
            shared.metrics.refused(failure);
            let exchange = Exchange::stray(worker, visit, "HTTP/2", shared.ids.fresh());
            return Work::Own(Own::page(failure, None, &exchange.id), exchange);
        }
    };
    let announced = announced(session, &asked);
    let answer = answer::decide(shared, visit, &asked, announced, Time::First);
    let id = shared.ids.of(asked.fields, asked.is_trusted);
    let call = exchange::call(worker, visit, &asked, answer.entry.as_deref(), &id);
    let exchange = Exchange::new(worker, &asked, &call, answer.entry.as_deref(), id.clone());
    work(answer.what, (&asked, announced), exchange, (visit, worker))
}

/// The length of a request's body, where it is known.
fn announced(session: &Session, asked: &Asked<'_>) -> Option<u64> {
    match session.is_body_empty() {
        true => Some(0),
        false => asked.fields.text("content-length").and_then(|length| length.parse().ok()),
    }
}

fn work(
    what: What,
    (asked, announced): (&Asked<'_>, Option<u64>),
    mut exchange: Exchange,
    (visit, worker): (&Visit, &Arc<Worker>),
) -> Work {
    match what {
        What::Refuse(failure) => {
            worker.shared.metrics.refused(failure);
            Work::Own(Own::page(failure, asked.fields.text("accept"), &exchange.id), exchange)
        }
        What::Maintenance(notice) => {
            worker.shared.metrics.refused(Failure::Maintenance);
            Work::Own(Own::notice(&notice, asked.fields.text("accept"), &exchange.id), exchange)
        }
        What::Redirect(location) => Work::Own(Own::redirect(&location), exchange),
        What::Purged => Work::Own(Own::purged(), exchange),
        What::Stored(hit) => {
            exchange.cache = Some(hit.status());
            Work::Own(Own::stored(&hit.stored, &asked.method, asked.fields, asked.at), exchange)
        }
        What::Meanwhile(hit, fetch) => {
            if is_plain(asked, announced) {
                let head = fetch::request::head(asked, visit, &exchange.id, &fetch);
                fetch::behind::fetch(worker, fetch, head, exchange.id.clone());
            }
            work(What::Stored(hit), (asked, announced), exchange, (visit, worker))
        }
        What::Wait(awaited) => Work::Wait(awaited, exchange),
        What::Along(along, status) => {
            exchange.cache = Some(status.collapsed());
            Work::Along(Box::new(along), exchange)
        }
        What::Spared(own, status) => {
            exchange.cache = Some(status);
            Work::Own(*own, exchange)
        }
        What::Fetch(fetch) if is_plain(asked, announced) && fetch.is_light() => {
            let head = fetch::request::head(asked, visit, &exchange.id, &fetch);
            Work::Light(Box::new(fetch), head, exchange)
        }
        What::Fetch(fetch) => {
            let mut passage = Passage::new(asked, visit, fetch, &exchange);
            passage.exchange = Some(exchange);
            Work::Pingora(Box::new(passage))
        }
    }
}

/// Waits until more is known, and decides about the request anew; `None` when its client is
/// gone.
async fn wait(
    session: &mut Session,
    awaited: &Awaited,
    mut exchange: Exchange,
    (visit, worker): (&Visit, &Arc<Worker>),
    deadline: Instant,
) -> Option<Work> {
    let settling = async {
        tokio::select! {
            time = awaited.settled() => Some(time),
            () = session.gone() => None,
        }
    };
    let time = match tokio::time::timeout_at(deadline, settling).await {
        Ok(Some(time)) => time,
        Ok(None) => return None,
        Err(_) => {
            let what = What::Refuse(awaited.failure());
            let settings = worker.shared.settings.load();
            let asked = Asked::http2(&session.head, visit, &settings).ok()?;
            return Some(work(what, (&asked, None), exchange, (visit, worker)));
        }
    };
    let settings = worker.shared.settings.load();
    let asked = Asked::http2(&session.head, visit, &settings).ok()?;
    let announced = announced(session, &asked);
    let answer = answer::decide(&worker.shared, visit, &asked, announced, time);
    if let What::Stored(hit) = &answer.what {
        exchange.cache = Some(awaited.status(hit));
        return Some(Work::Own(Own::stored(&hit.stored, &asked.method, asked.fields, asked.at), exchange));
    }
    Some(work(answer.what, (&asked, announced), exchange, (visit, worker)))
}

/// Whether nothing but its fields must be carried.
fn is_plain(asked: &Asked<'_>, announced: Option<u64>) -> bool {
    let has_no_body = announced == Some(0) && !asked.fields.has("expect");
    has_no_body && matches!(asked.method, Method::GET | Method::HEAD)
}

/// Sends a whole answer of our own.
async fn send(mut session: Session, mut own: Own, mut exchange: Exchange) {
    let has_body = own.has_body(&session.head.method);
    exchange.status = Some(own.status);
    if session.begin(own.status, own.fields(exchange.told()), !has_body).is_err() {
        return;
    }
    if has_body {
        exchange.sent = own.body.len() as u64;
        while !own.body.is_empty() {
            let Ok(mut rest) = own.body.next().await else { return session.reset(Reason::INTERNAL_ERROR) };
            // In parts, for the time to write is that of one.
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(PIECE));
                if session.write(part, rest.is_empty() && own.body.is_empty()).await.is_err() {
                    return;
                }
            }
        }
    }
    session.drain().await;
}

async fn read_along(mut session: Session, along: Along, mut exchange: Exchange) {
    let mut own = Own::coming(&along.coming, std::time::Instant::now());
    exchange.status = Some(own.status);
    if session.begin(own.status, own.fields(exchange.told()), false).is_err() {
        return;
    }
    let mut client = Http2 { session };
    match fetch::along::follow(&mut client, along.reader, Wire::Plain, &mut exchange.sent).await {
        Outcome::Whole => {}
        _ => client.session.reset(Reason::INTERNAL_ERROR),
    }
}

async fn light(
    session: Session,
    (fetch, request): (Box<Fetch>, BytesMut),
    mut exchange: Exchange,
    worker: &Arc<Worker>,
) {
    let limits = worker.shared.settings.load().limits;
    let is_head = session.head.method == Method::HEAD;
    let mut client = Http2 { session };
    let mut timer = Timer::new(limits.upstream_timeout);
    let mut errand =
        Errand { worker, limits, fetch: *fetch, request, is_head, exchange: &mut exchange, timer: &mut timer };
    let outcome = fetch::run(&mut client, &mut errand).await;
    let claim = errand.fetch.claim;
    let mut session = client.session;
    match outcome {
        Outcome::Whole => {}
        Outcome::Own(own) => send(session, *own, exchange).await,
        Outcome::Failed(failure) => {
            worker.shared.metrics.refused(failure);
            let accept = session.head.headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
            let own = Own::page(failure, accept, &exchange.id);
            send(session, own, exchange).await;
        }
        Outcome::Torn | Outcome::Gone => session.reset(Reason::INTERNAL_ERROR),
    }
    drop(claim);
}

async fn pingora(session: Session, (visit, passage): (Arc<Visit>, Box<Passage>), worker: &Worker) {
    let upstream = passage.upstream().clone();
    visit.leave(passage);
    let (carried, session) = Carried::new(session, &visit);
    let is_answered = || visit.is_answered();
    tokio::select! {
        _ = worker.engine().process_new_http(ServerSession::new_custom(carried), &worker.stopping) => {}
        () = upstream.until_cut(is_answered) => {}
        // pingora sees that itself, but while it waits for an app to take a part of the body.
        () = async { session.gone().await; sleep(AFTER).await } => {}
    }
    drop(visit.take());
}
