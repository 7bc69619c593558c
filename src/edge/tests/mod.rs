//! The edge in one process with its visitors, its apps and its control: real sockets, a real link.

mod balancing;
mod caching;
mod protocols;
mod routing;
mod world;
