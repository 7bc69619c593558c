//! The story of one deployment, in order: fetch, build, start, gate, swap, drain.
//!
//! Called by the desk, one at a time for a site. Every stage is stored before its effects; whatever fails before the swap
//! leaves what serves as it is, and says why with the app's last words.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::history::{ActiveRecord, Placed};
use super::{DeployError, Workshop, host_of, supervise};
use crate::control::conf;
use crate::control::live::Active;
use crate::control::runtime::{BuildLog, BuildOrder, Replica, Task};
use crate::model::app::{AppSpec, AppWish};
use crate::model::deployment::{Cause, Deployment, Outcome, Stage};
use crate::model::name::{Commit, Site};
use crate::model::project::{Ci, Origin, Repository};
use crate::model::release::{Artifact, Release, prunable};

/// What a repository may say of itself lies here.
const MANIFEST: &str = "opri.toml";
/// The last lines of an app's output that go into the reason of a failure.
const LAST_WORDS: usize = 15;
/// How long a replica may take to end after SIGTERM once nobody asks it any more.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What a drain takes beyond its time until what is left of it is known to go on.
const SETTLED: Duration = Duration::from_secs(2);
/// After so many a deployment is not begun again.
const INTERRUPTIONS: u32 = 3;

/// Runs a deployment to its end; its draining goes on behind.
pub async fn run(workshop: Arc<Workshop>, deployment: Deployment, newest: watch::Receiver<u64>) {
    let mut attempt = Attempt { workshop, deployment, newest, since: Instant::now(), made: None };
    if let Err(error) = attempt.deploy().await {
        attempt.fail(error).await;
    }
}

struct Attempt {
    workshop: Arc<Workshop>,
    deployment: Deployment,
    newest: watch::Receiver<u64>,
    /// When the stage began.
    since: Instant,
    /// Built, and not yet the store's: to be removed when the deployment fails.
    made: Option<Artifact>,
}

impl Attempt {
    async fn deploy(&mut self) -> Result<(), DeployError> {
        self.count_interruptions()?;
        let log = BuildLog::create(&self.workshop.build_log(&self.deployment))?;
        let release = match self.deployment.cause {
            Cause::Rollback { release } => self.earlier(release).await?,
            _ => {
                let commit = self.fetch().await?;
                self.build(commit, &log).await?
            }
        };
        self.step_back_for_newer()?;
        let placed = self.start(&release, &log).await?;
        self.swap(release, placed).await
    }

    /// A deployment in which control ended again and again may be what ends it.
    fn count_interruptions(&self) -> Result<(), DeployError> {
        match self.deployment.interrupted {
            0..INTERRUPTIONS => Ok(()),
            _ => Err(DeployError::Manifest {
                place: self.deployment.id.to_string(),
                reason: format!("control ended {INTERRUPTIONS} times in the middle of it"),
            }),
        }
    }

    async fn fetch(&mut self) -> Result<Commit, DeployError> {
        self.enter(Stage::Fetching).await?;
        let site = &self.deployment.id.site;
        let repository = self.repository()?;
        let wanted = self.deployment.commit.as_ref();
        let commit = self.workshop.source.fetch(&site.project, &repository, &site.branch, wanted).await?;
        self.refuse_older(&repository, &commit).await?;
        let commit = self.newest_of(commit).await?;
        self.deployment.commit = Some(commit.clone());
        Ok(commit)
    }

    /// A hook for a commit that the serving one contains came late, unless the branch was moved back to it.
    async fn refuse_older(&self, repository: &Repository, commit: &Commit) -> Result<(), DeployError> {
        let (site, workshop) = (&self.deployment.id.site, &self.workshop);
        let Some(active) = workshop.history.active(site).await? else { return Ok(()) };
        let Some(serving) = workshop.history.release(site, active.release).await? else { return Ok(()) };
        let is_hook = matches!(self.deployment.cause, Cause::Hook { .. } | Cause::Reconcile);
        if !is_hook || serving.commit == *commit || !workshop.source.contains(site, &serving.commit, commit).await {
            return Ok(());
        }
        match workshop.source.head(&site.project, repository, &site.branch).await? == *commit {
            true => Ok(()),
            false => Err(DeployError::Older(commit.clone(), serving.commit)),
        }
    }

    /// Plain pushes carry no number, and may come in any order: where nobody has to say that a commit is good, one of them
    /// means the branch as it was just fetched.
    async fn newest_of(&self, commit: Commit) -> Result<Commit, DeployError> {
        let (site, conf) = (&self.deployment.id.site, self.workshop.conf());
        let is_hook = matches!(self.deployment.cause, Cause::Hook { .. } | Cause::Reconcile);
        let is_unjudged = conf.projects.get(&site.project).is_some_and(|project| project.ci == Ci::None);
        match is_hook && is_unjudged {
            true => Ok(self.workshop.source.tip(site).await?),
            false => Ok(commit),
        }
    }

