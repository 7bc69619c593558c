//! pingora's hooks: each short, each calling one named thing.
//!
//! Made by `shared`, driven by `http1` and `http2`. The rule: the claim on an upstream is the last thing a request lets
//! go of, when its answer has left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::conditional_filter::{not_modified_filter, to_304};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::model::address::Address;
use crate::model::machine::Limits;

use super::answer::{self, What};
use super::cache::{CacheStatus, Fill, Hit};
use super::connect::{Direct, Streamed, Tunnel};
use super::failure::{self, Failure};
use super::headers;
use super::metrics::Measured;
use super::request::Asked;
use super::shared::State;
use super::upstream::{Claim, Turn};
use super::visit::Visit;

/// How long a connection to an app may idle before it is closed: shorter than the two (gunicorn) to five (Node, uvicorn)
/// seconds after which servers close theirs, so that a POST, which cannot be sent twice, does not meet one just closing.
const POOLED: Duration = Duration::from_secs(1);
/// A body that any socket holds whole, in bytes: such a request may use a pooled connection.
const BODY_SMALL: usize = 32 << 10;
/// How long a WebSocket may be silent.
const TUNNEL: Duration = Duration::from_secs(3600);

pub struct Gateway {
    state: Arc<State>,
}

impl Gateway {
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

/// What is known of the request at hand. Fields are dropped in this order: the claim goes last.
#[derive(Default)]
pub struct Exchange {
    measured: Option<Measured>,
    visit: Option<Arc<Visit>>,
    asked: Option<Asked>,
    id: String,
    is_trusted: bool,
    failure: Option<Failure>,
    cache: Option<CacheStatus>,
    fill: Option<Box<Fill>>,
    body: u64,
    tried: Vec<Address>,
    turn: Option<Turn>,
    claim: Option<Claim>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::default()
    }

