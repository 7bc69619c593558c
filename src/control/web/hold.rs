//! A pause or a page before a site's app, put there and taken away by a person.
//!
//! The rule: it is stored before the edge is told, so that it holds whatever happens to either.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};

use super::admin::{Answer, Office, Refused};
use super::api::{HoldOrder, Refusal, WasHeld};
use crate::control::deploy::{DeployError, project_of};
use crate::model::hold::{Hold, Notice};
use crate::model::name::Site;

/// A project's own page, in its repository.
const PAGE: &str = "errors/maintenance.html";
/// The edge keeps it in its snapshot, once for each host.
const PAGE_MAX: usize = 64 << 10;

/// Whoever waits longer has given up.
const WITHIN_MAX: Duration = Duration::from_secs(600);

pub fn router() -> Router<Arc<Office>> {
    Router::new().route("/v1/hold", post(hold))
}

async fn hold(State(office): State<Arc<Office>>, Json(order): Json<HoldOrder>) -> Answer<WasHeld> {
    let HoldOrder { site, hold } = order;
    project_of(&office.workshop.conf(), &site)?;
    if matches!(hold, Some(Hold::Pause { within }) if within > WITHIN_MAX) {
        let error = format!("a request cannot wait longer than {} s", WITHIN_MAX.as_secs());
        let hint = Some("`opri maintenance` says at once that the site is away".to_owned());
        return Err(Refused(StatusCode::BAD_REQUEST, Refusal { error, hint }));
    }
    let hold = match hold {
        Some(Hold::Maintenance(Notice { message: None, .. })) => {
            Some(Hold::Maintenance(Notice { page: page(&office, &site).await?, message: None }))
        }
        other => other,
    };
    let before = office.workshop.history.hold(&site, hold.clone()).await.map_err(DeployError::from)?;
    office.workshop.live.hold(site.clone(), hold.clone()).await.map_err(DeployError::from)?;
    let words = hold.as_ref().map_or("resumed", Hold::as_str);
    tracing::warn!(%site, "a person has the site {words}");
    Ok(Json(WasHeld { hold, before: before.map(|held| held.hold) }))
}

/// As the release that serves has it.
async fn page(office: &Office, site: &Site) -> Result<Option<String>, Refused> {
    let history = &office.workshop.history;
    let Some(active) = history.active(site).await.map_err(DeployError::from)? else { return Ok(None) };
    let release = history.release(site, active.release).await.map_err(DeployError::from)?;
    let Some(release) = release else { return Ok(None) };
    match office.workshop.source.file(&site.project, &release.commit, PAGE).await {
        Ok(Some(page)) if page.len() <= PAGE_MAX => Ok(Some(String::from_utf8_lossy(&page).into_owned())),
        Ok(Some(_)) => {
            tracing::warn!(%site, "{PAGE} is larger than {PAGE_MAX} bytes: ours is shown");
            Ok(None)
        }
        Ok(None) => Ok(None),
        Err(error) => {
            tracing::warn!(%site, error = crate::report::with_causes(&error), "{PAGE} cannot be read: ours is shown");
            Ok(None)
        }
    }
}
