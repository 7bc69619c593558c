//! An answer that leaves in another form than the app gave it: in a coding, or saying that it could have been in one.
//!
//! Called by `relay`. The rule: client and cache are shown a head as if the app had said so itself, and so they need not
//! know.

use bytes::BytesMut;

use super::relay::{self, Answer, Frame};
use super::{Client, Errand, Gone, Outcome};
use crate::edge::compress::{self, Encoder, LENGTH_MIN, Negotiation};
use crate::edge::strict::chunks::Broken;
use crate::edge::strict::response::{Framing, Head, judge};

pub struct Coded {
    head: Head,
    /// The head's.
    bytes: BytesMut,
    encoder: Option<Encoder>,
}

impl Coded {
    /// Judges an answer of which the head has come; `None` when it leaves as it is.
    pub fn negotiate(errand: &mut Errand<'_>, answer: &Answer) -> Option<Self> {
        let Negotiation::On(coding) = errand.fetch.negotiation else { return None };
        let (head, buffer) = (&answer.head, &answer.buffer);
        let length = match head.framing {
            Framing::Length(..LENGTH_MIN) => return None,
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        if !compress::is_eligible(head.status, head.fields(buffer)) {
            return None;
        }
        let encoder = coding.and_then(|coding| errand.worker.shared.encoders.take(coding, length));
        let coding = coding.filter(|_| encoder.is_some());
        let mut bytes = errand.worker.buffers.take();
        compress::rewrite(&mut bytes, head, buffer, coding);
        let head = judge(&bytes, false).ok()??;
        if let Some(fill) = &mut errand.fetch.fill {
            fill.negotiated(coding);
        }
        Some(Self { head, bytes, encoder })
    }

    /// Sends it; whether the app's connection may be used again.
    pub async fn run<C: Client>(
        self,
        client: &mut C,
        errand: &mut Errand<'_>,
        answer: &mut Answer,
    ) -> Result<bool, Outcome> {
        let begun = relay::begin(client, errand, (&self.head, &self.bytes));
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
    let mut from = answer.head.length;
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
        wire.extend_from_slice(b"0\r\n\r\n");
    }
    relay::finish(client, errand, &wire).await.map(|()| is_reusable)
}

/// Puts a part in the form in which the client takes it.
fn write(wire: &mut Vec<u8>, part: &[u8], is_chunked: bool) {
    wire.clear();
    if !is_chunked {
        wire.extend_from_slice(part);
    } else if !part.is_empty() {
        wire.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        wire.extend_from_slice(part);
        wire.extend_from_slice(b"\r\n");
    }
}
