//! A client that waits over HTTP/2.
//!
//! Made by `edge/http2`. The rule: it is never told that an answer ends before the app's own framing has said so.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::server::HttpSession;

use super::{Client, Gone};
use crate::edge::exchange::Exchange;
use crate::edge::field::Kind;
use crate::edge::headers;
use crate::edge::strict::response::Head;

/// What is written at once, in bytes: each piece has the time of `write_timeout`, and one that has no window takes no more.
pub const PIECE: usize = 16 << 10;

pub struct Http2 {
    pub session: HttpSession,
}

impl Client for Http2 {
    const TAKES_CHUNKS: bool = false;
    /// A connection has a hundred of them.
    const PART: usize = PIECE;

    /// The codec's `send_informational` is not within reach of what pingora gives (0.9.1).
    async fn interim(&mut self, _: &Head, _: &[u8]) -> Result<(), Gone> {
        Ok(())
    }

    fn begin(&mut self, head: &Head, bytes: &[u8], exchange: &Exchange) -> Result<(), Gone> {
        let mut header = ResponseHeader::build_no_case(head.status, Some(16)).map_err(|_| Gone)?;
        let fields = head.fields(bytes);
        let nominated = || fields.all("connection").flat_map(|value| value.split(|byte| *byte == b','));
        for (name, value) in head.lines(bytes).fields() {
            let kind = Kind::of(name);
            let is_gone = head.has_nominations && nominated().any(|gone| gone.trim_ascii().eq_ignore_ascii_case(name));
            // There is no body that could have a length (RFC 9110 section 8.6).
            let is_odd = head.status == StatusCode::NO_CONTENT && kind == Kind::ContentLength;
            let is_said = kind.is_hop_by_hop() || headers::is_kept_back(kind) || is_odd;
            if is_said || (is_gone && kind != Kind::ContentLength) {
                continue;
            }
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                header.append_header(name, value).map_err(|_| Gone)?;
            }
        }
        headers::to_client(&mut header, &exchange.id, exchange.told_cache());
        self.session.write_response_header(Box::new(header), false).map_err(|_| Gone)
    }

    async fn part(&mut self, part: &[u8]) -> Result<(), Gone> {
        for piece in part.chunks(PIECE) {
            self.session.write_body(Bytes::copy_from_slice(piece), false).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn end(&mut self, part: &[u8]) -> Result<(), Gone> {
        let (pieces, last) = part.split_at(part.len().saturating_sub(PIECE));
        self.part(pieces).await?;
        self.session.write_body(Bytes::copy_from_slice(last), true).await.map_err(|_| Gone)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.session.idle()).poll(cx).map(|_| ())
    }
}
