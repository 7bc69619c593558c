//! Releases as plain processes of this machine, where there is no Docker engine: for the demo, laptops and small hosts.
//!
//! Called through `Runtime`. The rule: an app outlives control. It writes to its log by a descriptor of its own, and a
//! record on disk, written before the app's first instruction, says which process it is.

mod build;
mod kin;
mod launch;
mod running;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::RuntimeError;
use super::log::{follow_file, rotate, tail_file};
use super::places::{self, Places, make_private, remove_tree};
use super::replica::{Exit, Replica, ReplicaId, What};
use super::{BuildLog, BuildOrder, ByteStream, Environment, Task};
use crate::model::release::{Artifact, Release};

use kin::Leader;
use launch::shell;
use running::Running;

/// The process runtime of one state directory.
#[derive(Debug, Clone)]
pub struct Process {
    places: Places,
    /// How the children of this control ended, or `None` while they run.
    children: Arc<Mutex<HashMap<ReplicaId, watch::Receiver<Option<Exit>>>>>,
}

impl Process {
    pub fn new(places: Places) -> Self {
        Self { places, children: Arc::default() }
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) async fn build(
        &self,
        order: &BuildOrder,
        source: ByteStream,
        log: &BuildLog,
    ) -> Result<Artifact, RuntimeError> {
        build::build(&self.places, order, source, log).await.map(Artifact::Directory)
    }

    pub(super) async fn run_once(&self, release: &Release, task: Task<'_>, log: &BuildLog) -> Result<(), RuntimeError> {
        let mut command = build::leashed(directory(release)?, task.command);
        command.envs(task.env);
        let running = Running::begin("release command", command)?;
        running.end(task.limit, std::future::pending(), log).await
    }

    pub(super) async fn start(
        &self,
        release: &Release,
        number: u16,
        env: &Environment,
    ) -> Result<Replica, RuntimeError> {
        let folder = directory(release)?;
        let line = build::run_line(&release.app, folder)?;
        let id = self.places.make_nest(0o710)?;
        match launch::launch(&self.places, release, (id.clone(), number), (&line, env)).await {
            Ok((replica, child)) => {
                self.reap(&id, child);
                Ok(replica)
            }
            Err(error) => {
                self.places.remove_nest(&id)?;
                Err(error)
            }
        }
    }

    /// Reaps a child whenever it ends, and tells how it ended.
    fn reap(&self, id: &ReplicaId, mut child: Child) {
        let (sender, receiver) = watch::channel(None);
        self.children().insert(id.clone(), receiver);
        tokio::spawn(async move {
            let exit = child.wait().await.map_or(Exit::Unknown, Exit::from);
            sender.send_replace(Some(exit));
        });
    }

    pub(super) async fn stop(&self, replica: &Replica, grace: Duration) -> Result<(), RuntimeError> {
        let leader = leader(replica)?;
        let socket = self.places.socket(&replica.id);
        leader.signal_group(Signal::TERM, &socket);
        let deadline = Instant::now() + grace;
        while leader.count(&socket) > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // Again and again: a process may start others while the rest is being ended.
        let deadline = Instant::now() + KILL_LIMIT;
        while leader.signal_group(Signal::KILL, &socket) > 0 {
            if Instant::now() > deadline {
                return Err(RuntimeError::TimedOut { what: "stop", limit: grace + KILL_LIMIT });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.children().remove(&replica.id);
        self.places.remove_nest(&replica.id)
    }

    pub(super) fn exited(&self, replica: &Replica) -> impl Future<Output = Exit> + Send + 'static {
        let child = self.children().get(&replica.id).cloned();
        let log = self.places.log(&replica.site, replica.release);
        let replica = replica.clone();
        async move {
            let end = async {
                match child {
                    Some(mut child) => match child.wait_for(Option::is_some).await {
                        Ok(exit) => exit.unwrap_or(Exit::Unknown),
                        Err(_) => Exit::Unknown,
                    },
                    None => adopted(&replica).await,
                }
            };
            tokio::select! {
                exit = end => exit,
                () = keep_small(&log) => Exit::Unknown,
            }
        }
    }

    pub(super) fn running(&self) -> Result<Vec<Replica>, RuntimeError> {
        let (alive, dead) = self.recorded()?;
        for replica in dead {
            leader(&replica)?.signal_group(Signal::KILL, &self.places.socket(&replica.id));
            self.places.remove_nest(&replica.id)?;
        }
        Ok(alive)
    }

    /// The replicas of all records: those whose leader lives, and the others.
    fn recorded(&self) -> Result<(Vec<Replica>, Vec<Replica>), RuntimeError> {
        let paths = places::entries(&self.places.nests())?.into_iter();
        let mut replicas = Vec::new();
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            match record(&path) {
                Some(replica) => replicas.push(replica),
                None => tracing::warn!(path = %path.display(), "this record of a replica cannot be read"),
            }
        }
        Ok(replicas.into_iter().partition(|replica| leader(replica).is_ok_and(|leader| leader.is_alive())))
    }

