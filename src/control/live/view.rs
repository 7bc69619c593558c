//! What can be seen of what is live without asking its owner.
//!
//! Shown by the owner at every change, looked at by `web` and `deploy`. The rule: it is a copy, and nothing waits for it.

use std::time::SystemTime;

use super::edge::Edge;
use super::plan;
use crate::control::certs::Certificate;
use crate::link::{SiteTraffic, UpstreamTraffic};
use crate::model::host::HostPattern;
use crate::model::machine::Listeners;

#[derive(Debug, Clone, Default)]
pub struct View {
    pub edge_pid: u32,
    pub edge_version: String,
    pub edge_was_adopted: bool,
    /// Which file it was started from; `None` where it does not say.
    pub edge_binary: Option<String>,
    /// With the real ports.
    pub listeners: Listeners,
    /// Hosts whose certificate browsers trust.
    pub trusted: Vec<HostPattern>,
    pub traffic: Vec<SiteTraffic>,
    /// By upstream: what their apps have answered.
    pub upstreams: Vec<UpstreamTraffic>,
}

impl View {
    pub fn count(&mut self, sites: Vec<SiteTraffic>, upstreams: Vec<UpstreamTraffic>) {
        (self.traffic, self.upstreams) = (sites, upstreams);
    }

    /// Takes in what is true of this edge now.
    pub fn show(&mut self, edge: &Edge, certificates: &[Certificate]) {
        self.edge_pid = edge.pid;
        self.edge_version.clone_from(&edge.version);
        self.edge_was_adopted = edge.was_adopted;
        self.edge_binary.clone_from(&edge.binary);
        self.listeners = edge.listeners.clone();
        self.trusted = plan::trusted(certificates, SystemTime::now());
    }
}
