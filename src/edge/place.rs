//! What an edge holds of its state directory: the lock, the socket that control comes to, a directory of its own.
//!
//! Taken by `mod.rs` before the edge gives up its rights, so that lock and socket stay out of reach of the user that it
//! becomes. The rule: whoever holds the lock is the one that writes snapshot and cache, and only control's user may connect.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchown, flock, fstat, open, openat,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{getegid, geteuid};
use tokio::net::UnixListener;

use super::EdgeError;
use crate::link::paths;
use crate::model::user::User;

/// Controls that may wait to be greeted; there is one.
const BACKLOG: i32 = 16;
/// Between two looks whether the edge before has let go of the lock.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Place {
    lock: File,
    /// Bound, and nobody can connect yet.
    socket: OwnedFd,
}

impl Place {
    /// Takes it for an edge that will be `user`, or stays who it is. One that starts `beside` another takes the lock later.
    pub fn take(state_dir: &Path, user: Option<User>, beside: bool) -> Result<Self, EdgeError> {
        let run = paths::run(state_dir);
        DirBuilder::new().recursive(true).mode(0o700).create(&run).map_err(wrong(&run))?;
        let lock = open_lock(state_dir)?;
        if !beside && !lock_now(&lock).map_err(wrong(&run))? {
            return Err(EdgeError::Taken(state_dir.to_owned()));
        }
        let own = paths::edge_dir(state_dir);
        make_own(state_dir, &own, user).map_err(wrong(&own))?;
        let cache = paths::cache(state_dir);
        if let Err(error) = make_cache(&cache, user) {
            tracing::warn!(path = %cache.display(), %error, "there is no place for a cache on disk");
        }
        let path = match beside {
            true => paths::edge_beside(state_dir, std::process::id()),
            false => paths::edge_socket(state_dir),
        };
        let socket = bind_anew(&path).map_err(wrong(&path))?;
        Ok(Self { lock, socket })
    }

    /// Returns when the lock is this edge's.
    pub async fn own(&self) {
        loop {
            match lock_now(&self.lock) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lock of the state directory cannot be taken"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Leaves the lock to the next edge.
    pub fn let_go(&self) {
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the state directory stays with this edge");
        }
    }

    /// Lets control connect from now on. Whoever listens is who the other end sees as its peer (unix(7), SO_PEERCRED),
    /// so this comes after the change of the user.
    pub fn listen(&self) -> io::Result<UnixListener> {
        listen(&self.socket, BACKLOG)?;
        UnixListener::from_std(self.socket.try_clone()?.into())
    }
}

fn wrong(path: &Path) -> impl Fn(io::Error) -> EdgeError {
    let path = path.to_owned();
    move |error| EdgeError::State { path: path.clone(), error }
}

fn open_lock(state_dir: &Path) -> Result<File, EdgeError> {
    let path = paths::run(state_dir).join("edge.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    file.map_err(wrong(&path))
}

/// Whether the lock is ours from now on, or was before.
fn lock_now(lock: &File) -> io::Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The socket for control, in place of one that an edge before left behind: the lock is ours, or our number is in its name.
fn bind_anew(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// The edge's own directory. Only root can give it to another user.
fn make_own(state_dir: &Path, own: &Path, user: Option<User>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(own) {
        Ok(()) => match std::fs::rename(paths::old_snapshot(state_dir), paths::snapshot(state_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    match geteuid().is_root() {
        true => give_to(own, user.unwrap_or(User { uid: 0, gid: 0 })),
        false => Ok(()),
    }
}

/// The directory of the cache. What another user left in it is not believed.
fn make_cache(dir: &Path, user: Option<User>) -> io::Result<()> {
    let is_root = geteuid().is_root();
    let own = User { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    let user = user.filter(|_| is_root).unwrap_or(own);
    match std::fs::symlink_metadata(dir) {
        Ok(metadata) if metadata.is_dir() && metadata.uid() == user.uid => return Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(dir)?,
        Ok(_) => std::fs::remove_file(dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().mode(0o700).create(dir)?;
    match is_root {
        true => std::os::unix::fs::chown(dir, Some(user.uid), Some(user.gid)),
        false => Ok(()),
    }
}

/// Gives a directory to a user, with the files in it that belong to who had it before. Not those of anybody else: a link
/// to a file of root's would make that file the user's.
fn give_to(dir: &Path, user: User) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    let dir = open(dir, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let before = fstat(&dir)?.st_uid;
    if before == user.uid {
        return Ok(());
    }
    for entry in Dir::read_from(&dir)? {
        let file = openat(&dir, entry?.file_name(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&file)?;
        if stat.st_uid == before && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
    }
    Ok(fchown(&dir, uid, gid)?)
}
