//! The app behind the gateway: a small page, a large one, and one that takes in whatever it is sent.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CACHE_CONTROL;
use axum::routing::{get, post};
use http_body_util::BodyExt;
use tokio::net::TcpListener;

use crate::world::World;

pub const PAGE: &str = "a page of the shop";
pub const LARGE: usize = 10 << 20;

/// Serves on a free port of the loopback as long as the world is; tells the port.
pub fn start(world: &World) -> u16 {
    let large = Bytes::from(vec![b'x'; LARGE]);
    let stored = large.clone();
    let router = Router::new()
        .route("/", get(|| async { ([(CACHE_CONTROL, "no-store")], PAGE) }))
        .route("/stored", get(|| async { ([(CACHE_CONTROL, "public, max-age=600")], PAGE) }))
        .route("/large", get(|| async move { ([(CACHE_CONTROL, "no-store")], large) }))
        .route("/stored-large", get(|| async move { ([(CACHE_CONTROL, "public, max-age=600")], stored) }))
        .route("/sink", post(sink));
    world.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        port
    })
}

async fn sink(mut body: Body) -> String {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    length.to_string()
}
