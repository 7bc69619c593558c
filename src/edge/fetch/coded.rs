//! An answer that leaves in a coding of ours, or saying that it could have been in one.
//!
//! Called by `relay`. The rule: client and cache are shown a head as if the app had said so itself, and so they need not
//! know.

use bytes::BytesMut;
use http::StatusCode;

use super::along::{self, Rest, Wire};
use super::relay::{self, Answer, Frame};
use super::{Client, Errand, Gone, Outcome};
use crate::edge::compress::{self, Coding, Encoder, LENGTH_MIN, Negotiation};
use crate::edge::strict::chunks::{self, Broken};
use crate::edge::strict::response::{Framing, Head, judge};

pub struct Coded {
    /// Another than the app's.
    head: Option<Head>,
    /// The head's, or those of the app's with what it has to say beside.
    bytes: BytesMut,
    encoder: Option<Encoder>,
}

impl Coded {
    /// Judges an answer of which the head has come; `None` when it leaves as it is.
    pub fn negotiate(errand: &mut Errand<'_>, answer: &mut Answer) -> Option<Self> {
        let Negotiation::On(coding) = errand.fetch.negotiation else { return None };
        if answer.head.status == StatusCode::PARTIAL_CONTENT {
            errand.fetch.is_uncoded();
            return None;
        }
        let length = match answer.head.framing {
            Framing::Length(..LENGTH_MIN) => return None,
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        if !compress::is_eligible(answer.head.status, answer.head.fields(&answer.buffer)) {
            return None;
        }
        let coded = coding.and_then(|coding| Self::begin(errand, answer, (coding, length)));
        if let Some(fill) = &mut errand.fetch.fill {
            let tag = answer.head.fields(&answer.buffer).first("etag");
            fill.negotiated(coding.filter(|_| coded.is_some()), tag);
        }
        coded.or_else(|| Self::marked(errand, answer))
    }

    fn begin(errand: &Errand<'_>, answer: &Answer, (coding, length): (Coding, Option<u64>)) -> Option<Self> {
        let encoder = errand.worker.shared.encoders.take(coding, length)?;
        let mut bytes = errand.worker.buffers.take();
        compress::rewrite(&mut bytes, &answer.head, &answer.buffer, coding);
        let head = judge(&bytes, false).ok()??;
        Some(Self { head: Some(head), bytes, encoder: Some(encoder) })
    }

    /// The head by itself, for the body behind it would have to make room; `None` when it says so already.
    fn marked(errand: &Errand<'_>, answer: &mut Answer) -> Option<Self> {
        let mut bytes = errand.worker.buffers.take();
        bytes.extend_from_slice(&answer.buffer[..answer.head.length]);
        if compress::mark(&mut answer.head, &mut bytes) {
            return Some(Self { head: None, bytes, encoder: None });
        }
        errand.worker.buffers.put(bytes);
        None
    }

    /// Sends it; whether the app's connection may be used again.
    pub async fn run<C: Client>(
        self,
        client: &mut C,
        errand: &mut Errand<'_>,
        answer: &mut Answer,
    ) -> Result<bool, Outcome> {
        let head = self.head.as_ref().unwrap_or(&answer.head);
        let begun = relay::begin(client, errand, (head, &self.bytes));
        errand.worker.buffers.put(self.bytes);
        begun?;
        match self.encoder {
            Some(encoder) => encoded(client, errand, answer, encoder).await,
            None => relay::body(client, errand, answer).await,
        }
    }
}

async fn encoded<C: Client>(
    client: &mut C,
    errand: &mut Errand<'_>,
    answer: &mut Answer,
    mut encoder: Encoder,
) -> Result<bool, Outcome> {
    let mut frame = Frame::new(answer.head.framing);
    let is_chunked = C::TAKES_CHUNKS && answer.head.framing != Framing::Close;
    let mut from = answer.body;
    let mut wire = Vec::new();
    let is_reusable = loop {
        let bytes = &answer.buffer[from..];
        let mut added = Ok(());
        let passed = frame.pass(bytes, |data| {
            if added.is_ok() {
                added = encoder.add(data);
            }
        });
        let passed = passed.map_err(|Broken| Outcome::Torn)?;
        added.map_err(|_| Outcome::Torn)?;
        if frame.is_over() {
            break passed == bytes.len() && answer.head.keeps_alive;
        }
        let part = encoder.part().map_err(|_| Outcome::Torn)?;
        errand.note(&part);
        if let Some(reader) = errand.share() {
            let wire = if is_chunked { Wire::Chunks } else { Wire::Plain };
            let rest = Rest { frame, encoder: Some(encoder) };
            return along::lead(client, errand, answer, (rest, reader, wire)).await;
        }
        write(&mut wire, &part, is_chunked);
        client.part(&wire).await.map_err(|Gone| Outcome::Gone)?;
        from = 0;
        if !answer.reads_on::<C>(errand, &frame).await? {
            break false;
        }
    };
    let part = encoder.end().map_err(|_| Outcome::Torn)?;
    errand.note(&part);
    write(&mut wire, &part, is_chunked);
    if is_chunked {
        wire.extend_from_slice(chunks::LAST);
    }
    relay::finish(client, errand, &wire).await.map(|()| is_reusable)
}

/// Puts a part in the form in which the client takes it.
fn write(wire: &mut Vec<u8>, part: &[u8], is_chunked: bool) {
    wire.clear();
    match is_chunked {
        true => chunks::write(wire, part),
        false => wire.extend_from_slice(part),
    }
}
