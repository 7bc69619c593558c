//! Git: from a project's repository to the files of one commit.
//!
//! `deploy` calls it. One bare mirror a project at `<state>/git/<project>.git`, used by nobody else. The rule: a
//! repository and a branch come from conf, and a commit counts only after our own fetch showed it to be on its branch.

mod archive;
mod git;
mod step;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::name::{BranchName, Commit, ProjectName, Site};
use crate::model::project::Repository;

pub use archive::Archive;
use git::Git;

/// Why there is no source. Messages never hold a password out of a URL.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("git cannot be started: {0} (hint: install git and see that it is on PATH)")]
    NoGit(#[source] io::Error),
    #[error("cannot reach {repository}: {why} (hint: try `git ls-remote {repository}` as the user that runs opri)")]
    Unreachable { repository: String, why: String },
    #[error("there is no branch {branch} in {repository}")]
    NoBranch { branch: BranchName, repository: String },
    #[error("{0} has no branch master, and its HEAD names no other (hint: push a first commit to it)")]
    NoHead(String),
    #[error(
        "commit {} is not on branch {branch} of {repository} (hint: it may have been force-pushed away; deploy the head)",
        .commit.short()
    )]
    NotOnBranch { commit: Commit, branch: BranchName, repository: String },
    #[error("commit {} is not in the mirror of {project}: fetch it first", .commit.short())]
    NotFetched { commit: Commit, project: ProjectName },
    #[error("git {step} took longer than {} s and was stopped", .limit.as_secs())]
    TimedOut { step: &'static str, limit: Duration },
    #[error("{path} of the repository is larger than {FILE_MAX} bytes")]
    TooLarge { path: String },
    #[error("`{0}` is not a path inside a repository")]
    Path(String),
    #[error("git {step} failed: {why}")]
    Git { step: &'static str, why: String },
    #[error("cannot write the mirror {}: {error}", .path.display())]
    Mirror { path: PathBuf, error: io::Error },
}

/// What a repository has of the branches that a project has by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heads {
    /// `master`, or in its place the branch that the repository itself calls its first.
    pub main: BranchName,
    pub has_dev: bool,
}

/// All mirrors of one state directory.
#[derive(Debug, Clone)]
pub struct Source {
    git_dir: PathBuf,
    /// One permit a project: git writes a mirror from one process at a time.
    turns: Arc<Mutex<HashMap<ProjectName, Arc<Semaphore>>>>,
}

impl Source {
    /// Writes nothing yet.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { git_dir: state_dir.into().join("git"), turns: Arc::default() }
    }

    /// Where all mirrors lie.
    pub fn dir(&self) -> &Path {
        &self.git_dir
    }

    /// The commit that the branch points to now, asked of the repository itself.
    pub async fn head(
        &self,
        project: &ProjectName,
        repository: &Repository,
        branch: &BranchName,
    ) -> Result<Commit, SourceError> {
        self.git(project).remote(repository)?.head(branch).await
    }

    /// Whether the repository can be asked and has no such branch.
    pub async fn has_lost(&self, project: &ProjectName, repository: &Repository, branch: &BranchName) -> bool {
        matches!(self.head(project, repository, branch).await, Err(SourceError::NoBranch { .. }))
    }

    /// Which branches a project of this repository would have, asked of the repository itself.
    pub async fn heads(&self, project: &ProjectName, repository: &Repository) -> Result<Heads, SourceError> {
        self.git(project).remote(repository)?.heads().await
    }

    /// Brings the branch into the mirror. Gives `commit` after it has been seen on that branch, or the branch's head
    /// when no commit is named.
    pub async fn fetch(
        &self,
        project: &ProjectName,
        repository: &Repository,
        branch: &BranchName,
        commit: Option<&Commit>,
    ) -> Result<Commit, SourceError> {
        let _turn = self.turn(project).await;
        let git = self.git(project);
        let head = git.remote(repository)?.head(branch).await?;
        git.prepare(&head).await?;
        git.remote(repository)?.fetch(branch).await?;
        match commit {
            None => git.tip(branch).await,
            Some(commit) => match git.is_on_branch(commit, branch).await {
                Ok(true) => Ok(commit.clone()),
                Ok(false) => Err(SourceError::NotOnBranch {
                    commit: commit.clone(),
                    branch: branch.clone(),
                    repository: git::shown(repository),
                }),
                Err(error) => Err(error),
            },
        }
    }

    /// Where the branch stood at its last fetch.
    pub async fn tip(&self, site: &Site) -> Result<Commit, SourceError> {
        self.git(&site.project).tip(&site.branch).await
    }

    /// A file of a fetched commit, at most 1 MiB; `None` when there is no regular file of that name (a link is none).
    pub async fn file(
        &self,
        project: &ProjectName,
        commit: &Commit,
        path: &str,
    ) -> Result<Option<Vec<u8>>, SourceError> {
        let git = self.git(project);
        self.demand(&git, project, commit).await?;
        git.file(commit, path, FILE_MAX).await
    }

    /// All files of a fetched commit as a tar stream. Its end is an error when git failed or took too long.
    pub async fn archive(&self, project: &ProjectName, commit: &Commit) -> Result<Archive, SourceError> {
        let git = self.git(project);
        self.demand(&git, project, commit).await?;
        archive::start(git, commit)
    }

    /// Packs a mirror when git finds it worth the while, and drops what no branch has held for two weeks.
    pub async fn prune(&self, project: &ProjectName) -> Result<(), SourceError> {
        let _turn = self.turn(project).await;
        let git = self.git(project);
        if git.exists() { git.prune().await } else { Ok(()) }
    }

    /// Whether `newer` has `older` among its ancestors, as far as the mirror knows both.
    pub async fn contains(&self, site: &Site, newer: &Commit, older: &Commit) -> bool {
        self.git(&site.project).is_ancestor(older, newer).await.unwrap_or(false)
    }

    async fn demand(&self, git: &Git, project: &ProjectName, commit: &Commit) -> Result<(), SourceError> {
        match git.exists() && git.has_commit(commit).await? {
            true => Ok(()),
            false => Err(SourceError::NotFetched { commit: commit.clone(), project: project.clone() }),
        }
    }

    fn git(&self, project: &ProjectName) -> Git {
        Git::new(&self.git_dir, project)
    }

    async fn turn(&self, project: &ProjectName) -> Option<OwnedSemaphorePermit> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            turns.entry(project.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        // `None` only for a closed semaphore, and nobody closes these.
        turn.acquire_owned().await.ok()
    }
}

/// What is read of a single file: manifests are small.
const FILE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests;
