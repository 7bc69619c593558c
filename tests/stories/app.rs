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
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// So many answers a frail app gives.
const FRAIL: u64 = 5;
static ANSWERS: AtomicU64 = AtomicU64::new(0);
static IS_BUSY: AtomicBool = AtomicBool::new(false);
static IS_DEAF: AtomicBool = AtomicBool::new(false);
static IS_ENDING: AtomicBool = AtomicBool::new(false);
static DEAF: Notify = Notify::const_new();

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "refusing-edge") {
        return refusing_edge().await;
    }
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
        .route("/once", post(once))
        .route("/sse", get(sse))
        .route("/endless", get(endless))
        .route("/download", get(download))
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
            _ = terminate.recv() => IS_ENDING.store(true, Ordering::Relaxed),
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

/// In place of an edge: says hello to control, and takes nothing that it is told.
async fn refusing_edge() {
    let state = std::env::args().skip_while(|word| word != "--state").nth(1).unwrap();
    let socket = PathBuf::from(state).join(format!("run/edge.{}.sock", std::process::id()));
    let (stream, _) = UnixListener::bind(socket).unwrap().accept().await.unwrap();
    let (from, mut to) = stream.into_split();
    let listeners = serde_json::json!({ "http": [], "https": [], "metrics": null });
    let hello =
        serde_json::json!({ "type": "hello", "version": "9", "pid": 1, "generation": 0, "listeners": listeners });
    let mut say = async |message: serde_json::Value| {
        let line = format!("{}\n", serde_json::json!({ "message": message }));
        to.write_all(line.as_bytes()).await.unwrap();
    };
    say(hello).await;
    let mut lines = tokio::io::BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (generation, kind) = (&told["message"]["generation"], &told["message"]["section"]["section"]);
        let fault = "this conf is not for me";
        say(serde_json::json!({ "type": "applied", "generation": generation, "kind": kind, "fault": fault })).await;
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

/// Writes down what was posted, in the file that the environment names, and takes a moment over the answer, each 16th time a
/// long one.
async fn once(id: String) -> StatusCode {
    use std::io::Write;
    let path = std::env::var("ONCE").unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{id}\n").as_bytes()).unwrap();
    let is_slow = id.parse::<u64>().is_ok_and(|id| id.is_multiple_of(16));
    tokio::time::sleep(Duration::from_millis(if is_slow { 300 } else { 2 })).await;
    StatusCode::OK
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

/// Events, one each 20 ms, until the app is told to end: then it says goodbye.
async fn endless() -> impl IntoResponse {
    let events = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let event = match IS_ENDING.load(Ordering::Relaxed) {
            false => format!("data: {n}\n\n"),
            true if n > 0 => "data: goodbye\n\n".to_owned(),
            true => return None,
        };
        let next = if IS_ENDING.load(Ordering::Relaxed) { 0 } else { n + 1 };
        Some((Ok::<_, Infallible>(Bytes::from(event)), next))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
}

/// More than all buffers on the way hold: 16 MiB in lines that count.
async fn download() -> impl IntoResponse {
    let lines: String = (0..1 << 20).map(|n| format!("{n:015}\n")).collect();
    let length = lines.len();
    let parts = stream::iter(0..length.div_ceil(64 << 10)).map(move |part| {
        let from = part * (64 << 10);
        Ok::<_, Infallible>(Bytes::copy_from_slice(&lines.as_bytes()[from..(from + (64 << 10)).min(length)]))
    });
    let headers = [(header::CONTENT_LENGTH, length.to_string()), (header::CACHE_CONTROL, "no-store".to_owned())];
    (headers, Body::from_stream(parts))
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
