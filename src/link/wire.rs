//! Framing: JSON lines over a Unix socket, with descriptors beside the bytes (SCM_RIGHTS, unix(7)).
//!
//! Called by both planes. The rule it keeps: the descriptors of a message arrive with its first bytes, so when a line is
//! whole its descriptors are there.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors that travel beside one piece of a message: SCM_MAX_FD of Linux.
const BATCH: usize = 253;
/// The most that one message may carry, a batch beside each of its first bytes.
const DESCRIPTORS_MAX: usize = 4096;
/// A longer line ends the connection, in bytes. 10,000 certificates are about 5 MB.
const LINE_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the link broke: {0}")]
    Io(#[from] io::Error),
    #[error("a message on the link does not parse: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a message on the link is longer than {LINE_MAX} bytes")]
    TooLong,
    #[error("a message on the link came without its {0} descriptors")]
    NoDescriptors(usize),
    #[error("{0} sockets are more than one message can carry ({DESCRIPTORS_MAX})")]
    TooManyDescriptors(usize),
}

/// A message with what came beside it.
#[derive(Debug)]
pub struct Message<M> {
    pub message: M,
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<M> {
    #[serde(default)]
    descriptors: usize,
    message: M,
}

/// The two directions of a connection, to be used by two tasks.
pub fn split(stream: UnixStream) -> (Sender, Receiver) {
    let stream = Arc::new(stream);
    let receiver = Receiver { stream: stream.clone(), bytes: Vec::new(), descriptors: VecDeque::new() };
    (Sender { stream }, receiver)
}

/// The sending end. One message at a time: it takes `&mut self`.
#[derive(Debug)]
pub struct Sender {
    stream: Arc<UnixStream>,
}

impl Sender {
    /// Sends a message; `descriptors` are duplicated into the other process.
    pub async fn send<M: Serialize>(&mut self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(LinkError::TooManyDescriptors(descriptors.len()));
        }
        let mut line = serde_json::to_vec(&Envelope { descriptors: descriptors.len(), message })?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        let mut batches = descriptors.chunks(BATCH).peekable();
        while !rest.is_empty() {
            let beside = batches.next().unwrap_or_default();
            // The last batch goes beside all that is left.
            let piece = if batches.peek().is_some() { &rest[..1] } else { rest };
            let sent = self.stream.async_io(Interest::WRITABLE, || send_some(&self.stream, piece, beside)).await?;
            rest = &rest[sent..];
        }
        Ok(())
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Receiver {
    /// The next message; `None` when the other side closed between two messages.
    pub async fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<Message<M>>, LinkError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=searched + end).collect();
                return self.open(&line).map(Some);
            }
            searched = self.bytes.len();
            if searched > LINE_MAX {
                return Err(LinkError::TooLong);
            }
            let (stream, bytes, descriptors) = (&self.stream, &mut self.bytes, &mut self.descriptors);
            let read = stream.async_io(Interest::READABLE, || receive_some(stream, bytes, descriptors)).await?;
            match read {
                0 if self.bytes.is_empty() => return Ok(None),
                0 => return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
        }
    }

    fn open<M: DeserializeOwned>(&mut self, line: &[u8]) -> Result<Message<M>, LinkError> {
        let envelope: Envelope<M> = serde_json::from_slice(line)?;
        if envelope.descriptors > self.descriptors.len() {
            return Err(LinkError::NoDescriptors(envelope.descriptors));
        }
        let descriptors = self.descriptors.drain(..envelope.descriptors).collect();
        Ok(Message { message: envelope.message, descriptors })
    }
}

fn receive_some(stream: &UnixStream, bytes: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut part = [0; 16 << 10];
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut part)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // A part holds the end of one message and the begin of the next. Beyond that nobody asked for them.
    if descriptors.len() > 2 * DESCRIPTORS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors came than any message has"));
    }
    bytes.extend_from_slice(&part[..received.bytes]);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((mut sender, _), (_, mut receiver)) = (split(a), split(b));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let long = "x".repeat(300_000);
        let sending = tokio::spawn({
            let long = long.clone();
            async move {
                sender.send(&"one", &[]).await.unwrap();
                sender.send(&long, &[]).await.unwrap();
                sender.send(&"three", &[socket.as_fd()]).await.unwrap();
            }
        });
        let one = receiver.receive::<String>().await.unwrap().unwrap();
        let two = receiver.receive::<String>().await.unwrap().unwrap();
        let mut three = receiver.receive::<String>().await.unwrap().unwrap();
        assert_eq!((one.message.as_str(), two.message, three.message.as_str()), ("one", long, "three"));
        assert!(one.descriptors.is_empty() && two.descriptors.is_empty());
        let received = std::net::TcpListener::from(three.descriptors.remove(0));
        assert_eq!(received.local_addr().unwrap(), address);
        sending.await.unwrap();
        assert!(receiver.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_nobody_knows_is_passed_over_and_garbage_ends_the_link() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((mut sender, _), (_, mut receiver)) = (split(a), split(b));
        sender.send(&serde_json::json!({"type": "from-the-future", "x": 1}), &[]).await.unwrap();
        sender.send(&7, &[]).await.unwrap();
        assert_eq!(
            receiver.receive::<super::super::Down>().await.unwrap().unwrap().message,
            super::super::Down::Unknown
        );
        assert!(receiver.receive::<super::super::Down>().await.is_err());
    }

    #[tokio::test]
    async fn descriptors_that_nobody_asked_for_end_the_link() {
        let (a, b) = UnixStream::pair().unwrap();
        let (_, mut receiver) = split(b);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let many = vec![socket.as_fd(); BATCH];
        a.writable().await.unwrap();
        // The other side closes before all of them are through.
        let send = async { while a.async_io(Interest::WRITABLE, || send_some(&a, b"no line", &many)).await.is_ok() {} };
        let receive = async move { receiver.receive::<String>().await };
        assert!(matches!(tokio::join!(send, receive).1, Err(LinkError::Io(_))));
    }

    #[tokio::test]
    async fn any_number_of_descriptors_arrives_in_order() {
        let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |socket: &std::net::TcpListener| socket.local_addr().unwrap();
        for count in [1, 31, 33, 64, 252, 253, 254, 506, 700] {
            let (a, b) = UnixStream::pair().unwrap();
            let ((mut sender, _), (_, mut receiver)) = (split(a), split(b));
            let many: Vec<_> = (0..count).map(|number| sockets[number % 3].as_fd()).collect();
            let send = async {
                sender.send(&"many", &many).await.unwrap();
                sender.send(&"none", &[]).await.unwrap();
            };
            let ((), received) = tokio::join!(send, receiver.receive::<String>());
            let received = received.unwrap().unwrap();
            assert_eq!((received.message.as_str(), received.descriptors.len()), ("many", count));
            for (number, descriptor) in received.descriptors.into_iter().enumerate() {
                assert_eq!(address(&std::net::TcpListener::from(descriptor)), address(&sockets[number % 3]));
            }
            let next = receiver.receive::<String>().await.unwrap().unwrap();
            assert_eq!((next.message.as_str(), next.descriptors.len()), ("none", 0));
        }
    }
}
