//! Attacks on the real binary: what each takes from it is bounded, and the good clients beside it lose nothing.
//!
//! `field.rs` makes the sentence `withstands`; a story is one attack. They run one after the other, because they measure.
//! `cargo test --test attacks -- --nocapture` prints what was measured.

#[allow(dead_code)]
#[path = "../stories/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../stories/world.rs"]
mod world;

mod crowd;
mod field;
mod frames;
mod guests;
mod origin;
mod processor;

mod bodies;
mod descriptors;
mod floods;
mod handshakes;
mod heads;
mod memory;
mod unread;
