//! The promises of the product, told against the real binary: one file a subject.

mod http;
mod visitors;
mod world;

mod access_log;
mod balancing;
mod caching;
mod certificates;
mod cli;
mod collapsing;
mod compressing;
mod deploying;
mod docker;
mod forges;
mod full_disk;
mod grpc;
mod hooks;
mod hostile;
mod interim;
mod isolation;
mod keeping;
mod limits;
mod many_hooks;
mod proxied;
mod purging;
mod ranges;
mod reloading;
mod rights;
mod routing;
mod serving;
mod surviving;
mod swapping;
mod two_ways;
mod upgrading;
mod why;
