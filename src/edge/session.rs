//! One HTTP/2 stream: a request, and what is said to whoever asks.
//!
//! Made by `streams`; used by `http2` and `fetch`, and through `carried` by pingora. The rules: what its client has no room
//! for is not taken from whoever writes it, and a session that is dropped before its answer's end was said is reset.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response, StatusCode};
use pingora::http::RequestHeader;
use tokio::time::timeout;

/// How long what is left of a request body is taken in after its answer.
pub const BODY_REST: Duration = Duration::from_secs(5);
/// Fields of interim answers that the codec may be given to keep for one stream, in bytes; there is no window for them.
const INTERIM_MAX: usize = 16 << 10;
/// What each field counts beside its bytes (RFC 9113 section 6.5.2).
const FIELD: usize = 32;

/// Why a client gets no more of an answer.
#[derive(Debug, thiserror::Error)]
pub enum Unsent {
    #[error("the client did not take what was sent within {0:?}")]
    Slow(Duration),
    #[error("the stream has ended: {0}")]
    Gone(#[from] h2::Error),
}

pub struct Session {
    pub head: RequestHeader,
    /// How long each piece of an answer may wait for room.
    pub write_timeout: Duration,
    /// Bytes of the request's body that were read.
    received: usize,
    /// Bytes of the answer's body that were sent.
    sent: usize,
    /// Bytes of fields in interim answers.
    hinted: usize,
    /// Whether the end of the answer was said.
    is_ended: bool,
    body: RecvStream,
    answer: SendResponse<Bytes>,
    /// There once the answer has begun.
    writer: Option<SendStream<Bytes>>,
}

impl Session {
    pub fn new(request: Request<RecvStream>, answer: SendResponse<Bytes>, write_timeout: Duration) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head: head.into(),
            write_timeout,
            received: 0,
            sent: 0,
            hinted: 0,
            is_ended: false,
            body,
            answer,
            writer: None,
        }
    }

    /// Whether there never was a body to read.
    pub fn is_body_empty(&self) -> bool {
        let is_said = || self.head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.received == 0 && (self.body.is_end_stream() || is_said())
    }

    /// Whether nothing of the body is left to read.
    pub fn is_body_done(&self) -> bool {
        self.is_body_empty() || self.body.is_end_stream()
    }

    pub fn received(&self) -> usize {
        self.received
    }

    pub fn sent(&self) -> usize {
        self.sent
    }

    /// The next part of the body; its client may send as much again.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let part = ready!(self.body.poll_data(cx));
        if let Some(Ok(part)) = &part {
            self.received += part.len();
            // It fails when the stream has ended, and then nobody sends any more.
            let _ = self.body.flow_control().release_capacity(part.len());
        }
        Poll::Ready(part)
    }

    /// Takes in what is left of the body, for `BODY_REST`: a stream let go of while it still comes takes its answer along.
    /// How that ends is of no interest.
    pub async fn drain(&mut self) {
        let _ = timeout(BODY_REST, poll_fn(|cx| self.poll_drain(cx))).await;
    }

    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_body_done() {
            let Some(Ok(_)) = ready!(self.poll_read(cx)) else { break };
        }
        Poll::Ready(())
    }

    /// Says something before the answer (RFC 9110 section 15.2). What would be too much to keep for a client that does not
    /// read is left out, and so is what comes after the answer has begun, or has no place in HTTP/2.
    pub fn interim(&mut self, cx: &mut Context<'_>, status: StatusCode, fields: HeaderMap) -> Result<(), h2::Error> {
        self.hinted += fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum::<usize>();
        let is_out_of_place = self.writer.is_some() || status == StatusCode::SWITCHING_PROTOCOLS;
        if is_out_of_place || self.hinted > INTERIM_MAX {
            return Ok(());
        }
        // The codec would send it on a stream that its client has reset.
        if let Poll::Ready(reason) = self.answer.poll_reset(cx) {
            return Err(reason?.into());
        }
        self.answer.send_informational(response(status, fields))
    }

    /// Begins the answer, and ends it as well where there is no body. An answer begins once.
    pub fn begin(&mut self, status: StatusCode, fields: HeaderMap, is_end: bool) -> Result<(), h2::Error> {
        if self.writer.is_none() {
            self.writer = Some(self.answer.send_response(response(status, fields), is_end)?);
            self.is_ended = is_end;
        }
        Ok(())
    }

    /// Sends as much of a part as there is room for, until all of it is sent. What follows the end is left out.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, part: &mut Bytes, is_end: bool) -> Poll<Result<(), h2::Error>> {
        if self.is_ended {
            return Poll::Ready(Ok(()));
        }
        if part.is_empty() {
            return Poll::Ready(self.say(Bytes::new(), is_end));
        }
        while !part.is_empty() {
            let Some(writer) = &mut self.writer else { return Poll::Ready(Err(Reason::INTERNAL_ERROR.into())) };
            writer.reserve_capacity(part.len());
            let Some(room) = ready!(writer.poll_capacity(cx)) else {
                return Poll::Ready(Err(Reason::STREAM_CLOSED.into()));
            };
            let piece = part.split_to(room?.min(part.len()));
            self.say(piece, part.is_empty() && is_end)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a part of the body within the time there is for one.
    pub async fn write(&mut self, mut part: Bytes, is_end: bool) -> Result<(), Unsent> {
        let patience = self.write_timeout;
        match timeout(patience, poll_fn(|cx| self.poll_write(cx, &mut part, is_end))).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Unsent::Slow(patience)),
        }
    }

    /// Sends a part of the body; the codec keeps what there is no room for.
    pub fn say(&mut self, part: Bytes, is_end: bool) -> Result<(), h2::Error> {
        let Some(writer) = &mut self.writer else { return Err(Reason::INTERNAL_ERROR.into()) };
        self.sent += part.len();
        writer.send_data(part, is_end)?;
        self.is_ended = is_end;
        Ok(())
    }

    /// Ends the answer with fields in the place of its body's end.
    pub fn trailers(&mut self, fields: HeaderMap) -> Result<(), h2::Error> {
        if self.is_ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return Err(Reason::INTERNAL_ERROR.into()) };
        writer.send_trailers(fields)?;
        self.is_ended = true;
        Ok(())
    }

    /// Says that the answer is whole, if that was not said yet. One that has not begun is none.
    pub fn end(&mut self) -> Result<(), h2::Error> {
        match self.writer.is_some() && !self.is_ended {
            true => self.say(Bytes::new(), true),
            false => Ok(()),
        }
    }

    /// Ready when the client has let go of the stream, or of the connection.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.answer.poll_reset(cx),
        }
    }

    pub async fn gone(&mut self) {
        // By a reset or by an error, it is gone.
        let _ = poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Breaks the answer off, unless its end was said.
    pub fn reset(&mut self, reason: Reason) {
        if !self.is_ended {
            self.answer.send_reset(reason);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("head", &self.head).finish_non_exhaustive()
    }
}

fn response(status: StatusCode, fields: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, fields);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hint(session: &mut Session) -> Result<(), h2::Error> {
        poll_fn(|cx| Poll::Ready(session.interim(cx, StatusCode::EARLY_HINTS, HeaderMap::new()))).await
    }

    /// The codec would tell it (h2 0.4.20), which breaks the rules of HTTP/2.
    #[tokio::test]
    async fn a_client_that_has_let_go_is_told_nothing_any_more() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let accepting = async {
            let mut connection = h2::server::handshake(server).await.unwrap();
            let (request, answer) = connection.accept().await.unwrap().unwrap();
            (connection, Session::new(request, answer, Duration::MAX))
        };
        let asking = async {
            let (sender, connection) = h2::client::handshake(client).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://shop.test/").body(()).unwrap();
            sender.ready().await.unwrap().send_request(request, false).unwrap()
        };
        let ((mut connection, mut session), (_response, mut body)) = tokio::join!(accepting, asking);
        hint(&mut session).await.unwrap();
        body.send_reset(Reason::CANCEL);
        tokio::select! {
            _ = connection.accept() => panic!("nothing else was asked"),
            () = session.gone() => {}
        }
        assert_eq!(hint(&mut session).await.unwrap_err().reason(), Some(Reason::CANCEL));
    }
}
