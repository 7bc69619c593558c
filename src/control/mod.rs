//! The control plane.

pub mod certs;
pub mod conf;
pub mod hooks;
pub mod https;
pub mod runtime;
pub mod secret;
pub mod source;
pub mod store;
