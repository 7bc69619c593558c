//! Keeps alive what serves: a replica that ends, or that lives and answers nothing any more, is taken out at once, and
//! started again with a growing pause.
//!
//! Called by the pipeline after a swap, and when control begins. The rule: a supervisor acts only while its replica is in
//! the store as one that serves; after a swap it ends by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;

use super::garbage::remove;
use super::history::{ActiveRecord, Placed};
use super::pipeline::{health_host, serving, stop_replicas};
use super::{DeployError, Workshop, gate};
use crate::control::runtime::{Replica, ReplicaId};
use crate::model::address::Address;
use crate::model::name::Site;
use crate::model::release::Release;

/// The first restart comes at once; this is the pause before the second, doubled for each that follows.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Whoever ran this long starts over.
const WELL_FOR: Duration = Duration::from_secs(60);
/// How long what is left of an ended or unready replica may take to go.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a replica that is to serve does not run when it begins to be watched over.
#[derive(Debug, Clone, Copy)]
pub enum Absence {
    /// Prime stopped it, with everything else or because conf did not name its site.
    Stopped,
    /// It ended while no control was there.
    Lost,
}

/// What runs, and why the rest does not.
#[derive(Debug, Clone)]
pub struct Present {
    pub alive: BTreeSet<ReplicaId>,
    pub otherwise: Absence,
}

/// Watches over every replica of a release that serves from now on.
pub fn watch_over(workshop: &Arc<Workshop>, release: &Release, active: &ActiveRecord) {
    watch(workshop, release, active, |_| None);
}

/// As `watch_over` for a release that served before; those of its replicas that do not run are started.
pub fn take_up(workshop: &Arc<Workshop>, release: &Release, active: &ActiveRecord, present: &Present) {
    let is_alive = |replica: &Replica| present.alive.contains(&replica.id);
    watch(workshop, release, active, |replica| (!is_alive(replica)).then_some(present.otherwise));
}

fn watch(
    workshop: &Arc<Workshop>,
    release: &Release,
    active: &ActiveRecord,
    absence: impl Fn(&Replica) -> Option<Absence>,
) {
    workshop.monitor.serves(release, active);
    for (index, placed) in active.replicas.iter().enumerate() {
        let supervisor = Supervisor {
            workshop: workshop.clone(),
            release: release.clone(),
            placed: placed.clone(),
            since: active.since,
            index: u16::try_from(index).unwrap_or(u16::MAX),
            pause: Duration::ZERO,
            ends: 0,
            absence: absence(&placed.replica),
        };
        let workshop = workshop.clone();
        tokio::spawn(async move { workshop.while_running(supervisor.run()).await });
    }
}

/// Waits until a replica may have visitors.
pub async fn through_the_gate(
    workshop: &Workshop,
    release: &Release,
    replica: &Replica,
) -> Result<Address, DeployError> {
    let host = health_host(workshop, release);
    let ended = async { workshop.runtime.exited(replica).await.to_string() };
    // An app's umask decides who may open its socket; this lets the edge in as soon as there is one.
    let prepare = || workshop.runtime.prepare_socket(replica).map(drop);
    let app = &release.app;
    let candidates = &replica.candidates;
    let asked = gate::Asked { candidates, check: &app.health, protocol: app.protocol, host: &host };
    Ok(gate::pass(asked, prepare, ended).await?)
}

