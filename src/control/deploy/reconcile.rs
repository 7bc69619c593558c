//! What an earlier control left: compares the store with what runs, before anything is told to the edge.
//!
//! Called once, when control begins. The rule: what the store calls active and what still runs goes on serving without a
//! gap; everything else of ours is finished or cleared away, and only then is new work taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::history::{ActiveRecord, History};
use super::pipeline::serving;
use super::supervise::{Absence, Present};
use super::{DeployError, Workshop, supervise};
use crate::control::conf::Conf;
use crate::control::live::Sites;
use crate::control::runtime::{Replica, Runtime};
use crate::control::store::StoreError;
use crate::model::deployment::{Deployment, Outcome, Stage};
use crate::model::name::Site;
use crate::model::release::{Artifact, Release};

/// How long a replica that never served may take to end; control's start waits for it.
const UNDECIDED_GRACE: Duration = Duration::from_secs(2);
/// How long an orphan may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What there is.
#[derive(Debug)]
pub struct Found {
    /// What the edge shall be told first.
    pub sites: Sites,
    /// What shall be watched over; those that do not run are started by that.
    watched: Vec<(Release, ActiveRecord)>,
    present: Present,
    /// To be begun again, oldest first.
    pub unfinished: Vec<Deployment>,
    orphans: Vec<Replica>,
}

/// Looks at store and machine, and settles what each deployment that was under way has become.
pub async fn look_around(conf: &Conf, history: &History, runtime: &Runtime) -> Result<Found, DeployError> {
    let alive = runtime.running().await?;
    let otherwise = if history.was_stopped().await? { Absence::Stopped } else { Absence::Lost };
    let present = Present { alive: alive.iter().map(|replica| replica.id.clone()).collect(), otherwise };
    let (watched, unfinished, orphans) = Default::default();
    let held = history.held().await?.into_iter().map(|held| (held.site, held.hold)).collect();
    let sites = Sites { held, ..Sites::default() };
    let mut found = Found { sites, watched, present, unfinished, orphans };
    let mut wanted = BTreeSet::new();
    for project in conf.projects.values() {
        for (site, _) in project.sites() {
            let Some((release, active)) = active_release(history, &site).await? else { continue };
            wanted.extend(active.replicas.iter().map(|placed| placed.replica.id.clone()));
            let mut answering = active.clone();
            answering.replicas.retain(|placed| found.present.alive.contains(&placed.replica.id));
            found.sites.running.insert(site, serving(&release, &answering));
            found.watched.push((release, active));
        }
    }
    found.orphans = alive.into_iter().filter(|replica| !wanted.contains(&replica.id)).collect();
    for deployment in history.unfinished().await? {
        found.unfinished.extend(settle(history, deployment).await?);
        crash_point!("settled");
    }
    Ok(found)
}

impl Found {
    /// Removes what a crash left half made. Only before new work begins: work under way looks the same.
    pub async fn clean(&mut self, history: &History, runtime: &Runtime) {
        crash_point!("clean.before");
        let outcome = async {
            self.stop_undecided(history, runtime).await;
            crash_point!("undecided.stopped");
            let kept: Vec<Artifact> =
                history.all_releases().await?.into_iter().map(|release| release.artifact).collect();
            Ok::<_, DeployError>(runtime.clean(&kept).await?)
        };
        if let Err(error) = outcome.await {
            tracing::warn!(%error, "leftovers could not be removed");
        }
        crash_point!("clean.after");
    }

    /// Stops what never came to serve: nobody's request is in flight there, and what it was made of can go.
    /// One that cannot be stopped, or of which the store cannot say, is looked at again behind.
    async fn stop_undecided(&mut self, history: &History, runtime: &Runtime) {
        for orphan in std::mem::take(&mut self.orphans) {
            let is_undecided = matches!(history.release(&orphan.site, orphan.release).await, Ok(None));
            if !is_undecided || runtime.stop(&orphan, UNDECIDED_GRACE).await.is_err() {
                self.orphans.push(orphan);
            }
        }
    }

    /// Once the edge holds what serves: supervision begins, and leftovers go.
    pub fn take_up(&mut self, workshop: &Arc<Workshop>) {
        for (release, active) in self.watched.drain(..) {
            supervise::take_up(workshop, &release, &active, &self.present);
        }
        let (workshop, orphans) = (workshop.clone(), std::mem::take(&mut self.orphans));
        tokio::spawn(async move {
            if let Err(error) = workshop.history.started().await {
                tracing::warn!(%error, "it could not be stored that the apps are started");
            }
            // Each by itself: one may go on for long for whoever it still answers.
            let clearing = orphans.iter().map(async |orphan| {
                if let Err(error) = clear_away(&workshop, orphan).await {
                    tracing::error!(%error, site = %orphan.site, "a leftover could not be cleared away");
                }
            });
            futures_util::future::join_all(clearing).await;
        });
    }
}

async fn active_release(history: &History, site: &Site) -> Result<Option<(Release, ActiveRecord)>, StoreError> {
    let Some(active) = history.active(site).await? else { return Ok(None) };
    let release = history.release(site, active.release).await?;
    Ok(release.map(|release| (release, active)))
}

/// A deployment whose decision was stored did come to serve, whatever serves by now; any other is begun again, because no
/// CI tells twice.
async fn settle(history: &History, mut deployment: Deployment) -> Result<Option<Deployment>, StoreError> {
    if let (true, Some(release)) = (deployment.stage >= Stage::Swapping, deployment.release) {
        deployment.outcome = Some(Outcome::Live { release });
        deployment.stage = Stage::Done;
        deployment.ended_at = Some(SystemTime::now());
        history.save(&deployment).await?;
        return Ok(None);
    }
    if deployment.stage != Stage::Queued {
        deployment.interrupted += 1;
    }
    deployment.stage = Stage::Queued;
    if deployment.cause.brings_back().is_none() {
        deployment.release = None;
    }
    history.save(&deployment).await?;
    Ok(Some(deployment))
}

/// Stops what serves nobody any more: an old release after its drain.
async fn clear_away(workshop: &Workshop, orphan: &Replica) -> Result<(), DeployError> {
    crash_point!("leftover.before");
    if let Some(release) = workshop.history.release(&orphan.site, orphan.release).await? {
        workshop.drained(&orphan.site, orphan.candidates.clone(), &release.app).await;
    }
    tracing::info!(site = %orphan.site, release = orphan.release, "a leftover is stopped");
    workshop.runtime.stop(orphan, STOP_GRACE).await?;
    crash_point!("leftover.after");
    Ok(())
}
