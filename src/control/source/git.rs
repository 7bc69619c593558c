//! What is asked of git: of a mirror, and of the repository that it mirrors.
//!
//! Used by `source` alone. The rule: nothing that came from outside stands where git reads options, a URL follows `--`,
//! and no transport is open that the repository's kind does not need.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::step::{self, Output, Step, run, succeeded};
use super::{Heads, SourceError};
use crate::model::name::{BranchName, Commit, ProjectName};
use crate::model::project::Repository;

/// A project's mirror.
#[derive(Debug, Clone)]
pub struct Git {
    home: PathBuf,
    mirror: PathBuf,
}

/// The mirror and the repository it mirrors.
pub struct Remote<'a> {
    git: &'a Git,
    repository: &'a Repository,
}

impl Git {
    pub fn new(home: &Path, project: &ProjectName) -> Self {
        Self { home: home.to_owned(), mirror: home.join(format!("{project}.git")) }
    }

    /// Makes the home of all mirrors where it is missing.
    pub fn remote<'a>(&'a self, repository: &'a Repository) -> Result<Remote<'a>, SourceError> {
        make_private_dir(&self.home).map_err(|error| SourceError::Mirror { path: self.home.clone(), error })?;
        Ok(Remote { git: self, repository })
    }

    pub fn exists(&self) -> bool {
        self.mirror.join("HEAD").is_file()
    }

    /// Makes the mirror ready to be fetched into. `like` says which hash the repository uses.
    pub async fn prepare(&self, like: &Commit) -> Result<(), SourceError> {
        if !self.exists() {
            let format = if like.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
            let mut arguments = words(&["init", "--quiet", "--bare", "--template=", format, "--"]);
            arguments.push(self.mirror.clone().into());
            // Not as a step on the mirror: it makes the directory it is given.
            succeeded(run(step::command(&self.home, &arguments), "init", QUICK).await?, "init")?;
        }
        self.tidy().map_err(|error| SourceError::Mirror { path: self.mirror.clone(), error })
    }

    /// Where the branch stood at the last fetch.
    pub async fn tip(&self, branch: &BranchName) -> Result<Commit, SourceError> {
        let reference = format!("{}^{{commit}}", reference(branch));
        let arguments = words(&["rev-parse", "--verify", "--quiet", "--end-of-options", &reference]);
        let stdout = self.demand(Step { name: "rev-parse", limit: QUICK, arguments }).await?;
        commit_of(&stdout, "rev-parse")
    }

    /// Whether the mirror holds this very commit (a tag's id is none).
    pub async fn has_commit(&self, commit: &Commit) -> Result<bool, SourceError> {
        let arguments = words(&["cat-file", "-t", commit.as_str()]);
        let output = self.run(Step { name: "cat-file", limit: QUICK, arguments }).await?;
        Ok(output.code == Some(0) && output.stdout == b"commit\n")
    }

