//! A client that waits over HTTP/2.
//!
//! Made by `edge/http2`. The rule: it is never told that an answer ends before the app's own framing has said so.

use std::future::poll_fn;
use std::mem::take;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Client, Gone};
use crate::edge::exchange::Exchange;
use crate::edge::field::Kind;
use crate::edge::headers::{self, Sink};
use crate::edge::session::Session;
use crate::edge::strict::response::Head;
use crate::model::cache::CdnFields;

/// What is written at once, in bytes: each piece has the time of `write_timeout`, and one that has no window takes no more.
pub const PIECE: usize = 16 << 10;

/// Fields that most answers stay below.
const USUAL: usize = 16;

#[derive(Debug)]
pub struct Http2 {
    pub session: Session,
}

impl Client for Http2 {
    const TAKES_CHUNKS: bool = false;
    /// A connection has a hundred of them.
    const PART: usize = PIECE;

    async fn interim(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Gone> {
        let mut fields = fields(head, bytes, CdnFields::default());
        poll_fn(|cx| Poll::Ready(self.session.interim(cx, head.status, take(&mut fields)))).await.map_err(|_| Gone)
    }

    fn begin(&mut self, head: &Head, bytes: &[u8], exchange: &Exchange) -> Result<(), Gone> {
        let mut fields = fields(head, bytes, exchange.passes);
        fields.put("Date", &[&exchange.date()]);
        headers::to_client(&mut fields, exchange.told());
        self.session.begin(head.status, fields, false).map_err(|_| Gone)
    }

    async fn part(&mut self, part: &[u8]) -> Result<(), Gone> {
        for piece in part.chunks(PIECE) {
            self.session.write(Bytes::copy_from_slice(piece), false).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn end(&mut self, part: &[u8]) -> Result<(), Gone> {
        let (pieces, last) = part.split_at(part.len().saturating_sub(PIECE));
        self.part(pieces).await?;
        self.session.write(Bytes::copy_from_slice(last), true).await.map_err(|_| Gone)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.poll_gone(cx).map(|_| ())
    }
}

/// What of the app's fields leaves, but for those that the edge says itself.
fn fields(head: &Head, bytes: &[u8], passes: CdnFields) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(USUAL);
    let said = head.fields(bytes);
    let nominated = || said.all("connection").flat_map(|value| value.split(|byte| *byte == b','));
    for (name, value) in head.lines(bytes).fields() {
        let kind = Kind::of(name);
        let is_gone = head.has_nominations && nominated().any(|gone| gone.trim_ascii().eq_ignore_ascii_case(name));
        let is_odd = !head.may_be_framed() && kind == Kind::ContentLength;
        let is_date = name.eq_ignore_ascii_case(b"date");
        let is_said = kind.is_hop_by_hop() || headers::is_kept_back(kind, passes) || is_odd || is_date;
        if is_said || (is_gone && kind != Kind::ContentLength) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    fields
}