    pub(super) fn tail(&self, replica: &Replica, lines: usize) -> Result<String, RuntimeError> {
        let path = self.places.log(&replica.site, replica.release);
        tail_file(&path, lines).map_err(|error| RuntimeError::at(path, error))
    }

    pub(super) fn follow(&self, replica: &Replica, lines: usize) -> ByteStream {
        follow_file(self.places.log(&replica.site, replica.release), lines)
    }

    pub(super) async fn discard(&self, artifact: &Artifact) -> Result<(), RuntimeError> {
        let Artifact::Directory(folder) = artifact else { return Err(other_runtime("this release")) };
        let releases = self.places.releases();
        let is_release = folder.strip_prefix(&releases).is_ok_and(|below| below.components().count() == 3)
            && folder.components().all(|part| part != std::path::Component::ParentDir);
        if !is_release {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not the directory of a release");
            return Err(RuntimeError::at(folder, error));
        }
        if self.in_use()?.contains(folder) {
            return Err(RuntimeError::InUse(folder.display().to_string()));
        }
        remove_aside(folder.clone()).await
    }

    pub(super) async fn clean(&self, keep: &[Artifact]) -> Result<(), RuntimeError> {
        let mut kept = self.in_use()?;
        kept.extend(keep.iter().filter_map(|artifact| match artifact {
            Artifact::Directory(folder) => Some(folder.clone()),
            Artifact::Image(_) => None,
        }));
        for project in places::entries(&self.places.releases())? {
            for branch in places::entries(&project)? {
                for folder in places::entries(&branch)? {
                    if !kept.contains(&folder) {
                        remove_aside(folder).await?;
                    }
                }
            }
        }
        for nest in places::entries(&self.places.nests())? {
            if nest.is_dir() && !nest.with_extension("json").exists() {
                remove_tree(&nest)?;
            } else if nest.extension().is_some_and(|extension| extension == places::HALF) {
                std::fs::remove_file(&nest).map_err(|error| RuntimeError::at(&nest, error))?;
            }
        }
        Ok(())
    }

    /// The directories that running replicas were started in.
    fn in_use(&self) -> Result<Vec<PathBuf>, RuntimeError> {
        let (alive, _) = self.recorded()?;
        Ok(alive.iter().map(|replica| self.places.release(&replica.site, replica.release)).collect())
    }

    fn children(&self) -> std::sync::MutexGuard<'_, HashMap<ReplicaId, watch::Receiver<Option<Exit>>>> {
        self.children.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn directory(release: &Release) -> Result<&Path, RuntimeError> {
    match &release.artifact {
        Artifact::Directory(folder) => Ok(folder),
        Artifact::Image(_) => Err(other_runtime(&format!("release {} of {}", release.name(), release.site))),
    }
}

fn leader(replica: &Replica) -> Result<Leader<'_>, RuntimeError> {
    match &replica.what {
        What::Process { pid, started, boot } => Ok(Leader { pid: *pid, started: *started, boot }),
        What::Container(_) => Err(other_runtime(&format!("replica {} of {}", replica.id, replica.site))),
    }
}

fn other_runtime(what: &str) -> RuntimeError {
    RuntimeError::OtherRuntime { what: what.to_owned(), runtime: "process" }
}

fn record(path: &Path) -> Option<Replica> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Waits for a process that is not our child.
async fn adopted(replica: &Replica) -> Exit {
    if let Ok(leader) = leader(replica) {
        match leader.handle() {
            Ok(Some(handle)) if handle.ended().await.is_ok() => (),
            Ok(None) => (),
            // No handle to be had, for want of descriptors perhaps: look from time to time.
            _ => {
                while leader.is_alive() {
                    tokio::time::sleep(LOG_EVERY).await;
                }
            }
        }
    }
    Exit::Unknown
}

/// Never ends.
async fn keep_small(log: &Path) {
    loop {
        if let Err(error) = rotate(log) {
            tracing::warn!(path = %log.display(), %error, "a log cannot be begun anew");
        }
        tokio::time::sleep(LOG_EVERY).await;
    }
}

/// Renames first, so that a directory half removed is never taken for a release.
async fn remove_aside(folder: PathBuf) -> Result<(), RuntimeError> {
    let Some(parent) = folder.parent() else { return Ok(()) };
    make_private(parent)?;
    let aside = tempfile::Builder::new().prefix(".going-").tempdir_in(parent);
    let aside = aside.map_err(|error| RuntimeError::at(parent, error))?;
    match std::fs::rename(&folder, aside.path().join("r")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(RuntimeError::at(folder, error)),
        _ => (),
    }
    let removal = tokio::task::spawn_blocking(move || remove_tree(aside.path())).await;
    removal.unwrap_or_else(|error| Err(RuntimeError::at(folder, io::Error::other(error))))
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG_EVERY: Duration = Duration::from_secs(2);
/// A killed process goes as soon as the system lets it; one that hangs in the system may never.
const KILL_LIMIT: Duration = Duration::from_secs(5);
