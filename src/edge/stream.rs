//! One client's connection: plain or TLS, with what was read ahead and a buffer for what is written.
//!
//! Made by `connection`, driven by `door` and `http2`, and given to pingora for one request at a time. The rule it keeps:
//! pingora is never given a byte that is not of the request at hand, so that what a client pipelines is neither lost nor
//! taken for a body, and a body that breaks the rules ends in an error, never as if it were whole.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::strict::chunks::Chunks;
use super::visit::Visit;
use super::wire::Wire;

/// Writes are gathered up to this many bytes, so that a head and a small body leave together.
const GATHER: usize = 16 << 10;
/// A body that is copied behind its head, in bytes: the kernel takes longer to look at a list of two than that takes.
pub const SMALL: usize = 4 << 10;
/// What a client may send ahead of its turn, in bytes; more waits in the kernel.
const AHEAD_MAX: usize = 64 << 10;
/// One read of what comes before a request is understood, in bytes.
const PART: usize = 4 << 10;
/// How long a closing connection may take to say so.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// How much more of the stream belongs to the request at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// So many bytes of a body, after which the next request begins.
    Exactly(u64),
    /// A chunked body to its end, after which the next request begins.
    Chunked(Chunks),
    /// All there is: a tunnel, HTTP/2.
    Open,
}

impl Allowance {
    /// Whether all of the request was given out, so that the next one begins here.
    pub fn is_over(self) -> bool {
        match self {
            Allowance::Exactly(left) => left == 0,
            Allowance::Chunked(chunks) => chunks.is_done(),
            Allowance::Open => false,
        }
    }
}

#[derive(Debug)]
pub struct Stream {
    wire: Wire,
    allowance: Allowance,
    ahead: BytesMut,
    gathered: BytesMut,
    visit: Arc<Visit>,
}

impl Stream {
    pub fn new(wire: Wire, visit: Arc<Visit>) -> Self {
        Self { wire, allowance: Allowance::Open, ahead: BytesMut::new(), gathered: BytesMut::new(), visit }
    }

    pub fn visit(&self) -> &Arc<Visit> {
        &self.visit
    }

    /// What was read and not given out yet.
    pub fn ahead(&mut self) -> &mut BytesMut {
        &mut self.ahead
    }

    pub fn allowance(&self) -> Allowance {
        self.allowance
    }

