//! Writes back to the forge what becomes of a commit: a commit status, and on GitHub a Deployment.
//!
//! One task that listens to the progress of deployments. The rule: it is never waited for. What the forge does not take is
//! tried a few times and then let be, and when more happens than it can tell, it tells the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use super::{Workshop, host_of};
use crate::control::forge::{Endpoint, Forge, ForgeError, Report, State};
use crate::model::deployment::{Cause, Deployment, DeploymentId, Outcome, Stage};
use crate::model::name::Site;
use crate::model::push::Provider;

/// How long after a failure it is tried again.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Tells until control ends.
pub async fn run(workshop: Arc<Workshop>, forge: Option<Forge>) {
    let Some(forge) = forge else { return };
    let mut progress = workshop.progress.subscribe();
    let mut teller = Teller { workshop: workshop.clone(), forge, begun: BTreeMap::new() };
    let telling = async move {
        loop {
            match progress.recv().await {
                Ok(deployment) => teller.hear(&deployment).await,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    };
    workshop.while_running(telling).await;
}

struct Teller {
    workshop: Arc<Workshop>,
    forge: Forge,
    /// What was told last of each site, and the Deployment's id at GitHub.
    begun: BTreeMap<Site, Begun>,
}

struct Begun {
    id: DeploymentId,
    state: State,
    forge_id: Option<u64>,
}

impl Teller {
    async fn hear(&mut self, deployment: &Deployment) {
        let site = &deployment.id.site;
        let Some((state, description)) = state_of(deployment) else { return };
        let last = self.begun.get(site).filter(|begun| begun.id == deployment.id);
        if last.is_some_and(|begun| begun.state == state || begun.state != State::Pending) {
            return;
        }
        // What only waited was never spoken of.
        if last.is_none() && state == State::GaveWay {
            return;
        }
        let forge_id = last.and_then(|begun| begun.forge_id);
        let conf = self.workshop.conf();
        let endpoint = conf.projects.get(&site.project).and_then(|one| Endpoint::of_forge(one, &conf.machine));
        // What is brought back was spoken of when it was deployed; what is news is that the other did badly.
        let commit = match &deployment.cause {
            Cause::Automatic { from_commit, .. } => Some(from_commit.clone()),
            _ => deployment.commit.clone(),
        };
        let (Some(endpoint), Some(commit)) = (endpoint, commit) else { return };
        let url = host_of(&conf, site).map(|host| self.workshop.live.url(&host)).unwrap_or_default();
        let report = Report { site: site.clone(), commit, state, description, url };
        let forge_id = self.tell(&endpoint, &report, forge_id).await;
        self.begun.insert(site.clone(), Begun { id: deployment.id.clone(), state, forge_id });
    }

    /// Tells the id of GitHub's Deployment, where there is one.
    async fn tell(&self, at: &Endpoint, report: &Report, known: Option<u64>) -> Option<u64> {
        let _ = repeated(report, || self.forge.status(at, report)).await;
        if at.provider != Provider::Github {
            return None;
        }
        let id = match known {
            Some(id) => id,
            None => repeated(report, || self.forge.begin_deployment(at, report)).await?,
        };
        let _ = repeated(report, || self.forge.deployment_status(at, id, report)).await;
        Some(id)
    }
}

/// Tries a few times.
async fn repeated<T, F: Future<Output = Result<T, ForgeError>>>(report: &Report, tell: impl Fn() -> F) -> Option<T> {
    let mut pauses = AGAIN.iter();
    loop {
        match (tell().await, pauses.next()) {
            (Ok(told), _) => return Some(told),
            (Err(_), Some(pause)) => sleep(*pause).await,
            (Err(error), None) => {
                let error = crate::report::with_causes(&error);
                tracing::warn!(site = %report.site, commit = report.commit.short(), error, "the forge was not told");
                return None;
            }
        }
    }
}

/// What is to be told; nothing before the commit is known to be the branch's.
fn state_of(deployment: &Deployment) -> Option<(State, String)> {
    let name = &deployment.id;
    if let Cause::Automatic { release, from, .. } = &deployment.cause {
        let is_done = deployment.stage >= Stage::Draining;
        return is_done.then(|| (State::Failure, format!("failed: r{from} was rolled back to r{release}")));
    }
    match (&deployment.outcome, deployment.stage) {
        (Some(Outcome::Failed { at, .. }), _) if *at <= Stage::Fetching => None,
        // Nothing that an app or a build has said: it may hold anything.
        (Some(Outcome::Failed { at, .. }), _) => Some((State::Failure, format!("{name} failed while {at}"))),
        (Some(Outcome::Superseded { by }), _) => Some((State::GaveWay, format!("{name} gave way to the newer #{by}"))),
        // By whom is for those who run this machine.
        (Some(Outcome::Cancelled { at, .. }), _) => Some((State::GaveWay, format!("{name} was cancelled while {at}"))),
        (Some(Outcome::Live { .. }), _) | (None, Stage::Draining | Stage::Done) => {
            Some((State::Success, format!("{name} serves")))
        }
        (None, Stage::Queued | Stage::Fetching) => None,
        (None, _) => Some((State::Pending, format!("{name} is on its way"))),
    }
}
