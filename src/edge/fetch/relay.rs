//! The body of an answer on its way to whoever waits, and into the cache.
//!
//! Called by `fetch` once there is a head. The rule: an answer is whole when its own framing says so; anything else ends in
//! a way that nobody can take for the end.

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::along::{self, Rest, Wire};
use super::coded::Coded;
use super::pool::Line;
use super::{Client, Errand, Gone, Outcome};
use crate::edge::strict::chunks::{Broken, Chunks};
use crate::edge::strict::response::{Framing, Head};
use crate::edge::upstream::Turn;

/// An answer whose head has come.
pub struct Answer {
    pub head: Head,
    /// The head, and what came with it.
    pub buffer: BytesMut,
    /// Where in it the body begins.
    pub body: usize,
    pub line: Line,
    pub turn: Turn,
}

pub async fn run<C: Client>(client: &mut C, errand: &mut Errand<'_>, mut answer: Answer) -> Outcome {
    errand.exchange.status = Some(answer.head.status);
    let passed = match Coded::negotiate(errand, &mut answer) {
        Some(coded) => coded.run(client, errand, &mut answer).await,
        None => plain(client, errand, &mut answer).await,
    };
    let Answer { buffer, line, turn, .. } = answer;
    errand.worker.buffers.put(buffer);
    match passed {
        Err(outcome) => outcome,
        Ok(is_reusable) => {
            if is_reusable {
                errand.worker.pool.put(turn.replica(), line);
            }
            Outcome::Whole
        }
    }
}

async fn plain<C: Client>(client: &mut C, errand: &mut Errand<'_>, answer: &mut Answer) -> Result<bool, Outcome> {
    begin(client, errand, (&answer.head, &answer.buffer))?;
    body(client, errand, answer).await
}

/// Sends the head.
pub fn begin<C: Client>(client: &mut C, errand: &mut Errand<'_>, head: (&Head, &[u8])) -> Result<(), Outcome> {
    errand.judge_fill(head);
    client.begin(head.0, head.1, errand.exchange).map_err(|Gone| Outcome::Gone)
}

/// Whether the connection may be used again: what follows an answer would be taken for the next one.
pub async fn body<C: Client>(client: &mut C, errand: &mut Errand<'_>, answer: &mut Answer) -> Result<bool, Outcome> {
    let mut frame = Frame::new(answer.head.framing);
    let mut from = answer.body;
    let mut plain = Vec::new();
    loop {
        let bytes = &answer.buffer[from..];
        plain.clear();
        let passed = frame.pass(bytes, |data| {
            errand.note(data);
            if !C::TAKES_CHUNKS && matches!(answer.head.framing, Framing::Chunked) {
                plain.extend_from_slice(data);
            }
        });
        let passed = passed.map_err(|Broken| Outcome::Torn)?;
        let part = if plain.is_empty() && frame.is_passed_as_it_is::<C>() { &bytes[..passed] } else { &plain[..] };
        if frame.is_over() {
            let is_reusable = passed == bytes.len() && answer.head.keeps_alive;
            return finish(client, errand, part).await.map(|()| is_reusable);
        }
        if let Some(reader) = errand.share() {
            let is_chunked = C::TAKES_CHUNKS && answer.head.framing == Framing::Chunked;
            let wire = if is_chunked { Wire::Chunks } else { Wire::Plain };
            let rest = Rest { frame, encoder: None };
            return along::lead(client, errand, answer, (rest, reader, wire)).await;
        }
        client.part(part).await.map_err(|Gone| Outcome::Gone)?;
        from = 0;
        if !answer.reads_on::<C>(errand, &frame).await? {
            return finish(client, errand, &[]).await.map(|()| false);
        }
    }
}

impl Answer {
    /// Gives back what an answer took that does not leave. The connection may be used again when nothing more comes of it.
    pub fn put_back(self, errand: &Errand<'_>) {
        let Answer { head, buffer, body, line, turn } = self;
        let is_over = head.framing == Framing::Length(0) && buffer.len() == body;
        errand.worker.buffers.put(buffer);
        if is_over && head.keeps_alive {
            errand.worker.pool.put(turn.replica(), line);
        }
    }

    /// Reads some more of the body in the place of what was read before; whether there is more.
    pub async fn reads_on<C: Client>(&mut self, errand: &mut Errand<'_>, frame: &Frame) -> Result<bool, Outcome> {
        self.buffer.clear();
        self.buffer.reserve(C::PART);
        let reading = self.line.read_buf(&mut self.buffer);
        match errand.timer.within(errand.limits.upstream_timeout, reading).await {
            Some(Ok(1..)) => Ok(true),
            // The one way in which the end of the connection is the end of an answer (RFC 9112 section 6.3).
            Some(Ok(0)) if frame.ends_with_connection() => Ok(false),
            Some(Ok(0) | Err(_)) | None => Err(Outcome::Torn),
        }
    }
}

pub async fn finish<C: Client>(client: &mut C, errand: &mut Errand<'_>, part: &[u8]) -> Result<(), Outcome> {
    // Before the last part leaves: whoever has read the answer finds it stored when it asks again.
    errand.end_fill();
    client.end(part).await.map_err(|Gone| Outcome::Gone)
}

/// How far a body has come.
#[derive(Debug)]
pub enum Frame {
    Left(u64),
    Chunks(Chunks),
    Open,
}

impl Frame {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Frame::Left(length),
            Framing::Chunked => Frame::Chunks(Chunks::new()),
            Framing::Close => Frame::Open,
        }
    }

    /// Judges as many bytes as belong to the body, and shows the data among them; how many those are.
    pub fn pass(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Broken> {
        match self {
            Frame::Left(left) => {
                let mine = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= mine as u64;
                data(&bytes[..mine]);
                Ok(mine)
            }
            Frame::Open => {
                data(bytes);
                Ok(bytes.len())
            }
            Frame::Chunks(chunks) => {
                let mut passed = 0;
                while !chunks.is_done() && passed < bytes.len() {
                    let step = chunks.step(&bytes[passed..])?;
                    let from = passed + step.framing;
                    passed = from + step.data;
                    data(&bytes[from..passed]);
                }
                Ok(passed)
            }
        }
    }

    pub fn is_over(&self) -> bool {
        match self {
            Frame::Left(left) => *left == 0,
            Frame::Chunks(chunks) => chunks.is_done(),
            Frame::Open => false,
        }
    }

    fn ends_with_connection(&self) -> bool {
        matches!(self, Frame::Open)
    }

    fn is_passed_as_it_is<C: Client>(&self) -> bool {
        C::TAKES_CHUNKS || !matches!(self, Frame::Chunks(_))
    }
}
