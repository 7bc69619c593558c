//! The story of one deployment, in order: fetch, build, start, gate, swap, drain.
//!
//! Called by the desk, one at a time for a site. Every stage is stored before its effects; whatever fails before the swap
//! leaves what serves as it is, and says why with the app's last words.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::history::{ActiveRecord, Placed};
use super::notice::Notices;
use super::{DeployError, Workshop, garbage, history, host_of, project_of, supervise};
use crate::control::conf;
use crate::control::live::Active;
use crate::control::runtime::{BuildLog, BuildOrder, Replica, Task};
use crate::model::app::{AppSpec, AppWish};
use crate::model::deployment::{Cause, Deployment, Outcome, Stage};
use crate::model::name::Commit;
use crate::model::project::{Ci, Origin, Repository};
use crate::model::release::{Artifact, Release};
use crate::model::route::{Replaced, UpstreamId};

/// What a repository may say of itself lies here.
const MANIFEST: &str = "opri.toml";
/// The last lines of an app's output that go into the reason of a failure.
const LAST_WORDS: usize = 15;
/// How long a replica may take to end after SIGTERM once nobody asks it any more.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What stands by has been well before: it answers its health check within this, or is started anew.
const STANDBY_ANSWER: Duration = Duration::from_secs(1);
/// What a drain takes beyond its time until what is left of it is known to go on.
const SETTLED: Duration = Duration::from_secs(2);
/// After so many a deployment is not begun again.
const INTERRUPTIONS: u32 = 3;

/// Runs a deployment to its end; its draining goes on behind.
pub async fn run(workshop: Arc<Workshop>, deployment: Deployment, notices: Notices) {
    let (since, started) = (Instant::now(), Vec::new());
    let mut attempt = Attempt { workshop, deployment, notices, since, made: None, started };
    if let Err(error) = attempt.deploy().await {
        attempt.fail(error).await;
    }
}

struct Attempt {
    workshop: Arc<Workshop>,
    deployment: Deployment,
    notices: Notices,
    /// When the stage began.
    since: Instant,
    /// Built, and not yet the store's: to be removed when the deployment fails.
    made: Option<Artifact>,
    /// Replicas that do not serve yet: to be stopped when the deployment fails.
    started: Vec<Replica>,
}

impl Attempt {
    async fn deploy(&mut self) -> Result<(), DeployError> {
        self.count_interruptions()?;
        let log = BuildLog::create(&self.workshop.build_log(&self.deployment))?;
        let notices = self.notices.clone();
        let release = match self.deployment.cause.brings_back() {
            Some(release) => self.earlier(release).await?,
            None => {
                let commit = notices.unless_cancelled(self.fetch()).await?;
                notices.unless_cancelled(self.build(commit, &log)).await?
            }
        };
        self.notices.may_go_on()?;
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
        self.notices.may_go_on()?;
        let number = self.workshop.history.next_release(&site).await?;
        self.deployment.release = Some(number);
        self.enter(Stage::Building).await?;

        let app = self.specification(&commit).await?;
        let source = self.workshop.source.archive(&site.project, &commit).await?;
        let limits = self.workshop.conf().machine.build;
        let order = BuildOrder { site: site.clone(), number, commit: commit.clone(), app: app.clone(), limits };
        let artifact = self.workshop.runtime.build(&order, Box::pin(source), log).await?;
        self.made = Some(artifact.clone());
        crash_point!("built");
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
        let project = project_of(&conf, site)?;
        let mut wish = project.app.clone();
        if project.is_preview(&site.branch) {
            // Whoever may push a branch may read what it is given.
            wish.env.clear();
        }
        Ok(wish.or(own).settle())
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
        if let Some(placed) = self.take_from_standby(release).await {
            self.started.extend(placed.iter().map(|placed| placed.replica.clone()));
            return Ok(placed);
        }
        let mut environment = self.workshop.environment(release);
        if let (Some(command), false) = (&release.app.release, self.is_rollback()) {
            let limit = self.workshop.conf().machine.build.timeout;
            let task = Task { command, env: &environment, limit };
            let running = async { Ok(self.workshop.runtime.run_once(release, task, log).await?) };
            self.notices.unless_cancelled(running).await?;
            crash_point!("release-command.after");
        }
        for index in 0..release.app.replicas {
            environment.insert("OPRI_REPLICA".to_owned(), index.to_string());
            self.started.push(self.workshop.runtime.start(release, index, &environment).await?);
        }
        self.enter(Stage::Gating).await?;
        let mut placed = Vec::new();
        for replica in &self.started {
            let passing = supervise::through_the_gate(&self.workshop, release, replica);
            match self.notices.unless_cancelled(passing).await {
                Ok(address) => placed.push(Placed { replica: replica.clone(), address }),
                Err(error @ DeployError::Cancelled(_)) => return Err(error),
                Err(error) => {
                    let words = self.workshop.runtime.tail(replica, LAST_WORDS).await.unwrap_or_default();
                    log.line(&format!("the app's last words:\n{words}"));
                    return Err(with_last_words(error, &words));
                }
            }
        }
        Ok(placed)
    }