    /// Whether the fetched branch holds the commit.
    pub async fn is_on_branch(&self, commit: &Commit, branch: &BranchName) -> Result<bool, SourceError> {
        if !self.has_commit(commit).await? {
            return Ok(false);
        }
        let reference = reference(branch);
        let arguments = words(&["merge-base", "--is-ancestor", commit.as_str(), &reference]);
        let output = self.run(Step { name: "merge-base", limit: SLOW, arguments }).await?;
        match output.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(SourceError::Git { step: "merge-base", why: output.why }),
        }
    }

    pub async fn is_ancestor(&self, older: &Commit, newer: &Commit) -> Result<bool, SourceError> {
        let arguments = words(&["merge-base", "--is-ancestor", older.as_str(), newer.as_str()]);
        Ok(self.run(Step { name: "merge-base", limit: SLOW, arguments }).await?.code == Some(0))
    }

    /// A regular file's content, at most `max` bytes.
    pub async fn file(&self, commit: &Commit, path: &str, max: usize) -> Result<Option<Vec<u8>>, SourceError> {
        let is_inside = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        if !is_inside {
            return Err(SourceError::Path(path.to_owned()));
        }
        let arguments = words(&["--literal-pathspecs", "ls-tree", "-z", "-l", commit.as_str(), "--", path]);
        let listed = self.demand(Step { name: "ls-tree", limit: QUICK, arguments }).await?;
        let listed = String::from_utf8_lossy(&listed);
        let mut fields = listed.split(['\t', ' ']).filter(|field| !field.is_empty());
        let (mode, kind, id, size) = (fields.next(), fields.next(), fields.next(), fields.next());
        let (Some("100644" | "100755"), Some("blob"), Some(id)) = (mode, kind, id) else { return Ok(None) };
        if size.and_then(|size| size.parse::<usize>().ok()).is_none_or(|size| size > max) {
            return Err(SourceError::TooLarge { path: path.to_owned() });
        }
        let arguments = words(&["cat-file", "blob", id]);
        self.demand(Step { name: "cat-file", limit: QUICK, arguments }).await.map(Some)
    }

    pub async fn prune(&self) -> Result<(), SourceError> {
        let arguments = words(&["-c", "gc.auto=6700", "gc", "--auto", "--quiet"]);
        self.demand(Step { name: "gc", limit: SLOW, arguments }).await.map(drop)
    }

    /// A command on the mirror that reaches no repository but the mirror.
    pub fn command(&self, arguments: &[OsString]) -> Command {
        let mut command = step::command(&self.home, arguments);
        command.env("GIT_DIR", &self.mirror).env("GIT_ALLOW_PROTOCOL", "none");
        command
    }

    async fn demand(&self, step: Step) -> Result<Vec<u8>, SourceError> {
        let name = step.name;
        succeeded(self.run(step).await?, name)
    }

    async fn run(&self, step: Step) -> Result<Output, SourceError> {
        run(self.command(&step.arguments), step.name, step.limit).await
    }

    /// Undoes what a killed git may have left, and what the repository's own attributes would do to an archive.
    fn tidy(&self) -> io::Result<()> {
        let heads = self.mirror.join("refs/opri/heads");
        let locks = ["config.lock", "packed-refs.lock", "HEAD.lock", "shallow.lock"].map(|lock| self.mirror.join(lock));
        let refs = entries(&heads)?.into_iter().filter(|path| path.extension() == Some(OsStr::new("lock")));
        let packs = entries(&self.mirror.join("objects/pack"))?;
        let packs = packs.into_iter().filter(|path| path.file_name().is_some_and(is_half_pack));
        for leftover in locks.into_iter().chain(refs).chain(packs) {
            match std::fs::remove_file(&leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
        }
        let attributes = self.mirror.join("info/attributes");
        if std::fs::read(&attributes).is_ok_and(|now| now == ATTRIBUTES) {
            return Ok(());
        }
        std::fs::create_dir_all(self.mirror.join("info"))?;
        std::fs::write(&attributes, ATTRIBUTES)
    }
}

