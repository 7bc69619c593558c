//! The routing section, made ready for requests: which host and path is answered by what.
//!
//! `control_link` compiles a section into a `Table`; `answer` looks into the one that holds. The rule: an upstream whose
//! id stays keeps its object and its count, so that applying a section twice touches nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::cache::CachePolicy;
use crate::model::compression::CompressionPolicy;
use crate::model::host::HostName;
use crate::model::name::Site;
use crate::model::purge_key::PurgeKey;
use crate::model::route::{Replaced, Route, RouteTable, Target, UpstreamId};
use crate::model::snapshot::{self, Routing};

use super::hold::{Hold, Pauses};
use super::metrics::{Metrics, SiteMeter};
use super::rates::{RateTable, Rates};
use super::upstream::{ReplicaIds, Upstream};

/// The index that requests look into, and the upstreams that are routed.
#[derive(Debug, Default)]
pub struct Table {
    pub routes: RouteTable<Arc<Entry>>,
    pub upstreams: HashMap<UpstreamId, Routed>,
    /// What answers for each site; `None`: nothing runs.
    sites: HashMap<Site, Option<Arc<Upstream>>>,
    ids: Arc<ReplicaIds>,
    rates: RateTable,
    pub pauses: Pauses,
    /// Whether a routing section holds at all.
    pub is_ready: bool,
}

#[derive(Debug, Clone)]
pub struct Routed {
    pub upstream: Arc<Upstream>,
    /// How long its requests may wait for their answers once it is not routed any more, and how long those may take.
    pub drain: Duration,
    pub drain_long: Duration,
}

/// One route, ready for requests.
#[derive(Debug)]
pub struct Entry {
    pub to: Answerer,
    pub site: Option<Site>,
    pub https_only: bool,
    pub cache: CachePolicy,
    pub meter: Arc<SiteMeter>,
    /// How many requests a second it takes; `None` for as many as come.
    pub rates: Option<Arc<Rates>>,
    /// In place of the machine's.
    pub body_max: Option<u64>,
    pub compression: CompressionPolicy,
    /// Of whoever may send PURGE requests.
    pub purge_key: Option<PurgeKey>,
    /// Whether every answer says that it is nothing for search engines.
    pub is_unlisted: bool,
    /// The releases that what is asked for may be of, the last first.
    pub replaced: Vec<Replaced>,
    pub hold: Option<Hold>,
}

#[derive(Debug)]
pub enum Answerer {
    Upstream(Arc<Upstream>),
    Redirect(HostName),
    Absent,
}

/// Why a section cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error("two routes claim {host}{path}")]
    Conflict { host: String, path: String },
    #[error("a route names the upstream {0}, which is not there")]
    Unknown(String),
}

impl Table {
    /// Makes the table of a section, with the upstream objects of the one before. Nothing is changed when it fails.
    pub fn compile(section: &Routing, before: &Table, metrics: &Metrics) -> Result<Self, RoutingError> {
        let upstreams = upstreams(section, before, metrics);
        let mut entries = Vec::with_capacity(section.routes.len());
        let (mut sites, mut rates) = (HashMap::new(), RateTable::after(&before.rates));
        let mut pauses = Pauses::default();
        for route in &section.routes {
            let to = match &route.to {
                Target::Upstream(id) => match upstreams.get(id) {
                    Some(routed) => Answerer::Upstream(routed.upstream.clone()),
                    None => return Err(RoutingError::Unknown(id.0.clone())),
                },
                Target::Redirect(host) => Answerer::Redirect(host.clone()),
                Target::Absent => Answerer::Absent,
            };
            match (&route.site, &to) {
                (Some(site), Answerer::Upstream(upstream)) => {
                    sites.insert(site.clone(), Some(upstream.clone()));
                }
                (Some(site), Answerer::Absent) => drop(sites.entry(site.clone()).or_default()),
                _ => {}
            }
            let (site, https_only, cache) = (route.site.clone(), route.https_only, route.cache.clone());
            let meter = metrics.site(route.site.as_ref());
            let rates = rates.of(route, &before.rates);
            let (body_max, compression) = (route.limits.body_max, route.compression.clone());
            let (purge_key, is_unlisted) = (route.purge_key.clone(), route.is_unlisted);
            let (replaced, hold) = (route.replaced.clone(), pauses.of(route, &before.pauses));
            let entry = Entry {
                to,
                site,
                https_only,
                cache,
                meter,
                rates,
                body_max,
                compression,
                purge_key,
                is_unlisted,
                replaced,
                hold,
            };
            entries.push((route.host.clone(), route.path.clone(), Arc::new(entry)));
        }
        let routes = RouteTable::build(entries).map_err(|conflicts| {
            let first = conflicts.into_iter().next();
            let (host, path) = first.map(|conflict| (conflict.host.to_string(), conflict.path)).unwrap_or_default();
            RoutingError::Conflict { host, path }
        })?;
        for wanted in &section.upstreams {
            upstreams[&wanted.id].upstream.replace(wanted);
        }
        Ok(Self { routes, upstreams, sites, ids: before.ids.clone(), rates, pauses, is_ready: true })
    }

