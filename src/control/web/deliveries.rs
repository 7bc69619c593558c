//! What becomes of a delivery once it is judged, and the log of deliveries that `opri hook` shows.
//!
//! Called by `public` for each hook and by `admin` for one that is judged again. The rule: what was sent is not kept, only
//! what was understood of it: no body, no header, no signature. What was refused is kept in memory alone, so that strangers
//! make nothing be written.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::admin::Office;
use crate::control::deploy::DeployError;
use crate::control::deploy::desk::{Accepted, Via};
use crate::control::deploy::history::History;
use crate::control::hooks::{Claim, Judged, Refusal, Verdict};
use crate::model::deployment::DeploymentId;
use crate::model::push::{Provider, Push};

/// Deliveries that are kept.
const KEPT: usize = 500;
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of those that were refused.
const REFUSED_KEPT: usize = 100;
/// Deliveries that may wait to be written.
const QUEUE: usize = 1024;

/// One delivery, as it is kept and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivered {
    pub number: u64,
    #[serde(with = "crate::model::instant")]
    pub at: SystemTime,
    /// Who said that it speaks.
    pub provider: Option<Provider>,
    /// The kind of event, as the provider's header names it.
    pub event: Option<String>,
    /// How many bytes its body had.
    pub bytes: usize,
    pub status: u16,
    pub deployments: Vec<DeploymentId>,
    /// Why nothing follows.
    pub reason: Option<String>,
    /// What it said, once it was believed.
    pub claim: Option<Claim>,
    /// The delivery that was judged again.
    pub replay_of: Option<u64>,
}

/// What is answered.
#[derive(Debug)]
pub struct Taken {
    pub status: StatusCode,
    /// As the `outcome` label of `opri_hooks_total`.
    pub outcome: &'static str,
    pub deployments: Vec<DeploymentId>,
    pub reason: Option<String>,
}

impl Taken {
    fn nothing(status: StatusCode, outcome: &'static str, reason: String) -> Self {
        Self { status, outcome, deployments: Vec::new(), reason: Some(reason) }
    }

    pub fn ignored(reason: String) -> Self {
        Self::nothing(StatusCode::OK, "ignored", reason)
    }
}

/// Does what a judged delivery asks for.
pub async fn take(office: &Office, judged: &Judged, via: Via) -> Taken {
    match &judged.verdict {
        Verdict::Push(pushes) => accept(office, pushes, via).await,
        Verdict::Look(projects) => {
            for project in projects {
                office.looker.ask(project.clone());
            }
            let names: Vec<String> = projects.iter().map(|name| format!("`{name}`")).collect();
            Taken::ignored(format!("one check of several: the branches of {} are looked at", names.join(", ")))
        }
        Verdict::Ignored(why) => Taken::ignored(why.clone()),
        Verdict::Refused(refusal) => {
            Taken::nothing(refusal.status(), "refused", refusal.to_string() + &renamed(office, judged, refusal).await)
        }
    }
}

