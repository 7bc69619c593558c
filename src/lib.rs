//! Open Prime, from the bottom up: read `model` for the words, `link` for what the two planes say to each other, then
//! `edge` for the way of a request and `control` for the way of a push. ARCHITECTURE.md tells the whole.

pub mod model;

pub mod ask;
pub mod dial;
pub mod link;

pub mod control;
pub mod edge;

pub mod cli;
pub mod report;
