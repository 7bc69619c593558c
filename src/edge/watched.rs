//! A connection of HTTP/2 whose frames are counted as they pass, and which breaks off when there are too many.
//!
//! Wrapped by `streams` around a `Stream` before the codec reads it. The rule: bytes pass as they are; only when they leave
//! is chosen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Budget, Frames};
use super::stream::Stream;

/// Heads that may be read before the streams they begin are taken. The library reads on before it hands out what it has;
/// a head of many tiny fields takes a hundred times its bytes, so they must be judged as they come.
const AHEAD: u32 = 4;

#[derive(Debug)]
pub struct Watched {
    stream: Box<Stream>,
    frames: Frames,
    budget: Budget,
    watch: Arc<Watch>,
}

/// What `streams` and the stream that it gave away tell each other.
#[derive(Debug, Default)]
pub struct Watch {
    is_flooded: AtomicBool,
    /// Heads read since all streams were taken.
    ahead: AtomicU32,
    /// Whether what is written waits for more. The library would send each answer by itself.
    is_gathering: AtomicBool,
    /// Whether something waits.
    is_due: AtomicBool,
}

impl Watch {
    /// Whether the connection broke off because of a flood.
    pub fn is_flooded(&self) -> bool {
        self.is_flooded.load(Ordering::Relaxed)
    }

    /// All streams that were begun are taken; whether reading was held up by them.
    pub fn all_taken(&self) -> bool {
        self.ahead.swap(0, Ordering::Relaxed) >= AHEAD
    }

    /// From now on what is written waits until `leave`, or for its buffer to be full.
    pub fn gather(&self) {
        self.is_gathering.store(true, Ordering::Relaxed);
    }

    /// What waits leaves at the next flush; whether anything does.
    pub fn leave(&self) -> bool {
        self.is_gathering.store(false, Ordering::Relaxed);
        self.is_due.swap(false, Ordering::Relaxed)
    }
}

impl Watched {
    pub fn new(stream: Box<Stream>) -> (Self, Arc<Watch>) {
        let watch = Arc::new(Watch::default());
        (Self { stream, frames: Frames::new(), budget: Budget::new(Instant::now()), watch: watch.clone() }, watch)
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.watch.ahead.load(Ordering::Relaxed) >= AHEAD {
            // Whoever takes the streams asks again.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buffer))?;
        let brought = self.frames.pass(&buffer.filled()[before..]);
        self.watch.ahead.fetch_add(brought.requests, Ordering::Relaxed);
        if brought.points == 0 || self.budget.spend(brought.points, Instant::now()) {
            return Poll::Ready(Ok(()));
        }
        self.watch.is_flooded.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::other("too many frames that ask for nothing")))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.stream).poll_write(cx, bytes))?;
        self.budget.earn(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.is_gathering.load(Ordering::Relaxed) {
            self.watch.is_due.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::visit::Visit;
    use super::super::wire::{Socket, Wire};
    use super::*;

    #[tokio::test]
    async fn what_is_written_while_requests_are_looked_at_leaves_when_all_are() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, address) = listener.accept().await.unwrap();
        let visit = Visit::new(address, listener.local_addr().unwrap(), None);
        let (mut watched, watch) = Watched::new(Box::new(Stream::new(Wire::new(Socket::Plain(server), None), visit)));
        let mut got = [0; 16];

        watched.write_all(b"settings").await.unwrap();
        watched.flush().await.unwrap();
        let length = client.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"settings", "nothing is held back before the first request");

        watch.gather();
        for answer in [b"one ", b"two "] {
            watched.write_all(answer).await.unwrap();
            watched.flush().await.unwrap();
        }
        let early = poll_fn(|cx| Poll::Ready(client.poll_peek(cx, &mut ReadBuf::new(&mut [0; 1])).is_ready())).await;
        assert!(!early, "an answer left by itself");
        assert!(watch.leave());
        watched.flush().await.unwrap();
        let length = client.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"one two ");
        assert!(!watch.leave(), "there is nothing more");
    }
}
