//! The listening sockets: bound by control, handed to the edge, and kept here too, so that an edge that dies loses no
//! connection that waits in a queue.
//!
//! Called by the owner of what is live. The rule: new sockets are bound before anything else of a conf changes, and an
//! address that cannot be bound changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with, sockopt};

use super::inherited::Inherited;
use crate::model::machine::Listeners;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {address}: {error}{}", by(.holder))]
    Bind {
        address: SocketAddr,
        error: io::Error,
        /// Who listens there, when it can be known.
        holder: Option<String>,
    },
}

fn by(holder: &Option<String>) -> String {
    holder.as_ref().map(|holder| format!(" (it is taken by {holder})")).unwrap_or_default()
}

/// What is bound, under the names that conf has for it.
#[derive(Debug, Default)]
pub struct Sockets {
    bound: BTreeMap<Name, Socket>,
}

/// A listener of conf. Port 0 may stand there several times, and means another socket each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    kind: Kind,
    address: SocketAddr,
    nth: usize,
}

/// In the order in which descriptors travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Http,
    Https,
    Metrics,
    ProxiedHttp,
    ProxiedHttps,
}

#[derive(Debug)]
struct Socket {
    /// With the port the kernel gave, where conf said 0.
    address: SocketAddr,
    listener: OwnedFd,
}

impl Sockets {
    /// Takes over what a running edge listens on, where conf wants it. `sockets` are those of `held`, in its order.
    pub fn adopt(&mut self, wanted: &Listeners, held: &Listeners, sockets: Vec<OwnedFd>) {
        let mut free: Vec<(Name, OwnedFd)> = names(held).into_iter().zip(sockets).collect();
        for wanted in names(wanted) {
            let fits = |(held, _): &(Name, OwnedFd)| {
                let is_any_port = wanted.address.port() == 0 && held.address.ip() == wanted.address.ip();
                held.kind == wanted.kind && (held.address == wanted.address || is_any_port)
            };
            if let Some(place) = free.iter().position(fits) {
                let (held, listener) = free.remove(place);
                self.bound.entry(wanted).or_insert(Socket { address: held.address, listener });
            }
        }
    }

    /// Takes what a service manager opened, where conf wants it and no edge has it; the rest is closed.
    pub fn inherit(&mut self, wanted: &Listeners, inherited: Vec<Inherited>) {
        let wanted = names(wanted);
        for Inherited { name, address, listener } in inherited {
            let free = |wanted: &&Name| wanted.address == address && !self.bound.contains_key(wanted);
            match wanted.iter().find(free) {
                Some(wanted) => drop(self.bound.insert(*wanted, Socket { address, listener })),
                None => {
                    tracing::warn!(name, %address, "no `[listen]` names the address of this socket; it is closed");
                }
            }
        }
    }

    /// Binds every address of `wanted` that is not bound yet; all or none.
    pub fn bind(&mut self, wanted: &Listeners) -> Result<(), SocketError> {
        let mut new = Vec::new();
        let wanted = names(wanted);
        for name in wanted.iter().filter(|name| !self.bound.contains_key(name)) {
            let address = name.address;
            let socket = self.changed(name, &wanted).unwrap_or_else(|| listen_on(address)).map_err(|error| {
                let in_use = error.kind() == io::ErrorKind::AddrInUse;
                SocketError::Bind { address, holder: in_use.then(|| holder_of(address)).flatten(), error }
            })?;
            new.push((*name, socket));
        }
        self.bound.extend(new);
        Ok(())
    }

    /// The socket of an address that goes by another name from now on, as another kind of listener or with its port
    /// written out: it cannot be bound again.
    fn changed(&self, name: &Name, wanted: &[Name]) -> Option<io::Result<Socket>> {
        let mut unwanted = self.bound.iter().filter(|(other, _)| !wanted.contains(other));
        let (_, socket) = unwanted.find(|(_, socket)| socket.address == name.address)?;
        let listener = socket.listener.try_clone();
        Some(listener.map(|listener| Socket { address: socket.address, listener }))
    }

    /// Closes what is no longer wanted.
    pub fn keep(&mut self, wanted: &Listeners) {
        let wanted = names(wanted);
        self.bound.retain(|name, _| wanted.contains(name));
    }

    /// The section for the edge: real addresses, and the descriptors of those that it does not hold yet, in its order.
    pub fn section(&self, wanted: &Listeners, held: &Listeners) -> (Listeners, Vec<BorrowedFd<'_>>) {
        let bound = || names(wanted).into_iter().filter_map(|name| Some((name.kind, self.bound.get(&name)?)));
        let of = |kind| bound().filter(move |(is, _)| *is == kind).map(|(_, socket)| socket.address);
        let listeners = Listeners {
            http: of(Kind::Http).collect(),
            https: of(Kind::Https).collect(),
            metrics: of(Kind::Metrics).next(),
            proxied_http: of(Kind::ProxiedHttp).collect(),
            proxied_https: of(Kind::ProxiedHttps).collect(),
        };
        let held = names(held);
        let is_held = |kind, address| held.iter().any(|held| held.kind == kind && held.address == address);
        let descriptors = bound()
            .filter(|(kind, socket)| !is_held(*kind, socket.address))
            .map(|(_, socket)| socket.listener.as_fd())
            .collect();
        (listeners, descriptors)
    }
}