    async fn build(&mut self, commit: Commit, log: &BuildLog) -> Result<Release, DeployError> {
        let site = self.deployment.id.site.clone();
        let workshop = self.workshop.clone();
        let _turn = workshop.builds.acquire().await.map_err(|_| DeployError::Stopping)?;
        self.step_back_for_newer()?;
        let number = self.workshop.history.next_release(&site).await?;
        self.deployment.release = Some(number);
        self.enter(Stage::Building).await?;

        let app = self.specification(&commit).await?;
        let source = self.workshop.source.archive(&site.project, &commit).await?;
        let limits = self.workshop.conf().machine.build;
        let order = BuildOrder { site: site.clone(), number, commit: commit.clone(), app: app.clone(), limits };
        let artifact = self.workshop.runtime.build(&order, Box::pin(source), log).await?;
        self.made = Some(artifact.clone());
        Ok(Release { site, number, commit, artifact, app, built_at: SystemTime::now() })
    }

    /// Conf's wishes over the repository's over the defaults.
    async fn specification(&self, commit: &Commit) -> Result<AppSpec, DeployError> {
        let site = &self.deployment.id.site;
        let manifest = self.workshop.source.file(&site.project, commit, MANIFEST).await?;
        let own = match manifest {
            Some(bytes) => conf::repository_wish(&String::from_utf8_lossy(&bytes)).map_err(|faults| {
                let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
                DeployError::Manifest { place: MANIFEST.to_owned(), reason: reasons.join("; ") }
            })?,
            None => AppWish::default(),
        };
        let conf = self.workshop.conf();
        let unknown = || DeployError::UnknownProject(site.project.clone());
        let project = conf.projects.get(&site.project).ok_or_else(unknown)?;
        Ok(project.app.clone().or(own).settle())
    }

    async fn earlier(&mut self, number: u64) -> Result<Release, DeployError> {
        let site = &self.deployment.id.site;
        let release = self.workshop.history.release(site, number).await?;
        let release = release.ok_or_else(|| DeployError::NoRelease(site.clone(), number))?;
        // Its replicas and those that serve would be one upstream, and could not be told apart to drain.
        if self.workshop.history.active(site).await?.is_some_and(|active| active.release == number) {
            return Err(DeployError::ServesAlready(site.clone(), number));
        }
        self.deployment.commit = Some(release.commit.clone());
        Ok(release)
    }

    /// Starts every replica on addresses of its own and takes each through the gate.
    async fn start(&mut self, release: &Release, log: &BuildLog) -> Result<Vec<Placed>, DeployError> {
        self.enter(Stage::Starting).await?;
        let mut environment = self.workshop.environment(release);
        if let (Some(command), false) = (&release.app.release, self.is_rollback()) {
            let limit = self.workshop.conf().machine.build.timeout;
            let task = Task { command, env: &environment, limit };
            self.workshop.runtime.run_once(release, task, log).await?;
        }
        let mut replicas = Vec::new();
        for index in 0..release.app.replicas {
            environment.insert("OPRI_REPLICA".to_owned(), index.to_string());
            match self.workshop.runtime.start(release, index, &environment).await {
                Ok(replica) => replicas.push(replica),
                Err(error) => {
                    self.stop_all(&replicas).await;
                    return Err(error.into());
                }
            }
        }
        if let Err(error) = self.enter(Stage::Gating).await {
            self.stop_all(&replicas).await;
            return Err(error);
        }
        let mut placed = Vec::new();
        for replica in &replicas {
            match supervise::through_the_gate(&self.workshop, release, replica).await {
                Ok(address) => placed.push(Placed { replica: replica.clone(), address }),
                Err(error) => {
                    let words = self.workshop.runtime.tail(replica, LAST_WORDS).await.unwrap_or_default();
                    log.line(&format!("the app's last words:\n{words}"));
                    self.stop_all(&replicas).await;
                    return Err(with_last_words(error, &words));
                }
            }
        }
        Ok(placed)
    }

