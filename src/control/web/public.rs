//! What the edge routes to control: webhooks, ACME's challenges and the dashboard.
//!
//! Reached by anybody on the Internet. The rule: a hook's bytes are judged before they are understood, what is accepted
//! is stored before it is answered, and everything else is a plain 404.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::admin::Office;
use super::dashboard;
use super::deliveries::{Delivered, Taken, take};
use crate::control::certs::challenge::Challenges;
use crate::control::deploy::desk::Via;
use crate::control::hooks::{self, Delivery, Hooks, Judged, Verdict};
use crate::model::host::HostName;

/// What nearly every delivery is below, in bytes. More may come at once of those than of larger ones, so that strangers
/// can make control hold 64 + 100 MB at the most.
const SMALL: usize = 1 << 20;
const SMALL_AT_ONCE: usize = 64;
const LARGE_AT_ONCE: usize = 4;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(5);
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
    small: Semaphore,
    large: Semaphore,
}

impl Counter {
    pub fn new(office: Arc<Office>, hooks: Hooks, challenges: Challenges) -> Arc<Self> {
        let (small, large) = (Semaphore::new(SMALL_AT_ONCE), Semaphore::new(LARGE_AT_ONCE));
        Arc::new(Self { office, hooks, challenges, small, large })
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
        .with_state(counter)
}

/// A turn is taken before the body is read, so that memory is bounded whoever sends.
async fn hook(State(counter): State<Arc<Counter>>, headers: HeaderMap, body: Body) -> Response {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let is_small = declared.is_none_or(|length| length <= SMALL);
    let most = if is_small { SMALL } else { hooks::body_max(&headers) };
    let turns = if is_small { &counter.small } else { &counter.large };
    if declared.is_some_and(|length| length > most) {
        return refused(&counter, StatusCode::PAYLOAD_TOO_LARGE, "the delivery is too large\n");
    }
    let Ok(_turn) = turns.try_acquire() else {
        return refused(&counter, StatusCode::TOO_MANY_REQUESTS, "too many hooks at once\n");
    };
    match timeout(ARRIVAL, to_bytes(body, most)).await {
        Ok(Ok(body)) => judge(&counter, &headers, &body).await,
        Ok(Err(_)) => refused(&counter, StatusCode::PAYLOAD_TOO_LARGE, "the delivery is too large, or broke off\n"),
        Err(_) => refused(&counter, StatusCode::REQUEST_TIMEOUT, "the delivery takes too long\n"),
    }
}

/// For what is not even read.
fn refused(counter: &Counter, status: StatusCode, why: &'static str) -> Response {
    counter.office.workshop.observed.hook(None, "refused");
    (status, [("retry-after", "5")], why).into_response()
}

async fn judge(counter: &Counter, headers: &HeaderMap, body: &[u8]) -> Response {
    let office = &counter.office;
    let conf = office.workshop.conf();
    let at = SystemTime::now();
    let delivery = Delivery { headers, body, at };
    let judging = counter.hooks.judge(&delivery, &conf.machine, &conf.projects);
    let Ok(judged) = timeout(PATIENCE, judging).await else {
        office.workshop.observed.hook(hooks::provider(headers).ok(), "stuck");
        return (StatusCode::SERVICE_UNAVAILABLE, "the hook could not be judged in time\n").into_response();
    };
    let taken = take(office, &judged, Via::Hook).await;
    office.workshop.observed.hook(judged.provider, taken.outcome);
    let Taken { outcome, deployments, reason, .. } = &taken;
    match taken.status.as_u16() {
        400.. => tracing::warn!(provider = ?judged.provider, reason, "a hook was {outcome}"),
        _ => tracing::info!(provider = ?judged.provider, ?deployments, reason, "a hook was {outcome}"),
    }
    office.deliveries.add(Delivered {
        number: 0,
        at,
        provider: judged.provider,
        event: hooks::event(headers),
        bytes: body.len(),
        status: taken.status.as_u16(),
        deployments: deployments.clone(),
        reason: reason.clone(),
        claim: judged.claim.clone(),
        replay_of: None,
    });
    answer(&judged, taken)
}

/// What the sender is told: the first deployment, and all where a repository is hosted by several projects.
fn answer(judged: &Judged, taken: Taken) -> Response {
    let Taken { status, deployments, reason, .. } = taken;
    let body = match (deployments.first(), &judged.verdict) {
        (Some(first), _) if deployments.len() == 1 => json!({ "deployment": first }),
        (Some(first), _) => json!({ "deployment": first, "deployments": deployments }),
        (None, _) if status == StatusCode::OK => json!({ "ignored": reason }),
        // What is wrong with the machine is for its log, not for whoever asks; and so is which repositories it knows.
        (None, Verdict::Refused(refusal)) if !status.is_server_error() => json!({ "error": refusal.to_string() }),
        (None, Verdict::Push(_)) if status == StatusCode::NOT_FOUND => {
            json!({ "error": "no project has this repository" })
        }
        _ => json!({ "error": "the hook cannot be taken now" }),
    };
    match status.is_server_error() {
        true => (status, [("retry-after", "30")], axum::Json(body)).into_response(),
        false => (status, axum::Json(body)).into_response(),
    }
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