/// Every listener, in the order in which descriptors travel: http, https, metrics, proxied http, proxied https. An edge
/// that does not know the last two finds those that it knows before them.
fn names(listeners: &Listeners) -> Vec<Name> {
    let http = listeners.http.iter().map(|address| (Kind::Http, *address));
    let https = listeners.https.iter().map(|address| (Kind::Https, *address));
    let metrics = listeners.metrics.iter().map(|address| (Kind::Metrics, *address));
    let mut names: Vec<Name> = Vec::new();
    let proxied_http = listeners.proxied_http.iter().map(|address| (Kind::ProxiedHttp, *address));
    let proxied_https = listeners.proxied_https.iter().map(|address| (Kind::ProxiedHttps, *address));
    for (kind, address) in http.chain(https).chain(metrics).chain(proxied_http).chain(proxied_https) {
        let nth = names.iter().filter(|name| name.kind == kind && name.address == address).count();
        names.push(Name { kind, address, nth });
    }
    names
}

/// Binds by hand because the standard library can neither restrict a v6 socket to v6 (so that `0.0.0.0:80` and
/// `[::]:80` go together) nor choose the queue's length.
fn listen_on(address: SocketAddr) -> io::Result<Socket> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket =
        socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    // Proof that the kernel agrees, before anybody is told.
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(Socket { address, listener: socket })
}

/// The process that listens on `address`, from /proc: `nginx (pid 812)`. Needs the right to look into that process.
fn holder_of(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, address.port()))?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: &Path| {
        let descriptors = fs::read_dir(pid.join("fd")).ok()?;
        let mut targets = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        targets.any(|target| target.as_os_str() == link.as_str()).then_some(())
    };
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.bytes().all(|b| b.is_ascii_digit()) && holds(&path).is_some() {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The inode of the socket that listens on `port`, from a table as proc(5) describes it: local address in the second
/// column with the port in hexadecimal, state 0A for listening in the fourth, inode in the tenth.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let text = fs::read_to_string(table).ok()?;
    let suffix = format!(":{port:04X}");
    text.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let listens = columns.get(1)?.ends_with(&suffix) && *columns.get(3)? == "0A";
        listens.then(|| columns.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn http(addresses: &[&str]) -> Listeners {
        Listeners { http: addresses.iter().map(|a| a.parse().unwrap()).collect(), ..Default::default() }
    }

    #[test]
    fn a_port_in_use_names_its_holder_and_binds_nothing() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut sockets = Sockets::default();
        let wanted = http(&["127.0.0.1:0", &address.to_string()]);
        let text = sockets.bind(&wanted).unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(sockets.bound.is_empty());
    }

    #[test]
    fn port_0_is_another_socket_each_time() {
        let any = "127.0.0.1:0".parse().unwrap();
        let proxied = (vec![any], vec![any, any]);
        let (http, https, metrics) = (vec![any, any], vec![any], Some(any));
        let wanted = Listeners { http, https, metrics, proxied_http: proxied.0, proxied_https: proxied.1 };
        let mut sockets = Sockets::default();
        sockets.bind(&wanted).unwrap();
        let (listeners, descriptors) = sockets.section(&wanted, &Listeners::default());
        let mut ports: Vec<u16> = names(&listeners).iter().map(|name| name.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((ports.len(), descriptors.len()), (7, 7));
        let mut next = Sockets::default();
        let held = descriptors.iter().map(|held| held.try_clone_to_owned().unwrap()).collect();
        next.adopt(&wanted, &listeners, held);
        assert_eq!(next.section(&wanted, &listeners).0, listeners);
    }

    #[test]
    fn an_address_can_become_another_kind_of_listener() {
        let mut sockets = Sockets::default();
        let any = http(&["127.0.0.1:0"]);
        sockets.bind(&any).unwrap();
        let (bound, _) = sockets.section(&any, &Listeners::default());
        let wanted = Listeners { proxied_http: bound.http.clone(), ..Default::default() };
        sockets.bind(&wanted).unwrap();
        sockets.keep(&wanted);
        let (listeners, descriptors) = sockets.section(&wanted, &bound);
        assert_eq!((&listeners, descriptors.len()), (&wanted, 1));
    }

    #[test]
    fn what_was_inherited_is_used_where_conf_names_its_address() {
        let inherited = |name: &str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            (address, Inherited { name: name.to_owned(), address, listener: listener.into() })
        };
        let ((web, first), (_, stray)) = (inherited("web"), inherited("stray"));
        let wanted = http(&[&web.to_string(), "127.0.0.1:0"]);
        let mut sockets = Sockets::default();
        sockets.inherit(&wanted, vec![first, stray]);
        assert_eq!(sockets.bound.len(), 1);
        sockets.bind(&wanted).unwrap();
        assert_eq!(sockets.section(&wanted, &Listeners::default()).0.http[0], web);
    }

    #[test]
    fn v4_and_v6_go_together_and_real_ports_are_told() {
        let mut sockets = Sockets::default();
        let wanted = http(&["0.0.0.0:0", "[::]:0"]);
        sockets.bind(&wanted).unwrap();
        let (listeners, descriptors) = sockets.section(&wanted, &Listeners::default());
        assert!(listeners.http.iter().all(|address| address.port() != 0));
        assert_eq!(descriptors.len(), 2);
        let (_, descriptors) = sockets.section(&wanted, &listeners);
        assert!(descriptors.is_empty(), "what the edge holds is not sent again");
    }
}
