//! What an HTTP/1 head must look like to enter at all: judged on the raw bytes, before anything acts on them.
//!
//! Pure. Called by `door` for requests and by `fetch` for answers. The rule: when two readers could understand a message
//! differently, it is refused (RFC 9112 section 11.2); what is let through means one thing to everybody behind.

pub mod chunks;
mod lines;
pub mod request;
pub mod response;
pub mod stream;

pub use lines::{Lines, is_token};
