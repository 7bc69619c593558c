//! From an accepted push to a release that serves.
//!
//! `desk` takes what is asked and lets one deployment a site run, the newest next; `pipeline` is the story of one,
//! top to bottom; `gate` decides whether an app may have visitors; `supervise` keeps what serves alive; `reconcile`
//! brings store and machine together when control begins; `look` makes good a hook that was lost; `tell` writes back to the forge; `notice` is what the
//! desk tells a deployment that runs; `garbage` removes what nobody needs any more; `history` is what has been.

pub mod desk;
pub mod drains;
pub mod garbage;
mod gate;
pub mod history;
pub mod look;
pub mod monitor;
mod notice;
mod pipeline;
mod reconcile;
mod standby;
pub mod supervise;
pub mod tell;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, broadcast, watch};

use crate::control::conf::Conf;
use crate::control::live::{Live, LiveError};
use crate::control::observe::Observed;
use crate::control::runtime::{Runtime, RuntimeError};
use crate::control::source::{Source, SourceError};
use crate::control::store::StoreError;
use crate::model::address::Address;
use crate::model::app::AppSpec;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::name::{Commit, ProjectName, Site};
use crate::model::project::Project;
use crate::model::release::Release;

use drains::Drains;
use gate::GateError;
use history::History;
use monitor::Monitor;
pub use standby::Standby;

pub use reconcile::{Found, look_around};

/// Why a deployment did not come to serve, or an order was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("no project `{0}` is in conf")]
    UnknownProject(ProjectName),
    #[error("project `{}` has no branch `{}`, only {known}", .site.project, .site.branch)]
    UnknownBranch { site: Site, known: String },
    #[error("there is no deployment {0}")]
    UnknownDeployment(DeploymentId),
    #[error("`{0}` is routed to an upstream of its own: there is nothing to deploy")]
    NotOurs(Site),
    #[error("{0} has no release r{1}")]
    NoRelease(Site, u64),
    #[error("r{1} of {0} serves already")]
    ServesAlready(Site, u64),
    #[error("{0} has no earlier release to roll back to")]
    NothingEarlier(Site),
    #[error("{place}: {reason}")]
    Manifest { place: String, reason: String },
    #[error("the build log cannot be written: {0}")]
    Log(#[from] std::io::Error),
    #[error("commit {} is older than {}, which serves", .0.short(), .1.short())]
    Older(Commit, Commit),
    #[error("deployment #{0} is newer")]
    Newer(u64),
    #[error("cancelled by {0}")]
    Cancelled(String),
    #[error("nothing of {0} is being deployed")]
    NothingUnderWay(Site),
    #[error("control is stopping")]
    Stopping,
}

/// What every part of a deployment needs; made once.
#[derive(Debug)]
pub struct Workshop {
    pub history: History,
    pub source: Source,
    pub runtime: Runtime,
    pub live: Live,
    pub observed: Observed,
    pub conf: watch::Receiver<Arc<Conf>>,
    pub state_dir: PathBuf,
    pub monitor: Monitor,
    pub standby: Standby,
    /// What was replaced and goes on for whoever it answers.
    pub drains: Drains,
    /// As many as builds may run at once.
    pub builds: Semaphore,
    pub progress: broadcast::Sender<Deployment>,
    /// True once control ends: nothing is begun or brought back any more.
    pub stopping: watch::Sender<bool>,
}

impl Workshop {
    pub fn conf(&self) -> Arc<Conf> {
        self.conf.borrow().clone()
    }

    /// Runs `work` until control ends; what is left of it is for the next control to find.
    pub async fn while_running(&self, work: impl Future<Output = ()>) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Waits until replicas that were replaced answer nobody any more, their time is over, or too many others were replaced
    /// since; tells how many requests did not end by themselves.
    async fn drained(&self, site: &Site, replicas: Vec<Address>, app: &AppSpec) -> u64 {
        let place = self.drains.join(site, app.drain_max);
        tokio::select! {
            cut = self.live.drained(replicas, app.drain.max(app.drain_long)) => cut,
            () = place.lost() => 1,
        }
    }

    /// Where the output of a deployment's build is kept.
    pub fn build_log(&self, deployment: &Deployment) -> PathBuf {
        build_log(&self.state_dir, &deployment.id.site, deployment.id.number)
    }

    /// What an app is told of itself, and what conf gives it.
    fn environment(&self, release: &Release) -> std::collections::BTreeMap<String, String> {
        let conf = self.conf();
        let host = host_of(&conf, &release.site);
        let url = host.map(|host| self.live.url(&host)).unwrap_or_default();
        let mut environment = release.app.env.clone();
        environment.extend([
            ("OPRI_PROJECT".to_owned(), release.site.project.to_string()),
            ("OPRI_BRANCH".to_owned(), release.site.branch.to_string()),
            ("OPRI_COMMIT".to_owned(), release.commit.to_string()),
            ("OPRI_RELEASE".to_owned(), release.name()),
            ("OPRI_URL".to_owned(), url),
        ]);
        environment
    }
}

/// Where a deployment's build log lies.
pub fn build_log(state_dir: &std::path::Path, site: &Site, number: u64) -> PathBuf {
    logs(state_dir, site).join(format!("build-{number}.log"))
}

/// Where the logs of a site lie: those of its builds, and as processes those of its releases.
fn logs(state_dir: &std::path::Path, site: &Site) -> PathBuf {
    state_dir.join("logs").join(site.project.as_str()).join(site.branch.as_component())
}

/// The project of a site that conf names.
pub fn project_of<'c>(conf: &'c Conf, site: &Site) -> Result<&'c Project, DeployError> {
    let unknown = || DeployError::UnknownProject(site.project.clone());
    let project = conf.projects.get(&site.project).ok_or_else(unknown)?;
    if project.branches.contains_key(&site.branch) {
        return Ok(project);
    }
    let names: Vec<String> = project.branches.keys().map(|branch| format!("`{branch}`")).collect();
    Err(DeployError::UnknownBranch { site: site.clone(), known: names.join(", ") })
}

/// The canonical host of a site, as far as it has one.
pub fn host_of(conf: &Conf, site: &Site) -> Option<crate::model::host::HostName> {
    let branch = conf.projects.get(&site.project)?.branches.get(&site.branch)?;
    branch.hosts.iter().find_map(|host| host.exact().cloned())
}

/// Brings to an end what conf no longer names, and back what it names again.
pub async fn conf_changed(workshop: &Arc<Workshop>, old: &Conf, new: &Conf) {
    let sites = |conf: &Conf| -> std::collections::BTreeSet<Site> {
        conf.projects.values().flat_map(|project| project.sites().map(|(site, _)| site)).collect()
    };
    let (before, after) = (sites(old), sites(new));
    for site in before.difference(&after).cloned() {
        supervise::lay_off(workshop, site).await;
    }
    for site in after.difference(&before).cloned() {
        supervise::bring_back(workshop, site).await;
    }
}
