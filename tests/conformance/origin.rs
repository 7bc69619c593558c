//! An app that keeps the exact bytes it gets, judges them, and answers each request with its own words.
//!
//! Each case carries a mark of its own in its bytes, so that what arrives can be told apart over shared connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use super::message::{self, Request};

/// Longer than the gateway may take to send a whole request.
const SILENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub enum Got {
    Whole(Request),
    /// The connection ended before the request was whole: no app takes it for one.
    Cut,
    Wrong(String),
}

#[derive(Debug, Clone)]
pub struct Record {
    pub mark: Option<String>,
    pub got: Got,
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Origin {
    pub address: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    /// Connections over which half a request came.
    halves: Arc<AtomicUsize>,
}

impl Origin {
    pub fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), records: Arc::default(), halves: Arc::default() };
        let shared = origin.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        origin
    }

    /// What came for a case, in the order it came.
    pub fn got(&self, mark: &str) -> Vec<Record> {
        self.records.lock().unwrap().iter().filter(|record| record.mark.as_deref() == Some(mark)).cloned().collect()
    }

    /// Waits until nothing that came is half a request.
    pub async fn is_quiet(&self) {
        let deadline = Instant::now() + SILENCE;
        while self.halves.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What came and cannot be any case's.
    pub fn strays(&self) -> Vec<Record> {
        self.records.lock().unwrap().iter().filter(|record| record.mark.is_none()).cloned().collect()
    }
}

async fn serve(mut stream: TcpStream, origin: Origin) {
    let (mut bytes, mut before, mut has_continued) = (Vec::new(), None, false);
    loop {
        let (got, length, answer) = match message::request(&bytes) {
            Ok(Some((request, length))) => {
                let answer = answer(&request, mark(&bytes[..length]));
                (Got::Whole(request), length, Some(answer))
            }
            Ok(None) => {
                if !has_continued && is_expecting(&bytes) {
                    has_continued = true;
                    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                let half = usize::from(!bytes.is_empty());
                origin.halves.fetch_add(half, Ordering::SeqCst);
                let read = timeout(SILENCE, stream.read_buf(&mut bytes)).await;
                origin.halves.fetch_sub(half, Ordering::SeqCst);
                match read {
                    Ok(Ok(read)) if read > 0 => continue,
                    _ if bytes.is_empty() => return,
                    _ => (Got::Cut, bytes.len(), None),
                }
            }
            Err(fault) => (Got::Wrong(fault), bytes.len(), None),
        };
        let raw: Vec<u8> = bytes.drain(..length).collect();
        let mark = mark(&raw).or(before.clone());
        before.clone_from(&mark);
        origin.records.lock().unwrap().push(Record { mark, got, raw });
        has_continued = false;
        match answer {
            Some(answer) if stream.write_all(&answer).await.is_ok() => {}
            _ => return,
        }
    }
}

fn is_expecting(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    head.contains("\r\nexpect: 100-continue\r\n") && head.contains("\r\n\r\n")
}

fn answer(request: &Request, mark: Option<String>) -> Vec<u8> {
    let body = format!("{} {} {}", mark.unwrap_or_default(), request.method, request.target);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\r\n", body.len());
    let body = if request.method == "HEAD" { String::new() } else { body };
    [head, body].concat().into()
}

/// `q0012wq`, wherever it stands.
pub fn mark(bytes: &[u8]) -> Option<String> {
    let is_mark = |it: &&[u8]| it[0] == b'q' && it[6] == b'q' && it[1..5].iter().all(u8::is_ascii_digit);
    bytes.windows(7).find(is_mark).map(|mark| String::from_utf8_lossy(mark).into_owned())
}
