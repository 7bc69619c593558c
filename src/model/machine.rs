//! The machine, as `conf/prime.toml` states it after checking.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::host::HostName;
use super::project::Secret;
use super::push::Provider;

/// `conf/prime.toml`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub domain: HostName,
    pub state_dir: PathBuf,
    pub certs_dir: PathBuf,
    pub runtime: RuntimeChoice,
    pub listeners: Listeners,
    pub acme: Option<Acme>,
    pub hooks: Hooks,
    /// Where the dashboard answers; none by default.
    pub dashboard: Option<HostName>,
    pub cache: CacheSizes,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub limits: Limits,
    pub access_log: AccessLog,
    /// Whom the edge becomes when Prime is started by root.
    pub edge_user: Option<String>,
    pub build: BuildLimits,
    /// Releases kept per branch beside the active one.
    pub keep_releases: usize,
    /// Bytes: with less room on the disk of the state directory, releases are removed that would be kept.
    pub keep_free: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeChoice {
    Docker,
    Process,
    /// Docker when its socket answers.
    Auto,
}

/// The addresses the edge listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// Whose connections begin with a PROXY header, from a trusted proxy alone.
    #[serde(default)]
    pub proxied_http: Vec<SocketAddr>,
    #[serde(default)]
    pub proxied_https: Vec<SocketAddr>,
}

impl Listeners {
    /// Whether visitors can come by HTTPS.
    pub fn has_https(&self) -> bool {
        !self.https.is_empty() || !self.proxied_https.is_empty()
    }
}

/// `[acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    pub email: Option<String>,
    /// Directory URLs, in the order to fall back.
    pub directories: Vec<String>,
    /// An extra root to trust when talking to the directory, PEM.
    pub root: Option<PathBuf>,
    pub challenges: Vec<Challenge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Challenge {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// `[hooks]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    pub host: HostName,
    pub travis: TravisKey,
    /// What webhooks are signed with, where a project has no secret of its own. None for Travis, which has a key.
    pub secrets: BTreeMap<Provider, Secret>,
    /// Where a CI or forge is asked and told.
    pub apis: BTreeMap<Provider, Api>,
    /// Between two looks at the heads of branches, for hooks that were lost.
    pub reconcile: Duration,
}

/// The API of a CI or forge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Api {
    /// Without a slash at its end; `None`: where the repository's host usually has it.
    pub base: Option<String>,
    /// For projects without one of their own.
    pub token: Option<Secret>,
}

/// Where Travis' public key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TravisKey {
    /// Fetched from this URL's JSON, `config.notifications.webhook.public_key`, and kept.
    ConfigUrl(String),
    /// Pinned: a PEM file.
    PublicKey(PathBuf),
}

/// `[cache]` of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSizes {
    pub memory: u64,
    /// 0 for none.
    pub disk: u64,
    pub object_max: u64,
}

/// `[limits]`: what one client may take, and how long anything may wait. The reference conf says why for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// From the first byte of a request head to its last.
    pub header_timeout: Duration,
    pub header_bytes: u64,
    pub headers: u32,
    pub handshake_timeout: Duration,
    /// Between two requests of one connection.
    pub keepalive_timeout: Duration,
    pub keepalive_requests: u32,
    /// Between two reads of a request body.
    pub body_timeout: Duration,
    pub body_max: u64,
    /// Bytes per second of a request body, on average once it has had its first seconds; 0 for any.
    pub body_rate: u64,
    /// Between two writes to a client that reads slowly.
    pub write_timeout: Duration,
    /// Bytes per second that a client takes of what waits for it, likewise.
    pub write_rate: u64,
    pub upstream_connect_timeout: Duration,
    /// Until an app's response head, and between two parts of its body.
    pub upstream_timeout: Duration,
    pub connections: u32,
    pub connections_per_address: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            header_timeout: seconds(10),
            header_bytes: 32 << 10,
            headers: 100,
            handshake_timeout: seconds(10),
            keepalive_timeout: seconds(60),
            keepalive_requests: 1000,
            body_timeout: seconds(30),
            body_max: 100 << 20,
            body_rate: 1 << 10,
            write_timeout: seconds(30),
            write_rate: 1 << 10,
            upstream_connect_timeout: seconds(5),
            upstream_timeout: seconds(60),
            connections: 10_000,
            connections_per_address: 256,
        }
    }
}

/// `[log]`: the access log, a line for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLog {
    pub enabled: bool,
    /// Bytes, after which a new file is begun.
    pub size: u64,
    /// Full files kept beside the one that is written.
    pub keep: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { enabled: true, size: 64 << 20, keep: 5 }
    }
}

/// `[build]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BuildLimits {
    pub parallel: usize,
    pub timeout: Duration,
    /// Bytes.
    pub memory: u64,
    /// In the engine alone: a plain process has the lowest priority instead.
    pub cpus: f64,
    /// Processes at once.
    pub pids: u32,
}

impl Eq for BuildLimits {}
