//! A body that comes for several at once.
//!
//! Called by `relay` for who asked for it, by `door` and `http2` for those who read along. The rule: the app is read as fast as
//! it gives, whoever reads slowly or is gone, for as long as somebody is there.

use std::future::poll_fn;
use std::pin::pin;

use tokio::select;

use super::relay::{Answer, Frame};
use super::{Client, Errand, Gone, Outcome};
use crate::edge::cache::{Next, Reader};
use crate::edge::compress::Encoder;
use crate::edge::strict::chunks::{self, Broken};

/// How a body is framed for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    /// RFC 9112 section 7.1.
    Chunks,
}

/// Hands on what comes; how it went. `sent` counts the bytes of the body that left.
pub async fn follow<C: Client>(client: &mut C, mut reader: Reader, wire: Wire, sent: &mut u64) -> Outcome {
    let mut framed = Vec::new();
    loop {
        let next = select! {
            biased;
            next = reader.next() => next,
            () = poll_fn(|cx| client.poll_gone(cx)) => return Outcome::Gone,
        };
        let handed_on = match (next, wire) {
            (Next::Torn, _) => return Outcome::Torn,
            (Next::End, wire) => {
                let last: &[u8] = if wire == Wire::Chunks { chunks::LAST } else { &[] };
                return client.end(last).await.map_or(Outcome::Gone, |()| Outcome::Whole);
            }
            (Next::Part(part), Wire::Plain) => {
                *sent += part.len() as u64;
                client.part(&part).await
            }
            (Next::Part(part), Wire::Chunks) => {
                *sent += part.len() as u64;
                framed.clear();
                chunks::write(&mut framed, &part);
                client.part(&framed).await
            }
        };
        if let Err(Gone) = handed_on {
            return Outcome::Gone;
        }
    }
}

/// What is still to come of an answer.
pub struct Rest {
    pub frame: Frame,
    pub encoder: Option<Encoder>,
}

/// Reads the rest of an answer for everybody, and hands it on to whoever asked; whether the connection to the app may be used
/// again.
pub async fn lead<C: Client>(
    client: &mut C,
    errand: &mut Errand<'_>,
    answer: &mut Answer,
    (rest, reader, wire): (Rest, Reader, Wire),
) -> Result<bool, Outcome> {
    let flight = reader.flight().clone();
    let (mut led, mut sent) = (None, 0);
    let pumped = {
        let mut following = pin!(follow(client, reader, wire, &mut sent));
        let mut pumping = pin!(pump::<C>(errand, answer, rest));
        let pumped = loop {
            select! {
                biased;
                pumped = &mut pumping => break pumped,
                outcome = &mut following, if led.is_none() => {
                    led = Some(outcome);
                    if !flight.has_readers() {
                        break Err(Outcome::Gone);
                    }
                }
            }
        };
        if led.is_none() && pumped.is_ok() {
            led = Some(following.await);
        }
        pumped
    };
    errand.exchange.sent = sent;
    match (pumped, led) {
        (Ok(is_reusable), Some(Outcome::Whole)) => Ok(is_reusable),
        (Ok(_), led) => Err(led.unwrap_or(Outcome::Torn)),
        (Err(outcome), _) => Err(outcome),
    }
}

async fn pump<C: Client>(errand: &mut Errand<'_>, answer: &mut Answer, mut rest: Rest) -> Result<bool, Outcome> {
    let is_reusable = loop {
        if let Some(fill) = &errand.fetch.fill {
            fill.room().await;
            if !fill.has_readers() {
                return Err(Outcome::Gone);
            }
        }
        if !answer.reads_on::<C>(errand, &rest.frame).await? {
            break false;
        }
        let passed = rest.take(errand, &answer.buffer)?;
        if rest.frame.is_over() {
            break passed == answer.buffer.len() && answer.head.keeps_alive;
        }
    };
    if let Some(encoder) = rest.encoder {
        let last = encoder.end().map_err(|_| Outcome::Torn)?;
        errand.keep(&last);
    }
    errand.end_fill();
    Ok(is_reusable)
}

impl Rest {
    /// Takes in a part of the app's answer; how much of it was of the body.
    fn take(&mut self, errand: &mut Errand<'_>, bytes: &[u8]) -> Result<usize, Outcome> {
        let mut added = Ok(());
        let passed = self.frame.pass(bytes, |data| match &mut self.encoder {
            Some(encoder) if added.is_ok() => added = encoder.add(data),
            Some(_) => {}
            None => errand.keep(data),
        });
        added.map_err(|_| Outcome::Torn)?;
        if let Some(encoder) = &mut self.encoder {
            let part = encoder.part().map_err(|_| Outcome::Torn)?;
            errand.keep(&part);
        }
        passed.map_err(|Broken| Outcome::Torn)
    }
}