    /// No modules: bodies pass as they are.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if *self.state.stopping.borrow() {
            session.set_keepalive(None);
        }
        match self.decide(session, exchange) {
            What::Fetch(fetch) => {
                if let Some(visit) = &exchange.visit {
                    visit.at(Some(fetch.claim.upstream().clone()));
                }
                exchange.cache = Some(fetch.status);
                exchange.fill = fetch.fill;
                exchange.claim = Some(fetch.claim);
                Ok(false)
            }
            What::Refuse(failure) => self.refuse(session, exchange, failure).await.map(|()| true),
            What::Redirect(location) => redirect(session, exchange, &location).await.map(|()| true),
            What::Stored(hit) => self.serve(session, exchange, hit).await.map(|()| true),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.body += body.as_ref().map_or(0, Bytes::len) as u64;
        if exchange.body > self.state.settings.load().limits.body_max && !session.was_upgraded() {
            exchange.failure = Some(Failure::BodyTooLarge);
            return Error::err_down(ErrorType::Custom("the body is too large"));
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let turn = exchange.claim.as_ref().and_then(|claim| claim.upstream().choose(&exchange.tried));
        let Some(turn) = turn else {
            exchange.failure = Some(Failure::Absent);
            return Error::err_in(ErrorType::Custom("no replica is left to try"));
        };
        let limits = self.state.settings.load().limits;
        let mut peer = peer(&turn, &limits)?;
        if session.is_upgrade_req() {
            session.set_read_timeout(Some(TUNNEL));
            peer.options.read_timeout = Some(TUNNEL);
            peer.options.custom_l4 = Some(Arc::new(Tunnel));
            unpooled(&mut peer);
        } else if has_large_body(session.req_header()) {
            peer.options.custom_l4 = Some(Arc::new(Streamed));
            unpooled(&mut peer);
        }
        exchange.turn = Some(turn);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let (Some(turn), Some(claim)) = (exchange.turn.take(), &exchange.claim) {
            exchange.tried.push(turn.replica().address.clone());
            // Nothing was sent yet, so any request may go to another replica.
            error.set_retry(claim.upstream().choose(&exchange.tried).is_some());
        }
        exchange.mark_up(false);
        error
    }

    /// Sends a request again only when the app cannot have acted on it: a GET or HEAD over a connection that had been
    /// used before and broke before it brought a byte (RFC 9110 section 9.2.2).
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _: &mut Exchange,
        is_reused: bool,
    ) -> Box<Error> {
        let is_repeatable = matches!(session.req_header().method, Method::GET | Method::HEAD)
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        // pingora does not mark a failed write, which is how the end of an idle connection shows when it comes late.
        let is_stale = is_reused && matches!(error.etype(), ErrorType::WriteError | ErrorType::ConnectionClosed);
        match (is_repeatable, is_stale) {
            (true, true) => error.set_retry(true),
            (true, false) => error.retry.decide_reuse(is_reused),
            (false, _) => error.set_retry(false),
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&pingora::protocols::Digest>,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.mark_up(true);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        match (&exchange.asked, &exchange.visit) {
            (Some(asked), Some(visit)) => headers::to_app(request, asked, visit, exchange.is_trusted, &exchange.id),
            _ => Error::err_in(ErrorType::Custom("a request without its facts")),
        }
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        // The version is each connection's own (RFC 9110 section 2.5).
        response.set_version(Version::HTTP_11);
        let machine_max = self.state.settings.load().cache.object_max;
        let Some(fill) = &mut exchange.fill else { return Ok(()) };
        let is_stored = fill.begin(&self.state.cache, response.status, &response.headers, machine_max);
        if let Some(CacheStatus::Forward { reason, .. }) = exchange.cache {
            exchange.cache = Some(CacheStatus::Forward { reason, is_stored });
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if let Some(fill) = &mut exchange.fill {
            fill.add(&self.state.cache, body.as_ref(), is_end);
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        headers::drop_hop_by_hop(response);
        if *self.state.stopping.borrow() {
            session.set_keepalive(None);
        }
        if session.req_header().version == Version::HTTP_10
            && response.remove_header(&header::TRANSFER_ENCODING).is_some()
        {
            // It does not know chunks (RFC 9112 section 6.1): the end of the connection is the end of the body.
            session.set_keepalive(None);
        }
        let cache = exchange.cache.filter(|_| exchange.is_site()).map(CacheStatus::field);
        headers::to_client(response, cache.as_deref(), &exchange.id)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        let failure = exchange.failure.or_else(|| failure::of_proxy(error));
        let is_answered = session.response_written().is_some_and(|header| !header.status.is_informational());
        let Some(failure) = failure.filter(|_| !is_answered) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        if failure == Failure::Broken {
            let complaint = || tracing::warn!(%error, request = exchange.id, "an app broke off");
            self.state.complaints.say("broken", complaint);
        }
        session.set_keepalive(None);
        // When even this fails, the client is gone.
        let _ = self.refuse(session, exchange, failure).await;
        FailToProxy { error_code: failure.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, exchange: &mut Exchange) {
        if let (Some(measured), Some(response)) = (&mut exchange.measured, session.response_written()) {
            measured.answered(response.status, exchange.cache);
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Exchange, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Gateway {
    /// Learns the facts of a request and what to do with it.
    fn decide(&self, session: &Session, exchange: &mut Exchange) -> What {
        let state = &self.state;
        let request = session.req_header();
        let Some(visit) = Visit::of(session.digest()) else { return What::Refuse(Failure::Malformed) };
        let settings = state.settings.load();
        let client = visit.client.ip().to_canonical();
        exchange.is_trusted = settings.trusted_proxies.iter().any(|net| net.contains(&client));
        exchange.id = headers::request_id(request, exchange.is_trusted, || state.ids.next());
        exchange.measured = Some(state.metrics.begin(&request.method));
        let asked = match Asked::read(request, &visit, exchange.is_trusted) {
            Ok(asked) => asked,
            Err(failure) => return What::Refuse(failure),
        };
        let answer = match bounds(request, &settings.limits) {
            Some(failure) => return What::Refuse(failure),
            None => answer::decide(state, &visit, &asked, &request.headers),
        };
        if let (Some(measured), Some(entry)) = (&mut exchange.measured, &answer.entry) {
            measured.is_for(&entry.meter);
        }
        exchange.visit = Some(visit);
        exchange.asked = Some(asked);
        answer.what
    }

    /// Answers with a page about the failure.
    async fn refuse(&self, session: &mut Session, exchange: &mut Exchange, failure: Failure) -> Result<()> {
        self.state.metrics.refused(failure);
        if failure.closes() {
            session.set_keepalive(None);
        }
        let (kind, body) = failure::page(failure, &session.req_header().headers, &exchange.id);
        let mut response = own(failure.status(), body.len(), exchange)?;
        response.insert_header(header::CONTENT_TYPE, kind)?;
        response.insert_header(header::CACHE_CONTROL, "no-store")?;
        match failure {
            Failure::Absent => response.insert_header(header::RETRY_AFTER, failure::RETRY_AFTER)?,
            Failure::Method => response.insert_header(header::ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")?,
            _ => {}
        }
        send(session, response, body).await
    }

    /// Answers from the cache.
    async fn serve(&self, session: &mut Session, exchange: &mut Exchange, hit: Hit) -> Result<()> {
        let status = CacheStatus::Hit { ttl: hit.ttl };
        exchange.cache = Some(status);
        let stored = &hit.stored;
        let mut response = ResponseHeader::build(stored.status, Some(stored.headers.len() + 6))?;
        for (name, value) in &stored.headers {
            response.append_header(name.clone(), value.clone())?;
        }
        response.insert_header(header::AGE, stored.age().as_secs())?;
        if stored.status != StatusCode::NO_CONTENT {
            response.insert_header(header::CONTENT_LENGTH, stored.body.len())?;
        }
        headers::to_client(&mut response, Some(&status.field()), &exchange.id)?;
        if not_modified_filter(session.req_header(), &response) {
            to_304(&mut response);
        }
        send(session, response, stored.body.clone()).await
    }
}

impl Exchange {
    fn is_site(&self) -> bool {
        self.measured.as_ref().is_some_and(Measured::is_site)
    }

    fn mark_up(&self, is_up: bool) {
        if let Some(measured) = &self.measured {
            measured.up(is_up);
        }
    }
}

/// What the limits say about a request's head and announced body. HTTP/2 heads are bounded in bytes by its codec.
fn bounds(request: &RequestHeader, limits: &Limits) -> Option<Failure> {
    if request.headers.len() > limits.headers as usize {
        return Some(Failure::HeadTooLarge);
    }
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    (length.unwrap_or(0) > limits.body_max).then_some(Failure::BodyTooLarge)
}

/// A response of the edge's own.
fn own(status: StatusCode, length: usize, exchange: &Exchange) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(status, Some(8))?;
    response.insert_header(header::CONTENT_LENGTH, length)?;
    headers::to_client(&mut response, None, &exchange.id)?;
    Ok(response)
}

async fn redirect(session: &mut Session, exchange: &Exchange, location: &str) -> Result<()> {
    let mut response = own(StatusCode::PERMANENT_REDIRECT, 0, exchange)?;
    response.insert_header(header::LOCATION, location)?;
    send(session, response, Bytes::new()).await
}

/// Sends a whole response; its body only where there may be one (RFC 9110 section 6.4.1).
async fn send(session: &mut Session, response: ResponseHeader, body: Bytes) -> Result<()> {
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let has_body = !bodiless && !body.is_empty() && session.req_header().method != Method::HEAD;
    session.write_response_header(Box::new(response), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body), true).await?;
    }
    // A connection closed, or a stream let go of, while its body still comes takes its answer along. What the client sends
    // after the answer is of no interest, and neither is how that ends.
    let _ = session.drain_request_body().await;
    Ok(())
}

/// Whether a request's body may be more than the sockets on its way hold.
fn has_large_body(request: &RequestHeader) -> bool {
    if matches!(request.method, Method::GET | Method::HEAD) {
        return false;
    }
    let length = request.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    length.is_none_or(|length| length > BODY_SMALL)
}

/// For a connection that is made for one request: it is neither taken from the pool nor put there.
fn unpooled(peer: &mut HttpPeer) {
    peer.group_key ^= 1;
    peer.options.idle_timeout = Some(Duration::ZERO);
}

/// The address of a replica with all the timeouts that pingora leaves open.
fn peer(turn: &Turn, limits: &Limits) -> Result<HttpPeer> {
    let replica = turn.replica();
    let mut peer = match &replica.address {
        Address::Tcp(address) => HttpPeer::new(*address, false, String::new()),
        Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
    };
    peer.group_key = replica.group;
    peer.options.custom_l4 = Some(Arc::new(Direct));
    peer.options.connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.total_connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.read_timeout = Some(limits.upstream_timeout);
    peer.options.write_timeout = Some(limits.upstream_timeout);
    peer.options.idle_timeout = Some(POOLED);
    Ok(peer)
}
