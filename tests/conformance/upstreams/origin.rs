//! An app that answers `/bad` by a script and `/good` as it should, and notes on which connection it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::corpus::Step;
use crate::message::{self, Request};

/// Longer than the gateway keeps or waits for any connection here.
const SILENCE: Duration = Duration::from_secs(20);
/// Between two parts of an answer, so that they are read one by one.
const PAUSE: Duration = Duration::from_millis(50);

pub const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: no-store\r\n\r\ngood";

#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    /// Whether a request came over a connection that a bad answer had been given on.
    pub was_reused: Arc<AtomicBool>,
    /// Bad answers that were given to their end, or to the end of their connection.
    pub told: Arc<AtomicUsize>,
}

impl Origin {
    pub async fn start(script: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), was_reused: Arc::default(), told: Arc::default() };
        let (script, was_reused, told) = (Arc::new(script), origin.was_reused.clone(), origin.told.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, script.clone(), was_reused.clone(), told.clone()));
            }
        });
        origin
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Vec<Step>>, was_reused: Arc<AtomicBool>, told: Arc<AtomicUsize>) {
    let (mut bytes, mut was_bad) = (Vec::new(), false);
    while let Some(request) = read(&mut stream, &mut bytes).await {
        was_reused.fetch_or(was_bad, Ordering::SeqCst);
        if request.target.ends_with("/good") {
            if stream.write_all(GOOD.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        was_bad = true;
        let is_over = tell(&mut stream, &script).await.is_err();
        told.fetch_add(1, Ordering::SeqCst);
        if is_over {
            return;
        }
    }
}

async fn tell(stream: &mut TcpStream, script: &[Step]) -> std::io::Result<()> {
    for step in script {
        match step {
            Step::Send(part) => stream.write_all(part).await?,
            Step::Repeat(part, times) => repeat(stream, part, *times).await?,
            Step::Pause => sleep(PAUSE).await,
            Step::Close => return Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((request, length)) = message::request(bytes).unwrap() {
            bytes.drain(..length);
            return Some(request);
        }
        match timeout(SILENCE, stream.read_buf(bytes)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return None,
        }
    }
}

async fn repeat(stream: &mut TcpStream, part: &[u8], times: usize) -> std::io::Result<()> {
    let many = part.repeat((64 << 10) / part.len() + 1);
    let mut left = part.len() * times;
    while left > 0 {
        let here = left.min(many.len());
        stream.write_all(&many[..here]).await?;
        left -= here;
    }
    Ok(())
}
