//! The corpus: requests that are read differently here and there, and requests that everybody must take.
//!
//! From RFC 9110 and 9112 and the published classes of request smuggling, desync and header injection. One file a part
//! of the message.

mod chunks;
mod connection;
mod fields;
mod framing;
mod hosts;
mod identity;
mod lines;
mod valid;

use super::case::Case;

pub fn all() -> Vec<Case> {
    let parts: [fn() -> Vec<Case>; 8] = [
        lines::cases,
        fields::cases,
        hosts::cases,
        framing::cases,
        chunks::cases,
        connection::cases,
        identity::cases,
        valid::cases,
    ];
    parts.iter().flat_map(|cases| cases()).collect()
}
