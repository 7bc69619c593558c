//! How pingora reaches a replica for one request: the address, the timeouts that it leaves open, the kind of connection.
//!
//! Asked by `gateway`. The rule: only what cannot have begun to change anything at the app goes over a connection that was
//! used before.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Version};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use crate::model::address::Address;
use crate::model::app::Protocol;
use crate::model::machine::Limits;

use super::connect::{Direct, Multiplexed, Streamed, Tunnel};
use super::fetch::pool::POOLED;
use super::sound::Asking;
use super::upstream::Turn;

/// A body that any socket holds whole, in bytes: such a request may use a pooled connection.
const BODY_SMALL: usize = 32 << 10;
/// Requests that share a connection to an app that speaks HTTP/2.
const STREAMS: usize = 100;
/// How much of such an answer an app may send before its client has read, in bytes; the connection has room for all of
/// them, so that clients that do not read keep nobody else waiting.
const WINDOW: u32 = 64 << 10;
/// How long a WebSocket may be silent.
const TUNNEL: Duration = Duration::from_secs(3600);

/// What kind of connection to an app that speaks HTTP/1 the request needs.
pub fn choose_connection(session: &mut Session, peer: &mut HttpPeer) {
    if session.is_upgrade_req() {
        session.set_read_timeout(Some(TUNNEL));
        peer.options.read_timeout = Some(TUNNEL);
        peer.options.custom_l4 = Some(Arc::new(Tunnel));
        unpooled(peer);
    } else if has_large_body(session.req_header()) {
        peer.options.custom_l4 = Some(Arc::new(Streamed));
        unpooled(peer);
    } else if session.req_header().method == Method::HEAD {
        peer.options.custom_l4 = Some(Arc::new(Direct(Asking::Head)));
        unpooled(peer);
    }
}

/// What an app that speaks HTTP/2 gets of a request's fields. From stream to stream all pass, for those of a connection were
/// refused, and gRPC needs its `TE`; pingora would drop that, too, from a session that is not its own.
pub fn choose_fields(session: &Session, peer: &mut HttpPeer) {
    if session.req_header().version == Version::HTTP_2 {
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    }
}

/// For a connection that is made for one request: it is neither taken from the pool nor put there.
fn unpooled(peer: &mut HttpPeer) {
    peer.group_key ^= 1;
    peer.options.idle_timeout = Some(Duration::ZERO);
}

/// The address of a replica with all the timeouts that pingora leaves open.
pub fn peer(turn: &Turn, limits: &Limits) -> Result<HttpPeer> {
    let replica = turn.replica();
    let mut peer = match &replica.address {
        Address::Tcp(address) => HttpPeer::new(*address, false, String::new()),
        Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
    };
    peer.group_key = replica.group;
    peer.options.custom_l4 = Some(Arc::new(Direct(Asking::Plain)));
    peer.options.connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.total_connection_timeout = Some(limits.upstream_connect_timeout);
    peer.options.read_timeout = Some(limits.upstream_timeout);
    peer.options.write_timeout = Some(limits.upstream_timeout);
    peer.options.idle_timeout = Some(POOLED);
    if replica.protocol == Protocol::H2c {
        peer.options.custom_l4 = Some(Arc::new(Multiplexed));
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = STREAMS;
        peer.options.h2_stream_window_size = Some(WINDOW);
        peer.options.h2_connection_window_size = Some(WINDOW * STREAMS as u32);
    }
    Ok(peer)
}

/// Whether a request's body may be more than the sockets on its way hold.
fn has_large_body(request: &RequestHeader) -> bool {
    if matches!(request.method, Method::GET | Method::HEAD) {
        return false;
    }
    let length = request.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    length.is_none_or(|length| length > BODY_SMALL)
}
