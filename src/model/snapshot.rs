//! Everything the edge is told, by sections. A section is always whole: applying it twice is harmless, and one that was
//! lost is replaced by the next.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::app::{Protocol, drain_long};
use super::certificate::CertificateFiles;
use super::machine::{AccessLog, CacheSizes, Limits, Listeners};
use super::route::{Route, UpstreamId};

/// All sections, each with its generation. Kept on disk by the edge, which starts from it when control is away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub settings: Settings,
    pub listeners: Listeners,
    pub certificates: Certificates,
    pub routing: Routing,
}

/// One section on its way, with everything of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "section", rename_all = "kebab-case")]
pub enum Section {
    Settings(Settings),
    /// Its sockets travel beside it, in the order http, https, metrics, proxied http, proxied https; see the link.
    Listeners(Listeners),
    Certificates(Certificates),
    Routing(Routing),
}

/// Which section something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SectionKind {
    Settings,
    Listeners,
    Certificates,
    Routing,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub limits: Limits,
    pub cache: CacheSizes,
    pub trusted_proxies: Vec<IpNet>,
    pub access_log: AccessLog,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    pub certificates: Vec<CertificateFiles>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// An upstream that is absent here and was present before is drained.
    pub upstreams: Vec<Upstream>,
    pub routes: Vec<Route>,
}

/// The replicas of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub id: UpstreamId,
    /// May be empty: known, with nothing running.
    pub replicas: Vec<Address>,
    #[serde(default)]
    pub protocol: Protocol,
    /// How long requests in flight may wait for their answers to begin once it is absent.
    pub drain: Duration,
    /// How long answers that have begun may go on then.
    #[serde(default = "drain_long")]
    pub drain_long: Duration,
    /// How its replicas are asked whether they are well; `None`: nobody asks.
    #[serde(default)]
    pub health: Option<Health>,
}

/// A question that a replica which serves is asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub path: String,
    /// Lowest and highest status of a good answer, both included.
    pub status: (u16, u16),
    /// From one asking to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The Host that is named.
    pub host: String,
}

impl Settings {
    /// Whether the word of whoever has this address is taken for where its requests come from.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Section {
    pub fn kind(&self) -> SectionKind {
        match self {
            Section::Settings(_) => SectionKind::Settings,
            Section::Listeners(_) => SectionKind::Listeners,
            Section::Certificates(_) => SectionKind::Certificates,
            Section::Routing(_) => SectionKind::Routing,
        }
    }
}

impl Snapshot {
    /// Puts a section in its place.
    pub fn put(&mut self, section: Section) {
        match section {
            Section::Settings(settings) => self.settings = settings,
            Section::Listeners(listeners) => self.listeners = listeners,
            Section::Certificates(certificates) => self.certificates = certificates,
            Section::Routing(routing) => self.routing = routing,
        }
    }
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self { memory: 256 << 20, disk: 10 << 30, object_max: 64 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first edge wrote it.
    const OLD: &str = r#"{
        "settings": { "limits": { "connections": 7 }, "trusted_proxies": ["10.0.0.0/8"] },
        "listeners": { "http": ["127.0.0.1:80"], "https": [], "metrics": null },
        "routing": {
            "upstreams": [{ "id": "shop/master#r1", "replicas": ["127.0.0.1:1"], "drain": { "secs": 1, "nanos": 0 } }],
            "routes": [{ "host": "shop.test", "path": "/", "to": { "upstream": "shop/master#r1" }, "site": null }]
        }
    }"#;

    #[test]
    fn a_snapshot_without_what_came_later_has_the_defaults() {
        let snapshot: Snapshot = serde_json::from_str(OLD).unwrap();
        assert_eq!(snapshot.settings.limits, Limits { connections: 7, ..Limits::default() });
        assert_eq!(snapshot.settings.access_log, AccessLog::default());
        assert!(snapshot.listeners.proxied_http.is_empty() && snapshot.listeners.proxied_https.is_empty());
        assert_eq!(snapshot.routing.upstreams[0].protocol, Protocol::Http1);
        let route = &snapshot.routing.routes[0];
        assert_eq!((route.limits, route.compression.enabled), (Default::default(), true));
        assert!(route.hold.is_none() && route.replaced.is_empty());
    }
}
