//! A client that sends exactly what a case says, and reads everything that comes back.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::case::{Case, Then};
use super::message::{self, Answer};

/// Longer than every limit of the gateway under test.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two parts, so that they are read one by one.
const PAUSE: Duration = Duration::from_millis(20);
/// Refusals of a request that was understood: another may follow.
const UNDERSTOOD: [u16; 2] = [404, 405];

/// The fault of an answer that broke off.
pub const HALF: &str = "half an answer";

/// What came back.
#[derive(Debug, Default)]
pub struct Talk {
    pub answers: Vec<Answer>,
    pub is_closed: bool,
    pub is_late: bool,
    /// What came and is no answer.
    pub fault: Option<String>,
}

/// Sends a case in pieces of so many bytes, and a last request where the connection should take one.
pub async fn talk<S>(stream: S, case: &Case, piece: usize) -> Talk
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let deadline = Instant::now() + DEADLINE;
    let (mut reader, writer) = tokio::io::split(stream);
    let (another, last) = oneshot::channel();
    let writing = tokio::spawn(write(writer, case.parts.clone(), piece, case.then == Then::Cut, last));
    let (mut talk, mut bytes, mut another) = (Talk::default(), Vec::new(), Some(another));
    while !talk.is_closed && !talk.is_late {
        match timeout_at(deadline, reader.read_buf(&mut bytes)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => talk.is_closed = true,
            Err(_) => talk.is_late = true,
        }
        talk.take(&mut bytes, case);
        if talk.fault.is_some() || talk.is_understood(case) {
            break;
        }
        let is_all = case.then == Then::Another && talk.answers.len() == case.seen.len();
        if let Some(another) = another.take_if(|_| is_all) {
            // The writer may be gone with the connection.
            let _ = another.send(());
        }
    }
    drop(another);
    writing.abort();
    talk
}

impl Talk {
    fn take(&mut self, bytes: &mut Vec<u8>, case: &Case) {
        loop {
            let method = case.seen.get(self.answers.len()).map_or("GET", |seen| seen.method.as_str());
            match message::answer(bytes, method, self.is_closed) {
                Ok(Some((answer, length))) => {
                    bytes.drain(..length);
                    if !matches!(answer.status, 100 | 102..200) {
                        self.answers.push(answer);
                    }
                }
                Ok(None) => break,
                Err(fault) => return self.fault = Some(format!("{fault}: {}", bytes.escape_ascii())),
            }
        }
        if self.is_closed && !bytes.is_empty() {
            self.fault = Some(format!("{HALF}: {}", bytes.escape_ascii()));
        }
    }

    /// Whether the last answer says no to a request that broke no rule, after which the connection may stay open.
    fn is_understood(&self, case: &Case) -> bool {
        let is_refused = matches!(case.then, Then::Refused(_)) && self.answers.len() > case.seen.len();
        is_refused && self.answers.last().is_some_and(|answer| UNDERSTOOD.contains(&answer.status))
    }
}

/// The path of the request after the others.
pub const LAST: &str = "/last";

async fn write<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    parts: Vec<Vec<u8>>,
    piece: usize,
    is_cut: bool,
    last: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let mark = parts.iter().find_map(|part| super::origin::mark(part)).unwrap_or_default();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            sleep(PAUSE).await;
        }
        for piece in part.chunks(piece) {
            writer.write_all(piece).await?;
            writer.flush().await?;
            tokio::task::yield_now().await;
        }
    }
    if is_cut {
        writer.shutdown().await?;
    }
    // Without a word, the writer stays until the answers are there.
    if last.await.is_ok() {
        let request = format!("GET /{mark}{LAST} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
        writer.write_all(request.as_bytes()).await?;
        writer.flush().await?;
    }
    Ok(())
}
