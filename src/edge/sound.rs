//! A connection to an app over which only sound answers come.
//!
//! Made by `connect` for pingora, whose own parser takes much of what `strict` does not, so that an answer means the same
//! on both ways to an app. The rule: no byte of a head is given out before the whole of it is judged, and the first byte that
//! breaks the rules, or that nobody asked for, is the end of the connection.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::strict::chunks::{Broken, Chunks};
use super::strict::response::{Framing, Head, judge};

/// One read of a head, in bytes.
const PART: usize = 4 << 10;
/// Interim answers that an app may give to one request.
const INTERIMS: u32 = 16;

/// What the requests of a connection are, as far as their answers depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    Plain,
    /// HEAD: no answer has a body.
    Head,
    /// A WebSocket: the app may agree with 101, and speaks as it likes from then on.
    Upgrade,
}

#[derive(Debug)]
pub struct Sound<S> {
    socket: S,
    asking: Asking,
    state: State,
    interims: u32,
    /// Read, and not judged to its end.
    came: BytesMut,
    /// Judged, to be given out.
    sound: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has asked: whatever comes is no answer.
    Idle,
    Head,
    Length(u64),
    Chunks(Chunks),
    /// All that comes, to the end.
    Open,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sound<S> {
    pub fn new(socket: S, asking: Asking) -> Self {
        Self { socket, asking, state: State::Idle, interims: 0, came: BytesMut::new(), sound: 0 }
    }

    /// Judges as much as there is of what came; false when more must come first.
    fn judge(&mut self) -> Result<bool, Broken> {
        if self.sound > 0 {
            return Ok(true);
        }
        while self.sound == 0 && !self.came.is_empty() {
            match &mut self.state {
                State::Idle => return Err(Broken),
                State::Head => match judge(&self.came, self.asking == Asking::Head) {
                    Ok(Some(head)) => self.begin(&head)?,
                    Ok(None) => return Ok(false),
                    Err(_) => return self.agree(),
                },
                State::Length(left) => {
                    self.sound = self.came.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= self.sound as u64;
                }
                State::Chunks(chunks) => self.sound = chunks.pass(&self.came)?,
                State::Open => self.sound = self.came.len(),
            }
            self.end();
        }
        Ok(self.sound > 0)
    }

    fn begin(&mut self, head: &Head) -> Result<(), Broken> {
        self.sound = head.length;
        if head.status.is_informational() {
            self.interims += 1;
            return if self.interims > INTERIMS { Err(Broken) } else { Ok(()) };
        }
        self.state = match head.framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunks(Chunks::new()),
            Framing::Close => State::Open,
        };
        Ok(())
    }

    /// The one answer that `strict` leaves to whoever asked for it: pingora judges whether it agrees.
    fn agree(&mut self) -> Result<bool, Broken> {
        if self.asking != Asking::Upgrade || !self.came.starts_with(b"HTTP/1.1 101 ") {
            return Err(Broken);
        }
        self.state = State::Open;
        self.sound = self.came.len();
        Ok(true)
    }

    fn end(&mut self) {
        let is_over = match &self.state {
            State::Length(left) => *left == 0,
            State::Chunks(chunks) => chunks.is_done(),
            State::Idle | State::Head | State::Open => false,
        };
        if is_over {
            self.state = State::Idle;
        }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let some = self.sound.min(buffer.remaining());
        buffer.put_slice(&self.came[..some]);
        self.came.advance(some);
        self.sound -= some;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.judge() {
                Ok(true) => {
                    this.give(buffer);
                    return Poll::Ready(Ok(()));
                }
                Ok(false) => {}
                Err(Broken) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let mut part = [0; PART];
            let mut read = ReadBuf::new(&mut part);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // Half a head is none, and is not given out.
                return Poll::Ready(Ok(()));
            }
            this.came.extend_from_slice(read.filled());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Only what comes from now on can be the answer.
        if self.state == State::Idle && self.came.is_empty() {
            (self.state, self.interims) = (State::Head, 0);
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What is given out of an answer, in parts of so many bytes, and whether the connection is still good.
    async fn read(asking: Asking, answer: &[u8], part: usize) -> (Vec<u8>, bool) {
        let (app, ours) = tokio::io::duplex(1 << 20);
        let mut sound = Sound::new(ours, asking);
        sound.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let answer = answer.to_vec();
        let sending = tokio::spawn(async move {
            let (_reader, mut writer) = tokio::io::split(app);
            for part in answer.chunks(part) {
                writer.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            writer.shutdown().await.unwrap();
        });
        let (mut out, mut bytes) = (Vec::new(), [0; 16]);
        let is_good = loop {
            match sound.read(&mut bytes).await {
                Ok(0) => break true,
                Ok(read) => out.extend_from_slice(&bytes[..read]),
                Err(_) => break false,
            }
        };
        sending.await.unwrap();
        (out, is_good)
    }

    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

    #[tokio::test]
    async fn a_sound_answer_passes_as_it_is_however_it_comes() {
        let hinted = [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", HELLO].concat();
        let answers: [(Asking, &[u8]); 6] = [
            (Asking::Plain, HELLO),
            (Asking::Plain, CHUNKED),
            (Asking::Plain, &hinted),
            (Asking::Plain, b"HTTP/1.1 200 OK\r\n\r\nhello"),
            (Asking::Head, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            (Asking::Upgrade, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\0\x01\r\n"),
        ];
        for (asking, answer) in answers {
            for part in [1, 7, 1000] {
                assert_eq!(read(asking, answer, part).await, (answer.to_vec(), true), "{}", answer.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_an_answer_is_the_end() {
        let twice = [HELLO, HELLO].concat();
        let more = [CHUNKED, b"\r\n"].concat();
        let hints = [&b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20)[..], HELLO].concat();
        let answers: [(Asking, &[u8], &[u8]); 9] = [
            (Asking::Plain, b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", b""),
            (Asking::Plain, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b""),
            (Asking::Plain, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b""),
            (Asking::Plain, &twice, HELLO),
            (Asking::Plain, &more, CHUNKED),
            (Asking::Head, HELLO, &HELLO[..HELLO.len() - 5]),
            (Asking::Upgrade, b"HTTP/1.1 10\r\n\r\n", b""),
            (Asking::Plain, b"nonsense\r\n\r\n", b""),
            (Asking::Plain, &hints, &hints[..16 * 28]),
        ];
        for (asking, answer, given) in answers {
            let (out, is_good) = read(asking, answer, 1000).await;
            assert_eq!((out.escape_ascii().to_string(), is_good), (given.escape_ascii().to_string(), false));
        }
        let (out, _) =
            read(Asking::Plain, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n", 1000).await;
        assert!(out.ends_with(b"chunked\r\n\r\n"), "nothing of a broken body: {}", out.escape_ascii());
    }

    #[tokio::test]
    async fn what_comes_before_anybody_asks_is_the_end() {
        let (mut app, ours) = tokio::io::duplex(1 << 10);
        let mut sound = Sound::new(ours, Asking::Plain);
        app.write_all(HELLO).await.unwrap();
        assert!(sound.read(&mut [0; 16]).await.is_err());
    }
}
