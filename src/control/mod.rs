//! The control plane.

pub mod certs;
pub mod conf;
pub mod hooks;
pub mod live;
pub mod runtime;
pub mod source;
pub mod store;
