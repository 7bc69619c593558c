//! One HTTP/2 connection: a task a stream, bounded, closed when idle, and ended with GOAWAY.
//!
//! Called by `connection`. pingora's own loop is not used because its streams cannot be cut when a drain is over. The
//! rule: every limit is set here; the library's defaults mean "unbounded" (notes in RFC 9113 section 10.5).

use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::model::machine::Limits;

use super::admission::Place;
use super::shared::Shared;
use super::stream::Stream;
use super::visit::Visit;

/// Streams that a connection may have open at once.
const STREAMS: u32 = 100;
/// Bytes of request bodies that one stream, and one connection, may send unread.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Response bytes kept for one stream that does not read.
const SEND_BUFFER: usize = 64 << 10;
/// Malformed requests that a connection is forgiven.
const REJECTIONS: u32 = 32;
/// How long what is left of a request body is taken in after its answer.
const BODY_REST: Duration = Duration::from_secs(5);
/// How long streams may take to end after their connection has.
const AFTER: Duration = Duration::from_secs(1);

/// Serves streams until either side has enough.
pub async fn serve(stream: Box<Stream>, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>, _place: Place) {
    let limits = shared.settings.load().limits;
    let first = stream.visit().clone();
    let Ok(Ok(mut connection)) = timeout(limits.handshake_timeout, handshake(stream, Some(options(&limits)))).await
    else {
        return;
    };
    let mut streams = JoinSet::new();
    let mut rejections = 0;
    let mut is_stopping = false;
    let mut idle = Instant::now() + limits.keepalive_timeout;
    let mut visit = first.again();
    let mut digest = digest_of(&visit);
    loop {
        tokio::select! {
            accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    streams.spawn(answer_one(session, limits, visit, shared.clone(), stopping.clone()));
                    visit = first.again();
                    digest = digest_of(&visit);
                }
                Ok(Some(H2Accept::Rejected)) if rejections < REJECTIONS => rejections += 1,
                Ok(Some(H2Accept::Rejected)) => {
                    shared.metrics.limited("http2_rejections");
                    break;
                }
                Ok(None) | Err(_) => break,
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {
                idle = Instant::now() + limits.keepalive_timeout;
            }
            _ = stopping.changed(), if !is_stopping => {
                is_stopping = true;
                connection.graceful_shutdown();
            }
            () = sleep_until(idle), if streams.is_empty() => break,
        }
    }
    // What they still have to do is count and let go; their client is gone.
    let _ = timeout(AFTER, async { while streams.join_next().await.is_some() {} }).await;
}

async fn answer_one(
    session: HttpSession,
    limits: Limits,
    visit: Arc<Visit>,
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
) {
    let mut session = ServerSession::new_http2(session);
    session.set_write_timeout(Some(limits.write_timeout));
    session.set_total_drain_timeout(Some(BODY_REST));
    tokio::select! {
        _ = shared.engine().process_new_http(session, &stopping) => {}
        () = visit.until_cut() => {}
    }
    visit.at(None);
}

fn digest_of(visit: &Arc<Visit>) -> Arc<Digest> {
    Arc::new(Digest { proxy_digest: Some(visit.digest()), ..Digest::default() })
}

fn options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    options
}