/// A repository may be hosted by several projects, and each says for itself what follows.
async fn accept(office: &Office, pushes: &[Push], via: Via) -> Taken {
    let (mut deployments, mut ignored, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for push in pushes {
        match taken(office, push, via).await {
            Ok(Accepted::Deployment(id)) => deployments.push(id),
            Ok(Accepted::Ignored(why)) => ignored.push(why),
            Ok(Accepted::Refused(why)) => refused.push(why),
            Err(error) => {
                tracing::error!(%error, "a hook that held could not be taken");
                let reason = "the hook could not be stored".to_owned();
                return Taken::nothing(StatusCode::SERVICE_UNAVAILABLE, "failed", reason);
            }
        }
    }
    let reasons: Vec<String> = refused.iter().chain(&ignored).cloned().collect();
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    match (deployments.is_empty(), ignored.is_empty(), reason) {
        (false, _, reason) => Taken { status: StatusCode::ACCEPTED, outcome: "accepted", deployments, reason },
        (true, false, reason) => Taken::ignored(reason.unwrap_or_default()),
        (true, true, reason) => Taken::nothing(StatusCode::NOT_FOUND, "refused", reason.unwrap_or_default()),
    }
}

/// Hands a push to the desk; one to a branch that no file names once it has a host.
async fn taken(office: &Office, push: &Push, via: Via) -> Result<Accepted, DeployError> {
    let site = push.site();
    match office.desk.push(push.clone(), via).await {
        Err(DeployError::UnknownBranch { .. }) if office.previews.admit(&site).await? => {
            office.desk.push(push.clone(), via).await
        }
        Err(DeployError::UnknownBranch { .. }) => {
            Ok(Accepted::Ignored(format!("`{site}` can have no preview: its host is another's, or conf has a fault")))
        }
        Ok(Accepted::Deployment(id)) => {
            office.previews.admit(&site).await?;
            Ok(Accepted::Deployment(id))
        }
        other => other,
    }
}

/// Whether a repository that nobody hosts is one that we know under another name. Told loudly: its hooks are lost.
async fn renamed(office: &Office, judged: &Judged, refusal: &Refusal) -> String {
    let Refusal::UnknownRepository { name, id: Some(id) } = refusal else { return String::new() };
    let Some(provider) = judged.provider else { return String::new() };
    let known = office.workshop.history.pinned_as(provider, *id).await.unwrap_or_default();
    let Some(project) = known.first() else { return String::new() };
    tracing::error!(project, %provider, id, name, "a repository has another name than conf says: its hooks are refused");
    format!(" (its id is that of project `{project}`: if it was renamed, change `repo` in the project's file)")
}

/// The deliveries of late. Clones are the same.
#[derive(Debug, Clone)]
pub struct Deliveries {
    kept: Arc<Mutex<VecDeque<Delivered>>>,
    refused: Arc<Mutex<VecDeque<Delivered>>>,
    next: Arc<AtomicU64>,
    keeper: mpsc::Sender<Delivered>,
}

impl Deliveries {
    /// Begins with what is stored.
    pub async fn begin(history: History) -> Self {
        let stored: Vec<Delivered> = history.deliveries().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the log of hooks cannot be read");
            Vec::new()
        });
        let next = Arc::new(AtomicU64::new(stored.last().map_or(1, |last| last.number + 1)));
        let (keeper, kept_queue) = mpsc::channel(QUEUE);
        let kept: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(stored.into()));
        tokio::spawn(keep(history, kept.clone(), kept_queue));
        Self { kept, refused: Arc::default(), next, keeper }
    }

    /// Keeps one, and tells it with its number. What is believed is written behind.
    pub fn add(&self, mut delivered: Delivered) -> Delivered {
        delivered.number = self.next.fetch_add(1, Ordering::Relaxed);
        match delivered.status < 400 {
            true => drop(self.keeper.try_send(delivered.clone())),
            false => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.push_back(delivered.clone());
                if refused.len() > REFUSED_KEPT {
                    refused.pop_front();
                }
            }
        }
        delivered
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Delivered> {
        let copy = |ring: &Mutex<VecDeque<Delivered>>| {
            ring.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect::<Vec<_>>()
        };
        let mut all = [copy(&self.kept), copy(&self.refused)].concat();
        all.sort_by_key(|delivered| std::cmp::Reverse(delivered.number));
        all
    }

    pub fn find(&self, number: u64) -> Option<Delivered> {
        self.all().into_iter().find(|delivered| delivered.number == number)
    }
}

/// Writes what comes, as much at once as waits, and forgets what is too much or too old.
async fn keep(history: History, kept: Arc<Mutex<VecDeque<Delivered>>>, mut queue: mpsc::Receiver<Delivered>) {
    let mut come = Vec::new();
    while queue.recv_many(&mut come, QUEUE).await > 0 {
        let gone = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(come.iter().cloned());
            let now = SystemTime::now();
            let is_old = |one: &Delivered| now.duration_since(one.at).is_ok_and(|age| age > KEPT_FOR);
            let old = kept.iter().take_while(|one| is_old(one)).count();
            let much = kept.len().saturating_sub(KEPT);
            kept.drain(..old.max(much)).map(|gone| gone.number).collect::<Vec<_>>()
        };
        let new: Vec<(u64, &Delivered)> = come.iter().map(|one| (one.number, one)).collect();
        if let Err(error) = history.keep_deliveries(&new, &gone).await {
            tracing::warn!(%error, "the log of hooks could not be written");
        }
        come.clear();
    }
}
