//! Who is on the other end of a connection, and the request that is on its way through pingora.
//!
//! Made by `connection` and, for each HTTP/2 stream, by `http2`. It travels beside a connection through pingora, as its
//! proxy digest, because pingora gives its hooks nothing else. At any time it stands for at most one request.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pingora::http::ResponseHeader;
use pingora::protocols::Digest;
use pingora::protocols::raw_connect::ProxyDigest;

use crate::model::snapshot::Settings;

use super::passage::Passage;
use super::tls::Certified;

#[derive(Debug)]
pub struct Visit {
    peer: IpAddr,
    /// As text, for it is written into every request.
    peer_text: Box<str>,
    pub local: SocketAddr,
    /// What the connection was encrypted with; `None` for plain HTTP.
    pub secure: Option<Arc<Certified>>,
    /// Whether a proxy handed the connection on without a word about whose it is: the peer is then that proxy, and what the
    /// requests say is not its word.
    is_unnamed: bool,
    passage: Mutex<Option<Box<Passage>>>,
    is_answered: AtomicBool,
    is_torn: AtomicBool,
}

impl Visit {
    pub fn new(client: SocketAddr, local: SocketAddr, secure: Option<Arc<Certified>>) -> Arc<Self> {
        Arc::new(Self::whose(client.ip().to_canonical(), local, secure, false))
    }

    /// The same for a connection of which nobody said whose it is.
    pub fn unnamed(proxy: SocketAddr, local: SocketAddr, secure: Option<Arc<Certified>>) -> Arc<Self> {
        Arc::new(Self::whose(proxy.ip().to_canonical(), local, secure, true))
    }

    fn whose(peer: IpAddr, local: SocketAddr, secure: Option<Arc<Certified>>, is_unnamed: bool) -> Self {
        let peer_text = peer.to_string().into_boxed_str();
        let (passage, is_answered, is_torn) = (Mutex::new(None), AtomicBool::new(false), AtomicBool::new(false));
        Self { peer, peer_text, local, secure, is_unnamed, passage, is_answered, is_torn }
    }

    /// Whether what its requests say about where they come from is believed.
    pub fn is_trusted(&self, settings: &Settings) -> bool {
        !self.is_unnamed && settings.trusts(self.peer)
    }

    /// Another request of the same client, with a passage of its own.
    pub fn again(&self) -> Arc<Self> {
        Arc::new(Self::whose(self.peer, self.local, self.secure.clone(), self.is_unnamed))
    }

    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    pub fn peer_text(&self) -> &str {
        &self.peer_text
    }

    pub fn scheme(&self) -> &'static str {
        if self.secure.is_some() { "https" } else { "http" }
    }

    /// Leaves what `gateway` is to take up for the request that pingora is given next.
    pub fn leave(&self, passage: Box<Passage>) {
        self.is_answered.store(false, Ordering::Relaxed);
        *self.passage.lock().unwrap_or_else(PoisonError::into_inner) = Some(passage);
    }

    /// Takes what was left.
    pub fn take(&self) -> Option<Box<Passage>> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The app has begun to answer.
    pub fn answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// An answer broke off after it had begun: the connection must not end as if that were its end.
    pub fn tear(&self) {
        self.is_torn.store(true, Ordering::Relaxed);
    }

    pub fn is_torn(&self) -> bool {
        self.is_torn.load(Ordering::Relaxed)
    }

    /// The form in which it travels through pingora.
    pub fn digest(self: &Arc<Self>) -> Arc<ProxyDigest> {
        let header = ResponseHeader::from(http::Response::new(()).into_parts().0);
        Arc::new(ProxyDigest::new(Box::new(header), Some(Box::new(self.clone()))))
    }

    /// The visit that a session of pingora's belongs to.
    pub fn of(digest: Option<&Digest>) -> Option<Arc<Self>> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<Self>>().cloned()
    }
}
