//! pingora's hooks: each short, each calling one named thing.
//!
//! Made by `worker`, driven by `door` and `http2` for what `fetch` does not carry: bodies, upgrades, gRPC, old clients. Who
//! answers was decided before; here a request only travels. The rule: the claim on an upstream is the last thing a request
//! lets go of, when its answer has left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result, RetryType};

use crate::model::address::Address;
use crate::model::app::Protocol;

use super::exchange::Exchange;
use super::failure::{self, Failure};
use super::field::Fields;
use super::headers::{self, Sink};
use super::pace::Arrivals;
use super::passage::Passage;
use super::peer::{choose_connection, choose_fields, peer};
use super::respond::{Own, Told};
use super::shared::Shared;
use super::upstream::Turn;
use super::visit::Visit;

/// The error by which pingora learns that an answer does not leave.
const SETTLED: &str = "what is stored leaves in place of the answer";

pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// What is known of the request at hand. The passage, with its claim, is dropped last.
#[derive(Default)]
pub struct Journey {
    failure: Option<Failure>,
    body: u64,
    arrivals: Option<Arrivals>,
    tried: Vec<Address>,
    has_missed: bool,
    turn: Option<Turn>,
    passage: Option<Box<Passage>>,
}

impl Journey {
    fn exchange(&mut self) -> Option<&mut Exchange> {
        self.passage.as_mut()?.exchange.as_mut()
    }