    /// Replicas that have served this release and run still, each asked once more; `None` unless all are well.
    async fn take_from_standby(&self, release: &Release) -> Option<Vec<Placed>> {
        let record = self.workshop.standby.take(&release.upstream())?;
        let asking = record.replicas.iter().map(|placed| self.is_well(release, placed));
        if timeout(STANDBY_ANSWER, join_all(asking)).await.is_ok_and(|well| well.into_iter().all(|is_well| is_well)) {
            return Some(record.replicas);
        }
        tracing::warn!(site = %release.site, release = release.name(), "what stood by is not well; it is started anew");
        stop_replicas(&self.workshop, &record).await;
        None
    }

    async fn is_well(&self, release: &Release, placed: &Placed) -> bool {
        let address = supervise::through_the_gate(&self.workshop, release, &placed.replica).await;
        address.is_ok_and(|address| address == placed.address)
    }

    /// The decision is stored first; from then on this release is the one that serves, whatever happens to control.
    async fn swap(&mut self, release: Release, placed: Vec<Placed>) -> Result<(), DeployError> {
        let site = release.site.clone();
        let before = self.workshop.history.active(&site).await?;
        let active = self.record(&release, placed, before.as_ref());
        // Conf may have dropped the site meanwhile, and a newer push may have come.
        self.repository()?;
        self.notices.may_go_on()?;
        self.decide(&release, &active).await?;
        let old = match &before {
            Some(before) => self.workshop.history.release(&site, before.release).await?,
            None => None,
        };
        let took = match self.workshop.live.activate(site.clone(), serving(&release, &active)).await {
            Ok(took) => took,
            Err(error) => {
                self.workshop.history.take_back(&site, before).await?;
                return Err(error.into());
            }
        };
        self.started.clear();
        crash_point!("activated");
        self.workshop.observed.swapped(took);
        self.deployment.swap = Some(took);
        tracing::info!(deployment = %self.deployment.id, release = release.name(), ?took, "swapped");
        if let (Some(old), Some(before)) = (&old, &before) {
            self.workshop.standby.keep(old.upstream(), before.clone());
        }
        supervise::watch_over(&self.workshop, &release, &active);
        self.enter(Stage::Draining).await?;
        let behind = Behind { workshop: self.workshop.clone(), deployment: self.deployment.clone() };
        tokio::spawn(behind.drain(release.number, old, before));
        Ok(())
    }

    fn record(&self, release: &Release, replicas: Vec<Placed>, before: Option<&ActiveRecord>) -> ActiveRecord {
        let since = SystemTime::now();
        let replaced = before.map(|before| before.replaced_by(release.number, since)).unwrap_or_default();
        // What was brought back is what there is to go back to.
        let is_monitored = before.is_some() && !self.is_rollback() && !release.app.monitor.is_zero();
        ActiveRecord { release: release.number, since, replicas, replaced, is_monitored }
    }

    async fn decide(&mut self, release: &Release, active: &ActiveRecord) -> Result<(), DeployError> {
        self.pass_stage(Stage::Swapping);
        crash_point!("swapping.before");
        self.workshop.history.decide(&self.deployment, release, active).await?;
        crash_point!("swapping.after");
        self.made = None;
        let _ = self.workshop.progress.send(self.deployment.clone());
        Ok(())
    }

