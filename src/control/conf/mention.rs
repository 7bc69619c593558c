//! What conf names and does not hold: files, a repository on this machine, a user. And whether it is there.
//!
//! Kept by `sheet` while words are read, and looked at by `opri check`. The rule: nothing here is a fault. Conf is also
//! checked where it is not served, on a laptop or by a CI, and there secrets and users are rightly missing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::control::secret;
use crate::model::project::Secret;
use crate::report;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mention {
    /// A file with a secret. One in the environment is not looked for: who checks has another than who serves.
    Secret(PathBuf),
    /// A file with something that is no secret.
    File(PathBuf),
    /// A directory that git shall fetch from.
    Repository(PathBuf),
    User(String),
}

impl Mention {
    /// What is not as it must be where Prime serves, and a hint. Blocks on the file system.
    pub fn look(&self) -> Option<(String, String)> {
        match self {
            Mention::Secret(path) => secret(path),
            Mention::File(path) => Some((file(path)?, MUST_BE_THERE.to_owned())),
            Mention::Repository(path) => Some((repository(path)?, MUST_BE_THERE.to_owned())),
            Mention::User(name) => user(name),
        }
    }
}

fn secret(path: &Path) -> Option<(String, String)> {
    let error = secret::read(&Secret::File(path.to_owned())).err()?;
    Some((
        report::with_causes(&error),
        format!("{MUST_BE_THERE}; without it hooks are answered 503, and PURGE requests 405"),
    ))
}

fn file(path: &Path) -> Option<String> {
    // Asked first: opening a pipe would wait for its writer.
    let opened = fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => File::open(path).map(drop),
        false => Err(io::Error::other("it is not a regular file")),
    });
    opened.err().map(|error| format!("the file {} cannot be read: {error}", path.display()))
}

fn repository(path: &Path) -> Option<String> {
    // With a working tree, or bare.
    let is_repository = path.join(".git").exists() || (path.join("HEAD").is_file() && path.join("objects").is_dir());
    match path.is_dir() {
        true if is_repository => None,
        true => Some(format!("the directory {} is not a git repository", path.display())),
        false => Some(format!("the directory {} is not there", path.display())),
    }
}

/// By the C library, as `opri serve` looks it up.
fn user(name: &str) -> Option<(String, String)> {
    let (what, hint) = match nix::unistd::User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() || user.gid.as_raw() == 0 => {
            ("has root's user or group", "`opri serve` refuses it: name a user that is for the edge alone".to_owned())
        }
        Ok(Some(_)) => return None,
        Ok(None) => {
            let make = "useradd --system --no-create-home --shell /usr/sbin/nologin";
            ("is not a user of this machine", format!("where `opri serve` runs: `{make} {name}`"))
        }
        Err(_) => ("cannot be looked up", "`opri serve` does not start where it cannot".to_owned()),
    };
    Some((format!("`{name}` {what}"), hint))
}

const MUST_BE_THERE: &str = "it must be there, and readable, for the user that runs `opri serve`";
