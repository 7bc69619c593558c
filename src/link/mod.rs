//! Floor 1: what the two planes say to each other, and how it travels.
//!
//! The edge listens on a Unix socket in a 0700 directory and outlives control; control connects, and the newest
//! connection is the one that is obeyed. Messages are JSON lines, so that an older edge and a newer control understand
//! each other: a message that one of them does not know reads as `Unknown` and is passed over.

pub mod keys;
pub mod why;
mod wire;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::address::Address;
use crate::model::machine::Listeners;
use crate::model::name::{BranchName, ProjectName, Site};
use crate::model::route::UpstreamId;
use crate::model::snapshot::{Section, SectionKind};

use why::{Question, Verdict};

pub use wire::{LinkError, Message, Receiver, Sender, split};

/// Counts what control has said, over all sections and all controls: a later section has a higher one.
pub type Generation = u64;

/// From control to the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Down {
    /// Makes this section what holds. Answered by `Applied`.
    ///
    /// With a `Listeners` section travel the listening sockets themselves, one for each address in the order http,
    /// https, metrics, but for those addresses that the edge's `Hello` named already. With a `Certificates` section
    /// travels one descriptor (see `keys`) with those pairs that this connection did not carry yet; the edge reads files
    /// for what it neither has nor was sent.
    Section { generation: Generation, section: Section },
    /// Makes stored responses unreachable, or stale. Answered by `Purged` when no request that starts later can see one, or
    /// see it as fresh.
    Purge { token: u64, purge: Purge },
    /// A release does not come back: what is stored of it is of no more use. Not answered.
    Forget { upstream: UpstreamId },
    /// Asks what would come of a request. Answered by `Why`, by an edge that knows the question.
    Why { token: u64, question: Question },
    /// Ends the edge: it stops accepting, lets requests finish for this long, and obeys meanwhile; then it exits. With a
    /// successor it lets go of what one edge alone may write, and hurries nobody who is silent.
    Stop {
        within: Duration,
        #[serde(default)]
        has_successor: bool,
    },
    #[serde(other)]
    Unknown,
}

/// From the edge to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Up {
    /// The first message of a connection. With it travel its listening sockets, in the order http, https, metrics: a
    /// control that did not bind them can hand them to the edge that comes after this one.
    Hello {
        version: String,
        pid: u32,
        /// The highest generation it has seen; control goes on from there.
        generation: Generation,
        /// What it listens on already.
        listeners: Listeners,
        /// Which file it was started from, as `binary` tells it; `None` where nobody knows.
        #[serde(default)]
        binary: Option<String>,
        /// Whether it was told to stop before.
        #[serde(default)]
        is_stopping: bool,
    },
    /// The section holds for every request that starts later, or, with a fault, the one before it still does.
    Applied {
        generation: Generation,
        kind: SectionKind,
        fault: Option<String>,
    },
    /// All upstreams that are draining now. Said at the start of a connection, at every change, and before the `Applied`
    /// of the routing that begins a drain: an upstream that is neither routed nor here is drained.
    Draining {
        upstreams: Vec<UpstreamId>,
        /// Their replicas: a release that is routed anew has others, and these drain beside them.
        #[serde(default)]
        addresses: Vec<Address>,
    },
    /// One upstream has drained; `cut` requests were still running when their time was over.
    Drained {
        upstream: UpstreamId,
        #[serde(default)]
        addresses: Vec<Address>,
        cut: u64,
    },
    Purged {
        token: u64,
    },
    Why {
        token: u64,
        verdict: Verdict,
    },
    /// Counters since the edge began, once a second when they changed.
    Traffic {
        sites: Vec<SiteTraffic>,
        #[serde(default)]
        upstreams: Vec<UpstreamTraffic>,
    },
    /// All routed replicas that do not answer their health check as they should. Said at the start of a connection, at every
    /// change, and before the `Applied` of a routing that has no place for one of them any more.
    Unwell {
        replicas: Vec<Unwell>,
    },
    #[serde(other)]
    Unknown,
}

