//! The control plane.

pub mod certs;
pub mod child;
pub mod conf;
pub mod hooks;
pub mod runtime;
pub mod source;
pub mod store;
