//! See `Cargo.toml` for why this is here.

pub use libz_sys::*;