/// What to purge of a project. It holds for every release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    pub project: ProjectName,
    /// All of them when not said.
    #[serde(default)]
    pub branch: Option<BranchName>,
    pub scope: PurgeScope,
    /// Whether what is stored only becomes stale, to be shown where a stale response may be.
    #[serde(default)]
    pub is_soft: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PurgeScope {
    All,
    /// A path with its query, or a whole URL.
    Url(String),
    /// Every path that begins so.
    Prefix(String),
    /// Whatever its app has given this tag, in `Surrogate-Key` or `Cache-Tag`.
    Tag(String),
}

/// A replica that has no requests while another of its upstream is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwell {
    pub upstream: UpstreamId,
    pub address: Address,
    /// It has answered neither a health check nor a request for half a minute, whatever the answer.
    pub is_stuck: bool,
}

/// What one site has answered since the edge began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteTraffic {
    pub site: Site,
    pub requests: u64,
    /// Answers with a status of 500 and above.
    pub errors: u64,
    pub cache_hits: u64,
    pub in_flight: u64,
}

/// What the app behind a routed upstream has made of requests since that is routed; what the edge answered by itself is not
/// in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTraffic {
    pub upstream: UpstreamId,
    pub answers: u64,
    /// Those with a status of 500 and above, and requests that it broke off or let wait too long.
    pub errors: u64,
}

/// Which file a program was started from, or would be: device and inode, which no two files have at a time.
pub fn binary(path: &Path) -> Option<String> {
    let file = std::fs::metadata(path).ok()?;
    Some(format!("{}:{}", file.dev(), file.ino()))
}

/// The file of this process, by whatever name it goes by now.
pub fn own_binary() -> Option<String> {
    binary(Path::new("/proc/self/exe"))
}

/// Places in the state directory that both planes must know.
pub mod paths {
    use std::path::{Path, PathBuf};

    /// All sockets.
    pub fn run(state_dir: &Path) -> PathBuf {
        state_dir.join("run")
    }

    /// The directories with the sockets of apps.
    pub fn apps(state_dir: &Path) -> PathBuf {
        state_dir.join("run/a")
    }

    /// The edge's own: the one place where it writes, but for its cache.
    pub fn edge_dir(state_dir: &Path) -> PathBuf {
        state_dir.join("edge")
    }

    /// What the edge has stored: its own as well.
    pub fn cache(state_dir: &Path) -> PathBuf {
        state_dir.join("cache")
    }

    /// Where the edge listens for control. Mode 0600.
    pub fn edge_socket(state_dir: &Path) -> PathBuf {
        state_dir.join("run/edge.sock")
    }

    /// Where an edge listens for control that is not the one that serves: its successor to be, or one that finishes what it
    /// began.
    pub fn edge_beside(state_dir: &Path, pid: u32) -> PathBuf {
        state_dir.join(format!("run/edge.{pid}.sock"))
    }

    /// All of those that there are.
    pub fn edges_beside(state_dir: &Path) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let pid = name.strip_prefix("edge.").and_then(|rest| rest.strip_suffix(".sock"));
            pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
        };
        let entries = std::fs::read_dir(run(state_dir)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(is_one).collect()
    }

    /// Where control answers hooks, challenges and the dashboard for the edge: an upstream like any other.
    pub fn control_socket(state_dir: &Path) -> PathBuf {
        state_dir.join("run/control.sock")
    }

    /// Where control shows its metrics to the edge, which shows both planes' to Prometheus.
    pub fn metrics_socket(state_dir: &Path) -> PathBuf {
        state_dir.join("run/metrics.sock")
    }

    /// Where control answers the command line. Mode 0600.
    pub fn admin_socket(state_dir: &Path) -> PathBuf {
        state_dir.join("run/admin.sock")
    }

    /// Where the edge writes a line for each request, and control reads them. Mode 0600.
    pub fn access_log(state_dir: &Path) -> PathBuf {
        state_dir.join("edge/access.log")
    }

    /// The old files of a log, by age: 1 is the newest.
    pub fn rotated(log: &Path, number: u32) -> PathBuf {
        let mut path = log.as_os_str().to_owned();
        path.push(format!(".{number}"));
        path.into()
    }

    /// The last good snapshot, written by the edge.
    pub fn snapshot(state_dir: &Path) -> PathBuf {
        state_dir.join("edge/edge.json")
    }

    /// Where it lay before the edge had a directory of its own.
    pub fn old_snapshot(state_dir: &Path) -> PathBuf {
        state_dir.join("edge.json")
    }
}
