//! A client that waits over HTTP/1.1.
//!
//! Made by `door`. The rule: an answer's lines pass as the app wrote them, but for those that end with its connection and
//! those that the edge answers for; head and first part leave together.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Client, Gone};
use crate::edge::exchange::Exchange;
use crate::edge::headers::{self, Sink};
use crate::edge::stream::Stream;
use crate::edge::strict::response::{Framing, Head};

/// The length of `HTTP/1.1`.
const VERSION: usize = 8;
/// What a head grows by on its way, in bytes; about.
const ADDED: usize = 256;

#[derive(Debug)]
pub struct Http1<'c> {
    pub stream: &'c mut Stream,
    /// Whether another request may follow. The answer may say no to that, and then this does as well.
    pub keeps_alive: bool,
    pub write_timeout: Duration,
}

impl Client for Http1<'_> {
    const TAKES_CHUNKS: bool = true;

    async fn interim(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Gone> {
        self.copy(head, bytes);
        self.stream.gathered().extend_from_slice(b"\r\n");
        self.part(&[]).await
    }

    fn begin(&mut self, head: &Head, bytes: &[u8], exchange: &Exchange) -> Result<(), Gone> {
        self.keeps_alive &= head.framing != Framing::Close && !exchange.is_last();
        self.copy(head, bytes);
        let to = self.stream.gathered();
        to.put("Date", &[&exchange.date()]);
        headers::to_client(to, &exchange.id, exchange.told_cache());
        if !self.keeps_alive {
            to.put("Connection", &[b"close"]);
        }
        to.extend_from_slice(b"\r\n");
        Ok(())
    }

    async fn part(&mut self, part: &[u8]) -> Result<(), Gone> {
        self.stream.send(part, self.write_timeout).await.map_err(|_| Gone)
    }

    async fn end(&mut self, part: &[u8]) -> Result<(), Gone> {
        self.part(part).await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_end(cx).map(|_| ())
    }
}

impl Http1<'_> {
    /// The status line and the fields that go on, without the empty line.
    fn copy(&mut self, head: &Head, bytes: &[u8]) {
        let lines = head.lines(bytes);
        let first = lines.iter().next().map_or(head.length - 2, |line| line.range().start);
        let nominated = if head.has_nominations { nominated(head, bytes) } else { Vec::new() };
        let to = self.stream.gathered();
        to.reserve(head.length + ADDED);
        to.extend_from_slice(b"HTTP/1.1");
        to.extend_from_slice(bytes.get(VERSION..first).unwrap_or_default());
        for line in lines.iter() {
            let name = line.name(bytes);
            let is_gone = nominated.iter().any(|gone| gone.eq_ignore_ascii_case(name));
            if is_gone || headers::is_kept_back(line.kind) || name.eq_ignore_ascii_case(b"date") {
                continue;
            }
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
