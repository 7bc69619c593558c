//! What the admin API and the command line say to each other: plain data, the same that `--json` prints.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::link::PurgeScope;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::machine::Listeners;
use crate::model::name::{Commit, Site};
use crate::report::Fault;

/// `opri status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub edge: EdgeStatus,
    pub runtime: String,
    pub state_dir: std::path::PathBuf,
    pub listeners: Listeners,
    pub hooks: String,
    pub dashboard: Option<String>,
    pub projects: usize,
    pub sites_serving: usize,
    /// What the last reload of conf found wrong.
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EdgeStatus {
    pub pid: u32,
    pub version: String,
    /// Whether this control found it running.
    pub was_adopted: bool,
}

/// One line of `opri list`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteLine {
    pub project: String,
    pub branch: String,
    pub release: Option<String>,
    pub commit: Option<Commit>,
    #[serde(default, with = "crate::model::instant::option")]
    pub since: Option<SystemTime>,
    /// Replicas that answer; `None` for a legacy upstream.
    pub replicas: Option<usize>,
    /// Over the last minute.
    pub requests_per_second: f64,
    /// Of those, the share answered with 500 and above, 0 to 1.
    pub errors: f64,
    pub cache_hits: f64,
    #[serde(default, with = "crate::model::instant::option")]
    pub certificate_ends: Option<SystemTime>,
    pub url: String,
    /// How the newest deployment stands, when it does not serve.
    pub deployment: Option<Deployment>,
}

/// One line of `opri releases`, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseLine {
    pub release: String,
    pub commit: Commit,
    #[serde(with = "crate::model::instant")]
    pub built_at: SystemTime,
    pub is_active: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployOrder {
    pub site: Site,
    pub commit: Option<Commit>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollbackOrder {
    pub site: Site,
    /// The one before the active one when not said.
    pub release: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordered {
    pub deployment: DeploymentId,
}

/// One line of the stream that follows a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Followed {
    Stage(Box<Deployment>),
    /// A line of the build's output.
    Log(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PurgeOrder {
    pub project: crate::model::name::ProjectName,
    pub scope: PurgeScope,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Purged {
    pub removed: u64,
}

/// What a reload did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether anything of the new conf holds.
    pub is_applied: bool,
    /// What changed, in words; `None` when nothing did.
    pub changes: Option<String>,
    pub faults: Vec<Fault>,
}

/// Why an order was not taken; the status says which kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// An address for people.
pub fn shown(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    texts.join(", ")
}
