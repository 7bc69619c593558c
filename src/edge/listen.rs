//! The listening sockets: bound or handed over, each with an accept loop, closed one by one.
//!
//! Owned by `control_link`. The rule: closing a listener touches no connection that came through it, and an accept loop
//! never spins: when the machine is out of descriptors it waits for some to come back.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::model::machine::Listeners;

use super::connection;
use super::metrics::server as metrics_server;
use super::shared::Shared;
use super::worker::{Worker, Workers};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// What the kernel keeps of an answer beyond what is on its way, in bytes. It would keep megabytes for each client that does
/// not read, and when the machine's share for TCP is used up, nobody is answered.
pub const UNSENT: u32 = 64 << 10;
/// How long an accept loop waits when it cannot accept.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {error}{}", hint(.error))]
    Bind { address: SocketAddr, error: io::Error },
    #[error("no socket came for {0}, and the edge does not listen there yet")]
    Missing(SocketAddr),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has the port, `ss -ltnp` says which",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Http,
    Https,
    Metrics,
    /// The same two behind a PROXY header.
    ProxiedHttp,
    ProxiedHttps,
}

impl Kind {
    pub fn is_proxied(self) -> bool {
        matches!(self, Kind::ProxiedHttp | Kind::ProxiedHttps)
    }

    pub fn is_secure(self) -> bool {
        matches!(self, Kind::Https | Kind::ProxiedHttps)
    }
}

/// All sockets that the edge listens on.
#[derive(Debug)]
pub struct Sockets {
    shared: Arc<Shared>,
    workers: Workers,
    open: HashMap<(Kind, SocketAddr), Listening>,
}

/// One of them; it is closed when this is dropped.
#[derive(Debug)]
struct Listening {
    /// One a worker: whichever is free takes the next connection.
    accepting: Vec<AbortHandle>,
    /// For a control that did not bind it, so that it outlives this edge.
    descriptor: OwnedFd,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
    }
}

impl Sockets {
    pub fn new(shared: Arc<Shared>, workers: Workers) -> Self {
        Self { shared, workers, open: HashMap::new() }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What is listened on, in the form of a section.
    pub fn listeners(&self) -> Listeners {
        let of = |kind| {
            let mut of: Vec<_> = self.open.keys().filter(|key| key.0 == kind).map(|key| key.1).collect();
            of.sort();
            of
        };
        Listeners {
            http: of(Kind::Http),
            https: of(Kind::Https),
            metrics: of(Kind::Metrics).first().copied(),
            proxied_http: of(Kind::ProxiedHttp),
            proxied_https: of(Kind::ProxiedHttps),
        }
    }

    /// The sockets of `listeners`, in its order.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners();
        let open = addresses(&listeners).into_iter().filter_map(|key| self.open.get(&key));
        open.map(|listening| listening.descriptor.as_fd()).collect()
    }

    /// Makes the section hold. `handed` are the sockets for those of its addresses that are not open yet, in order; with
    /// `None` they are bound here. A fault leaves everything as it was.
    pub fn apply(&mut self, section: &Listeners, handed: Option<Vec<OwnedFd>>) -> Result<(), ListenError> {
        let wanted = addresses(section);
        let mut handed = handed.map(Vec::into_iter);
        let mut fresh = Vec::new();
        for key in wanted.iter().filter(|key| !self.open.contains_key(key)) {
            let address = key.1;
            let socket = match &mut handed {
                Some(handed) => std::net::TcpListener::from(handed.next().ok_or(ListenError::Missing(address))?),
                None => bind(address).map_err(|error| ListenError::Bind { address, error })?,
            };
            let wrong = |error| ListenError::Bind { address, error };
            socket.set_nonblocking(true).map_err(wrong)?;
            fresh.push((*key, self.start(key.0, &socket).map_err(wrong)?, socket));
        }
        self.open.retain(|key, _| wanted.contains(key));
        for (key, accepting, socket) in fresh {
            self.open.insert(key, Listening { accepting, descriptor: socket.into() });
        }
        Ok(())
    }

    /// Stops accepting on all of them. Without a successor the operators' own stays, to show how the end goes on.
    pub fn close(&mut self, has_successor: bool) {
        self.open.retain(|key, _| key.0 == Kind::Metrics && !has_successor);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn start(&self, kind: Kind, socket: &std::net::TcpListener) -> io::Result<Vec<AbortHandle>> {
        if kind == Kind::Metrics {
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            return Ok(vec![tokio::spawn(metrics_server::serve(listener, self.shared.clone())).abort_handle()]);
        }
        // Connections have it from their listener. A kernel without it keeps more, and nothing else changes.
        let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
        let on = |(worker, runtime): (&Arc<Worker>, &tokio::runtime::Handle)| {
            let _its = runtime.enter();
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            Ok(runtime.spawn(accept(listener, kind, worker.clone())).abort_handle())
        };
        self.workers.each().map(on).collect()
    }
}

/// The addresses of a section in the order in which their sockets travel: http, https, metrics, proxied http, proxied
/// https. What comes later is added behind, where a plane that does not know it leaves it.
fn addresses(section: &Listeners) -> Vec<(Kind, SocketAddr)> {
    let http = section.http.iter().map(|address| (Kind::Http, *address));
    let https = section.https.iter().map(|address| (Kind::Https, *address));
    let metrics = section.metrics.iter().map(|address| (Kind::Metrics, *address));
    let proxied_http = section.proxied_http.iter().map(|address| (Kind::ProxiedHttp, *address));
    let proxied_https = section.proxied_https.iter().map(|address| (Kind::ProxiedHttps, *address));
    http.chain(https).chain(metrics).chain(proxied_http).chain(proxied_https).collect()
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv6() { rustix::net::AddressFamily::INET6 } else { rustix::net::AddressFamily::INET };
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two lines of the conf: they must not fight for one port.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG as i32)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, kind: Kind, worker: Arc<Worker>) {
    let shared = &worker.shared;
    loop {
        match listener.accept().await {
            Ok((tcp, client)) => admit(tcp, client, kind, &worker),
            Err(error) if is_shortage(&error) => {
                shared.metrics.limited("descriptors");
                shared.complaints.say("accept", || tracing::warn!(%error, "cannot accept connections"));
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            // The client left before it was accepted (accept(2)); the next one may be there already.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn admit(tcp: TcpStream, client: SocketAddr, kind: Kind, worker: &Arc<Worker>) {
    let shared = &worker.shared;
    let settings = shared.settings.load();
    let is_proxy = settings.trusts(client.ip());
    if kind.is_proxied() && !is_proxy {
        shared.metrics.limited("proxy_untrusted");
        let complaint = || tracing::warn!(%client, "a stranger came to a listener for trusted proxies");
        return shared.complaints.say("proxy_untrusted", complaint);
    }
    let address = (!is_proxy).then_some(client.ip());
    match shared.admission.enter(address, &settings.limits) {
        Ok(place) => {
            tokio::spawn(connection::serve(tcp, client, kind, worker.clone(), place));
        }
        Err(full) => {
            shared.metrics.limited(full.name());
            shared.complaints.say(full.name(), || tracing::warn!(limit = full.name(), "connections are turned away"));
        }
    }
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM: trying again at once would fail again at once.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|errno| errno.raw_os_error() == code))
}
