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
        UpstreamId(format!("{}#r{}", self.site, self.number))
    }
}

/// Which of a branch's releases to keep: the active one, the one before it, to which a rollback goes, and the newest others,
/// `keep` beside the active one in all. The rest is prunable.
pub fn prunable(mut releases: Vec<Release>, active: Option<u64>, keep: usize) -> Vec<Release> {
    releases.sort_by_key(|release| std::cmp::Reverse(release.number));
    let before = |release: &Release| active.is_some_and(|active| release.number < active);
    let previous = releases.iter().find(|release| before(release)).map(|release| release.number);
    releases.sort_by_key(|release| Some(release.number) != previous);
    let inactive = releases.into_iter().filter(|release| Some(release.number) != active);
    inactive.skip(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::AppWish;

    #[test]
    fn the_release_that_a_rollback_goes_to_is_kept_before_newer_ones() {
        let release = |number| Release {
            site: "shop".parse().unwrap(),
            number,
            commit: "0123456789012345678901234567890123456789".parse().unwrap(),
            artifact: Artifact::Image(number.to_string()),
            app: AppWish::default().settle(),
            built_at: SystemTime::UNIX_EPOCH,
        };
        let pruned = |active, keep| {
            let gone = prunable((1..=6).map(release).collect(), active, keep);
            gone.iter().map(|release| release.number).collect::<Vec<_>>()
        };
        assert_eq!(pruned(Some(6), 2), [3, 2, 1]);
        assert_eq!(pruned(Some(3), 2), [5, 4, 1], "the one before, and the newest other");
        assert_eq!(pruned(Some(3), 1), [6, 5, 4, 1]);
        assert_eq!(pruned(Some(1), 1), [5, 4, 3, 2]);
        assert_eq!(pruned(None, 4), [2, 1]);
        assert_eq!(pruned(Some(6), 0), [5, 4, 3, 2, 1]);
    }
}
