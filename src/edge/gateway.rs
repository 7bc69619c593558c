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
use pingora::{Error, ErrorType, OrErr, Result, RetryType};

use crate::model::address::Address;
use crate::model::app::Protocol;

use super::answer::Fetch;
use super::cache::CacheStatus;
use super::compress::{self, Encoder, Encoders, Negotiation};
use super::exchange::Exchange;
use super::failure::{self, Failure};
use super::field::Fields;
use super::headers::{self, Passing};
use super::pace::Arrivals;
use super::peer::{choose_connection, peer};
use super::request::Asked;
use super::respond::{Own, Told};
use super::shared::Shared;
use super::upstream::{Turn, Upstream};
use super::visit::Visit;

pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// A request on its way through pingora, as it was when it was decided who answers. The claim in `fetch` is dropped last.
#[derive(Debug)]
pub struct Passage {
    pub exchange: Option<Exchange>,
    passing: Passing,
    fetch: Fetch,
    /// What the answer goes through.
    encoder: Option<Encoder>,
}

impl Passage {
    pub fn new(asked: &Asked<'_>, visit: &Visit, fetch: Fetch, exchange: &Exchange) -> Self {
        Self { exchange: None, passing: Passing::new(asked, visit, &exchange.id), fetch, encoder: None }
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        self.fetch.claim.upstream()
    }

    /// Makes the head of an answer what it is when it leaves, and everything ready for its body.
    fn compress(&mut self, encoders: &Encoders, response: &mut ResponseHeader) {
        let Negotiation::On(coding) = self.fetch.negotiation else { return };
        let fields = Fields::Map(&response.headers);
        if !compress::is_eligible(response.status, fields) {
            return;
        }
        let length = fields.text("content-length").and_then(|length| length.parse().ok());
        self.encoder = coding.and_then(|coding| encoders.take(coding, length));
        let coding = coding.filter(|_| self.encoder.is_some());
        compress::rewrite_map(response, coding);
        if let Some(fill) = &mut self.fetch.fill {
            fill.negotiated(coding);
        }
    }

    /// Puts what leaves in the place of what came.
    fn encode(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<()> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let broken = || "encoding a body";
        encoder.add(body.as_deref().unwrap_or_default()).or_err_with(ErrorType::InternalError, broken)?;
        let part = match is_end {
            true => encoder.end(),
            false => {
                let part = encoder.part();
                self.encoder = Some(encoder);
                part
            }
        };
        let part = part.or_err_with(ErrorType::InternalError, broken)?;
        *body = (!part.is_empty()).then(|| part.into());
        Ok(())
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
        if turn.replica().protocol == Protocol::Http1 {
            choose_connection(session, &mut peer);
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
                headers::to_app(request, &passage.passing);
                Ok(())
            }
            None => Error::err_in(ErrorType::Custom("a request without its facts")),
        }
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        let is_last = !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(turn) = journey.turn.as_ref().filter(|_| is_last) {
            turn.worked();
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
        passage.compress(&self.shared.encoders, response);
        let fetch = &mut passage.fetch;
        let fields = Fields::Map(&response.headers);
        let is_stored = fetch
            .fill
            .as_mut()
            .is_some_and(|fill| fill.begin(&self.shared.cache, response.status, fields, machine_max));
        let cache = match fetch.status {
            CacheStatus::Forward { reason, .. } => CacheStatus::Forward { reason, is_stored },
            hit => hit,
        };
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
        Ok(None)
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
            return Ok(());
        }
        if response.status == StatusCode::NO_CONTENT {
            response.remove_header(&header::CONTENT_LENGTH);
        }
        headers::drop_kept_back(response);
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
            headers::to_client(response, &exchange.id, exchange.told_cache());
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, journey: &mut Journey) -> FailToProxy {
        let failure = journey.failure.or_else(|| failure::of_proxy(error));
        let is_answered = session.response_written().is_some_and(|header| !header.status.is_informational());
        let unanswered = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if is_answered && let Some(visit) = Visit::of(session.digest()) {
            visit.tear();
        }
        let Some(failure) = failure.filter(|_| !is_answered) else { return unanswered };
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
    session.is_http2() && !is_grpc && session.response_written().is_none()
}

/// Answers with a page about the failure.
async fn refuse(session: &mut Session, exchange: &Exchange, failure: Failure) -> Result<()> {
    let accept = session.req_header().headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let own = Own::page(failure, accept, &exchange.id);
    let header = own.header(Told { id: &exchange.id, cache: None, date: exchange.date() })?;
    let has_body = own.has_body(&session.req_header().method);
    session.write_response_header(header, !has_body).await?;
    if has_body {
        session.write_response_body(Some(own.body), true).await?;
    }
    // A connection closed, or a stream let go of, while its body still comes takes its answer along. What the client sends
    // after the answer is of no interest, and neither is how that ends.
    let _ = session.drain_request_body().await;
    Ok(())
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
