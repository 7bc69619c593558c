//! The app behind the gateway: a small page, a large one, and one that takes in whatever it is sent.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CACHE_CONTROL;
use axum::routing::{get, post};
use http_body_util::BodyExt;
use tokio::net::UnixListener;

use crate::world::World;

pub const PAGE: &str = "a page of the shop";
pub const LARGE: usize = 10 << 20;

/// Serves on a Unix socket, as the apps that Prime starts do, on a thread of its own; where it listens, as conf says it.
pub fn start(world: &World) -> String {
    let large = Bytes::from(vec![b'x'; LARGE]);
    let stored = large.clone();
    let router = Router::new()
        .route("/", get(|| async { ([(CACHE_CONTROL, "no-store")], PAGE) }))
        .route("/stored", get(|| async { ([(CACHE_CONTROL, "public, max-age=600")], PAGE) }))
        .route("/large", get(|| async move { ([(CACHE_CONTROL, "no-store")], large) }))
        .route("/stored-large", get(|| async move { ([(CACHE_CONTROL, "public, max-age=600")], stored) }))
        .route("/sink", post(sink));
    let socket = world.path().join("app.sock");
    let address = format!("unix:{}", socket.display());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { axum::serve(UnixListener::bind(socket).unwrap(), router).await.unwrap() });
    });
    address
}

async fn sink(mut body: Body) -> String {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    length.to_string()
}