    /// The decision is stored first; from then on this release is the one that serves, whatever happens to control.
    async fn swap(&mut self, release: Release, placed: Vec<Placed>) -> Result<(), DeployError> {
        let site = release.site.clone();
        let before = self.workshop.history.active(&site).await?;
        let active = ActiveRecord { release: release.number, since: SystemTime::now(), replicas: placed };
        // Conf may have dropped the site meanwhile, and a newer push may have come.
        let may_go_on = self.repository().and_then(|_| self.step_back_for_newer());
        let decided = match may_go_on {
            Ok(()) => self.decide(&release, &active).await,
            Err(reason) => Err(reason),
        };
        if let Err(error) = decided {
            let replicas: Vec<_> = active.replicas.into_iter().map(|placed| placed.replica).collect();
            self.stop_all(&replicas).await;
            return Err(error);
        }
        let old = match &before {
            Some(before) => self.workshop.history.release(&site, before.release).await?,
            None => None,
        };
        let took = match self.workshop.live.activate(site.clone(), serving(&release, &active)).await {
            Ok(took) => took,
            Err(error) => {
                self.workshop.history.take_back(&site, before).await?;
                let replicas: Vec<_> = active.replicas.into_iter().map(|placed| placed.replica).collect();
                self.stop_all(&replicas).await;
                return Err(error.into());
            }
        };
        self.workshop.observed.swapped(took);
        self.deployment.swap = Some(took);
        tracing::info!(deployment = %self.deployment.id, release = release.name(), ?took, "swapped");
        supervise::watch_over(&self.workshop, &release, &active);
        self.enter(Stage::Draining).await?;
        let behind = Behind { workshop: self.workshop.clone(), deployment: self.deployment.clone() };
        tokio::spawn(behind.drain(release.number, old, before));
        Ok(())
    }

    async fn decide(&mut self, release: &Release, active: &ActiveRecord) -> Result<(), DeployError> {
        self.pass_stage(Stage::Swapping);
        self.workshop.history.decide(&self.deployment, release, active).await?;
        self.made = None;
        let _ = self.workshop.progress.send(self.deployment.clone());
        Ok(())
    }

    async fn fail(&mut self, error: DeployError) {
        let outcome = match error {
            DeployError::Newer(by) => Outcome::Superseded { by },
            error => Outcome::Failed { at: self.deployment.stage, reason: crate::report::with_causes(&error) },
        };
        tracing::warn!(deployment = %self.deployment.id, ?outcome, "deployment ended");
        if let Outcome::Failed { at, reason } = &outcome {
            note(&self.workshop.build_log(&self.deployment), &format!("failed while {at}: {reason}")).await;
        }
        if let Some(artifact) = self.made.take() {
            discard(&self.workshop, &artifact).await;
        }
        end(&self.workshop, &mut self.deployment, outcome).await;
    }

    async fn enter(&mut self, stage: Stage) -> Result<(), DeployError> {
        self.pass_stage(stage);
        self.workshop.history.save(&self.deployment).await?;
        let _ = self.workshop.progress.send(self.deployment.clone());
        Ok(())
    }

    fn pass_stage(&mut self, stage: Stage) {
        self.workshop.observed.stage_took(self.deployment.stage, self.since.elapsed());
        self.since = Instant::now();
        self.deployment.stage = stage;
    }

    /// The newest push wins: an older one that has not swapped yet gives way.
    fn step_back_for_newer(&self) -> Result<(), DeployError> {
        let newest = *self.newest.borrow();
        if newest > self.deployment.id.number { Err(DeployError::Newer(newest)) } else { Ok(()) }
    }

    fn repository(&self) -> Result<Repository, DeployError> {
        let site = &self.deployment.id.site;
        let conf = self.workshop.conf();
        match conf.projects.get(&site.project).map(|project| &project.origin) {
            Some(Origin::Repository(repository)) => Ok(repository.clone()),
            Some(Origin::Upstream(_)) => Err(DeployError::NotOurs(site.clone())),
            None => Err(DeployError::UnknownProject(site.project.clone())),
        }
    }

    fn is_rollback(&self) -> bool {
        matches!(self.deployment.cause, Cause::Rollback { .. })
    }

    async fn stop_all(&self, replicas: &[Replica]) {
        for replica in replicas {
            if let Err(error) = self.workshop.runtime.stop(replica, STOP_GRACE).await {
                tracing::error!(%error, "a replica could not be stopped");
            }
        }
    }
}

/// Adds a last line to a log; a deployment that cannot write it has failed all the same.
async fn note(log: &std::path::Path, line: &str) {
    let file = tokio::fs::OpenOptions::new().append(true).create(true).open(log).await;
    if let Ok(mut file) = file {
        let _ = file.write_all(format!("{line}\n").as_bytes()).await;
        let _ = file.flush().await;
    }
}

/// What goes on behind once the new release serves.
struct Behind {
    workshop: Arc<Workshop>,
    deployment: Deployment,
}