    async fn fail(&mut self, error: DeployError) {
        crash_point!("failing");
        let outcome = match error {
            DeployError::Newer(by) => Outcome::Superseded { by },
            DeployError::Cancelled(by) => Outcome::Cancelled { at: self.deployment.stage, by },
            error => Outcome::Failed { at: self.deployment.stage, reason: crate::report::with_causes(&error) },
        };
        tracing::warn!(deployment = %self.deployment.id, ?outcome, "deployment ended");
        let last_line = match &outcome {
            Outcome::Failed { at, reason } => Some(format!("failed while {at}: {reason}")),
            Outcome::Cancelled { at, by } => Some(format!("cancelled by {by} while {at}")),
            Outcome::Live { .. } | Outcome::Superseded { .. } => None,
        };
        if let Some(line) = last_line {
            note(&self.workshop.build_log(&self.deployment), &line).await;
        }
        let started = std::mem::take(&mut self.started);
        self.stop_all(&started).await;
        if let Some(artifact) = self.made.take() {
            garbage::discard(&self.workshop, &artifact).await;
        }
        end(&self.workshop, &mut self.deployment, outcome).await;
        let (workshop, site) = (self.workshop.clone(), self.deployment.id.site.clone());
        tokio::spawn(async move { garbage::sweep(&workshop, &site).await });
    }

    async fn enter(&mut self, stage: Stage) -> Result<(), DeployError> {
        self.pass_stage(stage);
        crash_point!("{stage}.before");
        self.workshop.history.save(&self.deployment).await?;
        crash_point!("{stage}.after");
        let _ = self.workshop.progress.send(self.deployment.clone());
        Ok(())
    }

    fn pass_stage(&mut self, stage: Stage) {
        self.workshop.observed.stage_took(self.deployment.stage, self.since.elapsed());
        self.since = Instant::now();
        self.deployment.stage = stage;
    }

    fn repository(&self) -> Result<Repository, DeployError> {
        let site = &self.deployment.id.site;
        match &project_of(&self.workshop.conf(), site)?.origin {
            Origin::Repository(repository) => Ok(repository.clone()),
            Origin::Upstream(_) => Err(DeployError::NotOurs(site.clone())),
        }
    }

    fn is_rollback(&self) -> bool {
        self.deployment.cause.brings_back().is_some()
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
        let (workshop, replaced) = (self.workshop.clone(), old.zip(before));
        let limit = replaced.as_ref().map_or(Duration::ZERO, |(old, _)| old.app.drain + SETTLED);
        let mut leaving = pin!(async {
            if let Some((old, before)) = &replaced {
                retire(&workshop, old, before).await;
            }
        });
        // What goes on for longer, or stands by, goes on behind, and is no part of the deployment any more.
        let is_gone = timeout(limit, leaving.as_mut()).await.is_ok();
        self.workshop.observed.stage_took(Stage::Draining, since.elapsed());
        self.deployment.stage = Stage::Done;
        end(&self.workshop, &mut self.deployment, Outcome::Live { release: number }).await;
        garbage::sweep(&self.workshop, &self.deployment.id.site).await;
        if !is_gone {
            leaving.await;
        }
    }
}

/// Waits for the last request of a release that was replaced, and for as long as it stands by; then stops it, unless it
/// serves again.
async fn retire(workshop: &Workshop, old: &Release, before: &ActiveRecord) {
    crash_point!("retire.before");
    let addresses = before.replicas.iter().map(|placed| placed.address.clone()).collect();
    let cut = workshop.drained(&old.site, addresses, &old.app).await;
    crash_point!("drained");
    if cut > 0 {
        tracing::warn!(release = old.name(), site = %old.site, cut, "requests did not end by themselves in the drain");
    }
    sleep(old.app.standby).await;
    if let Some(record) = workshop.standby.take_of(&old.upstream(), before.since) {
        stop_replicas(workshop, &record).await;
    }
    crash_point!("retire.after");
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
    crash_point!("ended.before");
    if let Err(error) = workshop.history.save(deployment).await {
        tracing::error!(%error, deployment = %deployment.id, "how it ended could not be stored");
    }
    crash_point!("ended.after");
    let _ = workshop.progress.send(deployment.clone());
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
        replaced: active.replaced.iter().map(|one| replaced(release, one)).collect(),
    }
}

fn replaced(by: &Release, one: &history::Replaced) -> Replaced {
    Replaced { upstream: UpstreamId::of_release(&by.site, one.release), at: one.at }
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
