//! One accepted connection, from the handshake to the protocol that was agreed on.
//!
//! Spawned by `listen`. The rule: the place that the connection holds is given back when it is over, not before.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::admission::Place;
use super::door;
use super::http2;
use super::listen::Kind;
use super::shared::Shared;
use super::stream::{Socket, Stream};
use super::visit::Visit;
use super::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(tcp: TcpStream, client: SocketAddr, kind: Kind, worker: Arc<Worker>, place: Place) {
    let shared = &worker.shared;
    let Ok(local) = tcp.local_addr() else { return };
    // Without it, the second of two small writes waits for the client to acknowledge the first.
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let stream = match kind {
        Kind::Https => {
            let within = shared.settings.load().limits.handshake_timeout;
            // In a task of its own, so that the room it takes is given back afterwards.
            let shaken = tokio::spawn(timeout(within, shake_hands(tcp, client, local, shared.clone())));
            match shaken.await {
                Ok(Ok(Some(stream))) => stream,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(_)) => return shared.metrics.limited("handshake_timeout"),
            }
        }
        Kind::Http | Kind::Metrics => (false, Stream::new(Socket::Plain(tcp), Visit::new(client, local, None))),
    };
    match stream {
        (true, stream) => tokio::spawn(http2::serve(Box::new(stream), worker, place)),
        (false, stream) => tokio::spawn(door::serve(Box::new(stream), worker, place)),
    };
}

/// Makes a TLS connection with the certificate for the name the client asks for; whether HTTP/2 was agreed on.
async fn shake_hands(
    tcp: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
) -> Option<(bool, Stream)> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.ok()?;
    let certified = shared.certificates.load().find(start.client_hello().server_name(), local.ip()).cloned();
    let Some(certified) = certified else {
        shared.metrics.limited("unknown_server_name");
        // It sends the alert; the error is the refusal itself.
        let _ = start.into_stream(shared.tls.refusing.clone()).await;
        return None;
    };
    let tls = start.into_stream(certified.config.clone()).await.ok()?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    Some((is_http2, Stream::new(Socket::Tls(Box::new(tls)), Visit::new(client, local, Some(certified)))))
}