impl Behind {
    async fn drain(mut self, number: u64, old: Option<Release>, before: Option<ActiveRecord>) {
        let since = Instant::now();
        if let (Some(old), Some(before)) = (old, before) {
            let (workshop, drain) = (self.workshop.clone(), old.app.drain);
            // What goes on for longer goes on behind, and is no part of the deployment any more.
            let retiring = tokio::spawn(async move { retire(&workshop, &old, &before).await });
            let _ = timeout(drain + SETTLED, retiring).await;
        }
        self.workshop.observed.stage_took(Stage::Draining, since.elapsed());
        self.deployment.stage = Stage::Done;
        prune(&self.workshop, &self.deployment.id.site).await;
        end(&self.workshop, &mut self.deployment, Outcome::Live { release: number }).await;
    }
}

/// Waits for the last request of a release that was replaced, then stops it.
async fn retire(workshop: &Workshop, old: &Release, before: &ActiveRecord) {
    let addresses = before.replicas.iter().map(|placed| placed.address.clone()).collect();
    let cut = workshop.drained(&old.site, addresses, &old.app).await;
    if cut > 0 {
        tracing::warn!(release = old.name(), site = %old.site, cut, "requests did not end by themselves in the drain");
    }
    stop_replicas(workshop, before).await;
}

/// Stops what served, once nobody asks it any more.
pub async fn stop_replicas(workshop: &Workshop, active: &ActiveRecord) {
    for placed in &active.replicas {
        if let Err(error) = workshop.runtime.stop(&placed.replica, STOP_GRACE).await {
            tracing::error!(%error, "a replica could not be stopped");
        }
    }
}

/// Stores how a deployment ended.
pub async fn end(workshop: &Workshop, deployment: &mut Deployment, outcome: Outcome) {
    deployment.outcome = Some(outcome);
    deployment.ended_at = Some(SystemTime::now());
    workshop.observed.ended(deployment);
    if let Err(error) = workshop.history.save(deployment).await {
        tracing::error!(%error, deployment = %deployment.id, "how it ended could not be stored");
    }
    let _ = workshop.progress.send(deployment.clone());
}

/// Removes what is neither active nor among those kept for a rollback, and what is too old to be asked for.
async fn prune(workshop: &Workshop, site: &Site) {
    match workshop.history.sweep(site, SystemTime::now()).await {
        Ok(gone) => {
            for deployment in &gone {
                let _ = tokio::fs::remove_file(workshop.build_log(deployment)).await;
            }
        }
        Err(error) => tracing::warn!(%error, %site, "old deployments could not be forgotten"),
    }
    if let Err(error) = workshop.source.prune(&site.project).await {
        tracing::warn!(%error, %site, "the mirror could not be packed");
    }
    let keep = workshop.conf().machine.keep_releases;
    let (Ok(active), Ok(releases)) = (workshop.history.active(site).await, workshop.history.releases(site).await)
    else {
        return;
    };
    // What drains is still needed by those whom it answers.
    let Ok(running) = workshop.runtime.running().await else { return };
    let runs = |release: &Release| running.iter().any(|one| one.site == *site && one.release == release.number);
    let prunable = prunable(releases, active.map(|active| active.release), keep);
    for release in prunable.into_iter().filter(|release| !runs(release)) {
        match workshop.history.forget(&release).await {
            Ok(()) => {
                workshop.live.forget(release.upstream()).await;
                discard(workshop, &release.artifact).await;
            }
            Err(error) => tracing::warn!(%error, release = release.name(), %site, "could not be forgotten"),
        }
    }
}

/// Removes an artifact, unless a release has the same: two commits can make one image.
async fn discard(workshop: &Workshop, artifact: &Artifact) {
    let is_used = match workshop.history.all_releases().await {
        Ok(releases) => releases.iter().any(|release| release.artifact == *artifact),
        Err(_) => true,
    };
    if !is_used && let Err(error) = workshop.runtime.discard(artifact).await {
        tracing::warn!(%error, ?artifact, "could not be removed");
    }
}

/// A release as the edge is to see it.
pub fn serving(release: &Release, active: &ActiveRecord) -> Active {
    Active {
        upstream: release.upstream(),
        replicas: active.replicas.iter().map(|placed| placed.address.clone()).collect(),
        protocol: release.app.protocol,
        drain: release.app.drain,
        drain_long: release.app.drain_long,
        health: release.app.health.clone(),
    }
}

fn with_last_words(error: DeployError, words: &str) -> DeployError {
    match words.trim() {
        "" => error,
        words => DeployError::Manifest { place: error.to_string(), reason: format!("its last words:\n{words}") },
    }
}

/// The host under which a health check asks.
pub fn health_host(workshop: &Workshop, release: &Release) -> String {
    host_of(&workshop.conf(), &release.site).map_or_else(|| "localhost".to_owned(), |host| host.in_url())
}
