//! An upgrade: another edge in the place of the one that serves, and another control in the place of this one.
//!
//! Asked by `opri upgrade`. The rule: control follows only when an edge from the same file serves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::admin::{Answer, Office, Refused};
use super::api::{EdgeStatus, Refusal, Upgraded};
use crate::control::live;
use crate::{link, report};

pub async fn edge(State(office): State<Arc<Office>>) -> Answer<Upgraded> {
    let succession = office.workshop.live.succeed().await.map_err(|error| {
        let hint = Some("the edge that serves goes on; nothing has changed".to_owned());
        Refused(StatusCode::INTERNAL_SERVER_ERROR, Refusal { error: report::with_causes(&error), hint })
    })?;
    let on_disk = live::binary().ok().and_then(|path| link::binary(&path));
    Ok(Json(Upgraded {
        before: succession.before,
        edge: EdgeStatus { pid: succession.pid, version: succession.version, was_adopted: false },
        newer: on_disk.filter(|on_disk| link::own_binary().as_ref() != Some(on_disk)),
    }))
}

/// Never answers: the connection ends when the next control begins.
pub async fn control(State(office): State<Arc<Office>>) {
    office.again.notify_one();
    std::future::pending().await
}
