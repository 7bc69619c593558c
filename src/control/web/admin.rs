//! The admin API: what the command line asks, over a Unix socket that only this user may open.
//!
//! Every handler is a few lines: the work is done by the desk, the reload and the owner of what is live.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use super::api::{
    AccessQuery, CancelOrder, Cancelled, DeployOrder, EdgeStatus, LookOrder, Ordered, Refusal, ReleaseLine, Reloaded,
    RollbackOrder, Seen, SiteLine, Status, Why,
};
use super::deliveries::Deliveries;
use super::{Rates, access, follow, hold, hooks, overview, upgrade, why};
use crate::control::certs::Certificate;
use crate::control::conf;
use crate::control::deploy::desk::Desk;
use crate::control::deploy::look::Looker;
use crate::control::deploy::{DeployError, Workshop, project_of};
use crate::control::forge::Forge;
use crate::control::previews::Previews;
use crate::control::reload::Reload;
use crate::control::runtime::{ByteStream, tail_file};
use crate::link::why::Question;
use crate::link::{self, Purge, PurgeScope, paths};
use crate::model::deployment::{Cause, DeploymentId};
use crate::model::host::HostName;
use crate::model::name::Site;
use crate::model::project::Project;
use crate::report::{self, Fault};

/// How far back a log is shown, in lines, when nobody says how far.
const LINES: usize = 1000;

/// What the endpoints need; made once.
#[derive(Debug)]
pub struct Office {
    pub workshop: Arc<Workshop>,
    pub desk: Desk,
    pub looker: Looker,
    pub forge: Option<Forge>,
    pub deliveries: Deliveries,
    pub reload: Reload,
    pub previews: Previews,
    pub rates: Rates,
    pub certificates: watch::Receiver<Vec<Certificate>>,
    /// Woken when control is to take its own place.
    pub again: Notify,
}

pub fn router(office: Arc<Office>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/list", get(list))
        .route("/v1/releases", get(releases))
        .route("/v1/reload", post(reload))
        .route("/v1/upgrade", post(upgrade::edge))
        .route("/v1/again", post(upgrade::control))
        .route("/v1/look", post(look))
        .route("/v1/deploy", post(deploy))
        .route("/v1/rollback", post(rollback))
        .route("/v1/cancel", post(cancel))
        .route("/v1/follow", get(follow))
        .route("/v1/logs", get(logs))
        .route("/v1/access", get(access))
        .route("/v1/purge", post(purge))
        .route("/v1/why", post(why))
        .merge(hooks::router())
        .merge(hold::router())
        .with_state(office)
}

/// A refused order as the command line reads it.
pub struct Refused(pub StatusCode, pub Refusal);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<DeployError> for Refused {
    fn from(error: DeployError) -> Self {
        let (status, hint) = match &error {
            DeployError::UnknownProject(_) | DeployError::UnknownDeployment(_) => {
                (StatusCode::NOT_FOUND, Some("`opri list` shows what is hosted"))
            }
            DeployError::UnknownBranch { .. } => {
                (StatusCode::NOT_FOUND, Some("give <project>/<branch>; a project alone means its master"))
            }
            DeployError::NoRelease(..) => {
                (StatusCode::NOT_FOUND, Some("`opri releases` shows what can be brought back"))
            }
            DeployError::NotOurs(_)
            | DeployError::NothingEarlier(_)
            | DeployError::NothingUnderWay(_)
            | DeployError::ServesAlready(..) => (StatusCode::CONFLICT, None),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let hint = hint.map(str::to_owned);
        Self(status, Refusal { error: report::with_causes(&error), hint })
    }
}

pub type Answer<T> = Result<Json<T>, Refused>;

async fn status(State(office): State<Arc<Office>>) -> Json<Status> {
    Json(status_of(&office).await)
}

/// What runs, on one screen.
pub async fn status_of(office: &Office) -> Status {
    let conf = office.workshop.conf();
    let view = office.workshop.live.view();
    let url = |host| office.workshop.live.url(host);
    let sites = overview::sites(office).await.unwrap_or_default();
    let automatic = sites.iter().filter_map(|line| line.deployment.as_ref());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        binary: link::own_binary(),
        edge: EdgeStatus { pid: view.edge_pid, version: view.edge_version, was_adopted: view.edge_was_adopted },
        runtime: office.workshop.runtime.name().to_owned(),
        state_dir: conf.machine.state_dir.clone(),
        listeners: view.listeners,
        hooks: format!("{}/events", url(&conf.machine.hooks.host)),
        dashboard: conf.machine.dashboard.as_ref().map(url),
        projects: conf.projects.len(),
        sites_serving: sites.iter().filter(|site| site.replicas.is_none_or(|replicas| replicas > 0)).count(),
        unwell: office.workshop.live.unwell(),
        unjudged: office.looker.unjudged(),
        disk: office.workshop.observed.disk_use(),
        held: sites.iter().filter_map(|site| site.held.clone()).collect(),
        rolled_back: automatic.filter_map(|one| Some((one.id.site.clone(), one.as_automatic()?))).collect(),
        faults: office.reload.faults(),
    }
}

