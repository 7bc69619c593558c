//! What the edge's user may reach of the state directory: the sockets of apps, and two of control's. Nothing else.
//!
//! Called at the start, and whenever an edge is about to be started or was found running. The rule: root and the edge's
//! group pass the directories on the way, nobody lists or writes them, and whatever else is there stays closed. It is
//! set again each time, so a state directory of an earlier version or another user is as good as a new one.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use crate::link::paths;
use crate::model::machine::Machine;
use crate::model::user::User;

/// To be passed by the group, and no more.
const PASSED: u32 = 0o710;
/// As `PASSED`, and what is made in it belongs to its group as well (set-group-ID, inode(7)).
const PASSED_ON: u32 = 0o2710;
const CONNECTED: u32 = 0o660;

#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error(
        "`[edge] user` is \"{0}\", and this machine has no such user (hint: `useradd --system --no-create-home --shell \
         /usr/sbin/nologin {0}`)"
    )]
    NoUser(String),
    #[error(
        "`[edge] user` is \"{0}\", which has root's user or group (hint: name a user that is for the edge alone, as \
         \"opri-edge\")"
    )]
    Root(String),
    #[error("`[edge] user` is \"{0}\", which cannot be looked up: {1}")]
    Undecided(String, io::Error),
    #[error("where this program lies cannot be told: {0}")]
    NoBinary(io::Error),
    #[error("{path} cannot be opened to the edge's user: {error}")]
    Open { path: PathBuf, error: io::Error },
}

/// Where an edge lives, and who it is to be.
#[derive(Debug, Clone)]
pub struct Home {
    pub state_dir: PathBuf,
    /// `None`: who control is.
    pub user: Option<User>,
    /// The file that edges are started from, by the name that this control was started by: another may have it by now.
    pub binary: PathBuf,
}

impl Home {
    pub fn of(machine: &Machine) -> Result<Self, RightsError> {
        let user = match &machine.edge_user {
            Some(name) if geteuid().is_root() => Some(look_up(name)?),
            Some(name) => {
                tracing::warn!(
                    user = name,
                    "`[edge] user` has no effect: only root can start the edge as another user"
                );
                None
            }
            None => None,
        };
        let binary = binary().map_err(RightsError::NoBinary)?;
        Ok(Self { state_dir: machine.state_dir.clone(), user, binary })
    }

    /// Who the next edge will be.
    pub fn wanted(&self) -> User {
        self.user.unwrap_or_else(|| User { uid: geteuid().as_raw(), gid: getegid().as_raw() })
    }

    /// Lets an edge that runs as `user` reach what it needs.
    pub fn open_to(&self, user: User) -> Result<(), RightsError> {
        match geteuid().is_root() {
            true if user.uid == 0 => close_ways(&self.state_dir),
            true => open_ways(&self.state_dir, user.gid),
            // Who is not root has an edge that may do what it may do itself.
            false => Ok(()),
        }
    }
}

/// The name by which this program was started, also when another file goes by it now (proc_pid_exe(5)).
pub fn binary() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    Ok(text.map_or_else(|| path.clone(), PathBuf::from))
}

/// By the C library, so that users from LDAP and the like are found too.
fn look_up(name: &str) -> Result<User, RightsError> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) if user.uid.is_root() || user.gid.as_raw() == 0 => Err(RightsError::Root(name.to_owned())),
        Ok(Some(user)) => Ok(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => Err(RightsError::NoUser(name.to_owned())),
        Err(error) => Err(RightsError::Undecided(name.to_owned(), error.into())),
    }
}

fn open_ways(state_dir: &Path, group: u32) -> Result<(), RightsError> {
    let apps = paths::apps(state_dir);
    at(&apps, DirBuilder::new().recursive(true).mode(0o700).create(&apps))?;
    close_the_rest(state_dir)?;
    for nest in entries(&apps)?.into_iter().filter(|path| path.is_dir()) {
        let mode = at(&nest, nest.metadata())?.mode();
        give(&nest, group, mode & 0o777 | 0o010)?;
    }
    for socket in [paths::control_socket(state_dir), paths::metrics_socket(state_dir)] {
        if socket.exists() {
            give(&socket, group, CONNECTED)?;
        }
    }
    give(&apps, group, PASSED_ON)?;
    give(&paths::run(state_dir), group, PASSED)?;
    give(state_dir, group, PASSED)
}

/// Nobody but root passes, once the edge is root's again. A mode that we did not give is a person's, and stays.
fn close_ways(state_dir: &Path) -> Result<(), RightsError> {
    for dir in [state_dir.to_owned(), paths::run(state_dir), paths::apps(state_dir)] {
        match dir.metadata() {
            Ok(metadata) if metadata.gid() != 0 && metadata.mode() & 0o777 == PASSED => give(&dir, 0, 0o700)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return at(&dir, Err(error)),
        }
    }
    Ok(())
}

/// Whoever passes the state directory may open by its name what is not closed itself.
fn close_the_rest(state_dir: &Path) -> Result<(), RightsError> {
    let open = [paths::run(state_dir), paths::edge_dir(state_dir)];
    for path in entries(state_dir)?.into_iter().filter(|path| !open.contains(path)) {
        let metadata = at(&path, path.symlink_metadata())?;
        if !metadata.is_symlink() && metadata.mode() & 0o077 != 0 {
            at(&path, fs::set_permissions(&path, Permissions::from_mode(metadata.mode() & 0o700)))?;
        }
    }
    Ok(())
}

/// The group first: a change of it takes set-group-ID away.
fn give(path: &Path, group: u32, mode: u32) -> Result<(), RightsError> {
    let given = chown(path, None, Some(group)).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    at(path, given)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, RightsError> {
    let listed = fs::read_dir(dir).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    at(dir, listed)
}

fn at<T>(path: &Path, outcome: io::Result<T>) -> Result<T, RightsError> {
    outcome.map_err(|error| RightsError::Open { path: path.to_owned(), error })
}
