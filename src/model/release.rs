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

/// Which of a branch's releases can go: neither the active one, nor that before it, nor one of the `keep` newest others.
pub fn prunable(mut releases: Vec<Release>, active: Option<u64>, before: Option<u64>, keep: usize) -> Vec<Release> {
    releases.sort_by_key(|release| std::cmp::Reverse(release.number));
    let inactive = releases.into_iter().filter(|release| Some(release.number) != active);
    inactive.skip(keep).filter(|release| Some(release.number) != before).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(number: u64) -> Release {
        Release {
            site: "shop".parse().unwrap(),
            number,
            commit: "1".repeat(40).parse().unwrap(),
            artifact: Artifact::Image(String::new()),
            app: crate::model::app::AppWish::default().settle(),
            built_at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_serves_and_what_it_can_go_back_to_are_never_prunable() {
        let cases = [
            (Some(5), Some(4), 2, vec![2, 1]),
            (Some(5), Some(1), 2, vec![2]),
            (Some(5), None, 0, vec![4, 3, 2, 1]),
            (Some(5), Some(4), 0, vec![3, 2, 1]),
            (Some(1), Some(5), 1, vec![4, 3, 2]),
            (None, None, 4, vec![1]),
        ];
        for (active, before, keep, expected) in cases {
            let gone = prunable((1..=5).map(release).collect(), active, before, keep);
            let gone: Vec<u64> = gone.iter().map(|release| release.number).collect();
            assert_eq!(gone, expected, "{active:?} {before:?} {keep}");
        }
    }
}
