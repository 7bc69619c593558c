//! The promises of the product, told against the real binary: one file a subject.

mod http;
mod visitors;
mod world;

mod access_log;
mod balancing;
mod certificates;
mod cli;
mod compressing;
mod deploying;
mod docker;
mod full_disk;
mod grpc;
mod hooks;
mod limits;
mod proxied;
mod reloading;
mod rights;
mod routing;
mod serving;
mod surviving;
mod swapping;
mod two_ways;