    fn count(&self, status: Option<StatusCode>) {
        if let Some(passage) = &self.passage {
            passage.upstream().count(status);
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Journey;

    fn new_ctx(&self) -> Journey {
        Journey::default()
    }

    /// No modules: bodies pass as they are.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// Takes up what was left for this request; without that it goes nowhere.
    async fn request_filter(&self, session: &mut Session, journey: &mut Journey) -> Result<bool> {
        // Whoever asked for another protocol may have sent it already: nothing that follows is the next request.
        if *self.shared.stopping.borrow() || session.is_upgrade_req() {
            session.set_keepalive(None);
        }
        journey.passage = Visit::of(session.digest()).and_then(|visit| visit.take());
        match journey.passage {
            Some(_) => Ok(false),
            None => Error::err_in(ErrorType::Custom("a request that nobody let in")),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        journey: &mut Journey,
    ) -> Result<()> {
        // pingora 0.9.1 writes the end of a chunked body twice when its last part is empty, as HTTP/2 has it
        // (`send_body_to1` in proxy_h1.rs): the second would be the beginning of the next request.
        body.take_if(|part| part.is_empty() && is_end);
        let bytes = body.as_ref().map_or(0, Bytes::len);
        journey.body += bytes as u64;
        if is_awaited(session) && !self.comes_quickly(journey, bytes) {
            journey.failure = Some(Failure::BodyTimeout);
            return Error::err_down(ErrorType::Custom("the body comes too slowly"));
        }
        let most = journey.passage.as_ref().map_or(0, |passage| passage.fetch.body_max);
        if journey.body > most && !session.was_upgraded() {
            journey.failure = Some(Failure::BodyTooLarge);
            return Error::err_down(ErrorType::Custom("the body is too large"));
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, journey: &mut Journey) -> Result<Box<HttpPeer>> {
        let turn = journey.passage.as_ref().and_then(|passage| passage.upstream().choose(&journey.tried));
        let Some(turn) = turn else {
            journey.failure = Some(Failure::Absent);
            return Error::err_in(ErrorType::Custom("no replica is left to try"));
        };
        let limits = self.shared.settings.load().limits;
        let mut peer = peer(&turn, &limits)?;
        match turn.replica().protocol {
            Protocol::Http1 => choose_connection(session, &mut peer),
            Protocol::H2c => choose_fields(session, &mut peer),
        }
        if let Some(exchange) = journey.exchange() {
            exchange.upstream = Some(turn.replica().address.clone());
        }
        journey.turn = Some(turn);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        journey: &mut Journey,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // A connection that ended just when the request was to share it says nothing about the replica.
        if *error.etype() == ErrorType::H2Error && !journey.has_missed {
            journey.has_missed = true;
            journey.turn = None;
            error.set_retry(true);
            return error;
        }
        if let (Some(turn), Some(passage)) = (journey.turn.take(), &journey.passage) {
            turn.failed();
            journey.tried.push(turn.replica().address.clone());
            // Nothing was sent yet, so any request may go to another replica.
            error.set_retry(passage.upstream().choose(&journey.tried).is_some());
        }
        error
    }

    /// Sends a request again only when the app cannot have acted on it: a GET or HEAD over a connection that had been
    /// used before and broke before it brought a byte (RFC 9110 section 9.2.2), or one that HTTP/2 says was not looked at
    /// (RFC 9113 section 8.7).
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        journey: &mut Journey,
        is_reused: bool,
    ) -> Box<Error> {
        if *error.etype() == ErrorType::Custom(SETTLED) {
            error.set_retry(false);
            return error;
        }
        let is_whole = !session.as_ref().retry_buffer_truncated() && session.response_written().is_none();
        if *error.etype() == ErrorType::H2Error && matches!(error.retry, RetryType::Decided(true)) {
            // pingora decides so for REFUSED_STREAM and for GOAWAY without an error.
            error.set_retry(is_whole);
            return error;
        }
        // A client that has not sent everything yet may be what took so long.
        if failure::is_of_app(&error, is_reused)
            && session.is_body_done()
            && let Some(turn) = &journey.turn
        {
            turn.failed();
            journey.count(None);
        }
        let is_repeatable = is_whole && matches!(session.req_header().method, Method::GET | Method::HEAD);
        // pingora does not mark a failed write, which is how the end of an idle connection shows when it comes late.
        let is_stale = is_reused && matches!(error.etype(), ErrorType::WriteError | ErrorType::ConnectionClosed);
        match (is_repeatable, is_stale) {
            (true, true) => error.set_retry(true),
            (true, false) => error.retry.decide_reuse(is_reused),
            (false, _) => error.set_retry(false),
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        match &journey.passage {
            Some(passage) => {
                passage.to_app(request);
                Ok(())
            }
            None => Error::err_in(ErrorType::Custom("a request without its facts")),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        let is_last = !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(turn) = journey.turn.as_ref().filter(|_| is_last) {
            turn.worked();
            journey.count(Some(response.status));
            if let Some(visit) = Visit::of(session.digest()) {
                visit.answer();
            }
        }
        if response.status.is_informational() {
            return Ok(());
        }
        if response.version == Version::HTTP_2 {
            in_chunks(response)?;
        }
        // The version is each connection's own (RFC 9110 section 2.5).
        response.set_version(Version::HTTP_11);
        let machine_max = self.shared.settings.load().cache.object_max;
        let Some(passage) = &mut journey.passage else { return Ok(()) };
        if passage.settle(&self.shared.cache, response) {
            return Error::err_in(ErrorType::Custom(SETTLED));
        }
        passage.compress(&self.shared.encoders, response);
        let fetch = &mut passage.fetch;
        let fields = Fields::Map(&response.headers);
        let is_stored = fetch
            .fill
            .as_mut()
            .is_some_and(|fill| fill.begin(&self.shared.cache, response.status, fields, machine_max));
        if let Some(fill) = fetch.fill.as_mut().filter(|_| is_bodiless(response)) {
            fill.end(&self.shared.cache);
        }
        let cache = fetch.status.stored(is_stored);
        if let Some(exchange) = &mut passage.exchange {
            exchange.cache = Some(cache);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        journey: &mut Journey,
    ) -> Result<Option<Duration>> {
        let Some(passage) = &mut journey.passage else { return Ok(None) };
        passage.encode(body, is_end)?;
        let Some(fill) = &mut passage.fetch.fill else { return Ok(None) };
        if let Some(body) = body {
            fill.add(body);
        }
        if is_end {
            fill.end(&self.shared.cache);
        }
        Ok(fill.breath())
    }

    /// Trailers stand in the place of the end of a body, and what is encoded has one of its own.
    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut HeaderMap,
        journey: &mut Journey,
    ) -> Result<Option<Bytes>> {
        let mut end = None;
        if let Some(passage) = &mut journey.passage {
            passage.encode(&mut end, true)?;
        }
        Ok(end)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        if response.status.is_informational() {
            // A change of protocol ends with the connection's fields; it is no interim answer.
            if response.status != StatusCode::SWITCHING_PROTOCOLS {
                headers::drop_of_interim(response);
            }
            return Ok(());
        }
        if response.status == StatusCode::NO_CONTENT {
            response.remove_header(&header::CONTENT_LENGTH);
        }
        let passes = journey.exchange().map(|exchange| exchange.passes).unwrap_or_default();
        headers::drop_kept_back(response, passes);
        if *self.shared.stopping.borrow() {
            session.set_keepalive(None);
        }
        if session.req_header().version == Version::HTTP_10
            && response.remove_header(&header::TRANSFER_ENCODING).is_some()
        {
            if journey.turn.as_ref().is_some_and(|turn| turn.replica().protocol == Protocol::H2c) {
                // pingora would send it chunks all the same (`h2_response_filter` in proxy_h2.rs).
                journey.failure = Some(Failure::Version);
                return Error::err_in(ErrorType::Custom("a body without a length for HTTP/1.0"));
            }
            // It does not know chunks (RFC 9112 section 6.1): the end of the connection is the end of the body.
            session.set_keepalive(None);
        }
        if let Some(exchange) = journey.exchange() {
            response.remove_header(&header::DATE);
            response.put("Date", &[&exchange.date()]);
            headers::to_client(response, exchange.told());
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, journey: &mut Journey) -> FailToProxy {
        let failure = journey.failure.or_else(|| failure::of_proxy(error));
        if let Some(passage) = &mut journey.passage {
            passage.fetch.unfilled(failure.is_some());
        }
        let is_answered = session.response_written().is_some_and(|header| !header.status.is_informational());
        let unanswered = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if is_answered && let Some(visit) = Visit::of(session.digest()) {
            visit.tear();
        }
        let Some(failure) = failure.filter(|_| !is_answered) else { return unanswered };
        if let Some(own) = journey.passage.as_mut().and_then(|passage| passage.own(failure)) {
            return settle(session, own, journey).await;
        }
        if failure == Failure::Broken {
            let complaint = || tracing::warn!(%error, "an app broke off");
            self.shared.complaints.say("broken", complaint);
        }
        session.set_keepalive(None);
        self.shared.metrics.refused(failure);
        let Some(exchange) = journey.exchange() else { return unanswered };
        // When even this fails, the client is gone.
        let _ = refuse(session, exchange, failure).await;
        FailToProxy { error_code: failure.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, journey: &mut Journey) {
        let (sent, received) = (session.body_bytes_sent() as u64, journey.body);
        if let (Some(exchange), Some(response)) = (journey.exchange(), session.response_written()) {
            (exchange.status, exchange.sent, exchange.received) = (Some(response.status), sent, received);
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Journey, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Journey, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Gateway {
    /// Whether a body of HTTP/2, of which another part came, comes as quickly as it must.
    fn comes_quickly(&self, journey: &mut Journey, bytes: usize) -> bool {
        let now = Instant::now();
        let rate = self.shared.settings.load().limits.body_rate;
        let is_quick_enough = journey.arrivals.get_or_insert_with(|| Arrivals::new(rate, now)).come(bytes, now);
        if !is_quick_enough {
            self.shared.metrics.limited("body_rate");
        }
        is_quick_enough
    }
}

/// Whether nothing but the body is waited for. HTTP/1's bodies are watched as they are read, by `wire`; an app that answers
/// before it has all, and gRPC, wait for something else.
fn is_awaited(session: &Session) -> bool {
    let kind = session.req_header().headers.get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    session.req_header().version == Version::HTTP_2 && !is_grpc && session.response_written().is_none()
}

/// Answers with a page about the failure.
async fn refuse(session: &mut Session, exchange: &Exchange, failure: Failure) -> Result<()> {
    let accept = session.req_header().headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let mut own = Own::page(failure, accept, &exchange.id);
    let header = own.header(Told { cache: None, ..exchange.told() });
    let has_body = own.has_body(&session.req_header().method);
    session.write_response_header(header, !has_body).await?;
    if let Some(page) = own.body.at_hand().filter(|_| has_body) {
        session.write_response_body(Some(page.clone()), true).await?;
    }
    // A connection closed, or a stream let go of, while its body still comes takes its answer along. What the client sends
    // after the answer is of no interest, and neither is how that ends.
    let _ = session.drain_request_body().await;
    Ok(())
}

/// Answers with what is stored.
async fn settle(session: &mut Session, mut own: Box<Own>, journey: &mut Journey) -> FailToProxy {
    let over = FailToProxy { error_code: 0, can_reuse_downstream: false };
    let Some(exchange) = journey.exchange() else { return over };
    let header = own.header(exchange.told());
    let has_body = own.has_body(&session.req_header().method);
    // pingora keeps no connection whose answer did not come from the app.
    session.set_keepalive(None);
    let mut is_there = session.write_response_header(header, !has_body).await.is_ok() && has_body;
    while is_there && !own.body.is_empty() {
        // A body without its end tells the client that it is torn.
        let Ok(part) = own.body.next().await else { break };
        let is_last = own.body.is_empty();
        is_there = session.write_response_body(Some(part), is_last).await.is_ok();
    }
    over
}

/// Whether the head is all: then no part follows that would be the last.
fn is_bodiless(response: &ResponseHeader) -> bool {
    let is_empty = response.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    response.status == StatusCode::NO_CONTENT || is_empty
}

/// Says in HTTP/1's words that the end of a body will be known, as it is by HTTP/2's frames.
fn in_chunks(response: &mut ResponseHeader) -> Result<()> {
    let has_length = response.headers.contains_key(header::CONTENT_LENGTH);
    let has_body = !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_body && !has_length {
        response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}