    /// The routed sites, and whether anything that answers runs for them.
    pub fn sites(&self) -> impl Iterator<Item = (&Site, bool)> {
        let is_up = |upstream: &Arc<Upstream>| upstream.is_up();
        self.sites.iter().map(move |(site, upstream)| (site, upstream.as_ref().is_some_and(is_up)))
    }

    /// The upstreams of `before` that are not routed here any more.
    pub fn gone(&self, before: &Table) -> Vec<Routed> {
        let is_gone = |id: &UpstreamId| !self.upstreams.contains_key(id);
        before.upstreams.iter().filter(|(id, _)| is_gone(id)).map(|(_, routed)| routed.clone()).collect()
    }
}

/// The upstreams of a section: the objects of the table before as far as they were there.
fn upstreams(section: &Routing, before: &Table, metrics: &Metrics) -> HashMap<UpstreamId, Routed> {
    let site_of = |route: &Route| match &route.to {
        Target::Upstream(id) => Some((id.clone(), route.site.clone()?)),
        _ => None,
    };
    let sites: HashMap<UpstreamId, Site> = section.routes.iter().filter_map(site_of).collect();
    let routed = |wanted: &snapshot::Upstream| {
        let known = before.upstreams.get(&wanted.id).map(|routed| routed.upstream.clone());
        let make = || Upstream::new(wanted, &before.ids, metrics.ejections(sites.get(&wanted.id)));
        let (drain, drain_long) = (wanted.drain, wanted.drain_long);
        (wanted.id.clone(), Routed { upstream: known.unwrap_or_else(make), drain, drain_long })
    };
    section.upstreams.iter().map(routed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(ids: &[&str]) -> Routing {
        let upstream = |id: &&str| snapshot::Upstream {
            id: UpstreamId(id.to_string()),
            replicas: vec!["127.0.0.1:1".parse().unwrap()],
            protocol: Default::default(),
            drain: Duration::ZERO,
            drain_long: Duration::ZERO,
            health: None,
        };
        Routing { upstreams: ids.iter().map(upstream).collect(), routes: Vec::new() }
    }

    #[test]
    fn an_upstream_that_stays_keeps_its_object_and_one_that_goes_is_named() {
        let metrics = Metrics::new().unwrap();
        let first = Table::compile(&section(&["a", "b"]), &Table::default(), &metrics).unwrap();
        let second = Table::compile(&section(&["b", "c"]), &first, &metrics).unwrap();
        let of = |table: &Table, id: &str| table.upstreams[&UpstreamId(id.to_owned())].upstream.clone();
        assert!(Arc::ptr_eq(&of(&first, "b"), &of(&second, "b")));
        let gone: Vec<_> = second.gone(&first).into_iter().map(|routed| routed.upstream.id.0.clone()).collect();
        assert_eq!(gone, ["a"]);
    }
}
