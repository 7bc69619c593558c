//! What the edge routes to control: webhooks, ACME's challenges and the dashboard.
//!
//! Reached by anybody on the Internet. The rule: a hook's bytes are judged before they are understood, what is accepted
//! is stored before it is answered, and everything else is a plain 404.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::admin::Office;
use super::dashboard;
use crate::control::certs::challenge::Challenges;
use crate::control::deploy::desk::Accepted;
use crate::control::hooks::{self, Delivery, GITHUB_BODY_MAX, Hooks, Verdict};
use crate::model::host::HostName;
use crate::model::push::{Provider, Push};

/// Hooks that may be judged at once; RSA takes 50 µs, a key that must be fetched takes seconds.
const HOOKS_AT_ONCE: usize = 32;
/// A CI waits ten seconds at least; whoever takes longer here is stuck.
const PATIENCE: Duration = Duration::from_secs(9);
/// Between two looks whether Travis' key is a day old.
const REFRESH: Duration = Duration::from_secs(3600);

/// What the public socket needs.
#[derive(Debug)]
pub struct Counter {
    pub office: Arc<Office>,
    pub hooks: Hooks,
    pub challenges: Challenges,
    turns: Semaphore,
}

impl Counter {
    pub fn new(office: Arc<Office>, hooks: Hooks, challenges: Challenges) -> Arc<Self> {
        Arc::new(Self { office, hooks, challenges, turns: Semaphore::new(HOOKS_AT_ONCE) })
    }
}

/// Has the key at hand that hooks are judged by, before one comes.
pub async fn keep_key(counter: Arc<Counter>) {
    loop {
        let conf = counter.office.workshop.conf();
        counter.hooks.refresh(&conf.machine).await;
        sleep(REFRESH).await;
    }
}

pub fn router(counter: Arc<Counter>) -> Router {
    Router::new()
        .route("/events", post(hook))
        .route("/events/{token}", post(hook))
        .route("/.well-known/acme-challenge/{token}", get(challenge))
        .route("/", get(front))
        .layer(DefaultBodyLimit::max(GITHUB_BODY_MAX))
        .with_state(counter)
}

async fn hook(State(counter): State<Arc<Counter>>, headers: HeaderMap, body: Bytes) -> Response {
    let observed = &counter.office.workshop.observed;
    let Ok(_turn) = counter.turns.try_acquire() else {
        observed.hook(None, "too-many");
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "5")], "too many hooks at once\n").into_response();
    };
    let conf = counter.office.workshop.conf();
    let provider = hooks::provider(&headers).ok();
    let delivery = Delivery { headers: &headers, body: &body };
    let judging = counter.hooks.judge(&delivery, &conf.machine, &conf.projects);
    let Ok(verdict) = timeout(PATIENCE, judging).await else {
        observed.hook(provider, "stuck");
        return (StatusCode::SERVICE_UNAVAILABLE, "the hook could not be judged in time\n").into_response();
    };
    match verdict {
        Verdict::Push(pushes) => accept(&counter, provider, pushes).await,
        Verdict::Ignored(why) => ignored(&counter, provider, why),
        Verdict::Refused(refusal) => {
            observed.hook(provider, "refused");
            tracing::warn!(?provider, %refusal, "a hook was refused");
            (refusal.status(), axum::Json(json!({ "error": refusal.to_string() }))).into_response()
        }
    }
}

/// A repository may be hosted by several projects: the answer names the first deployment, and all of them.
async fn accept(counter: &Counter, provider: Option<Provider>, pushes: Vec<Push>) -> Response {
    let (mut deployments, mut reasons) = (Vec::new(), Vec::new());
    for push in pushes {
        match counter.office.desk.push(push).await {
            Ok(Accepted::Deployment(id)) => deployments.push(id),
            Ok(Accepted::Ignored(why)) => reasons.push(why),
            Err(error) => {
                counter.office.workshop.observed.hook(provider, "failed");
                tracing::error!(%error, "a hook that held could not be taken");
                let again = [("retry-after", "30")];
                return (StatusCode::SERVICE_UNAVAILABLE, again, "the hook could not be stored\n").into_response();
            }
        }
    }
    let Some(first) = deployments.first() else { return ignored(counter, provider, reasons.join("; ")) };
    counter.office.workshop.observed.hook(provider, "accepted");
    tracing::info!(?provider, deployment = %first, "a hook was accepted");
    let answer = match deployments.len() {
        1 => json!({ "deployment": first }),
        _ => json!({ "deployment": first, "deployments": deployments }),
    };
    (StatusCode::ACCEPTED, axum::Json(answer)).into_response()
}

fn ignored(counter: &Counter, provider: Option<Provider>, why: String) -> Response {
    counter.office.workshop.observed.hook(provider, "ignored");
    tracing::info!(?provider, why, "a hook was ignored");
    axum::Json(json!({ "ignored": why })).into_response()
}

async fn challenge(State(counter): State<Arc<Counter>>, Path(token): Path<String>) -> Response {
    match counter.challenges.get(&token) {
        Some(answer) => ([("content-type", "application/octet-stream")], answer).into_response(),
        None => (StatusCode::NOT_FOUND, "no such challenge\n").into_response(),
    }
}

/// The dashboard, where conf gave it a host.
async fn front(State(counter): State<Arc<Counter>>, headers: HeaderMap) -> Response {
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| HostName::from_authority(host).ok());
    let conf = counter.office.workshop.conf();
    match conf.machine.dashboard.as_ref().is_some_and(|dashboard| host.as_ref() == Some(dashboard)) {
        true => dashboard::page(&counter.office).await,
        false => (StatusCode::NOT_FOUND, "nothing is here\n").into_response(),
    }
}
