//! What an edge may do on its machine: as little as it needs.
//!
//! Called by `mod.rs` while the process has one thread and has read nothing yet. The rule: the kernel is asked afterwards
//! whether it holds, and an edge that kept a right does not start.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{Access, access};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, geteuid, getrlimit, set_dumpable_behavior,
};
use rustix::process::{getegid, getgroups, getuid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, no_new_privs, set_capabilities, set_no_new_privs};

use crate::link::paths;
use crate::model::user::User;

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};
const NO_CORE: Rlimit = Rlimit { current: Some(0), maximum: Some(0) };

#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    #[error("the edge cannot {what}: {error}")]
    Refused { what: String, error: io::Error },
    #[error("the edge has kept {0}, so it does not start")]
    Kept(&'static str),
    #[error(
        "the edge's user {user} may not pass {path}: {error} (hint: it has to reach the sockets below the state directory; \
         `chmod o+x` lets it pass)"
    )]
    Unreachable { user: User, path: PathBuf, error: io::Error },
}

/// Becomes `user` for good, where one is named. With `keeps_capabilities` a process stays able to bind low ports.
pub fn give_up(user: Option<User>, keeps_capabilities: bool) -> Result<(), RightsError> {
    if let Some(user) = user {
        change_to(user)?;
    }
    let needs_none = user.is_some() || !(keeps_capabilities || geteuid().is_root());
    if needs_none {
        set_capabilities(None, NO_CAPABILITIES).map_err(refused("give up its capabilities"))?;
    }
    // Whatever it may be made to execute gains nothing by that (prctl(2)).
    set_no_new_privs(true).map_err(refused("renounce new privileges"))?;
    // Its memory holds keys: no file, and no other process of its user, is to see it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("close its memory"))?;
    setrlimit(Resource::Core, NO_CORE).map_err(refused("forbid itself core dumps"))?;
    prove(user, needs_none)
}

/// The C library's calls, not the kernel's: those would change one thread alone.
fn change_to(user: User) -> Result<(), RightsError> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let changed = setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid));
    changed.map_err(|error| RightsError::Refused { what: format!("become the user {user}"), error: error.into() })
}

fn prove(user: Option<User>, has_no_capabilities: bool) -> Result<(), RightsError> {
    let look = refused("look at its own rights");
    if let Some(user) = user {
        let is_user = getuid().as_raw() == user.uid && geteuid().as_raw() == user.uid;
        let groups = getgroups().map_err(&look)?;
        kept(!is_user || geteuid().is_root(), "another user")?;
        kept(getegid().as_raw() != user.gid || !groups.is_empty(), "a group of another user")?;
        kept(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok(), "a way back to root")?;
    }
    if has_no_capabilities {
        kept(capabilities(None).map_err(&look)? != NO_CAPABILITIES, "a capability")?;
    }
    kept(!no_new_privs().map_err(&look)?, "the right to gain privileges")?;
    kept(dumpable_behavior().map_err(&look)? != DumpableBehavior::NotDumpable, "a memory that others may read")?;
    kept(getrlimit(Resource::Core) != NO_CORE, "the right to leave a core dump")
}

/// That the edge, as who it is by now, can reach the sockets of apps: asked at the start, since it would otherwise be the
/// visitors who find out.
pub fn reach(state_dir: &Path, user: User) -> Result<(), RightsError> {
    let apps = paths::apps(state_dir);
    let mut way: Vec<&Path> = apps.ancestors().collect();
    way.reverse();
    for path in way.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        let path = path.to_owned();
        let unreachable =
            |error: rustix::io::Errno| RightsError::Unreachable { user, error: error.into(), path: path.clone() };
        access(&path, Access::EXEC_OK).map_err(unreachable)?;
    }
    Ok(())
}

fn refused(what: &'static str) -> impl Fn(rustix::io::Errno) -> RightsError {
    move |error| RightsError::Refused { what: what.to_owned(), error: error.into() }
}

fn kept(is_kept: bool, what: &'static str) -> Result<(), RightsError> {
    if is_kept { Err(RightsError::Kept(what)) } else { Ok(()) }
}
