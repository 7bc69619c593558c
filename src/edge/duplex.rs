//! A connection to an app that goes on reading while it cannot write.
//!
//! Used by `connect` for requests with large bodies. pingora 0.9.1 reads nothing of an answer while it writes a part of
//! the request (`proxy_handle_upstream` in proxy_h1.rs), so an app that answers while it reads, as an echo does, and the
//! edge wait for each other for ever once both sockets are full. The rule: while a write waits the answer is read ahead,
//! so that the app goes on; and what cannot be written while an answer is there is kept, so that pingora comes to read.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may be kept of a request, in bytes. An app that reads as much as it writes needs a few parts of it; one that
/// never reads is not given more.
const KEPT_MAX: usize = 1 << 20;
/// What may be read ahead of an answer, in bytes, and in one go.
const ARRIVED_MAX: usize = 4 << 20;
const PART: usize = 16 << 10;

#[derive(Debug)]
pub struct Duplex<S> {
    socket: S,
    /// Of the request, still to be written.
    kept: BytesMut,
    /// Of the answer, still to be given out.
    arrived: BytesMut,
    has_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, kept: BytesMut::new(), arrived: BytesMut::new(), has_ended: false }
    }

    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.kept))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads ahead all there is; whether something waits to be given out.
    fn has_arrived(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        while self.arrived.len() < ARRIVED_MAX && !self.has_ended {
            let mut part = [0; PART];
            let mut buffer = ReadBuf::new(&mut part);
            let Poll::Ready(read) = Pin::new(&mut self.socket).poll_read(cx, &mut buffer) else { break };
            read?;
            self.has_ended = buffer.filled().is_empty();
            self.arrived.extend_from_slice(buffer.filled());
        }
        Ok(!self.arrived.is_empty())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Duplex<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What was kept leaves whenever there is room for it.
        if let Poll::Ready(Err(error)) = self.poll_kept(cx)
            && self.arrived.is_empty()
        {
            return Poll::Ready(Err(error));
        }
        if !self.arrived.is_empty() {
            let some = self.arrived.len().min(buffer.remaining());
            buffer.put_slice(&self.arrived.split_to(some));
            return Poll::Ready(Ok(()));
        }
        match self.has_ended {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.socket).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Duplex<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = self.poll_kept(cx) {
            written?;
            if let Poll::Ready(written) = Pin::new(&mut self.socket).poll_write(cx, bytes) {
                return Poll::Ready(written);
            }
        }
        if self.has_arrived(cx)? && self.kept.len() + bytes.len() <= KEPT_MAX {
            self.kept.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Poll::Pending
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(written) = self.poll_kept(cx) {
            written?;
            return Pin::new(&mut self.socket).poll_flush(cx);
        }
        match self.has_arrived(cx)? {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// As pingora does it: write a whole part, then read what is there.
    #[tokio::test]
    async fn an_echo_and_a_writer_that_reads_between_its_writes_do_not_wait_for_each_other() {
        let (near, far) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            tokio::io::copy(&mut reader, &mut writer).await
        });
        let mut near = Duplex::new(near);
        let exchange = async {
            let mut back = Vec::new();
            for n in 0..1000_u32 {
                near.write_all(&[n as u8; 100]).await.unwrap();
                near.flush().await.unwrap();
                let mut part = [0; 100];
                let read = near.read(&mut part).await.unwrap();
                back.extend_from_slice(&part[..read]);
            }
            while back.len() < 100_000 {
                let mut part = [0; 100];
                let read = near.read(&mut part).await.unwrap();
                back.extend_from_slice(&part[..read]);
            }
            back
        };
        let back = tokio::time::timeout(Duration::from_secs(10), exchange).await.unwrap();
        assert!(back.chunks(100).enumerate().all(|(n, part)| part.iter().all(|byte| *byte == n as u8)));
    }

    #[tokio::test]
    async fn an_app_that_never_reads_is_not_given_more_than_a_little() {
        let (near, mut far) = tokio::io::duplex(1024);
        tokio::spawn(async move { while far.write_all(&[1; 512]).await.is_ok() {} });
        let mut near = Duplex::new(near);
        let mut written = 0;
        while let Ok(Ok(part)) = tokio::time::timeout(Duration::from_millis(50), near.write(&[0; 8192])).await {
            written += part;
            let mut part = [0; 512];
            assert!(near.read(&mut part).await.unwrap() > 0);
        }
        assert!(written <= KEPT_MAX + 1024, "{written}");
    }
}