async fn list(State(office): State<Arc<Office>>) -> Answer<Vec<SiteLine>> {
    Ok(Json(overview::sites(&office).await?))
}

async fn reload(State(office): State<Arc<Office>>) -> Json<Reloaded> {
    Json(office.reload.now().await)
}

/// What there is at a repository that is not hosted yet, seen as a deployment will see it.
async fn look(State(office): State<Arc<Office>>, Json(order): Json<LookOrder>) -> Answer<Seen> {
    let LookOrder { project, repository } = order;
    let repository = conf::repository(office.reload.dir(), &repository).map_err(unfit)?;
    let heads = office.workshop.source.heads(&project, &repository).await.map_err(DeployError::from)?;
    let host = format!("{project}.{}", office.workshop.conf().machine.domain);
    Ok(Json(Seen { main: heads.main, has_dev: heads.has_dev, host }))
}

fn unfit(faults: Vec<Fault>) -> Refused {
    let fault = faults.into_iter().next();
    let (error, hint) = fault.map_or_else(Default::default, |fault| (fault.message, fault.hint));
    Refused(StatusCode::BAD_REQUEST, Refusal { error, hint })
}

async fn deploy(State(office): State<Arc<Office>>, Json(order): Json<DeployOrder>) -> Answer<Ordered> {
    let deployment = office.desk.order(order.site, Cause::Person, order.commit).await?;
    Ok(Json(Ordered { deployment }))
}

async fn rollback(State(office): State<Arc<Office>>, Json(order): Json<RollbackOrder>) -> Answer<Ordered> {
    project_of(&office.workshop.conf(), &order.site)?;
    let release = match order.release {
        Some(release) => release,
        None => before_active(&office, &order.site).await?,
    };
    let deployment = office.desk.order(order.site, Cause::Rollback { release }, None).await?;
    Ok(Json(Ordered { deployment }))
}

async fn cancel(State(office): State<Arc<Office>>, Json(order): Json<CancelOrder>) -> Answer<Cancelled> {
    let deployments = office.desk.cancel(order.site, order.by).await?;
    Ok(Json(Cancelled { deployments }))
}

/// Of the releases that are older than the active one that which served before it, else the newest.
async fn before_active(office: &Office, site: &Site) -> Result<u64, DeployError> {
    let history = &office.workshop.history;
    let active = history.active(site).await?;
    let number = active.as_ref().map_or(u64::MAX, |active| active.release);
    let releases = history.releases(site).await?;
    let earlier: Vec<u64> = releases.iter().map(|release| release.number).filter(|older| *older < number).collect();
    let before = active.and_then(|active| active.before()).filter(|before| earlier.contains(before));
    let earlier = before.or_else(|| earlier.into_iter().max());
    earlier.ok_or_else(|| DeployError::NothingEarlier(site.clone()))
}

#[derive(Deserialize)]
struct OfSite {
    site: Site,
}

async fn releases(State(office): State<Arc<Office>>, Query(query): Query<OfSite>) -> Answer<Vec<ReleaseLine>> {
    project_of(&office.workshop.conf(), &query.site)?;
    let history = &office.workshop.history;
    let active = history.active(&query.site).await.map_err(DeployError::from)?.map(|active| active.release);
    let releases = history.releases(&query.site).await.map_err(DeployError::from)?;
    let line = |release: crate::model::release::Release| ReleaseLine {
        release: release.name(),
        is_active: Some(release.number) == active,
        commit: release.commit,
        built_at: release.built_at,
    };
    Ok(Json(releases.into_iter().rev().map(line).collect()))
}

/// Answers with what was purged. How many responses that were is not known: they are judged when they are asked for.
async fn purge(State(office): State<Arc<Office>>, Json(purge): Json<Purge>) -> Answer<Purge> {
    let conf = office.workshop.conf();
    let project = match &purge.branch {
        Some(branch) => project_of(&conf, &Site::new(purge.project.clone(), branch.clone()))?,
        None => {
            let unknown = || DeployError::UnknownProject(purge.project.clone());
            conf.projects.get(&purge.project).ok_or_else(unknown)?
        }
    };
    let scope = match purge.scope.clone() {
        PurgeScope::Url(url) => {
            is_hosted(project, &purge, &url)?;
            PurgeScope::Url(project.cache.stored_url(&url))
        }
        scope => scope,
    };
    office.workshop.live.purge(Purge { scope, ..purge.clone() }).await.map_err(DeployError::from)?;
    Ok(Json(purge))
}

/// Refuses a URL by which nothing of what is to be purged can be stored.
fn is_hosted(project: &Project, purge: &Purge, url: &str) -> Result<(), Refused> {
    if url.starts_with('/') {
        return Ok(());
    }
    let rest = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let Ok(host) = HostName::from_authority(authority) else {
        let hint = Some("give a path, or a whole URL with its host".to_owned());
        return Err(Refused(StatusCode::BAD_REQUEST, Refusal { error: format!("`{url}` names no host"), hint }));
    };
    let mut branches =
        project.branches.iter().filter(|(name, _)| purge.branch.as_ref().is_none_or(|branch| branch == *name));
    match branches.any(|(_, branch)| branch.hosts.iter().any(|pattern| pattern.matches(&host))) {
        true => Ok(()),
        false => {
            let branch = purge.branch.as_ref().map(|branch| format!("/{branch}")).unwrap_or_default();
            let error = format!("{}{branch} has no host `{}`", project.name, host.as_str());
            let hint = Some("`opri list` shows what is hosted".to_owned());
            Err(Refused(StatusCode::NOT_FOUND, Refusal { error, hint }))
        }
    }
}

