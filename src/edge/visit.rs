//! Who is on the other end of a connection, and which upstream the request at hand has claimed.
//!
//! Travels beside a connection through pingora, as its proxy digest, because pingora gives its hooks nothing else. One
//! per HTTP/1 connection, one per HTTP/2 stream: at any time it stands for at most one request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use pingora::http::ResponseHeader;
use pingora::protocols::Digest;
use pingora::protocols::raw_connect::ProxyDigest;
use tokio::sync::Notify;

use super::tls::Certified;
use super::upstream::Upstream;

#[derive(Debug)]
pub struct Visit {
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// What the connection was encrypted with; `None` for plain HTTP.
    pub secure: Option<Arc<Certified>>,
    claimed: Mutex<Option<Arc<Upstream>>>,
    changed: Notify,
}

impl Visit {
    pub fn new(client: SocketAddr, local: SocketAddr, secure: Option<Arc<Certified>>) -> Arc<Self> {
        Arc::new(Self { client, local, secure, claimed: Mutex::new(None), changed: Notify::new() })
    }

    /// Another request of the same client, with a claim of its own.
    pub fn again(&self) -> Arc<Self> {
        Self::new(self.client, self.local, self.secure.clone())
    }

    pub fn scheme(&self) -> &'static str {
        if self.secure.is_some() { "https" } else { "http" }
    }

    /// Says which upstream the request is at, or that it is over.
    pub fn at(&self, upstream: Option<Arc<Upstream>>) {
        *self.claimed.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
        self.changed.notify_waiters();
    }

    /// Returns when the upstream that the request has claimed cuts what is still in flight.
    pub async fn until_cut(&self) {
        loop {
            let changed = self.changed.notified();
            let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match claimed {
                None => changed.await,
                Some(upstream) => tokio::select! {
                    () = upstream.until_cut() => return,
                    () = changed => {}
                },
            }
        }
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
