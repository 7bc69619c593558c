//! A session on pingora's way: what `session` does, in the words of pingora's trait for streams that are not its own.
//!
//! Made by `http2`. pingora's own session of HTTP/2 does not reach the codec's interim answers (0.9.1). The rule: everything
//! else is as it has it, and its client is watched while pingora waits for something else.

use std::future::poll_fn;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use h2::Reason;
use http::HeaderMap;
use http::header::TRANSFER_ENCODING;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::{CustomMessageWrite, server};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::time::timeout;

use super::session::{BODY_REST, Session};
use super::visit::Visit;

/// A request's body as far as it is kept for another try, in bytes; as much as pingora keeps.
const KEPT: usize = 64 << 10;

type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>;

/// A session that pingora has and `http2` still sees.
#[derive(Debug, Clone)]
pub struct Held(Arc<Mutex<Session>>);

impl Held {
    /// Waits until the client has let go of the stream, or of the connection.
    pub async fn gone(&self) {
        // By a reset or by an error, it is gone.
        let _ = poll_fn(|cx| self.lock().poll_gone(cx)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Carried {
    session: Held,
    head: RequestHeader,
    /// The answer's head, once it has left.
    written: Option<Box<ResponseHeader>>,
    kept: Kept,
    digest: Digest,
}

/// What was read of the request's body, for another try.
enum Kept {
    Nothing,
    All(BytesMut),
    TooMuch,
}

impl Kept {
    fn add(&mut self, part: &Bytes) {
        let Self::All(kept) = self else { return };
        match kept.len() + part.len() <= KEPT {
            true => kept.extend_from_slice(part),
            false => *self = Self::TooMuch,
        }
    }
}

impl Carried {
    pub fn new(session: Session, visit: &Arc<Visit>) -> (Box<Self>, Held) {
        let head = session.head.clone();
        let session = Held(Arc::new(Mutex::new(session)));
        let digest = Digest { proxy_digest: Some(visit.digest()), ..Digest::default() };
        (Box::new(Self { session: session.clone(), head, written: None, kept: Kept::Nothing, digest }), session)
    }

    fn end(&self, trailers: Option<HeaderMap>) -> Result<()> {
        let mut session = self.session.lock();
        let ended = trailers.map_or(Ok(()), |trailers| session.trailers(trailers)).and_then(|()| session.end());
        ended.or_err(ErrorType::WriteError, "ending an answer").map_err(Error::into_down)
    }
}

#[async_trait]
impl server::Session for Carried {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let part = poll_fn(|cx| self.session.lock().poll_read(cx)).await.transpose();
        let part = part.or_err(ErrorType::ReadError, "reading a request's body")?;
        if let Some(part) = &part {
            self.kept.add(part);
        }
        Ok(part)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let rest = poll_fn(|cx| self.session.lock().poll_drain(cx));
        timeout(BODY_REST, rest).await.or_err(ErrorType::ReadTimedout, "taking in the rest of a request's body")
    }

    async fn write_response_header(&mut self, header: Box<ResponseHeader>, is_end: bool) -> Result<()> {
        let (status, mut fields) = (header.status, header.headers.clone());
        // The frames of HTTP/2 say where a body ends (RFC 9113 section 8.2.2). Other fields of a connection are gone already.
        fields.remove(TRANSFER_ENCODING);
        let sent = match status.is_informational() {
            true => poll_fn(|cx| Poll::Ready(self.session.lock().interim(cx, status, take(&mut fields)))).await,
            false => self.session.lock().begin(status, fields, is_end),
        };
        sent.or_err(ErrorType::WriteError, "sending the head of an answer").map_err(Error::into_down)?;
        if !status.is_informational() && self.written.is_none() {
            self.written = Some(header);
        }
        Ok(())
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, is_end: bool) -> Result<()> {
        self.write_response_header(Box::new(header.clone()), is_end).await
    }

    async fn write_body(&mut self, mut part: Bytes, is_end: bool) -> Result<()> {
        let patience = self.session.lock().write_timeout;
        let writing = poll_fn(|cx| self.session.lock().poll_write(cx, &mut part, is_end));
        let written = timeout(patience, writing).await.or_err(ErrorType::WriteTimedout, "sending a body");
        let written = written.and_then(|written| written.or_err(ErrorType::WriteError, "sending a body"));
        written.map_err(Error::into_down)
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end(Some(trailers))
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_over = false;
        for task in tasks {
            is_over |= match task {
                HttpTask::Header(header, is_end) => {
                    self.write_response_header(header, is_end).await?;
                    is_end
                }
                HttpTask::Body(part, is_end) => {
                    if let Some(part) = part.filter(|part| !part.is_empty()) {
                        self.write_body(part, is_end).await?;
                    }
                    is_end
                }
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "an upgrade over HTTP/2");
                }
                HttpTask::Trailer(Some(trailers)) => {
                    self.write_trailers(*trailers).await?;
                    true
                }
                HttpTask::Trailer(None) | HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if is_over {
            self.finish().await?;
        }
        Ok(is_over)
    }

    /// Bodies are watched as they come, by `gateway`.
    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    /// It is the session's.
    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        Some(self.session.lock().write_timeout)
    }

    /// It is `BODY_REST`.
    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        Some(BODY_REST)
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.session.lock().reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.session.lock().is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end(None)
    }

    fn is_body_empty(&mut self) -> bool {
        self.session.lock().is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.is_body_done() {
            return self.read_body_bytes().await;
        }
        self.session.gone().await;
        Error::e_explain(ErrorType::H2Error, "the client has let go of the stream")
    }

    fn body_bytes_sent(&self) -> usize {
        self.session.lock().sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.session.lock().received()
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    /// Who it is, `visit` knows.
    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    /// For requests within requests, of which there are none.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        if matches!(self.kept, Kept::Nothing) {
            self.kept = Kept::All(BytesMut::new());
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        matches!(self.kept, Kept::TooMuch)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        match &self.kept {
            Kept::All(kept) if !kept.is_empty() => Some(kept.clone().freeze()),
            _ => None,
        }
    }

    // Messages beside a request and its answer: HTTP has none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
