//! New connections to apps, for pingora.
//!
//! Used by `gateway` in place of pingora's own connector: `Direct` because a path must never lead to another's socket,
//! `Streamed` because large bodies go both ways at once (see `duplex`), `Tunnel` for requests that want to become something
//! else, because of a race in pingora 0.9.1: when an app's `101` is read before the request's empty body was seen to end, the
//! end of that body is taken for the end of the tunnel (`proxy_handle_upstream` in proxy_h1.rs). The rules: the first read
//! of a tunnel waits for one turn, and over all that speak HTTP/1 only sound answers come (see `sound`).

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::dial;

use super::duplex::Duplex;
use super::sound::{Asking, Sound};

/// For requests and their answers. Such a connection carries requests of one kind.
#[derive(Debug)]
pub struct Direct(pub Asking);

#[async_trait]
impl Connect for Direct {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => tcp(address).await.map(|socket| sound(socket, self.0)),
            SocketAddr::Unix(address) => unix(address).await.map(|socket| sound(socket, self.0)),
        }
        .map_err(wrong)
    }
}

/// For HTTP/2, whose codec judges what comes.
#[derive(Debug)]
pub struct Multiplexed;

#[async_trait]
impl Connect for Multiplexed {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => tcp(address).await.map(Stream::from),
            SocketAddr::Unix(address) => unix(address).await.map(Stream::from),
        }
        .map_err(wrong)
    }
}

/// For requests with large bodies: an app may answer while it reads. Not to be pooled.
#[derive(Debug)]
pub struct Streamed;

#[async_trait]
impl Connect for Streamed {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => tcp(address).await.map(|socket| sound(Duplex::new(socket), Asking::Plain)),
            SocketAddr::Unix(address) => unix(address).await.map(|socket| sound(Duplex::new(socket), Asking::Plain)),
        }
        .map_err(wrong)
    }
}

/// For WebSockets.
#[derive(Debug)]
pub struct Tunnel;

#[async_trait]
impl Connect for Tunnel {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => tcp(address).await.map(|socket| sound(Patient::new(socket), Asking::Upgrade)),
            SocketAddr::Unix(address) => unix(address).await.map(|socket| sound(Patient::new(socket), Asking::Upgrade)),
        }
        .map_err(wrong)
    }
}

pub async fn tcp(address: &std::net::SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn unix(address: &std::os::unix::net::SocketAddr) -> io::Result<UnixStream> {
    match address.as_pathname() {
        Some(path) => dial::unix(path).await,
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// In the kind that pingora has for the reason, so that `failure` can tell nobody there from a broken app.
fn wrong(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting to an app", error)
}

fn sound<S>(socket: S, asking: Asking) -> Stream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug + 'static,
{
    VirtualSocketStream::new(Box::new(Sound::new(socket, asking))).into()
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug> VirtualSocket for Sound<S> {
    /// What pingora asks for is set already.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Patient<S> {
    socket: S,
    has_waited: bool,
}

impl<S> Patient<S> {
    fn new(socket: S) -> Self {
        Self { socket, has_waited: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.has_waited {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
