//! The app that the demo deploys: serves the page of its checkout on `$SOCKET`, and finishes on SIGTERM.
//!
//! An app as any other: it knows nothing of Prime but the contract.

use std::path::PathBuf;

use axum::Router;
use axum::http::header::CACHE_CONTROL;
use axum::response::Html;
use axum::routing::get;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::super::{Done, Failure, block_on};

pub fn run() -> Done {
    let socket = std::env::var_os("SOCKET").map(PathBuf::from);
    let socket = socket.ok_or_else(|| Failure::hinted("$SOCKET is not set", "this is started by `opri demo`"))?;
    let page = std::fs::read_to_string("page.html").map_err(Failure::new)?;
    block_on(async move {
        let listener = UnixListener::bind(socket).map_err(Failure::new)?;
        let fresh = page.clone();
        let router = Router::new()
            .route("/", get(move || async move { ([(CACHE_CONTROL, "no-store")], Html(fresh)) }))
            .route("/stored", get(move || async move { ([(CACHE_CONTROL, "public, max-age=60")], Html(page)) }));
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
        say!("ready");
        let finish = async move {
            terminate.recv().await;
        };
        axum::serve(listener, router).with_graceful_shutdown(finish).await.map_err(Failure::new)
    })
}
