//! The admin API's end of `opri hook`: the log of deliveries, one of them judged again, and what a hook would come to.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::admin::{Answer, Office, Refused};
use super::api::Refusal;
use super::deliveries::{Delivered, take};
use crate::control::deploy::desk::Via;
use crate::control::deploy::look::{self, Judged};
use crate::control::deploy::{DeployError, project_of};
use crate::control::forge::Endpoint;
use crate::control::hooks;
use crate::model::name::{Commit, Site};
use crate::model::project::Origin;

pub fn router() -> Router<Arc<Office>> {
    Router::new()
        .route("/v1/hooks", get(log))
        .route("/v1/hooks/{number}", get(show))
        .route("/v1/hooks/{number}/replay", post(replay))
        .route("/v1/hooks/test", post(test))
}

async fn log(State(office): State<Arc<Office>>) -> Json<Vec<Delivered>> {
    Json(office.deliveries.all())
}

async fn show(State(office): State<Arc<Office>>, Path(number): Path<u64>) -> Answer<Delivered> {
    Ok(Json(find(&office, number)?))
}

fn find(office: &Office, number: u64) -> Result<Delivered, Refused> {
    office.deliveries.find(number).ok_or_else(|| {
        let hint = Some("`opri hook log` shows those that are kept".to_owned());
        Refused(StatusCode::NOT_FOUND, Refusal { error: format!("no delivery {number} is kept"), hint })
    })
}

/// What it said is believed still; everything else is judged anew, but for having been seen before.
async fn replay(State(office): State<Arc<Office>>, Path(number): Path<u64>) -> Answer<Delivered> {
    let old = find(&office, number)?;
    let Some(claim) = old.claim.clone() else {
        let error = format!("delivery {number} said nothing that could be deployed, or was not believed");
        return Err(Refused(StatusCode::CONFLICT, Refusal { error, hint: None }));
    };
    let judged = hooks::again(claim, &office.workshop.conf().projects);
    let taken = take(&office, &judged, Via::Replay).await;
    Ok(Json(office.deliveries.add(Delivered {
        at: std::time::SystemTime::now(),
        status: taken.status.as_u16(),
        deployments: taken.deployments,
        reason: taken.reason,
        replay_of: Some(number),
        ..old
    })))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestOrder {
    pub site: Site,
}

/// What a hook for a branch would meet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tested {
    /// What its webhooks are to be sent to.
    pub url: String,
    pub head: Commit,
    pub lines: Vec<TestLine>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestLine {
    pub what: String,
    pub is_good: bool,
    pub says: String,
}

/// Looks at everything a hook for the branch's head would be judged by, and deploys nothing.
async fn test(State(office): State<Arc<Office>>, Json(order): Json<TestOrder>) -> Answer<Tested> {
    let conf = office.workshop.conf();
    let site = order.site;
    let project = project_of(&conf, &site)?;
    let Origin::Repository(repository) = &project.origin else { return Err(DeployError::NotOurs(site).into()) };
    let head = office.workshop.source.head(&site.project, repository, &site.branch).await.map_err(DeployError::from)?;
    let line = |what: &str, is_good, says: String| TestLine { what: what.to_owned(), is_good, says };
    let mut lines = Vec::new();
    let proof = hooks::readiness(project, &conf.machine);
    lines.push(match proof {
        Ok(says) => line("signature", true, says),
        Err(says) => line("signature", false, says),
    });
    let endpoint = Endpoint::of_ci(project, &conf.machine);
    // Nobody has to be asked, as long as hooks come.
    let is_asked = endpoint.is_some();
    lines.push(match look::judge(office.forge.as_ref(), endpoint, &site, &head).await {
        _ if project.ci == crate::model::project::Ci::None => {
            line("CI", true, "is not asked: every push deploys".to_owned())
        }
        Judged::Passed { .. } => line("CI", true, "says that the head has passed".to_owned()),
        Judged::Not(why) => line("CI", true, format!("says that the head has not passed: {why}")),
        Judged::Unknown(why) => line("CI", !is_asked, why),
    });
    let active = office.workshop.history.active(&site).await.map_err(DeployError::from)?;
    let release = match &active {
        Some(active) => office.workshop.history.release(&site, active.release).await.map_err(DeployError::from)?,
        None => None,
    };
    lines.push(match release {
        Some(release) if release.commit == head => {
            line("head", true, format!("serves already, as {}: a hook for it is ignored", release.name()))
        }
        Some(release) => {
            line("head", true, format!("does not serve ({} is {})", release.name(), release.commit.short()))
        }
        None => line("head", true, "does not serve: nothing does".to_owned()),
    });
    let url = format!("{}/events", office.workshop.live.url(&conf.machine.hooks.host));
    Ok(Json(Tested { url, head, lines }))
}
