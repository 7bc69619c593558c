//! What builds a release and runs it: the contract, and the choice between the Docker engine and plain processes.
//!
//! `deploy` calls it. The rule: what runs outlives control. A replica is known by a value that can be stored, and can be
//! watched, stopped and found again by a control that did not start it; another program's process or container is never
//! touched.

mod docker;
mod error;
mod log;
mod places;
mod process;
mod replica;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use crate::model::app::AppSpec;
use crate::model::machine::{BuildLimits, Machine, RuntimeChoice};
use crate::model::name::{Commit, ProjectName, Site};
use crate::model::release::{Artifact, Release};

pub use docker::{Docker, Engine, engine};
pub use error::RuntimeError;
pub use log::{BuildLog, tail_file};
pub use process::Process;
pub use replica::{Exit, Replica, ReplicaId, What};

use places::Places;

/// A stream of bytes: a tar file on its way to a build, or a log being followed.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Names and values that an app is given.
pub type Environment = BTreeMap<String, String>;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct BuildOrder {
    pub site: Site,
    /// The release's number to be.
    pub number: u64,
    pub commit: Commit,
    pub app: AppSpec,
    pub limits: BuildLimits,
}

/// A command that runs once and ends.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// For `sh -c`.
    pub command: &'a str,
    pub env: &'a Environment,
    /// Until it is stopped and counts as failed.
    pub limit: Duration,
}

/// The runtime of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Runtime {
    Docker(Docker),
    Process(Process),
}

impl Runtime {
    /// Takes the runtime that conf asks for; `auto` is Docker when its socket answers within 2 s.
    pub async fn choose(machine: &Machine) -> Result<Self, RuntimeError> {
        let places = Places::new(&machine.state_dir);
        match machine.runtime {
            RuntimeChoice::Process => Ok(Self::Process(Process::new(places))),
            RuntimeChoice::Docker => Docker::connect(places).await.map(Self::Docker),
            RuntimeChoice::Auto => match Docker::connect(places.clone()).await {
                Ok(docker) => Ok(Self::Docker(docker)),
                Err(error) => {
                    tracing::debug!(%error, "no Docker engine, running processes");
                    Ok(Self::Process(Process::new(places)))
                }
            },
        }
    }

    /// `docker` or `process`, as conf writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Docker(_) => "docker",
            Self::Process(_) => "process",
        }
    }

    /// The file that takes the output of a release's build and release command; begun anew.
    pub fn build_log(&self, site: &Site, number: u64) -> Result<BuildLog, RuntimeError> {
        let path = self.places().build_log(site, number);
        BuildLog::create(&path).map_err(|error| RuntimeError::at(path, error))
    }

    /// Builds one commit from its tar stream. Dropping the future cancels the build and all it started.
    pub async fn build(
        &self,
        order: &BuildOrder,
        source: ByteStream,
        log: &BuildLog,
    ) -> Result<Artifact, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.build(order, source, log).await,
            Self::Process(process) => process.build(order, source, log).await,
        }
    }

    /// Runs a command in a release, such as its migrations; its output goes to the log. An exit other than 0 is an
    /// error. Dropping the future stops it.
    pub async fn run_once(&self, release: &Release, task: Task<'_>, log: &BuildLog) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.run_once(release, task, log).await,
            Self::Process(process) => process.run_once(release, task, log).await,
        }
    }

    /// Starts one replica. It is running when this returns, which says nothing of whether it answers.
    pub async fn start(&self, release: &Release, number: u16, env: &Environment) -> Result<Replica, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.start(release, number, env).await,
            Self::Process(process) => process.start(release, number, env).await,
        }
    }

    /// Opens a replica's socket to the edge, whatever umask and user the app has; `false` while there is none. To be
    /// called until it says `true`. Something at the socket's place that is no socket, such as a link, is an error.
    pub fn prepare_socket(&self, replica: &Replica) -> Result<bool, RuntimeError> {
        self.places().open_socket(&replica.id)
    }

    /// Asks a replica to end, waits for `grace`, then ends it, and removes what it leaves. One that is gone already is
    /// success. To be called for a replica that ended by itself too.
    pub async fn stop(&self, replica: &Replica, grace: Duration) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.stop(replica, grace).await,
            Self::Process(process) => process.stop(replica, grace).await,
        }
    }

    /// Resolves when the replica is no more, whoever started it. While it waits it also keeps the replica's log small.
    pub fn exited(&self, replica: &Replica) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        match self {
            Self::Docker(docker) => Box::pin(docker.exited(replica)),
            Self::Process(process) => Box::pin(process.exited(replica)),
        }
    }

    /// Everything of this state directory that runs, and forgets what does not.
    pub async fn running(&self) -> Result<Vec<Replica>, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.running().await,
            Self::Process(process) => process.running(),
        }
    }

    /// Whether all replicas of a release write into one log.
    pub fn has_one_log(&self) -> bool {
        matches!(self, Self::Process(_))
    }

    /// The last lines an app wrote, as it wrote them: a printer has to escape them.
    pub async fn tail(&self, replica: &Replica, lines: usize) -> Result<String, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.tail(replica, lines).await,
            Self::Process(process) => process.tail(replica, lines),
        }
    }

    /// The last lines an app wrote and then what it writes, until the stream is dropped or the replica's log ends.
    pub fn follow(&self, replica: &Replica, lines: usize) -> ByteStream {
        match self {
            Self::Docker(docker) => docker.follow(replica, lines),
            Self::Process(process) => process.follow(replica, lines),
        }
    }

    /// Removes what a build made. One that is in use is an error, one that is gone is success.
    pub async fn discard(&self, artifact: &Artifact) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.discard(artifact).await,
            Self::Process(process) => process.discard(artifact).await,
        }
    }

    /// Removes the leftovers of a crash: artifacts that are not in `keep` and not in use, and whatever belongs to
    /// replicas that do not run. Only before new work begins: half-started work looks like a leftover.
    pub async fn clean(&self, keep: &[Artifact]) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.clean(keep).await,
            Self::Process(process) => process.clean(keep).await,
        }
    }

    /// Bytes that what was built takes in the engine; plain directories are for whoever looks at the disk.
    pub async fn images(&self) -> Result<u64, RuntimeError> {
        match self {
            Self::Docker(docker) => docker.images().await,
            Self::Process(_) => Ok(0),
        }
    }

    /// Takes away what a project has beside its releases and replicas, of all projects but these.
    pub async fn forget_projects_but(&self, known: &BTreeSet<ProjectName>) -> Result<(), RuntimeError> {
        match self {
            Self::Docker(docker) => docker.clean_networks(known).await,
            Self::Process(_) => Ok(()),
        }
    }

    fn places(&self) -> &Places {
        match self {
            Self::Docker(docker) => docker.places(),
            Self::Process(process) => process.places(),
        }
    }
}

#[cfg(test)]
mod tests;