impl Remote<'_> {
    /// What the branch points to in the repository.
    pub async fn head(&self, branch: &BranchName) -> Result<Commit, SourceError> {
        let name = format!("refs/heads/{branch}");
        let mut arguments = words(&["ls-remote", "--quiet", "--"]);
        arguments.extend([location(self.repository), name.clone().into()]);
        let stdout = self.ask(step::command(&self.git.home, &arguments), "ls-remote", REMOTE_QUICK).await?;
        // A pattern matches at the end of a ref's name too: take the very one.
        let listed = String::from_utf8_lossy(&stdout).into_owned();
        let id = listed.lines().filter_map(|line| line.split_once('\t')).find(|(_, listed)| *listed == name);
        let missing = || SourceError::NoBranch { branch: branch.clone(), repository: shown(self.repository) };
        commit_of(id.ok_or_else(missing)?.0.as_bytes(), "ls-remote")
    }

    /// Which branches a project would have here.
    pub async fn heads(&self) -> Result<Heads, SourceError> {
        let mut arguments = words(&["ls-remote", "--quiet", "--symref", "--"]);
        arguments.extend([location(self.repository), "HEAD".into()]);
        arguments.extend([BranchName::master(), BranchName::dev()].map(|name| format!("refs/heads/{name}").into()));
        let stdout = self.ask(step::command(&self.git.home, &arguments), "ls-remote", REMOTE_QUICK).await?;
        heads(&String::from_utf8_lossy(&stdout)).ok_or_else(|| SourceError::NoHead(shown(self.repository)))
    }

    /// Brings the branch with its history into the mirror; force-pushes are followed.
    pub async fn fetch(&self, branch: &BranchName) -> Result<(), SourceError> {
        let mut arguments =
            words(&["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--"]);
        let wanted = format!("+refs/heads/{branch}:{}", reference(branch));
        arguments.extend([location(self.repository), wanted.into()]);
        let mut command = step::command(&self.git.home, &arguments);
        command.env("GIT_DIR", &self.git.mirror);
        self.ask(command, "fetch", REMOTE_SLOW).await.map(drop)
    }

    async fn ask(&self, mut command: Command, step: &'static str, limit: Duration) -> Result<Vec<u8>, SourceError> {
        match self.repository {
            Repository::Url(_) => command.env("GIT_ALLOW_PROTOCOL", "https:ssh"),
            Repository::Directory(_) => {
                // Only a file can say it: for a local repository git clears what `-c` said before it looks at the
                // owner. Whose directory may be read is conf's word already.
                let trust = self.git.home.join("directories.gitconfig");
                let written = std::fs::write(&trust, "[safe]\n\tdirectory = *\n");
                written.map_err(|error| SourceError::Mirror { path: trust.clone(), error })?;
                command.env("GIT_ALLOW_PROTOCOL", "file").env("GIT_CONFIG_GLOBAL", trust)
            }
        };
        let output = run(command, step, limit).await?;
        let unreachable = |why| SourceError::Unreachable { repository: shown(self.repository), why };
        match output.code {
            Some(0) => Ok(output.stdout),
            _ => Err(unreachable(without_credentials(&output.why, self.repository))),
        }
    }
}

/// A repository as messages name it: without the user and password a URL may carry.
pub fn shown(repository: &Repository) -> String {
    without_credentials(&repository.location(), repository)
}

/// Reads lines `<commit>\t<ref>` and `ref: <ref>\tHEAD`, git-ls-remote(1).
fn heads(listed: &str) -> Option<Heads> {
    let lines = || listed.lines().filter_map(|line| line.split_once('\t'));
    let has = |branch: &BranchName| lines().any(|(_, name)| name.strip_prefix("refs/heads/") == Some(branch.as_str()));
    let head = || {
        let target = lines().find_map(|(target, name)| target.strip_prefix("ref: ").filter(|_| name == "HEAD"));
        target?.strip_prefix("refs/heads/")?.parse().ok()
    };
    let main = if has(&BranchName::master()) { BranchName::master() } else { head()? };
    Some(Heads { main, has_dev: has(&BranchName::dev()) })
}

fn commit_of(stdout: &[u8], step: &'static str) -> Result<Commit, SourceError> {
    let text = String::from_utf8_lossy(stdout);
    text.trim().parse().map_err(|_| SourceError::Git { step, why: "it did not answer with a commit id".to_owned() })
}

/// Branches lie side by side, `a+b` beside `a`: a ref `a` and a ref `a/b` cannot be in one repository.
fn reference(branch: &BranchName) -> String {
    format!("refs/opri/heads/{}", branch.as_component())
}

fn location(repository: &Repository) -> OsString {
    match repository {
        Repository::Url(url) => url.into(),
        Repository::Directory(path) => path.into(),
    }
}

fn without_credentials(text: &str, repository: &Repository) -> String {
    let location = repository.location();
    let authority = location.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    match authority.and_then(|authority| authority.rsplit_once('@')) {
        Some((secret, _)) if !secret.is_empty() => text.replace(&format!("{secret}@"), ""),
        _ => text.to_owned(),
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_half_pack(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"tmp_")
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// On the mirror's disk.
const QUICK: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_secs(10 * 60);
/// Over the network.
const REMOTE_QUICK: Duration = Duration::from_secs(60);
const REMOTE_SLOW: Duration = Duration::from_secs(15 * 60);
/// `export-ignore` and `export-subst` would leave out and rewrite files of an archive (gitattributes(5)).
const ATTRIBUTES: &[u8] = b"* -export-ignore -export-subst\n";
