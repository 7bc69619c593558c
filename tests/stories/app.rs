//! The app that the stories deploy: an ordinary web app that keeps the contract, with a path for each thing a story asks.
//!
//! What its checkout holds decides how it behaves: `page.txt` is its page, `crash` makes it end at once, `sick` makes it
//! answer 500, `fails` does so on one path, `frail` makes it end after a few answers.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, Request};
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// So many answers a frail app gives.
const FRAIL: u64 = 5;
static ANSWERS: AtomicU64 = AtomicU64::new(0);
static IS_BUSY: AtomicBool = AtomicBool::new(false);
static IS_DEAF: AtomicBool = AtomicBool::new(false);
static DEAF: Notify = Notify::const_new();

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if Path::new("crash").exists() {
        eprintln!("the reason why it crashed");
        std::process::exit(3);
    }
    println!("started as release {}", std::env::var("OPRI_RELEASE").unwrap_or_default());
    let router = Router::new()
        .route("/", get(page))
        .route("/fails", get(fails))
        .route("/asset/{name}", get(asset))
        .route("/stored", get(stored).put(async || {}))
        .route("/private", get(private))
        .route("/slow", get(slow))
        .route("/echo", post(echo))
        .route("/sse", get(sse))
        .route("/ws", any(upgrade))
        .route("/headers", any(headers))
        .route("/die", post(die))
        .route("/up", get(up))
        .route("/busy", post(busy))
        .route("/deaf", post(deaf));
    // Who speaks HTTP/2 alone understands nothing else.
    let router = match Path::new("h2c").exists() {
        true => router.layer(axum::middleware::map_request(only_http2)),
        false => router,
    };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let finish = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            () = DEAF.notified() => {}
        }
    };
    match std::env::var_os("SOCKET").filter(|_| !Path::new("port-only").exists()) {
        Some(socket) => {
            let listener = UnixListener::bind(PathBuf::from(socket)).unwrap();
            axum::serve(listener, router).with_graceful_shutdown(finish).await.unwrap();
        }
        None => {
            let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
            let host = std::env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
            let listener = TcpListener::bind((host.as_str(), port)).await.unwrap();
            axum::serve(listener, router).with_graceful_shutdown(finish).await.unwrap();
        }
    }
    if IS_DEAF.load(Ordering::Relaxed) {
        std::future::pending().await
    }
}

async fn only_http2(request: Request) -> Result<Request, StatusCode> {
    match request.version() {
        Version::HTTP_2 => Ok(request),
        _ => Err(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
    }
}

fn text() -> String {
    std::fs::read_to_string("page.txt").unwrap_or_else(|_| "no page".to_owned())
}

async fn page() -> Response {
    if Path::new("frail").exists() && ANSWERS.fetch_add(1, Ordering::Relaxed) >= FRAIL {
        std::process::exit(7);
    }
    match Path::new("sick").exists() {
        true => (StatusCode::INTERNAL_SERVER_ERROR, "sick").into_response(),
        false => ([(header::CACHE_CONTROL, "no-store")], text()).into_response(),
    }
}

async fn fails() -> Response {
    match Path::new("fails").exists() {
        true => (StatusCode::INTERNAL_SERVER_ERROR, "it fails").into_response(),
        false => ([(header::CACHE_CONTROL, "no-store")], text()).into_response(),
    }
}

/// What the checkout has of that name, said to be immutable where that begins with `i`.
async fn asset(UrlPath(name): UrlPath<String>) -> Response {
    let Ok(text) = std::fs::read_to_string(&name) else {
        return (StatusCode::NOT_FOUND, "not here").into_response();
    };
    let control =
        if name.starts_with('i') { "public, max-age=31536000, immutable" } else { "public, max-age=31536000" };
    ([(header::CACHE_CONTROL, control), (header::VARY, "accept-language")], text).into_response()
}

/// Another body each time it is really asked.
async fn stored() -> impl IntoResponse {
    let answer = ANSWERS.fetch_add(1, Ordering::Relaxed);
    ([(header::CACHE_CONTROL, "public, max-age=60")], format!("{} answer {answer}", text()))
}

async fn private() -> impl IntoResponse {
    let answer = ANSWERS.fetch_add(1, Ordering::Relaxed);
    let headers = [(header::CACHE_CONTROL, "public, max-age=60"), (header::SET_COOKIE, "session=1")];
    (headers, format!("answer {answer}"))
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(Query(slow): Query<Slow>) -> String {
    tokio::time::sleep(Duration::from_millis(slow.ms)).await;
    text()
}

async fn echo(body: Body) -> Body {
    body
}

/// A hundred events, one each 20 ms.
async fn sse() -> impl IntoResponse {
    let events = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (n < 100).then(|| (Ok::<_, Infallible>(Bytes::from(format!("data: {n}\n\n"))), n + 1))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
}

/// After the handshake every byte comes back.
async fn upgrade(request: Request) -> Response {
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            if stream.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")];
    (StatusCode::SWITCHING_PROTOCOLS, headers, [("sec-websocket-accept", "x")]).into_response()
}

/// The request's headers, one a line.
async fn headers(headers: HeaderMap) -> String {
    let line = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
    };
    headers.iter().map(line).collect()
}

/// The health check that some stories ask for.
async fn up() -> &'static str {
    if IS_BUSY.load(Ordering::Relaxed) {
        std::future::pending().await
    }
    "up"
}

/// Answers no health check any more, but everything else.
async fn busy() {
    IS_BUSY.store(true, Ordering::Relaxed);
}

/// Lives on, and listens no more.
async fn deaf() {
    IS_DEAF.store(true, Ordering::Relaxed);
    DEAF.notify_one();
}

async fn die() {
    std::process::exit(7);
}
