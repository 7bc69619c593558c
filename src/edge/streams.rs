//! The streams of one HTTP/2 connection as they begin: those that are within every limit come out, the others are refused.
//!
//! Driven by `http2`. The rule: every limit is set here, because the library's defaults mean "unbounded" (RFC 9113 section
//! 10.5), and a client that is refused too often is told to calm down and let go.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use http::HeaderMap;
use tokio::time::timeout;

use crate::model::machine::Limits;

use super::admission::Place;
use super::failure::Failure;
use super::session::Session;
use super::shared::Shared;
use super::stream::Stream;
use super::strict;
use super::watched::{Watch, Watched};

/// Streams that a connection may have open at once: as few as RFC 9113 section 6.5.2 recommends.
const STREAMS: u32 = 100;
/// Bytes of request bodies that one stream, and one connection, may send unread.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Response bytes kept for one stream that does not read.
const SEND_BUFFER: usize = 16 << 10;
/// Streams reset before they were taken, as many as the library thinks right.
const RESETS: usize = 20;
/// Streams reset because of what the client sent for them, in the life of a connection. What is still on its way for an
/// upload that was broken off counts too.
const ERRORS: usize = 100;
/// Requests that a connection may have refused.
const REFUSALS: u32 = 32;
/// How long a client may take to hear that it is to calm down.
const CALM: Duration = Duration::from_secs(1);

pub struct Streams {
    connection: Connection<Watched, Bytes>,
    watch: Arc<Watch>,
    /// The connection's own.
    place: Place,
    shared: Arc<Shared>,
    limits: Limits,
    refusals: u32,
    /// Requests until no more are taken.
    left: u32,
}

impl Streams {
    /// Begins to speak HTTP/2; `None` when the client does not.
    pub async fn begin(stream: Box<Stream>, shared: Arc<Shared>, place: Place) -> Option<Self> {
        let limits = shared.settings.load().limits;
        let (watched, watch) = Watched::new(stream);
        let shaking = options(&limits).handshake(watched);
        let connection = timeout(limits.handshake_timeout, shaking).await.ok()?.ok()?;
        Some(Self { connection, watch, place, shared, limits, refusals: 0, left: limits.keepalive_requests })
    }

    /// The next request with its place, or `None` when there will be none. May be dropped and called again.
    pub async fn next(&mut self) -> Option<(Session, Place)> {
        loop {
            match self.accept().await {
                Some(Ok(mut session)) => match self.flaw(&session) {
                    Some(failure) => self.refuse(session, failure),
                    None => {
                        if let Some(place) = self.seat(&mut session) {
                            return Some((session, place));
                        }
                    }
                },
                Some(Err(error)) if self.watch.is_flooded() || is_flood(&error) => {
                    return self.calm("http2_flood").await;
                }
                Some(Err(_)) | None => return None,
            }
            if self.refusals > REFUSALS {
                return self.calm("http2_rejections").await;
            }
        }
    }

    /// Takes no further request, and ends when those that were taken have.
    pub fn finish(&mut self) {
        self.connection.graceful_shutdown();
    }

    async fn accept(&mut self) -> Option<Result<Session, h2::Error>> {
        let accepted = poll_fn(|cx| {
            self.watch.gather();
            loop {
                if let Poll::Ready(accepted) = self.connection.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
                // All that came is looked at, and what was answered meanwhile leaves in one piece.
                if !self.watch.all_taken() && !self.watch.leave() {
                    return Poll::Pending;
                }
            }
        });
        let (request, answer) = match accepted.await? {
            Ok(accepted) => accepted,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(Session::new(request, answer, self.limits.write_timeout)))
    }

    /// Why a request is not looked at any further, if it is not.
    fn flaw(&self, session: &Session) -> Option<Failure> {
        match session.head.headers.len() > self.limits.headers as usize {
            true => Some(Failure::HeadTooLarge),
            false => strict::stream::whom(&session.head).err(),
        }
    }

    /// Finds a place for a request; where there is none, the client may ask again (RFC 9113 section 8.7).
    fn seat(&mut self, session: &mut Session) -> Option<Place> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.finish();
        }
        match self.place.join(&self.limits) {
            Ok(place) => Some(place),
            Err(full) => {
                self.shared.metrics.limited(full.name());
                session.reset(Reason::REFUSED_STREAM);
                None
            }
        }
    }

    /// Answers with a status alone: a body would wait for a window that the client may never open.
    fn refuse(&mut self, mut session: Session, failure: Failure) {
        self.refusals += 1;
        self.shared.metrics.refused(failure);
        // When even this fails, the client is gone.
        let _ = session.begin(failure.status(), HeaderMap::new(), true);
    }

    async fn calm<T>(&mut self, limit: &'static str) -> Option<T> {
        self.shared.metrics.limited(limit);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let _ = timeout(CALM, poll_fn(|cx| self.connection.poll_closed(cx))).await;
        None
    }
}

/// Whether the library broke off because of a flood.
fn is_flood(error: &h2::Error) -> bool {
    error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

fn options(limits: &Limits) -> Builder {
    let mut options = Builder::new();
    options
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(ERRORS));
    options
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a client is told: the library would say nothing of most of these, which means "as much as you like".
    #[tokio::test]
    async fn every_limit_is_announced() {
        let (mut client, server) = tokio::io::duplex(1024);
        let serving = tokio::spawn(options(&Limits::default()).handshake::<_, Bytes>(server));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut settings = vec![0; usize::from(head[2])];
        client.read_exact(&mut settings).await.unwrap();
        let settings: Vec<_> = settings
            .chunks(6)
            .map(|setting| (setting[1], u32::from_be_bytes(setting[2..].try_into().unwrap())))
            .collect();
        assert_eq!(settings, [(3, STREAMS), (4, STREAM_WINDOW), (6, 32 << 10)]);
        serving.abort();
    }
}
