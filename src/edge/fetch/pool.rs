//! Connections to apps that wait for their next request, and buffers for what comes over them.
//!
//! Each worker has its own. The rule: a connection belongs to one replica of one release and is never used for another, not
//! even when an address comes back.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::interval;

use crate::model::address::Address;

use crate::edge::connect;
use crate::edge::upstream::Replica;

/// How long a connection to an app may idle before it is closed: shorter than the two (gunicorn) to five (Node, uvicorn)
/// seconds after which servers close theirs, so that a request rarely meets one just closing.
pub const POOLED: Duration = Duration::from_secs(1);
/// Connections that are kept for one replica.
const KEPT: usize = 256;
/// Buffers that are kept, and what one may have grown to, in bytes.
const BUFFERS: usize = 64;
const BUFFER_MAX: usize = 64 << 10;
/// A new buffer: a head and a small body, in bytes.
const BUFFER: usize = 16 << 10;

/// A connection to an app.
#[derive(Debug)]
pub enum Line {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug, Default)]
pub struct Pool(Mutex<Slots>);

type Slots = HashMap<usize, Slot, ahash::RandomState>;

/// The connections of one replica. It is held, so that its place in memory, the key, is not another's meanwhile.
#[derive(Debug)]
struct Slot {
    _replica: Arc<Replica>,
    idle: Vec<(Line, Instant)>,
}

impl Pool {
    /// The connection that was used last and still lives.
    pub fn take(&self, replica: &Arc<Replica>) -> Option<Line> {
        loop {
            let (mut line, since) = self.slots().get_mut(&key(replica))?.idle.pop()?;
            if since.elapsed() < POOLED && line.is_quiet() {
                return Some(line);
            }
        }
    }

    pub fn put(&self, replica: &Arc<Replica>, line: Line) {
        let mut slots = self.slots();
        let slot = slots.entry(key(replica)).or_insert_with(|| Slot { _replica: replica.clone(), idle: Vec::new() });
        if slot.idle.len() < KEPT {
            slot.idle.push((line, Instant::now()));
        }
    }

    /// Closes what has idled for too long, for ever.
    pub async fn keep_fresh(&self) {
        let mut tick = interval(POOLED);
        loop {
            tick.tick().await;
            let now = Instant::now();
            self.slots().retain(|_, slot| {
                slot.idle.retain(|(_, since)| now.duration_since(*since) < POOLED);
                !slot.idle.is_empty()
            });
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(replica: &Arc<Replica>) -> usize {
    Arc::as_ptr(replica).addr()
}

impl Line {
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => connect::tcp(address).await.map(Line::Tcp),
            Address::Unix(path) => crate::dial::unix(path).await.map(Line::Unix),
        }
    }

    /// Whether nothing has come: neither the end, nor bytes that nobody asked for.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        read.now_or_never().is_none()
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Line::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Line::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Line::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Line::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Line::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Line::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

/// Buffers that requests lend each other.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<BytesMut>>);

impl Buffers {
    pub fn take(&self) -> BytesMut {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
    }

    pub fn put(&self, mut buffer: BytesMut) {
        buffer.clear();
        // One whose front was given away has less room than a new one.
        if !(BUFFER..=BUFFER_MAX).contains(&buffer.capacity()) {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS {
            kept.push(buffer);
        }
    }
}
