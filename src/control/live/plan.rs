//! From what is wanted to what the edge is told: pure, so that the same state always makes the same section.
//!
//! Called by the owner of what is live for every change.

use std::time::{Duration, SystemTime};

use super::purge_keys::PurgeKeys;
use super::{Active, Sites};
use crate::control::certs::Certificate;
use crate::control::conf::Conf;
use crate::link::paths;
use crate::model::address::Address;
use crate::model::app::{HealthCheck, HealthWish, Protocol, drain_long};
use crate::model::cache::CachePolicy;
use crate::model::certificate::Issuer;
use crate::model::compression::CompressionPolicy;
use crate::model::host::{HostName, HostPattern};
use crate::model::machine::Listeners;
use crate::model::name::Site;
use crate::model::project::{Branch, Origin, Project, SiteLimits};
use crate::model::route::{Route, Target, UpstreamId};
use crate::model::snapshot::{Certificates, Health, Routing, Settings, Upstream};

/// Where ACME's HTTP-01 is asked (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge";
/// How long requests to a legacy upstream, or to control itself, may go on once it is gone from conf.
const OWN_DRAIN: Duration = Duration::from_secs(30);
/// What serves is asked whether it is well no more often than this, however eagerly its start is waited for.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// How long its answer may take.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

pub fn settings(conf: &Conf) -> Settings {
    Settings {
        limits: conf.machine.limits,
        cache: conf.machine.cache,
        trusted_proxies: conf.machine.trusted_proxies.clone(),
        access_log: conf.machine.access_log,
    }
}

pub fn certificates(certificates: &[Certificate]) -> Certificates {
    Certificates { certificates: certificates.iter().map(|certificate| certificate.files.clone()).collect() }
}

/// The routing section. `now` decides whether a certificate holds, and so whether plain HTTP is sent to HTTPS.
pub fn routing(
    conf: &Conf,
    sites: &Sites,
    certificates: &[Certificate],
    purge_keys: &PurgeKeys,
    now: SystemTime,
) -> Routing {
    let mut plan = Plan { conf, trusted: trusted(certificates, now), purge_keys, routing: Routing::default() };
    plan.add_control();
    for project in conf.projects.values() {
        for (site, branch) in project.sites() {
            plan.add_site(project, site, branch, sites);
        }
    }
    plan.routing
}

struct Plan<'a> {
    conf: &'a Conf,
    /// Names whose certificate browsers trust.
    trusted: Vec<HostPattern>,
    purge_keys: &'a PurgeKeys,
    routing: Routing,
}

