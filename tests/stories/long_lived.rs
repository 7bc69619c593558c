//! Answers that take as long as somebody wants: WebSockets, event streams, downloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::http;
use crate::world::{PATIENCE, Prime};

/// A connection that an app echoes.
pub struct WebSocket<'p> {
    prime: &'p Prime<'p>,
    stream: TokioIo<Upgraded>,
}

impl<'p> WebSocket<'p> {
    pub fn open(prime: &'p Prime<'p>, host: &str) -> Self {
        let stream = prime.world.runtime.block_on(async {
            let mut sender = http::http1(http::tcp(prime.address("http")).await?).await?;
            let request = Request::get("/ws")
                .header("host", host)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(Full::<Bytes>::default())
                .unwrap();
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            hyper::upgrade::on(response).await.map_err(|error| error.to_string())
        });
        Self { prime, stream: TokioIo::new(stream.unwrap()) }
    }

    pub fn echoes(&mut self, text: &str) -> String {
        let mut back = vec![0; text.len()];
        let echoed = self.prime.world.runtime.block_on(async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.read_exact(&mut back).await
        });
        echoed.unwrap_or_else(|error| panic!("{error}\n{}", self.prime.logs()));
        String::from_utf8(back).unwrap()
    }
    /// Waits until it is ended properly.
    pub fn is_ended(&mut self) {
        let mut bytes = [0; 64];
        let reading = async { tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes)).await };
        let ended = self.prime.world.runtime.block_on(reading);
        assert!(matches!(ended, Ok(Ok(0))), "{ended:?}\n{}", self.prime.logs());
    }
}

/// An event stream that somebody reads.
pub struct EventStream {
    events: Arc<AtomicU64>,
    reading: JoinHandle<Result<String, String>>,
}

impl EventStream {
    pub fn open(prime: &Prime<'_>, host: &str) -> Self {
        let (address, host, events) = (prime.address("http"), host.to_owned(), Arc::new(AtomicU64::new(0)));
        let counted = events.clone();
        let reading = prime.world.runtime.spawn(async move {
            let mut body = begin(address, &host, "/endless").await?;
            let mut last = String::new();
            while let Some(frame) = body.frame().await {
                let part = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
                last = String::from_utf8_lossy(&part).into_owned();
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(last)
        });
        Self { events, reading }
    }

    pub fn count(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.reading.is_finished()
    }

    /// What it said last, when it ended properly.
    pub fn end(self, prime: &Prime<'_>) -> Result<String, String> {
        let ended = prime.world.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.reading).await });
        ended.unwrap_or_else(|_| panic!("it goes on\n{}", prime.logs())).unwrap()
    }

    pub fn close(self) {
        self.reading.abort();
    }
}

/// A download whose reader takes the first part and then waits to be told to go on.
pub struct Download {
    go_on: Arc<Notify>,
    reading: JoinHandle<Result<usize, String>>,
}

impl Download {
    pub fn open(prime: &Prime<'_>, host: &str) -> Self {
        let (address, host, go_on) = (prime.address("http"), host.to_owned(), Arc::new(Notify::new()));
        let (waits, begun) = (go_on.clone(), Arc::new(Notify::new()));
        let says = begun.clone();
        let reading = prime.world.runtime.spawn(async move {
            let mut body = begin(address, &host, "/download").await?;
            let mut all = Vec::new();
            while let Some(frame) = body.frame().await {
                let is_first = all.is_empty();
                all.extend_from_slice(&frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default());
                if is_first {
                    says.notify_one();
                    waits.notified().await;
                }
            }
            let is_right = all.chunks(16).enumerate().all(|(n, line)| line == format!("{n:015}\n").as_bytes());
            if is_right { Ok(all.len()) } else { Err("other bytes came than were sent".to_owned()) }
        });
        let began = prime.world.runtime.block_on(async { tokio::time::timeout(PATIENCE, begun.notified()).await });
        assert!(began.is_ok(), "no download begins\n{}", prime.logs());
        Self { go_on, reading }
    }

    /// Reads on to the end; how many bytes came.
    pub fn finish(self, prime: &Prime<'_>) -> Result<usize, String> {
        self.go_on.notify_one();
        let ended = prime.world.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.reading).await });
        ended.unwrap_or_else(|_| panic!("it goes on\n{}", prime.logs())).unwrap()
    }
}

async fn begin(address: SocketAddr, host: &str, path: &str) -> Result<Incoming, String> {
    let mut sender = http::http1(http::tcp(address).await?).await?;
    let request = Request::get(path).header("host", host).body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(status.to_string()),
    }
}
