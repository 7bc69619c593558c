//! What an organisation hosts, as conf states it after checking.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::app::AppWish;
use super::cache::CachePolicy;
use super::compression::CompressionPolicy;
use super::host::HostPattern;
use super::name::{BranchName, ProjectName, Site};

/// One file of `conf/projects`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub name: ProjectName,
    pub origin: Origin,
    pub ci: Ci,
    /// Never empty; each with at least one host.
    pub branches: BTreeMap<BranchName, Branch>,
    pub app: AppWish,
    pub cache: CachePolicy,
    pub limits: SiteLimits,
    pub compression: CompressionPolicy,
    /// Whether plain HTTP is sent to HTTPS; `None`: when the host has a certificate that browsers trust.
    pub https_only: Option<bool>,
    pub hooks: ProjectHooks,
    /// What PURGE requests must show; without it there are none.
    pub purge_secret: Option<Secret>,
    /// Whether branches that no file names have hosts as well.
    pub previews: Option<Previews>,
}

/// A project's `[previews]`: a host for each branch that somebody pushes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previews {
    /// How many there may be. The one that was pushed to longest ago makes room for another.
    pub max: usize,
    /// How long one stays after the last push to it.
    pub ttl: Duration,
}

/// A project's `[hooks]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectHooks {
    /// What its webhooks are signed with, in place of the machine's.
    pub secret: Option<Secret>,
    /// What its CI and forge are asked with, in place of the machine's.
    pub token: Option<Secret>,
    /// The id that CI or forge know the repository by; without it the first accepted push says it.
    pub repository_id: Option<u64>,
}

/// One deployable line of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The first is canonical, the others redirect to it; wildcards are served as they are.
    pub hosts: Vec<HostPattern>,
    /// Whether no file names it: nobody is to find it by searching, and it is given nothing that conf keeps for others.
    pub is_preview: bool,
}

impl Branch {
    /// One that a file names.
    pub fn of(hosts: Vec<HostPattern>) -> Self {
        Self { hosts, is_preview: false }
    }
}

/// A project's `[limits]`, which hold for each of its sites by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteLimits {
    /// In place of the machine's, in bytes.
    pub body_max: Option<u64>,
    /// Requests per second.
    pub rate: Option<u32>,
    /// Requests per second of one client address.
    pub rate_per_address: Option<u32>,
}

/// Where a project's answers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built and run by Prime.
    Repository(Repository),
    /// Already running somewhere; only routed, cached and given certificates.
    Upstream(Vec<Address>),
}

/// A git repository. Comes from conf alone, never from a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// `https://` or `ssh://` (or `user@host:path`), as git takes it.
    Url(String),
    /// A directory on this machine, absolute.
    Directory(PathBuf),
}

impl Repository {
    /// What git is given.
    pub fn location(&self) -> String {
        match self {
            Repository::Url(url) => url.clone(),
            Repository::Directory(path) => path.display().to_string(),
        }
    }

    /// The last two segments without `.git`, as CIs and forges name a repository: `hasadna/Open-Knesset`. A directory
    /// has an owner's name as well: `/srv/git/hasadna/shop` is `hasadna/shop`. `None` when there are not two.
    pub fn slug(&self) -> Option<String> {
        let location = self.location();
        let path = location.trim_end_matches('/').trim_end_matches(".git");
        let path = path.split_once("://").map_or(path, |(_, rest)| rest);
        let mut segments = path.rsplit(['/', ':']).filter(|segment| !segment.is_empty());
        let (name, owner) = (segments.next()?, segments.next()?);
        Some(format!("{owner}/{name}"))
    }

    /// The host of a URL, in lower case and without its port; `None` for a directory.
    pub fn host(&self) -> Option<String> {
        let Repository::Url(url) = self else { return None };
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        host.split(':').next().filter(|host| !host.is_empty()).map(str::to_ascii_lowercase)
    }

    /// All of a URL's path without `.git`; of a directory what `slug` says.
    pub fn path(&self) -> Option<String> {
        let Repository::Url(url) = self else { return self.slug() };
        let path = match url.split_once("://") {
            Some((_, rest)) => rest.split_once('/')?.1,
            None => url.split_once(':')?.1,
        };
        Some(path.trim_matches('/').trim_end_matches(".git").to_owned())
    }

    /// Whether a CI or forge that says `name` means this repository: the last segments are the same, whatever their
    /// case, and there are two of them at least. Of a group in a group, as GitLab has them, all must be the same.
    pub fn is_called(&self, name: &str) -> bool {
        let location = self.location();
        let own = location.trim_end_matches('/').trim_end_matches(".git");
        let own = own.split_once("://").map_or(own, |(_, rest)| rest);
        let mut own = own.rsplit(['/', ':']).filter(|segment| !segment.is_empty());
        let said: Vec<&str> = name.rsplit('/').collect();
        said.len() >= 2 && said.iter().all(|said| own.next().is_some_and(|own| own.eq_ignore_ascii_case(said)))
    }
}

/// Whose word that a commit is good counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ci {
    Travis,
    Github,
    Gitlab,
    Gitea,
    Generic,
    /// Deploy on push, whatever any CI says.
    None,
}

/// Where a secret lies. Never inline, never in a log: only this is ever printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Secret {
    File(PathBuf),
    Env(String),
}

impl Project {
    pub fn sites(&self) -> impl Iterator<Item = (Site, &Branch)> {
        self.branches.iter().map(|(name, branch)| (Site::new(self.name.clone(), name.clone()), branch))
    }

    pub fn is_preview(&self, branch: &BranchName) -> bool {
        self.branches.get(branch).is_some_and(|branch| branch.is_preview)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_what_a_ci_calls_the_repository() {
        let slug = |url: &str| Repository::Url(url.to_owned()).slug();
        for url in [
            "https://github.com/hasadna/Open-Knesset",
            "https://github.com/hasadna/Open-Knesset.git",
            "git@github.com:hasadna/Open-Knesset.git",
            "ssh://git@github.com/hasadna/Open-Knesset/",
        ] {
            assert_eq!(slug(url).as_deref(), Some("hasadna/Open-Knesset"), "{url}");
        }
        let directory = Repository::Directory("/srv/git/hasadna/shop".into());
        assert_eq!(directory.slug().as_deref(), Some("hasadna/shop"));
    }

    #[test]
    fn a_url_has_a_host_and_a_path() {
        for (url, host, path) in [
            ("https://GitHub.com/hasadna/shop.git", "github.com", "hasadna/shop"),
            ("git@gitlab.com:hasadna/web/shop.git", "gitlab.com", "hasadna/web/shop"),
            ("ssh://git@git.example.org:2222/a/b/", "git.example.org", "a/b"),
            ("https://user:pass@git.example.org:8443/a/b", "git.example.org", "a/b"),
        ] {
            let repository = Repository::Url(url.to_owned());
            assert_eq!((repository.host().as_deref(), repository.path().as_deref()), (Some(host), Some(path)), "{url}");
        }
    }

    #[test]
    fn a_repository_is_known_by_its_whole_name() {
        let nested = Repository::Url("https://gitlab.com/hasadna/web/shop.git".to_owned());
        let is_called = |name: &str| nested.is_called(name);
        assert!(is_called("hasadna/web/shop") && is_called("Hasadna/Web/Shop") && is_called("web/shop"));
        let others =
            ["shop", "", "/", "web/", "/shop", "x/shop", "hasadna/shop", "evil/web/shop", "web/shop/", "web//shop"];
        for other in others {
            assert!(!is_called(other), "{other}");
        }
        assert!(!is_called("x/gitlab.com/hasadna/web/shop"));
    }
}
