//! Connections to apps for requests that want to become something else: WebSockets.
//!
//! Used by `gateway` for upgrades in place of pingora's own connector, because of a race in pingora 0.9.1: when an app's
//! `101` is read before the request's empty body was seen to end, the end of that body is taken for the end of the
//! tunnel (`proxy_handle_upstream` in proxy_h1.rs). The rule: the first read of a connection waits for one turn.

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

#[derive(Debug)]
pub struct Tunnel;

#[async_trait]
impl Connect for Tunnel {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let socket: io::Result<Box<dyn VirtualSocket>> = match address {
            SocketAddr::Inet(address) => match TcpStream::connect(address).await {
                Ok(tcp) => tcp.set_nodelay(true).map(|()| patient(tcp)),
                Err(error) => Err(error),
            },
            SocketAddr::Unix(path) => match path.as_pathname() {
                Some(path) => UnixStream::connect(path).await.map(patient),
                None => Err(io::ErrorKind::InvalidInput.into()),
            },
        };
        let wrong = |error| Error::because(ErrorType::ConnectError, "connecting for an upgrade", error);
        socket.map(|socket| VirtualSocketStream::new(socket).into()).map_err(wrong)
    }
}

fn patient<S>(socket: S) -> Box<dyn VirtualSocket>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug + 'static,
{
    Box::new(Patient { socket, has_waited: false })
}

#[derive(Debug)]
struct Patient<S> {
    socket: S,
    has_waited: bool,
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

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket for Patient<S> {
    /// What pingora asks for is set already.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
