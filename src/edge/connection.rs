//! One accepted connection, from a proxy's header or the handshake to the protocol that was agreed on.
//!
//! Spawned by `listen`. The rule: the place that the connection holds is given back when it is over, not before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::admission::Place;
use super::door;
use super::http2;
use super::listen::Kind;
use super::proxy_protocol::{self, Origin, Unread};
use super::shared::Shared;
use super::stream::Stream;
use super::tls::Certified;
use super::visit::Visit;
use super::wire::{Socket, Wire};
use super::worker::Worker;

/// How long a proxy may take to say whose connection it hands on: it sends that first, in one piece.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Where a connection begins and ends.
#[derive(Debug, Clone, Copy)]
struct Ends {
    client: SocketAddr,
    local: SocketAddr,
    is_unnamed: bool,
}

impl Ends {
    fn visit(self, secure: Option<Arc<Certified>>) -> Arc<Visit> {
        match self.is_unnamed {
            true => Visit::unnamed(self.client, self.local, secure),
            false => Visit::new(self.client, self.local, secure),
        }
    }
}

/// Serves a connection to its end.
pub async fn serve(mut tcp: TcpStream, client: SocketAddr, kind: Kind, worker: Arc<Worker>, mut place: Place) {
    let shared = &worker.shared;
    let Ok(local) = tcp.local_addr() else { return };
    // Without it, the second of two small writes waits for the client to acknowledge the first.
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let mut ends = Ends { client, local, is_unnamed: false };
    if kind.is_proxied() {
        match introduced(&mut tcp, ends, shared, &mut place).await {
            Ok(said) => ends = said,
            Err(limit) => return limit.into_iter().for_each(|limit| shared.metrics.limited(limit)),
        }
    }
    let stream = if kind.is_secure() {
        let within = shared.settings.load().limits.handshake_timeout;
        // In a task of its own, so that the room it takes is given back afterwards.
        let shaken = tokio::spawn(timeout(within, shake_hands(tcp, ends, shared.clone())));
        match shaken.await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(_)) => return shared.metrics.limited("handshake_timeout"),
        }
    } else {
        (false, stream(Socket::Plain(tcp), ends.visit(None), shared))
    };
    match stream {
        (true, stream) => tokio::spawn(http2::serve(Box::new(stream), worker, place)),
        (false, stream) => tokio::spawn(door::serve(Box::new(stream), worker, place)),
    };
}

/// Reads what a trusted proxy says of a connection, and counts the connection as its visitor's. `Err` when it is to be
/// closed, with the limit that was reached, if one was.
async fn introduced(
    tcp: &mut TcpStream,
    ends: Ends,
    shared: &Shared,
    place: &mut Place,
) -> Result<Ends, Option<&'static str>> {
    let origin = match timeout(INTRODUCTION, proxy_protocol::read(tcp)).await {
        Ok(Ok(origin)) => origin,
        Ok(Err(Unread::Malformed(_))) => return Err(Some("proxy_malformed")),
        Ok(Err(Unread::Left | Unread::Broken(_))) => return Err(None),
        Err(_) => return Err(Some("proxy_timeout")),
    };
    match origin {
        Origin::Visitor { source, destination } => {
            let settings = shared.settings.load();
            if !settings.trusts(source.ip()) {
                place.is_of(source.ip(), &settings.limits).map_err(|full| Some(full.name()))?;
            }
            Ok(Ends { client: source, local: destination, is_unnamed: false })
        }
        Origin::Proxy => Ok(ends),
        Origin::Unnamed => Ok(Ends { is_unnamed: true, ..ends }),
    }
}

/// Makes a TLS connection with the certificate for the name the client asks for; whether HTTP/2 was agreed on.
async fn shake_hands(tcp: TcpStream, ends: Ends, shared: Arc<Shared>) -> Option<(bool, Stream)> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.ok()?;
    let certified = shared.certificates.load().find(start.client_hello().server_name(), ends.local.ip()).cloned();
    let Some(certified) = certified else {
        shared.metrics.limited("unknown_server_name");
        // It sends the alert; the error is the refusal itself.
        let _ = start.into_stream(shared.tls.refusing.clone()).await;
        return None;
    };
    let tls = start.into_stream(certified.config.clone()).await.ok()?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    Some((is_http2, stream(Socket::Tls(Box::new(tls)), ends.visit(Some(certified)), &shared)))
}

fn stream(socket: Socket, visit: Arc<Visit>, shared: &Arc<Shared>) -> Stream {
    Stream::new(Wire::new(socket, Some(shared.clone())), visit)
}
