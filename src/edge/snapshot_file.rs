//! The last good snapshot on disk: read at the start, written after every section.
//!
//! Called by `control_link`. The rule: the file is always a whole one, and no request waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::link::paths;
use crate::model::snapshot::Snapshot;

/// Reads it; an empty one when there is none, or none that can be used, which is said.
pub fn load(state_dir: &Path) -> Snapshot {
    let path = paths::snapshot(state_dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Snapshot::default(),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the last snapshot cannot be read; waiting for control");
            return Snapshot::default();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "the last snapshot is damaged; waiting for control");
        Snapshot::default()
    })
}

/// Writes every newer snapshot until the sender is gone; one that was overtaken is left out.
pub async fn keep(state_dir: PathBuf, mut snapshots: watch::Receiver<Snapshot>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        let state_dir = state_dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&state_dir, &snapshot)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the snapshot cannot be kept; a restart would serve the one before")
            }
            Err(error) => tracing::error!(%error, "the snapshot was not written"),
        }
    }
}

fn write(state_dir: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let path = paths::snapshot(state_dir);
    let aside = path.with_extension("json.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec(snapshot)?)?;
    file.sync_all()?;
    std::fs::rename(&aside, &path)?;
    File::open(paths::edge_dir(state_dir))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_survived() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(paths::edge_dir(directory.path())).unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.settings.cache.memory = 7;
        assert_eq!(load(directory.path()), Snapshot::default());
        write(directory.path(), &snapshot).unwrap();
        assert_eq!(load(directory.path()), snapshot);
        std::fs::write(paths::snapshot(directory.path()), b"{\"settings\":").unwrap();
        assert_eq!(load(directory.path()), Snapshot::default());
    }
}
