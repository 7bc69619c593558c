//! What control answers over HTTP, each on a Unix socket of its own: `public` for what the edge routes here (hooks,
//! challenges, the dashboard), `admin` for the command line, `metrics` for the edge to show.

mod access;
pub mod admin;
pub mod api;
mod dashboard;
pub mod deliveries;
mod follow;
mod hold;
pub mod hooks;
mod overview;
pub mod public;
mod rates;
mod upgrade;
mod why;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Router;
use axum::routing::get;
use tokio::net::UnixListener;

use crate::control::observe::Observed;

pub use rates::Rates;

/// Binds a socket in place of a stale one; only this user may connect.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the process ends.
pub async fn serve(listener: UnixListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "a socket of control answers no more");
    }
}

/// Control's metrics, for the edge to put beside its own.
pub fn metrics(observed: Observed) -> Router {
    let text = move || async move { observed.text().map_err(|error| error.to_string()) };
    Router::new().route("/metrics", get(text))
}
