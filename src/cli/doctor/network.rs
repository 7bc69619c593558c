//! Whether visitors and webhooks find their way: names, ports, and the front door.
//!
//! Used by `doctor`. A name that leads elsewhere may be right, behind a CDN or a router, so it is a warning.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Finding, hosts_by_name};
use crate::control::conf::Conf;
use crate::control::web::api::Status;
use crate::model::host::HostName;
use crate::model::machine::Listeners;

/// For a name to be looked up, and for the front door to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Names that are looked up at once.
const AT_ONCE: usize = 16;

pub async fn look(conf: &Conf, status: Option<&Status>) -> Vec<Finding> {
    let machine = &conf.machine;
    let mut findings = ports(&machine.listeners, status.map(|status| &status.listeners));
    let orders_certificates = machine.acme.is_some();
    let hosts = hosts_by_name(conf).into_iter().filter(|host| host.as_ip().is_none());
    let looking = stream::iter(hosts).map(|host| name(host, orders_certificates)).buffered(AT_ONCE);
    findings.extend(looking.collect::<Vec<_>>().await);
    findings.push(hooks(&machine.hooks.host, status).await);
    findings
}

fn ports(wanted: &Listeners, bound: Option<&Listeners>) -> Vec<Finding> {
    let all = |listeners: &Listeners| -> Vec<SocketAddr> {
        let Listeners { http, https, metrics, proxied_http, proxied_https } = listeners;
        [http, https, proxied_http, proxied_https].into_iter().flatten().chain(metrics).copied().collect()
    };
    let ours = bound.map(all).unwrap_or_default();
    let fixed = all(wanted).into_iter().filter(|address| address.port() != 0);
    fixed
        .map(
            |address| {
                if ours.contains(&address) { Finding::ok("port", format!("{address} is ours")) } else { free(address) }
            },
        )
        .collect()
}

fn free(address: SocketAddr) -> Finding {
    let error = match TcpListener::bind(address) {
        Ok(_) => return Finding::ok("port", format!("{address} is free")),
        Err(error) => error,
    };
    let hint = match error.kind() {
        ErrorKind::AddrInUse => format!("`ss -ltnp 'sport = :{}'` shows who has it", address.port()),
        ErrorKind::PermissionDenied => {
            "ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the service".to_owned()
        }
        ErrorKind::AddrNotAvailable => "no interface of this machine has this address".to_owned(),
        _ => "choose another address under [listen]".to_owned(),
    };
    Finding::fail("port", format!("{address} cannot be bound: {error}"), hint)
}

async fn name(host: HostName, orders_certificates: bool) -> Finding {
    let hint = "have its A and AAAA records lead to this machine";
    let addresses = match timeout(LIMIT, lookup_host((host.as_str(), 80))).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect::<Vec<_>>(),
        // No visitor will come to it, and no CA either.
        Ok(Err(_)) if orders_certificates => return Finding::fail("name", format!("{host} does not resolve"), hint),
        Ok(Err(_)) => return Finding::warn("name", format!("{host} does not resolve"), hint),
        Err(_) => return Finding::warn("name", format!("{host} was not resolved within {} s", LIMIT.as_secs()), hint),
    };
    let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match addresses.into_iter().find(|address| !is_ours(*address)) {
        None => Finding::ok("name", format!("{host} leads here ({shown})")),
        Some(other) => {
            let says = format!("{host} leads to {other}, which is no address of this machine");
            Finding::warn("name", says, "right behind a CDN, a router or a load balancer; else mend its records")
        }
    }
}

/// Only an address of this machine can be bound.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Asks as a forge would, at the listener itself: anything that control answers to a GET shows the way to be open.
async fn hooks(host: &HostName, status: Option<&Status>) -> Finding {
    let Some(status) = status else {
        return Finding::warn("hooks", "not asked for: no `opri serve` is running", "look again once it is");
    };
    let Some(listener) = status.listeners.http.first() else {
        return Finding::warn("hooks", "not asked for: nothing listens on plain HTTP", "CIs reach it by HTTPS alone");
    };
    match timeout(LIMIT, ask(reachable(*listener), host)).await {
        Ok(Ok(405)) => Finding::ok("hooks", format!("{} is heard", status.hooks)),
        Ok(Ok(other)) => {
            let hint = "control is away, or its host belongs to something else: see `opri why` and the logs";
            Finding::fail("hooks", format!("{} answered {other} in place of 405", status.hooks), hint)
        }
        Ok(Err(error)) => Finding::fail("hooks", format!("{listener}: {error}"), "see whether the edge runs"),
        Err(_) => {
            let says = format!("{} did not answer within {} s", status.hooks, LIMIT.as_secs());
            Finding::fail("hooks", says, "see whether the edge runs")
        }
    }
}

/// Where a listener for every address is reached from here.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let address = match listener.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, listener.port())
}

/// The status of `GET /events`.
async fn ask(address: SocketAddr, host: &HostName) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host.in_url());
    stream.write_all(request.as_bytes()).await?;
    // `HTTP/1.1 405`.
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let status = std::str::from_utf8(&line[9..]).ok().and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}
