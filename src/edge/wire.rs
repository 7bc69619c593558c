//! What lies between a connection and its client: the socket, plain or TLS, and how patiently it is waited on.
//!
//! Made by `connection`, driven by `stream`. The rule: whoever answers, a client that neither takes its answer nor brings its
//! body is cut after the same time, and what the kernel keeps for it comes back at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::listen::UNSENT;
use super::pace::Pace;
use super::patience::{Over, Patience};
use super::shared::Shared;

#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// Who has the limits; without, it waits for ever.
    shared: Option<Arc<Shared>>,
    /// Only while something is waited for: most connections never need it.
    reading: Option<Box<Patience>>,
    writing: Option<Box<Patience>>,
}

impl Wire {
    pub fn new(socket: Socket, shared: Option<Arc<Shared>>) -> Self {
        Self { socket, shared, reading: None, writing: None }
    }

    /// Forgets how the request that is over went.
    pub fn rest(&mut self) {
        (self.reading, self.writing) = (None, None);
    }

    pub fn is_secure(&self) -> bool {
        matches!(self.socket, Socket::Tls(_))
    }

    pub fn tcp(&self) -> &TcpStream {
        match &self.socket {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Lets the connection end by a reset, and drops what the kernel still keeps of it.
    pub fn reset(&self) {
        // A connection that is gone needs none.
        let _ = self.tcp().set_zero_linger();
    }

    /// Reads, for as long as whoever asks likes to wait.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }

    /// Reads a body, for as long as the client brings it.
    pub fn poll_read_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.poll_read(cx, buffer);
        if read.is_pending() {
            let Some(patience) = self.patience_to_read() else { return Poll::Pending };
            return patience.poll(cx).map(|over| Err(self.cut(over, ["body_timeout", "body_rate"])));
        }
        if let Some(patience) = &mut self.reading {
            patience.moved(buffer.filled().len() - before);
        }
        read
    }

    pub fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            Socket::Plain(tcp) => poll_write_plain(tcp, cx, parts),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        };
        // Whoever answers before the whole body is there waits for it no more than for anything else.
        self.reading = None;
        self.waited(cx, written, |written| *written)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        };
        self.waited(cx, flushed, |()| 0)
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    /// What came of a write, if the client may be waited for.
    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
        bytes: fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = done {
            if let (Some(patience), Ok(done)) = (&mut self.writing, &done) {
                patience.moved(bytes(done));
            }
            return Poll::Ready(done);
        }
        let Some(patience) = self.patience_to_write() else { return Poll::Pending };
        patience.poll(cx).map(|over| {
            self.reset();
            Err(self.cut(over, ["write_timeout", "write_rate"]))
        })
    }

    fn patience_to_read(&mut self) -> Option<&mut Patience> {
        if self.reading.is_none() {
            let limits = self.shared.as_ref()?.settings.load().limits;
            self.reading = Some(Box::new(Patience::new(Pace::new(limits.body_rate), limits.body_timeout)));
        }
        self.reading.as_deref_mut()
    }

    fn patience_to_write(&mut self) -> Option<&mut Patience> {
        if self.writing.is_none() {
            let limits = self.shared.as_ref()?.settings.load().limits;
            let mut pace = Pace::new(limits.write_rate);
            // What the kernel keeps leaves in lumps.
            pace.moved(UNSENT as usize, Instant::now());
            self.writing = Some(Box::new(Patience::new(pace, limits.write_timeout)));
        }
        self.writing.as_deref_mut()
    }

    fn cut(&self, over: Over, [stalled, too_slow]: [&'static str; 2]) -> io::Error {
        if let Some(shared) = &self.shared {
            shared.metrics.limited(match over {
                Over::Stalled => stalled,
                Over::TooSlow => too_slow,
            });
        }
        io::ErrorKind::TimedOut.into()
    }
}

/// A list of one is no list: the kernel takes longer over it.
fn poll_write_plain(tcp: &mut TcpStream, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    match parts {
        [one] => Pin::new(tcp).poll_write(cx, one),
        parts => Pin::new(tcp).poll_write_vectored(cx, parts),
    }
}
