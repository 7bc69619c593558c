//! Floor 0: the nouns of Open Prime and the rules that hold for them whoever asks.
//!
//! Nothing here waits, reads a file, opens a socket, looks at a clock or writes a log: time, randomness and ids come in
//! as arguments. Both planes and the command line import from here; nothing here imports from them.

pub mod address;
pub mod app;
pub mod cache;
pub mod cache_key;
pub mod certificate;
pub mod compression;
pub mod deployment;
pub mod hold;
pub mod host;
pub mod instant;
pub mod machine;
pub mod name;
pub mod pattern;
pub mod project;
pub mod purge_key;
pub mod push;
pub mod release;
pub mod route;
pub mod snapshot;
pub mod user;