struct Supervisor {
    workshop: Arc<Workshop>,
    release: Release,
    placed: Placed,
    /// When its release began to serve: what serves again from a later time on has another supervisor.
    since: SystemTime,
    index: u16,
    pause: Duration,
    /// How often it ended, or did not come up, since it was well for long.
    ends: u32,
    absence: Option<Absence>,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            let since = Instant::now();
            let how = match self.absence.take() {
                Some(absence) => Err(absence),
                None => Ok(self.over().await),
            };
            if !self.is_wanted().await {
                return;
            }
            let (site, release) = (&self.release.site, self.release.name());
            match &how {
                Ok(how) => tracing::warn!(%site, release, how, "the app serves no more; it is started again"),
                Err(Absence::Lost) => {
                    tracing::warn!(%site, release, "the app ended while Prime was away; it is started again")
                }
                Err(Absence::Stopped) => {
                    tracing::info!(%site, release, "the app was stopped by Prime; it is started again")
                }
            }
            if since.elapsed() >= WELL_FOR {
                (self.pause, self.ends) = (Duration::ZERO, 0);
            }
            if let Ok(how) = how {
                self.has_ended(how);
            }
            self.take_out().await;
            if !self.bring_back().await {
                return;
            }
        }
    }

    /// Waits until the replica is of no use any more; tells how that came.
    async fn over(&self) -> String {
        let upstream = self.release.upstream();
        tokio::select! {
            how = self.workshop.runtime.exited(&self.placed.replica) => how.to_string(),
            () = self.workshop.live.stuck(&upstream, &self.placed.address) => "it answers nothing any more".to_owned(),
        }
    }

    /// Whatever was started again and has ended again does so in a loop.
    fn has_ended(&mut self, how: String) {
        self.ends += 1;
        if self.ends > 1 {
            self.workshop.monitor.loops(&self.release, how);
        }
    }

    /// Visitors are told that nothing runs, or go to the other replicas.
    async fn take_out(&self) {
        let site = &self.release.site;
        if let Ok(Some(mut active)) = self.workshop.history.active(site).await {
            active.replicas.retain(|placed| placed.replica.id != self.placed.replica.id);
            if let Err(error) = self.workshop.live.replace(site.clone(), serving(&self.release, &active)).await {
                tracing::error!(%site, %error, "an ended replica could not be taken out");
            }
        }
        self.clear_away(&self.placed.replica).await;
    }

    /// Starts anew until one is ready; false when it is no longer wanted.
    async fn bring_back(&mut self) -> bool {
        loop {
            sleep(self.pause).await;
            self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
            if !self.is_wanted().await {
                return false;
            }
            match self.start().await {
                Ok(placed) => return self.put_in(placed).await,
                Err(error) => {
                    let (site, release) = (&self.release.site, self.release.name());
                    tracing::warn!(%site, release, %error, pause = ?self.pause, "the app does not come up");
                    self.has_ended(error.to_string());
                }
            }
        }
    }

    async fn start(&self) -> Result<Placed, DeployError> {
        let mut environment = self.workshop.environment(&self.release);
        environment.insert("OPRI_REPLICA".to_owned(), self.index.to_string());
        let replica = self.workshop.runtime.start(&self.release, self.index, &environment).await?;
        match through_the_gate(&self.workshop, &self.release, &replica).await {
            Ok(address) => Ok(Placed { replica, address }),
            Err(error) => {
                self.clear_away(&replica).await;
                Err(error)
            }
        }
    }

    async fn put_in(&mut self, placed: Placed) -> bool {
        let site = self.release.site.clone();
        let history = &self.workshop.history;
        crash_point!("replaced.before");
        match history.replace_replica(&site, &self.placed.replica, placed.clone()).await {
            Ok(Some(active)) => {
                crash_point!("replaced.after");
                if let Err(error) = self.workshop.live.replace(site.clone(), serving(&self.release, &active)).await {
                    tracing::error!(%site, %error, "a restarted replica could not be put in");
                }
                tracing::info!(%site, release = self.release.name(), "the app is back");
                self.placed = placed;
                true
            }
            Ok(None) => {
                self.clear_away(&placed.replica).await;
                false
            }
            Err(error) => {
                tracing::error!(%site, %error, "a restarted replica could not be stored");
                self.clear_away(&placed.replica).await;
                true
            }
        }
    }

    /// Whether this replica is still one that serves a site of conf. A store that cannot say stops nothing.
    async fn is_wanted(&self) -> bool {
        let site = &self.release.site;
        let serves = match self.workshop.history.active(site).await {
            Ok(Some(active)) if active.since == self.since => {
                active.replicas.iter().any(|placed| placed.replica.id == self.placed.replica.id)
            }
            Ok(_) => false,
            Err(_) => true,
        };
        is_hosted(&self.workshop, site) && serves
    }

    async fn clear_away(&self, replica: &Replica) {
        if let Err(error) = self.workshop.runtime.stop(replica, STOP_GRACE).await {
            tracing::warn!(%error, "what is left of a replica could not be cleared away");
        }
    }
}

fn is_hosted(workshop: &Workshop, site: &Site) -> bool {
    let conf = workshop.conf();
    conf.projects.get(&site.project).is_some_and(|project| project.branches.contains_key(&site.branch))
}

/// Ends what runs for a site that conf no longer names. Its releases stay, for the day it is named again.
pub async fn lay_off(workshop: &Arc<Workshop>, site: Site) {
    let workshop = workshop.clone();
    let _ = workshop.live.deactivate(site.clone()).await;
    tokio::spawn(async move {
        if let Err(error) = end_unnamed(&workshop, &site).await {
            tracing::error!(%error, %site, "what conf names no more could not be ended");
        }
    });
}

/// Starts what served a site before conf ceased to name it.
pub async fn bring_back(workshop: &Arc<Workshop>, site: Site) {
    let Ok(Some(active)) = workshop.history.active(&site).await else { return };
    let Ok(Some(release)) = workshop.history.release(&site, active.release).await else { return };
    let alive = workshop.runtime.running().await.unwrap_or_default();
    let present = Present { alive: alive.into_iter().map(|replica| replica.id).collect(), otherwise: Absence::Stopped };
    let mut answering = active.clone();
    answering.replicas.retain(|placed| present.alive.contains(&placed.replica.id));
    if let Err(error) = workshop.live.activate(site.clone(), serving(&release, &answering)).await {
        tracing::error!(%site, %error, "a site that is back in conf could not be routed");
    }
    take_up(workshop, &release, &active, &present);
}

/// Waits until nobody is answered any more by what served a site that conf does not name, and ends it.
pub async fn end_unnamed(workshop: &Workshop, site: &Site) -> Result<(), DeployError> {
    let Some(active) = workshop.history.active(site).await? else { return Ok(()) };
    let Some(release) = workshop.history.release(site, active.release).await? else { return Ok(()) };
    let addresses = active.replicas.iter().map(|placed| placed.address.clone()).collect();
    workshop.drained(site, addresses, &release.app).await;
    // Named again meanwhile: then it serves again.
    if !is_hosted(workshop, site) {
        stop_replicas(workshop, &active).await;
    }
    Ok(())
}

/// Removes every release of a site of which nothing runs.
pub async fn dismantle(workshop: &Workshop, site: &Site) -> Result<(), DeployError> {
    for release in workshop.history.releases(site).await? {
        remove(workshop, &release).await?;
    }
    Ok(())
}