impl Plan<'_> {
    /// Control is an upstream like any other, on a Unix socket: for hooks, the dashboard and challenges.
    fn add_control(&mut self) {
        let machine = &self.conf.machine;
        let socket = paths::control_socket(&machine.state_dir);
        self.routing.upstreams.push(Upstream {
            id: control_upstream(),
            replicas: vec![Address::Unix(socket)],
            protocol: Protocol::Http1,
            drain: OWN_DRAIN,
            drain_long: OWN_DRAIN,
            health: None,
        });
        let mut hosts = vec![&machine.hooks.host];
        hosts.extend(machine.dashboard.as_ref().filter(|host| **host != machine.hooks.host));
        for host in hosts {
            self.routing.routes.push(own_route(host.clone().into(), "/"));
        }
    }

    fn add_site(&mut self, project: &Project, site: Site, branch: &Branch, sites: &Sites) {
        let to = match (&project.origin, sites.running.get(&site)) {
            (Origin::Upstream(addresses), _) => {
                let protocol = project.app.protocol.unwrap_or_default();
                let id = legacy_upstream(&site, addresses, protocol);
                self.routing.upstreams.push(Upstream {
                    id: id.clone(),
                    replicas: addresses.clone(),
                    protocol,
                    drain: OWN_DRAIN,
                    drain_long: project.app.drain_long.unwrap_or_else(drain_long),
                    health: watched_by_wish(project, branch),
                });
                Target::Upstream(id)
            }
            (Origin::Repository(_), Some(active)) => {
                let Active { upstream, replicas, protocol, drain, drain_long, health, .. } = active.clone();
                let (id, health) = (upstream.clone(), Some(watched(&health, branch)));
                self.routing.upstreams.push(Upstream { id, replicas, protocol, drain, drain_long, health });
                Target::Upstream(upstream)
            }
            (Origin::Repository(_), None) => Target::Absent,
        };
        let canonical = branch.hosts.first().and_then(HostPattern::exact);
        for host in &branch.hosts {
            let to = match (canonical, host.exact()) {
                (Some(canonical), Some(host)) if host != canonical => Target::Redirect(canonical.clone()),
                _ => to.clone(),
            };
            if self.conf.machine.acme.is_some() && host.exact().is_some() {
                self.routing.routes.push(own_route(host.clone(), CHALLENGES));
            }
            self.routing.routes.push(Route {
                host: host.clone(),
                path: "/".to_owned(),
                to,
                site: Some(site.clone()),
                https_only: self.is_https_only(project, host),
                cache: project.cache.clone(),
                limits: project.limits,
                compression: project.compression.clone(),
                purge_key: self.purge_keys.of(&project.name),
                is_unlisted: branch.is_preview,
                replaced: sites.running.get(&site).map(|active| active.replaced.clone()).unwrap_or_default(),
                hold: sites.held.get(&site).cloned(),
            });
        }
    }

    fn is_https_only(&self, project: &Project, host: &HostPattern) -> bool {
        let can = self.conf.machine.listeners.has_https();
        can && project.https_only.unwrap_or_else(|| self.has_trusted_certificate(host))
    }

    fn has_trusted_certificate(&self, host: &HostPattern) -> bool {
        self.trusted.iter().any(|name| covers(name, host))
    }
}

/// Whether a certificate's name is good for everything that `host` stands for.
fn covers(name: &HostPattern, host: &HostPattern) -> bool {
    name == host || host.exact().is_some_and(|host| name.matches(host))
}

/// What a branch's replicas are asked while they serve.
fn watched(check: &HealthCheck, branch: &Branch) -> Health {
    let host = branch.hosts.iter().find_map(HostPattern::exact);
    Health {
        path: check.path.clone(),
        status: check.status,
        interval: check.interval.max(WATCH_INTERVAL),
        timeout: WATCH_TIMEOUT,
        host: host.map_or_else(|| "localhost".to_owned(), HostName::in_url),
    }
}

/// Nothing is known of what runs already, so it is asked only when its file says what.
fn watched_by_wish(project: &Project, branch: &Branch) -> Option<Health> {
    let is_wished = project.app.health != HealthWish::default();
    is_wished.then(|| watched(&project.app.clone().settle().health, branch))
}

fn own_route(host: HostPattern, path: &str) -> Route {
    Route {
        host,
        path: path.to_owned(),
        to: Target::Upstream(control_upstream()),
        site: None,
        https_only: false,
        cache: CachePolicy { enabled: false, ..CachePolicy::default() },
        limits: SiteLimits::default(),
        compression: CompressionPolicy { enabled: false, ..CompressionPolicy::default() },
        purge_key: None,
        is_unlisted: false,
        replaced: Vec::new(),
        hold: None,
    }
}

fn control_upstream() -> UpstreamId {
    UpstreamId("_control".to_owned())
}

/// Other addresses, or another protocol, are another upstream: nothing may be shared with what was there before.
fn legacy_upstream(site: &Site, addresses: &[Address], protocol: Protocol) -> UpstreamId {
    let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    let protocol = match protocol {
        Protocol::Http1 => "",
        Protocol::H2c => "h2c:",
    };
    UpstreamId(format!("{site}@{protocol}{}", addresses.join(",")))
}

