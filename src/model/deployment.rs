//! Deployments: one attempt each, with the stages it goes through and how it ended.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::name::{Commit, Site};
use super::push::Provider;

/// `shop/master#12`: the twelfth attempt on that branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId {
    pub site: Site,
    pub number: u64,
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.site, self.number)
    }
}

impl FromStr for DeploymentId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a deployment: <project>/<branch>#<number>");
        let (site, number) = text.rsplit_once('#').ok_or_else(wrong)?;
        Ok(Self { site: site.parse().map_err(|_| wrong())?, number: number.parse().map_err(|_| wrong())? })
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> String {
        id.to_string()
    }
}

/// Where a deployment is. Each is stored before its effects begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Queued,
    Fetching,
    Building,
    Starting,
    Gating,
    Swapping,
    Draining,
    Done,
}

impl Stage {
    pub const ALL: [Stage; 8] = [
        Stage::Queued,
        Stage::Fetching,
        Stage::Building,
        Stage::Starting,
        Stage::Gating,
        Stage::Swapping,
        Stage::Draining,
        Stage::Done,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Queued => "queued",
            Stage::Fetching => "fetching",
            Stage::Building => "building",
            Stage::Starting => "starting",
            Stage::Gating => "gating",
            Stage::Swapping => "swapping",
            Stage::Draining => "draining",
            Stage::Done => "done",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a deployment was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Hook {
        provider: Provider,
        delivery: String,
    },
    /// The branch's head was news to us: no hook had told it, or one that was lost.
    Reconcile,
    /// Somebody asked at a shell.
    Person,
    /// An older release again; skips Fetching and Building.
    Rollback {
        release: u64,
    },
    /// The release before again, by itself, because what served did badly in its first minutes.
    Automatic {
        release: u64,
        /// The release that did, and what it was made of.
        from: u64,
        from_commit: Commit,
        reason: String,
    },
}

impl Cause {
    /// The older release that is to serve again.
    pub fn brings_back(&self) -> Option<u64> {
        match self {
            Cause::Rollback { release } | Cause::Automatic { release, .. } => Some(*release),
            Cause::Hook { .. } | Cause::Reconcile | Cause::Person => None,
        }
    }
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its release serves, or served until a later one.
    Live { release: u64 },
    /// What served before still does.
    Failed { at: Stage, reason: String },
    /// A newer push came before this one was begun.
    Superseded { by: u64 },
    /// Somebody ended it before its swap; what served before still does.
    Cancelled { at: Stage, by: String },
}

impl Outcome {
    /// As the `outcome` label of `opri_deployments_total`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Live { .. } => "live",
            Outcome::Failed { .. } => "failed",
            Outcome::Superseded { .. } => "superseded",
            Outcome::Cancelled { .. } => "cancelled",
        }
    }
}

/// One attempt, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: DeploymentId,
    pub cause: Cause,
    /// `None`: the branch's head, which Fetching finds.
    pub commit: Option<Commit>,
    /// The release it makes, or brings back; known from Building on.
    pub release: Option<u64>,
    pub stage: Stage,
    pub outcome: Option<Outcome>,
    #[serde(with = "crate::model::instant")]
    pub accepted_at: SystemTime,
    #[serde(default, with = "crate::model::instant::option")]
    pub ended_at: Option<SystemTime>,
    /// From the decision until the edge served the new release.
    #[serde(default)]
    pub swap: Option<std::time::Duration>,
    /// How often control went away in the middle of it.
    #[serde(default)]
    pub interrupted: u32,
}

impl Deployment {
    /// A new attempt, waiting.
    pub fn queued(id: DeploymentId, cause: Cause, commit: Option<Commit>, now: SystemTime) -> Self {
        let release = cause.brings_back();
        Self {
            id,
            cause,
            commit,
            release,
            stage: Stage::Queued,
            outcome: None,
            accepted_at: now,
            ended_at: None,
            swap: None,
            interrupted: 0,
        }
    }

    /// What it did by itself, in words, where it serves because another release did badly.
    pub fn as_automatic(&self) -> Option<String> {
        let Cause::Automatic { release, from, from_commit, reason } = &self.cause else { return None };
        let is_live = matches!(self.outcome, None | Some(Outcome::Live { .. })) && self.stage >= Stage::Draining;
        is_live.then(|| format!("r{from} ({}) was rolled back to r{release} by itself: {reason}", from_commit.short()))
    }

    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }
}
