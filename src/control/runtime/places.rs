//! Where a runtime keeps things under the state directory: releases, logs, and a nest with the socket for each replica.
//!
//! Used within `runtime`. The rule: every path is made of checked names, and what others may not see is made private
//! before anything is put into it.

use std::fs::{DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::RuntimeError;
use super::replica::{Replica, ReplicaId};
use crate::link::paths;
use crate::model::address::SOCKET_PATH_MAX;
use crate::model::name::Site;

/// What a record's name ends with until it is whole.
pub const HALF: &str = "tmp";

#[derive(Debug, Clone)]
pub struct Places {
    state: PathBuf,
}

impl Places {
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned() }
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// `<project>/<branch>/r<N>` below.
    pub fn releases(&self) -> PathBuf {
        self.state.join("releases")
    }

    pub fn release(&self, site: &Site, number: u64) -> PathBuf {
        self.releases().join(site.project.as_str()).join(site.branch.as_component()).join(format!("r{number}"))
    }

    /// What the replicas of a release write.
    pub fn log(&self, site: &Site, number: u64) -> PathBuf {
        self.logs(site).join(format!("r{number}.log"))
    }

    pub fn build_log(&self, site: &Site, number: u64) -> PathBuf {
        self.logs(site).join(format!("r{number}.build.log"))
    }

    /// All nests and records, closed to everybody but the edge's group: whatever the modes within, nobody else comes
    /// through here.
    pub fn nests(&self) -> PathBuf {
        paths::apps(&self.state)
    }

    /// The directory of one replica's socket, which a container sees as `/run/opri`.
    pub fn nest(&self, id: &ReplicaId) -> PathBuf {
        self.nests().join(id.as_str())
    }

    pub fn socket(&self, id: &ReplicaId) -> PathBuf {
        self.nest(id).join("s")
    }

    pub fn record(&self, id: &ReplicaId) -> PathBuf {
        self.nests().join(format!("{id}.json"))
    }

    /// Makes a new replica's nest, in the group that `nests` has, which is the edge's. A container's user may be anybody,
    /// so its nest is open within the closed `nests`.
    pub fn make_nest(&self, mode: u32) -> Result<ReplicaId, RuntimeError> {
        make_private(&self.nests())?;
        let id = ReplicaId::random()?;
        let path = self.socket(&id);
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(RuntimeError::SocketPath { path });
        }
        let nest = self.nest(&id);
        let made = DirBuilder::new().mode(0o700).create(&nest);
        // A mode given at creation is cut by the umask.
        made.and_then(|()| std::fs::set_permissions(&nest, Permissions::from_mode(mode)))
            .map_err(|error| RuntimeError::at(nest, error))?;
        Ok(id)
    }

    /// Takes a replica's nest and record away, if they are there.
    pub fn remove_nest(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        // The record goes last: as long as it is there, somebody comes back for the rest.
        remove_tree(&self.nest(id))?;
        match std::fs::remove_file(self.record(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::at(self.record(id), error)),
            _ => Ok(()),
        }
    }

    /// Stores what identifies a replica: whole or not at all, for our eyes only.
    pub fn write_record(&self, replica: &Replica) -> Result<(), RuntimeError> {
        let (path, aside) = (self.record(&replica.id), self.nests().join(format!("{}.{HALF}", replica.id)));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(&serde_json::to_vec(replica)?)?;
            file.sync_all()?;
            crash_point!("replica.half-recorded");
            std::fs::rename(&aside, &path)
        };
        write().map_err(|error| RuntimeError::at(&path, error))
    }

    /// Lets every user connect to a replica's socket, once it is there. The app owns the nest and may put anything
    /// there at any moment, so what is looked at and what is changed are one and the same open handle.
    pub fn open_socket(&self, id: &ReplicaId) -> Result<bool, RuntimeError> {
        let path = self.socket(id);
        let handle = match rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(handle) => std::fs::File::from(handle),
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(error) => return Err(RuntimeError::at(path, error.into())),
        };
        let metadata = handle.metadata().map_err(|error| RuntimeError::at(&path, error))?;
        if !metadata.file_type().is_socket() || self.is_our_own(&metadata)? {
            return Err(RuntimeError::NotASocket { path });
        }
        // A handle opened by path only cannot be changed itself; its name in /proc leads to the same file.
        let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
        match std::fs::set_permissions(name, Permissions::from_mode(0o666)) {
            Ok(()) => Ok(true),
            // A container's user owns its socket, and we may not be root. Then it must be open already.
            Err(_) if metadata.permissions().mode() & 0o006 == 0o006 => Ok(true),
            Err(error) => Err(RuntimeError::at(path, error)),
        }
    }

    /// Whether it is one of Prime's own sockets under another name. The edge's user may write to the nest of a container,
    /// and where the system lets it link what is not its own (fs.protected_hardlinks), it could have the admin socket
    /// opened so.
    fn is_our_own(&self, metadata: &Metadata) -> Result<bool, RuntimeError> {
        let is_same = |path: &PathBuf| match path.symlink_metadata() {
            Ok(own) => Ok((own.dev(), own.ino()) == (metadata.dev(), metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(RuntimeError::at(path, error)),
        };
        let ours = entries(&paths::run(&self.state))?.iter().map(is_same).collect::<Result<Vec<_>, _>>()?;
        Ok(ours.contains(&true))
    }

    fn logs(&self, site: &Site) -> PathBuf {
        self.state.join("logs").join(site.project.as_str()).join(site.branch.as_component())
    }
}

/// A directory, with its parents, that only we can enter.
pub fn make_private(path: &Path) -> Result<(), RuntimeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| RuntimeError::at(path, error))
}

/// Removes a directory with all it holds, following no link; one that is not there is success.
pub fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::at(path, error)),
        _ => Ok(()),
    }
}

/// What lies in a directory; nothing when it is not there.
pub fn entries(path: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| RuntimeError::at(path, error)),
    }
}