    pub fn allow(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// Gives back the buffers of the request that is over; what was read ahead stays.
    pub fn rest(&mut self) {
        self.gathered = BytesMut::new();
        self.wire.rest();
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// What is to leave before anything else.
    pub fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Reads from the socket itself, past what was read ahead.
    pub fn poll_socket(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_read(cx, buffer)
    }

    /// Writes some of these parts at once, if the socket takes them; nothing must be gathered.
    pub fn poll_parts(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.wire.poll_write(cx, parts)
    }

    /// Whether all that was written has left our own buffers; TLS may have kept some.
    pub fn poll_pushed(&mut self, cx: &mut Context<'_>) -> bool {
        !self.wire.is_secure() || matches!(self.wire.poll_flush(cx), Poll::Ready(Ok(())))
    }

    /// Ends the connection so that nobody can take what has left for all there is.
    pub fn abort(&self) {
        // Plain HTTP shows it by a reset; TLS by ending without a word of it.
        if !self.wire.is_secure() {
            self.wire.reset();
        }
    }

    /// Writes what is gathered and then this, wholly.
    pub async fn send(&mut self, mut part: &[u8]) -> io::Result<()> {
        if part.len() <= SMALL {
            self.gathered.extend_from_slice(part);
            part = &[];
        }
        let mut sent = 0;
        poll_fn(|cx| {
            while self.gathered.len() + part.len() > sent {
                let both = [IoSlice::new(self.gathered.get(sent..).unwrap_or_default()), IoSlice::new(part)];
                let left = match sent.checked_sub(self.gathered.len()) {
                    Some(of_part) => &[IoSlice::new(&part[of_part..])],
                    None if part.is_empty() => &both[..1],
                    None => &both[..],
                };
                match ready!(self.wire.poll_write(cx, left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    some => sent += some,
                }
            }
            self.wire.poll_flush(cx)
        })
        .await?;
        self.gathered.clear();
        Ok(())
    }

    /// Reads some more ahead; how many bytes, 0 at the end. Holds no buffer while it waits.
    pub async fn read_ahead(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_ahead(cx)).await
    }

    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut part = [MaybeUninit::uninit(); PART];
        let mut buffer = ReadBuf::uninit(&mut part);
        ready!(self.wire.poll_read(cx, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Between two requests, and while one is answered: nothing is given out, but the end of the stream is noticed.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD_MAX {
            if ready!(self.poll_read_ahead(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_any(cx, buffer))?;
        let read = &buffer.filled()[before..];
        let mine = match &mut self.allowance {
            Allowance::Exactly(left) => {
                let mine = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= mine as u64;
                mine
            }
            Allowance::Chunked(chunks) => chunks.pass(read).map_err(|_| io::ErrorKind::InvalidData)?,
            Allowance::Open => read.len(),
        };
        // What was read beyond the body is the beginning of the next request.
        if mine < read.len() {
            let mut ahead = BytesMut::from(&read[mine..]);
            ahead.unsplit(std::mem::take(&mut self.ahead));
            self.ahead = ahead;
            buffer.set_filled(before + mine);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_any(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return match self.allowance {
                // A tunnel may be silent, and HTTP/2 knows of several bodies at once.
                Allowance::Open => self.wire.poll_read(cx, buffer),
                Allowance::Exactly(_) | Allowance::Chunked(_) => self.wire.poll_read_body(cx, buffer),
            };
        }
        let some = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(some));
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let sent = ready!(self.wire.poll_write(cx, &[IoSlice::new(&self.gathered)]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.visit.is_torn() {
            self.abort();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.allowance.is_over() {
            true => self.poll_end(cx),
            false => self.poll_body(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.gathered.len() + bytes.len() > GATHER {
            let sent = ready!(this.wire.poll_write(cx, &[IoSlice::new(&this.gathered), IoSlice::new(bytes)]))?;
            let gathered = this.gathered.len();
            this.gathered.advance(sent.min(gathered));
            match sent.checked_sub(gathered) {
                Some(of_these) if of_these > 0 => return Poll::Ready(Ok(of_these)),
                _ if sent == 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                _ => {}
            }
        }
        this.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.wire.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.wire.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Stream {
    async fn shutdown(&mut self) {
        if self.visit.is_torn() {
            return self.abort();
        }
        // A client that is gone, or does not read, has no use for a proper end.
        let _ = tokio::time::timeout(SHUTDOWN, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for Stream {
    fn id(&self) -> UniqueIDType {
        self.wire.tcp().as_raw_fd()
    }
}

impl Ssl for Stream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        None
    }
}

impl GetTimingDigest for Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.visit.digest())
    }
}

impl GetSocketDigest for Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for Stream {}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::wire::Socket;
    use super::*;

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, address) = listener.accept().await.unwrap();
        let visit = Visit::new(address, listener.local_addr().unwrap(), None);
        (client, Stream::new(Wire::new(Socket::Plain(server), None), visit))
    }

    #[tokio::test]
    async fn a_body_ends_where_the_next_request_begins() {
        let (mut client, mut stream) = pair().await;
        client.write_all(b"bodyGET / ").await.unwrap();
        stream.allow(Allowance::Exactly(4));
        let mut body = [0; 64];
        assert_eq!(stream.read(&mut body).await.unwrap(), 4);
        assert_eq!(&stream.ahead()[..], b"GET / ");
        assert_eq!(stream.allowance(), Allowance::Exactly(0));
        drop(client);
        assert_eq!(stream.read(&mut body).await.unwrap(), 0, "the end is noticed");
        assert_eq!(&stream.ahead()[..], b"GET / ");
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_in_order_whatever_its_size() {
        let (mut client, mut stream) = pair().await;
        let big = vec![b'x'; 100_000];
        let sending = tokio::spawn(async move {
            stream.write_all(b"head").await.unwrap();
            stream.write_all(&big).await.unwrap();
            stream.write_all(b"tail").await.unwrap();
            stream.flush().await.unwrap();
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        sending.await.unwrap();
        assert_eq!((all.len(), &all[..4], &all[100_004..]), (100_008, &b"head"[..], &b"tail"[..]));
    }
}
