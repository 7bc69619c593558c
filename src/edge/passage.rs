//! A request on its way through pingora: what was decided of it, and what becomes of its answer.
//!
//! Made by `door` and `http2`, left for `gateway` to take up. The rule: a passage is to an answer of pingora's what `fetch` is
//! to one of its own, so that nobody can tell the ways apart.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr, Result};

use super::answer::Fetch;
use super::cache::{Cache, CacheStatus};
use super::compress::{self, Encoder, Encoders, Negotiation};
use super::exchange::Exchange;
use super::failure::Failure;
use super::field::Fields;
use super::headers::{self, Passing};
use super::request::Asked;
use super::respond::Own;
use super::upstream::Upstream;
use super::visit::Visit;

/// A request on its way through pingora, as it was when it was decided who answers. The claim in `fetch` is dropped last.
#[derive(Debug)]
pub struct Passage {
    pub exchange: Option<Exchange>,
    pub fetch: Fetch,
    passing: Passing,
    /// What the answer goes through.
    encoder: Option<Encoder>,
    /// What leaves in place of the app's answer.
    settled: Option<Box<Own>>,
}

impl Passage {
    pub fn new(asked: &Asked<'_>, visit: &Visit, fetch: Fetch, exchange: &Exchange) -> Self {
        Self {
            exchange: None,
            passing: Passing::new(asked, visit, &exchange.id, fetch.target.as_deref()),
            fetch,
            encoder: None,
            settled: None,
        }
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        self.fetch.claim.upstream()
    }

    /// Makes a request's head what the app gets.
    pub fn to_app(&self, request: &mut RequestHeader) {
        headers::to_app(request, &self.passing);
        let Some(stale) = &self.fetch.stale else { return };
        let is_gone = |name: &&HeaderName| stale.takes_place_of(name.as_str().as_bytes());
        let gone: Vec<_> = request.headers.keys().filter(is_gone).cloned().collect();
        for name in gone {
            request.remove_header(&name);
        }
        stale.ask(request);
    }

    /// Lets what is stored leave in place of an answer, where that says so; whether it does.
    pub fn settle(&mut self, cache: &Cache, response: &ResponseHeader) -> bool {
        let fields = Fields::Map(&response.headers);
        let settled = self.fetch.settle(cache, response.status, fields);
        self.put(settled)
    }

    /// What leaves though the app's answer does not; for want of one, what is stored and stale.
    pub fn own(&mut self, failure: Failure) -> Option<Box<Own>> {
        if self.settled.is_none() && matches!(failure, Failure::Absent | Failure::Broken | Failure::Slow) {
            let spare = self.fetch.stale.as_ref().and_then(|stale| stale.instead(None));
            self.put(spare);
        }
        self.settled.take()
    }

    fn put(&mut self, settled: Option<(Own, CacheStatus)>) -> bool {
        let Some((own, status)) = settled else { return false };
        if let Some(exchange) = &mut self.exchange {
            exchange.cache = Some(status);
        }
        self.settled = Some(Box::new(own));
        true
    }

    /// Makes the head of an answer what it is when it leaves, and everything ready for its body.
    pub fn compress(&mut self, encoders: &Encoders, response: &mut ResponseHeader) {
        let Negotiation::On(coding) = self.fetch.negotiation else { return };
        if response.status == StatusCode::PARTIAL_CONTENT {
            self.fetch.is_uncoded();
            return;
        }
        let fields = Fields::Map(&response.headers);
        if !compress::is_eligible(response.status, fields) {
            return;
        }
        let length = fields.text("content-length").and_then(|length| length.parse().ok());
        self.encoder = coding.and_then(|coding| encoders.take(coding, length));
        let coding = coding.filter(|_| self.encoder.is_some());
        if let Some(fill) = &mut self.fetch.fill {
            fill.negotiated(coding, fields.first("etag"));
        }
        compress::rewrite_map(response, coding);
    }

    /// Puts what leaves in the place of what came.
    pub fn encode(&mut self, body: &mut Option<Bytes>, is_end: bool) -> Result<()> {
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