/// The hosts whose certificate browsers trust, as far as can be known here.
pub fn trusted(certificates: &[Certificate], now: SystemTime) -> Vec<HostPattern> {
    let trusted = certificates
        .iter()
        .filter(|certificate| certificate.issuer != Issuer::Local && certificate.validity.holds_at(now));
    trusted.flat_map(|certificate| certificate.files.hosts.iter().cloned()).collect()
}

/// The URL under which a host is best reached, for people and for `$OPRI_URL`: HTTPS where browsers trust it.
pub fn url(listeners: &Listeners, trusted: &[HostPattern], host: &HostName) -> String {
    let is_trusted = trusted.iter().any(|name| name.matches(host));
    let (scheme, addresses, usual) = match is_trusted && listeners.has_https() {
        true => ("https", &listeners.https, 443),
        false => ("http", &listeners.http, 80),
    };
    let port = addresses.first().map_or(usual, |address| address.port());
    let port = if port == usual { String::new() } else { format!(":{port}") };
    format!("{scheme}://{}{port}", host.in_url())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control::conf;

    const SHOP: &str = "upstream = \"127.0.0.1:1\"\n[app]\nprotocol = \"h2c\"\n\
        [limits]\nbody_max = \"1MiB\"\nrequests_per_second = 5\n[compression]\nskip = \"/account/*\"\n";

    fn routed(home: &std::path::Path, project: &str) -> Routing {
        let projects = home.join("projects");
        fs::create_dir_all(&projects).unwrap();
        fs::write(home.join("prime.toml"), "domain = \"test\"\n").unwrap();
        fs::write(projects.join("shop.toml"), project).unwrap();
        let conf = conf::load(home, None).unwrap().conf;
        routing(&conf, &Sites::default(), &[], &PurgeKeys::default(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_runs_already_is_asked_how_it_is_only_when_its_file_says_so_and_never_in_haste() {
        let home = tempfile::tempdir().unwrap();
        let health = |lines: &str| {
            let routing = routed(home.path(), &format!("upstream = \"127.0.0.1:1\"\n[app]\n{lines}"));
            routing.upstreams.into_iter().find(|upstream| upstream.id.0.starts_with("shop")).unwrap().health
        };
        assert_eq!(health(""), None);
        let up = health("health = { path = \"/up\", interval = \"10ms\", status = \"200\" }\n").unwrap();
        assert_eq!((up.path.as_str(), up.status, up.interval), ("/up", (200, 200), WATCH_INTERVAL));
        assert_eq!(up.host, "shop.test");
        let slow = health("health = { interval = \"1m\" }\n").unwrap();
        assert_eq!((slow.path.as_str(), slow.interval), ("/", Duration::from_secs(60)));
    }

    #[test]
    fn what_a_project_says_travels_with_its_routes_and_its_upstream() {
        let home = tempfile::tempdir().unwrap();
        let projects = home.path().join("projects");
        fs::create_dir(&projects).unwrap();
        fs::write(home.path().join("prime.toml"), "domain = \"test\"\n[log]\naccess = false\n").unwrap();
        fs::write(projects.join("shop.toml"), SHOP).unwrap();
        let conf = conf::load(home.path(), None).unwrap().conf;
        assert!(!settings(&conf).access_log.enabled);
        let routing = routing(&conf, &Sites::default(), &[], &PurgeKeys::default(), SystemTime::UNIX_EPOCH);
        let protocol = |id: &str| routing.upstreams.iter().find(|u| u.id.0 == id).map(|u| u.protocol);
        assert_eq!(protocol("shop/master@h2c:127.0.0.1:1"), Some(Protocol::H2c));
        assert_eq!(protocol("_control"), Some(Protocol::Http1));
        let shop = routing.routes.iter().find(|route| route.site.is_some()).unwrap();
        let limits = SiteLimits { body_max: Some(1 << 20), rate: Some(5), rate_per_address: None };
        assert_eq!((shop.limits, shop.compression.allows("/account/me")), (limits, false));
    }
}