async fn why(State(office): State<Arc<Office>>, Json(question): Json<Question>) -> Answer<Why> {
    let authority = question.authority.clone();
    let unknown = || {
        let hint = Some("`opri list` shows what is hosted, `opri check` what conf names".to_owned());
        Refused(StatusCode::NOT_FOUND, Refusal { error: format!("no site has the host {authority}"), hint })
    };
    why::why(&office, question).await?.map(Json).ok_or_else(unknown)
}

#[derive(Deserialize)]
struct OfDeployment {
    deployment: DeploymentId,
}

/// JSON lines: every change of a deployment and every line of its build, until it serves or has ended.
async fn follow(State(office): State<Arc<Office>>, Query(query): Query<OfDeployment>) -> Result<Response, Refused> {
    let changes = office.workshop.progress.subscribe();
    let stored = office.workshop.history.deployment(&query.deployment).await.map_err(DeployError::from)?;
    let now = stored.ok_or_else(|| DeployError::UnknownDeployment(query.deployment.clone()))?;
    Ok(follow::deployment(office, now, changes).into_response())
}

#[derive(Deserialize)]
struct OfLogs {
    site: Site,
    #[serde(default)]
    build: bool,
    #[serde(default)]
    follow: bool,
    /// The build of this release, and not the newest.
    release: Option<u64>,
    #[serde(default = "usual_lines")]
    lines: usize,
}

fn usual_lines() -> usize {
    LINES
}

/// Plain text: the app's output, or the newest build's.
async fn logs(State(office): State<Arc<Office>>, Query(query): Query<OfLogs>) -> Result<Response, Refused> {
    project_of(&office.workshop.conf(), &query.site)?;
    let stream = if query.build { build_log(office, &query).await? } else { app_log(&office, &query).await? };
    Ok(axum::body::Body::from_stream(stream).into_response())
}

async fn build_log(office: Arc<Office>, query: &OfLogs) -> Result<ByteStream, Refused> {
    let changes = office.workshop.progress.subscribe();
    let history = &office.workshop.history;
    let deployment = match query.release {
        Some(release) => {
            let builder = history.builder(&query.site, release).await.map_err(DeployError::from)?;
            builder.ok_or_else(|| DeployError::NoRelease(query.site.clone(), release))?
        }
        None => {
            let newest = history.newest(&query.site).await.map_err(DeployError::from)?;
            newest.ok_or_else(|| nothing_yet(&query.site))?
        }
    };
    if query.follow {
        return Ok(follow::build_log(office, deployment, changes, query.lines));
    }
    let path = office.workshop.build_log(&deployment);
    Ok(whole(tail_file(&path, query.lines).map_err(DeployError::from)?))
}

async fn app_log(office: &Office, query: &OfLogs) -> Result<ByteStream, Refused> {
    let active = office.workshop.history.active(&query.site).await.map_err(DeployError::from)?;
    let mut replicas = active.ok_or_else(|| nothing_yet(&query.site))?.replicas;
    let runtime = &office.workshop.runtime;
    if runtime.has_one_log() {
        replicas.truncate(1);
    }
    if query.follow {
        let streams = replicas.iter().map(|placed| runtime.follow(&placed.replica, query.lines));
        return Ok(Box::pin(stream::select_all(streams)));
    }
    let mut text = String::new();
    for placed in &replicas {
        text.push_str(&runtime.tail(&placed.replica, query.lines).await.map_err(DeployError::from)?);
    }
    Ok(whole(text))
}

/// JSON lines of the access log: those that match, and then what is added.
async fn access(State(office): State<Arc<Office>>, Query(query): Query<AccessQuery>) -> Result<Response, Refused> {
    if let Some(site) = &query.site {
        project_of(&office.workshop.conf(), site)?;
    }
    let log = paths::access_log(&office.workshop.state_dir);
    if !office.workshop.conf().machine.access_log.enabled && !log.exists() {
        let hint = Some("`[log] access = true` in prime.toml has one written".to_owned());
        return Err(Refused(StatusCode::NOT_FOUND, Refusal { error: "no access log is written".to_owned(), hint }));
    }
    Ok(access::body(log, query).into_response())
}

fn whole(text: String) -> ByteStream {
    Box::pin(stream::once(async move { Ok(text.into()) }))
}

fn nothing_yet(site: &Site) -> Refused {
    let hint = Some(format!("`opri deploy {site}` builds its head"));
    Refused(StatusCode::NOT_FOUND, Refusal { error: format!("no release of {site} has served yet"), hint })
}
