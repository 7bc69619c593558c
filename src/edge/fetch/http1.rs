//! A client that waits over HTTP/1.1.
//!
//! Made by `door`. The rule: an answer's lines pass as the app wrote them, but for those that end with its connection and
//! those that the edge answers for; head and first part leave together.

use std::task::{Context, Poll};

use bytes::BytesMut;

use super::{Client, Gone};
use crate::edge::exchange::Exchange;
use crate::edge::field::Kind;
use crate::edge::headers::{self, Sink};
use crate::edge::stream::{SMALL, Stream};
use crate::edge::strict::response::{Framing, Head};
use crate::model::cache::CdnFields;

/// What a head grows by on its way, in bytes; about.
const ADDED: usize = 256;

#[derive(Debug)]
pub struct Http1<'c> {
    pub stream: &'c mut Stream,
    /// Whether another request may follow. The answer may say no to that, and then this does as well.
    pub keeps_alive: bool,
}

impl Client for Http1<'_> {
    const TAKES_CHUNKS: bool = true;
    const PART: usize = 64 << 10;

    async fn interim(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Gone> {
        let to = self.stream.gathered();
        copy(head, bytes, to, CdnFields::default());
        to.extend_from_slice(b"\r\n");
        self.part(&[]).await
    }

    fn begin(&mut self, head: &Head, bytes: &[u8], exchange: &Exchange) -> Result<(), Gone> {
        self.keeps_alive &= head.framing != Framing::Close && !exchange.is_last();
        let to = self.stream.gathered();
        to.reserve(head.length + ADDED + SMALL);
        copy(head, bytes, to, exchange.passes);
        to.put("Date", &[&exchange.date()]);
        headers::to_client(to, exchange.told());
        if !self.keeps_alive {
            to.put("Connection", &[b"close"]);
        }
        to.extend_from_slice(b"\r\n");
        Ok(())
    }

    async fn part(&mut self, part: &[u8]) -> Result<(), Gone> {
        self.stream.send(part).await.map_err(|_| Gone)
    }

    async fn end(&mut self, part: &[u8]) -> Result<(), Gone> {
        self.part(part).await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_end(cx).map(|_| ())
    }
}

/// Status and fields, but for what the app said to the edge alone and what the edge says itself.
fn copy(head: &Head, bytes: &[u8], to: &mut BytesMut, passes: CdnFields) {
    let lines = head.lines(bytes);
    let first = lines.iter().next().map_or(head.length - 2, |line| line.range().start);
    to.extend_from_slice(b"HTTP/1.1");
    let (code, reason) = bytes.get(8..first).unwrap_or_default().split_at_checked(4).unwrap_or_default();
    to.extend_from_slice(code);
    // An app may leave out the space before the reason it does not give; a client may wait for it.
    to.extend_from_slice(if reason.starts_with(b" ") { b"" } else { b" " });
    to.extend_from_slice(reason);
    let nominated = if head.has_nominations { nominated(head, bytes) } else { Vec::new() };
    for line in lines.iter() {
        let name = line.name(bytes);
        let is_gone = nominated.iter().any(|gone| gone.eq_ignore_ascii_case(name));
        let is_odd = !head.may_be_framed() && matches!(line.kind, Kind::ContentLength | Kind::TransferEncoding);
        let is_said = headers::is_kept_back(line.kind, passes) || name.eq_ignore_ascii_case(b"date");
        if !is_gone && !is_odd && !is_said {
            to.extend_from_slice(bytes.get(line.range()).unwrap_or_default());
        }
    }
}

/// What the app's `Connection` names, but for what says where the body ends.
fn nominated<'b>(head: &'b Head, bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let options = head.fields(bytes).all("connection").flat_map(|value| value.split(|byte| *byte == b','));
    let options = options.map(<[u8]>::trim_ascii);
    options.filter(|name| !name.eq_ignore_ascii_case(b"content-length")).collect()
}
