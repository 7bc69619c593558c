//! The lines of the table: what is asked, by which tool, and what Prime is to reach.

use crate::gateway::{Door, Gateway};

/// Who makes the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `wrk`, 64 connections that stay.
    Wrk,
    /// The same, asking the other hosts of a large Prime in turn.
    Spread,
    /// `h2load`, 16 connections of 16 streams.
    H2load,
    /// A new connection and a full handshake for each request.
    Handshakes,
}

/// Whom Prime is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    Best,
    Only(&'static str),
}

pub struct Line {
    pub name: &'static str,
    pub title: &'static str,
    pub tool: Tool,
    pub door: Door,
    pub path: &'static str,
    pub against: Against,
    /// Which Prime it is asked of.
    pub prime: &'static str,
    /// The ratio of CPU time that is not to be exceeded, if there is one.
    pub target: Option<f64>,
}

impl Line {
    /// Whether it asks for what caches may answer.
    pub fn is_hit(&self) -> bool {
        matches!(self.door, Door::Hit | Door::SecureHit)
    }

    /// Whether it can be asked of this gateway.
    pub fn suits(&self, gateway: &Gateway) -> bool {
        let knows_the_hosts = self.tool != Tool::Spread || gateway.name == LARGE;
        let is_meant = match gateway.name {
            LARGE => self.prime == SMALL,
            name if name.starts_with(SMALL) => self.prime == name,
            _ => true,
        };
        knows_the_hosts && is_meant && gateway.address(self.door).is_some()
    }

    /// What it is to be compared with where hosts are asked in turn: the same of one host.
    pub fn of_one_host(&'static self) -> &'static Self {
        let one = LINES.iter().find(|line| self.tool == Tool::Spread && self.name == format!("{}-spread", line.name));
        one.unwrap_or(self)
    }

    pub fn size(&self) -> usize {
        if self.path.ends_with("/100k") { 100 * 1024 } else { 1024 }
    }
}

/// The name of the Prime with two hosts; the names of the others begin with it.
pub const SMALL: &str = "opri";
/// The one with 10,000 hosts, which is asked what the small one is too.
pub const LARGE: &str = "opri large";
/// The one whose cache is on disk alone.
pub const DISK: &str = "opri disk";

const HIT: &str = "/hit/1k";
const PASS: &str = "/pass/1k";

pub const LINES: [Line; 13] = [
    Line {
        name: "hit",
        title: "hit 1 KB, HTTP/1",
        tool: Tool::Wrk,
        door: Door::Hit,
        path: HIT,
        against: Against::Best,
        prime: SMALL,
        target: Some(0.65),
    },
    Line {
        name: "hit-100k",
        title: "hit 100 KB",
        tool: Tool::Wrk,
        door: Door::Hit,
        path: "/hit/100k",
        against: Against::Only("nginx"),
        prime: SMALL,
        target: Some(1.0),
    },
    Line {
        name: "disk-100k",
        title: "hit 100 KB on disk, in the system's page cache",
        tool: Tool::Wrk,
        door: Door::Hit,
        path: "/hit/100k",
        against: Against::Only("nginx"),
        prime: DISK,
        target: Some(1.11),
    },
    Line {
        name: "tcp",
        title: "proxied 1 KB over TCP",
        tool: Tool::Wrk,
        door: Door::Tcp,
        path: PASS,
        against: Against::Best,
        prime: SMALL,
        target: Some(0.9),
    },
    Line {
        name: "unix",
        title: "proxied 1 KB over a Unix socket",
        tool: Tool::Wrk,
        door: Door::Unix,
        path: PASS,
        against: Against::Best,
        prime: SMALL,
        target: Some(0.85),
    },
    Line {
        name: "tcp-100k",
        title: "proxied 100 KB",
        tool: Tool::Wrk,
        door: Door::Tcp,
        path: "/pass/100k",
        against: Against::Best,
        prime: SMALL,
        target: Some(0.95),
    },
    Line {
        name: "tls-hit",
        title: "hit 1 KB over TLS",
        tool: Tool::Wrk,
        door: Door::SecureHit,
        path: HIT,
        against: Against::Best,
        prime: SMALL,
        target: Some(0.6),
    },
    Line {
        name: "tls-tcp",
        title: "proxied 1 KB over TLS",
        tool: Tool::Wrk,
        door: Door::SecureTcp,
        path: PASS,
        against: Against::Best,
        prime: SMALL,
        target: Some(0.8),
    },
    Line {
        name: "h2-hit",
        title: "HTTP/2 hit 1 KB, 16 streams",
        tool: Tool::H2load,
        door: Door::SecureHit,
        path: HIT,
        against: Against::Only("haproxy"),
        prime: SMALL,
        target: Some(1.1),
    },
    Line {
        name: "h2-tcp",
        title: "HTTP/2 proxied 1 KB, 16 streams",
        tool: Tool::H2load,
        door: Door::SecureTcp,
        path: PASS,
        against: Against::Only("haproxy"),
        prime: SMALL,
        target: Some(1.1),
    },
    Line {
        name: "handshake",
        title: "new TLS connection, with one 1 KB request",
        tool: Tool::Handshakes,
        door: Door::SecureTcp,
        path: PASS,
        against: Against::Best,
        prime: SMALL,
        target: None,
    },
    Line {
        name: "hit-spread",
        title: "hit 1 KB, of 998 hosts in turn",
        tool: Tool::Spread,
        door: Door::Hit,
        path: HIT,
        against: Against::Best,
        prime: SMALL,
        target: None,
    },
    Line {
        name: "tcp-spread",
        title: "proxied 1 KB over TCP, of 998 hosts in turn",
        tool: Tool::Spread,
        door: Door::Tcp,
        path: PASS,
        against: Against::Best,
        prime: SMALL,
        target: None,
    },
];
