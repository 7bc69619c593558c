//! A push: what a webhook says happened, after its signature held.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::{BranchName, Commit, ProjectName, Site};

/// How long a delivery is remembered, to know it when it comes again. No CI sends one again after this.
pub const DELIVERIES_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// The CI, or forge, that speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    Travis,
    Github,
    Gitlab,
    Gitea,
    Generic,
}

impl Provider {
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Travis => "travis",
            Provider::Github => "github",
            Provider::Gitlab => "gitlab",
            Provider::Gitea => "gitea",
            Provider::Generic => "generic",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An accepted delivery. A hint all the same: that the commit is on the branch is for our own fetch to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    pub provider: Provider,
    /// Tells one delivery from another, and a repeated one as the same: the provider's id, or what identifies the build.
    pub delivery: String,
    pub project: ProjectName,
    pub branch: BranchName,
    pub commit: Commit,
    /// The CI's build number, where it counts builds: a lower one than the last accepted is stale.
    pub number: Option<u64>,
    /// The forge's or CI's own id of the repository, to be pinned at the first accepted push.
    pub repository_id: Option<u64>,
}

impl Push {
    pub fn site(&self) -> Site {
        Site::new(self.project.clone(), self.branch.clone())
    }
}
