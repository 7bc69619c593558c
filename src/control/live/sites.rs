//! What each site has right now: the release that its requests go to, and what a person has put before it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::address::Address;
use crate::model::app::{HealthCheck, Protocol};
use crate::model::hold::Hold;
use crate::model::name::Site;
use crate::model::route::{Replaced, UpstreamId};

/// Both kept for sites that conf does not name, too.
#[derive(Debug, Default)]
pub struct Sites {
    pub running: BTreeMap<Site, Active>,
    pub held: BTreeMap<Site, Hold>,
}

/// The release that a site's requests go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    pub upstream: UpstreamId,
    /// Those that answer; may be empty while they are being restarted.
    pub replicas: Vec<Address>,
    pub protocol: Protocol,
    pub drain: Duration,
    pub drain_long: Duration,
    /// How it showed that it was ready; the edge goes on asking.
    pub health: HealthCheck,
    /// What served before, the last first.
    pub replaced: Vec<Replaced>,
}

impl Sites {
    pub fn hold(&mut self, site: Site, hold: Option<Hold>) {
        match hold {
            Some(hold) => drop(self.held.insert(site, hold)),
            None => drop(self.held.remove(&site)),
        }
    }
}
