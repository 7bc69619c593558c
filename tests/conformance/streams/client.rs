//! A client of HTTP/2 that sends the frames of one case, then perhaps one more request, and reads what becomes of them.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, RESET, SETTINGS, beginning, frame, headers,
    status, take,
};

const DEADLINE: Duration = Duration::from_secs(30);
/// The stream of the case, and the one of the request after it.
pub const CASE: u32 = 1;
pub const NEXT: u32 = 3;

/// What came back on one stream.
#[derive(Debug, Default)]
pub struct Stream {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub is_whole: bool,
    pub is_reset: bool,
}

#[derive(Debug, Default)]
pub struct Talk {
    pub case: Stream,
    pub next: Stream,
    /// The connection ended, with or without GOAWAY.
    pub is_over: bool,
    pub is_late: bool,
}

pub async fn talk<S>(mut stream: S, case: &[u8], next: Option<&[(Vec<u8>, Vec<u8>)]>) -> Talk
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + DEADLINE;
    let (mut talk, mut bytes, mut next) = (Talk::default(), Vec::new(), next);
    let has_next = next.is_some();
    // Whatever cannot be written was refused already; the answers tell.
    let _ = stream.write_all(&[&beginning(), case].concat()).await;
    let _ = stream.flush().await;
    while !talk.is_over && !talk.is_late && !talk.next.has_ended() {
        while let Some(frame) = take(&mut bytes) {
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                let _ = stream.write_all(&super::frames::frame(SETTINGS, ACK, 0, b"")).await;
            }
            talk.note(&frame);
        }
        if let Some(next) = next.take_if(|_| talk.case.has_ended()) {
            let _ = stream.write_all(&headers(NEXT, END_STREAM, next)).await;
        }
        let _ = stream.flush().await;
        if talk.is_over || talk.next.has_ended() || (talk.case.has_ended() && !has_next) {
            break;
        }
        match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => talk.is_over = true,
            Err(_) => talk.is_late = true,
        }
    }
    talk
}

impl Talk {
    fn note(&mut self, frame: &Frame) {
        if frame.kind == GOAWAY {
            self.is_over = true;
        }
        let stream = match frame.stream {
            CASE => &mut self.case,
            NEXT => &mut self.next,
            _ => return,
        };
        match frame.kind {
            HEADERS => {
                assert!(
                    frame.flags & (END_HEADERS | PADDED) == END_HEADERS,
                    "the gateway sends heads whole: {frame:?}"
                );
                let status = status(&frame.payload);
                // Trailers have none, and informational answers come before the one that counts.
                if stream.status.is_none_or(|before| before < 200) && status.is_some() {
                    stream.status = status;
                }
            }
            DATA => stream.body.extend_from_slice(&frame.payload),
            RESET => stream.is_reset = true,
            _ => return,
        }
        stream.is_whole |= matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
    }
}

impl Stream {
    pub fn has_ended(&self) -> bool {
        self.is_whole || self.is_reset
    }
}

/// Frames of a body.
pub fn data(payload: &[u8], flags: u8) -> Vec<u8> {
    frame(DATA, flags, CASE, payload)
}
