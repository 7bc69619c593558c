//! What the admin API and the command line say to each other: plain data, the same that `--json` prints.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::control::observe::DiskUse;
use crate::link::Unwell;
use crate::link::why::{Question, Verdict};
use crate::model::address::Address;
use crate::model::certificate::Issuer;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::hold::{Held, Hold};
use crate::model::machine::Listeners;
use crate::model::name::{BranchName, Commit, ProjectName, Site};
use crate::report::Fault;

/// `opri status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Which file it was started from.
    #[serde(default)]
    pub binary: Option<String>,
    pub edge: EdgeStatus,
    pub runtime: String,
    pub state_dir: std::path::PathBuf,
    pub listeners: Listeners,
    pub hooks: String,
    pub dashboard: Option<String>,
    pub projects: usize,
    pub sites_serving: usize,
    /// Replicas that do not answer their health check as they should.
    #[serde(default)]
    pub unwell: Vec<Unwell>,
    /// Branches whose head is not what serves and cannot be judged, and why.
    #[serde(default)]
    pub unjudged: BTreeMap<Site, String>,
    /// Of the whole machine.
    #[serde(default)]
    pub disk: DiskUse,
    /// Sites that are paused or in maintenance.
    #[serde(default)]
    pub held: Vec<Held>,
    /// Sites whose newest release did badly, and what became of that.
    #[serde(default)]
    pub rolled_back: BTreeMap<Site, String>,
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

/// `opri upgrade`: what serves now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgraded {
    /// The edge before, which finishes what it began.
    pub before: u32,
    pub edge: EdgeStatus,
    /// Which file would be started now, when it is not the one that control was started from.
    pub newer: Option<String>,
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
    /// Those of them, or of the upstream's addresses, that do not answer their health check as they should.
    #[serde(default)]
    pub unwell: Vec<Address>,
    /// Over the last minute.
    pub requests_per_second: f64,
    /// Of those, the share answered with 500 and above, 0 to 1.
    pub errors: f64,
    pub cache_hits: f64,
    #[serde(default, with = "crate::model::instant::option")]
    pub certificate_ends: Option<SystemTime>,
    pub url: String,
    /// What stands before its app.
    #[serde(default)]
    pub held: Option<Held>,
    /// How the newest deployment stands, when it does not serve, or does so by itself.
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

/// Asks for a repository before there is a project of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LookOrder {
    pub project: ProjectName,
    /// As it would stand in the project's file.
    pub repository: String,
}

/// What a project of a repository would have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// `master`, or the branch that takes its place.
    pub main: BranchName,
    pub has_dev: bool,
    /// Where `main` lives by default when it is master.
    pub host: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeployOrder {
    pub site: Site,
    pub commit: Option<Commit>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelOrder {
    pub site: Site,
    /// The name of whoever asks, for people.
    pub by: String,
}

/// What was told to end; how it does, its progress says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cancelled {
    pub deployments: Vec<DeploymentId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollbackOrder {
    pub site: Site,
    /// The one before the active one when not said.
    pub release: Option<u64>,
}

/// `opri pause`, `maintenance`, and with nothing `resume`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldOrder {
    pub site: Site,
    pub hold: Option<Hold>,
}

/// What stands before a site's app now, and what did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WasHeld {
    pub hold: Option<Hold>,
    pub before: Option<Hold>,
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

/// What would come of a request, and by what it would.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    pub question: Question,
    /// `None` where nothing of ours was deployed.
    pub release: Option<ServingRelease>,
    /// What stands before its app.
    #[serde(default)]
    pub held: Option<Held>,
    /// Replicas of the upstream that do not answer their health check as they should.
    pub unwell: Vec<Address>,
    /// The one for the host.
    pub certificate: Option<HostCertificate>,
    /// The edge's word.
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServingRelease {
    pub name: String,
    pub commit: Commit,
    #[serde(with = "crate::model::instant")]
    pub since: SystemTime,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostCertificate {
    pub issuer: Issuer,
    #[serde(with = "crate::model::instant")]
    pub ends: SystemTime,
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

/// Which lines of the access log are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessQuery {
    /// How many of the last; all when not said.
    pub lines: Option<usize>,
    /// Whether to go on while more come.
    pub follow: bool,
    pub site: Option<Site>,
    pub status: Option<Statuses>,
    /// How the target begins.
    pub path: Option<String>,
    pub client: Option<IpNet>,
    /// Milliseconds that a request took at the least.
    pub slow: Option<u64>,
    /// Milliseconds that it may be over for.
    pub since: Option<u64>,
}

impl AccessQuery {
    /// As the query of a URL.
    pub fn to_url(&self) -> String {
        let mut url = form_urlencoded::Serializer::new(String::new());
        let mut pair = |name, value: Option<String>| {
            if let Some(value) = value {
                url.append_pair(name, &value);
            }
        };
        pair("lines", self.lines.map(|lines| lines.to_string()));
        pair("follow", Some(self.follow.to_string()));
        pair("site", self.site.as_ref().map(Site::to_string));
        pair("status", self.status.map(String::from));
        pair("path", self.path.clone());
        pair("client", self.client.map(|net| net.to_string()));
        pair("slow", self.slow.map(|slow| slow.to_string()));
        pair("since", self.since.map(|since| since.to_string()));
        url.finish()
    }
}

/// A range of HTTP statuses: `404`, `5xx` or `500-599`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Statuses {
    pub from: u16,
    pub to: u16,
}

impl FromStr for Statuses {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| text.parse().ok().filter(|status| is_number(text) && (100..1000).contains(status));
        let range = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => number(&format!("{class}00")).map(|from| (from, from + 99)),
            (None, Some((from, to))) => number(from).zip(number(to)),
            (None, None) => number(text).map(|status| (status, status)),
        };
        let range = range.filter(|(from, to)| from <= to).map(|(from, to)| Self { from, to });
        range.ok_or_else(|| format!("`{text}` is no status: give 404, 5xx or 500-599"))
    }
}

impl TryFrom<String> for Statuses {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Statuses> for String {
    fn from(statuses: Statuses) -> String {
        format!("{}-{}", statuses.from, statuses.to)
    }
}

/// One line of the access log, as the edge writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessLine<'a> {
    /// When the request was over: RFC 3339 in UTC with milliseconds, so that texts are in the order of time.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    #[serde(borrow)]
    pub client: Cow<'a, str>,
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    #[serde(borrow)]
    pub scheme: Cow<'a, str>,
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    #[serde(borrow)]
    pub target: Cow<'a, str>,
    #[serde(borrow)]
    pub protocol: Cow<'a, str>,
    /// 499: the client left before it was answered.
    pub status: u16,
    pub ms: f64,
    pub sent: u64,
    pub received: u64,
    pub site: Option<String>,
    pub cache: Option<String>,
    pub upstream: Option<String>,
    pub id: String,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_a_class_or_a_range() {
        let range = |text: &str| text.parse::<Statuses>().map(|statuses| (statuses.from, statuses.to)).ok();
        assert_eq!(range("404"), Some((404, 404)));
        assert_eq!(range("5xx"), Some((500, 599)));
        assert_eq!(range("400-499"), Some((400, 499)));
        for wrong in ["", "x", "xx", "55xx", "99", "1000", "500-400", "404-", "-404", "+404"] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
