//! Releases: what can run, and what to roll back to.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::app::AppSpec;
use super::name::{Commit, Site};
use super::route::UpstreamId;

/// An immutable thing that can run, numbered per branch from 1. Code, environment and conf stay together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub site: Site,
    pub number: u64,
    pub commit: Commit,
    pub artifact: Artifact,
    pub app: AppSpec,
    #[serde(with = "crate::model::instant")]
    pub built_at: SystemTime,
}

/// What a runtime made of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Artifact {
    /// A container image by its id, `sha256:…`: a tag can be moved, an id cannot.
    Image(String),
    /// A directory with the built checkout.
    Directory(PathBuf),
}

impl Release {
    /// `r42`, as people write it.
    pub fn name(&self) -> String {
        format!("r{}", self.number)
    }

    /// The upstream that this release's replicas form.
    pub fn upstream(&self) -> UpstreamId {
        UpstreamId::of_release(&self.site, self.number)
    }
}

/// Which of a branch's releases to keep, newest first: the active one and the `keep` newest others. The rest is prunable.
pub fn prunable(mut releases: Vec<Release>, active: Option<u64>, keep: usize) -> Vec<Release> {
    releases.sort_by_key(|release| std::cmp::Reverse(release.number));
    let inactive = releases.into_iter().filter(|release| Some(release.number) != active);
    inactive.skip(keep).collect()
}
