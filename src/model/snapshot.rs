//! Everything the edge is told, by sections. A section is always whole: applying it twice is harmless, and one that was
//! lost is replaced by the next.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::certificate::CertificateFiles;
use super::machine::{CacheSizes, Limits, Listeners};
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
    /// Its sockets travel beside it, in the order http, https, metrics; see the link.
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
    /// How long requests in flight may go on once it is absent.
    pub drain: Duration,
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
        Self { memory: 256 << 20, disk: 0, object_max: 64 << 20 }
    }
}
