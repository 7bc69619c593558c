//! Routes: host and path to what answers, and the immutable index of them that a request looks into.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::cache::CachePolicy;
use super::compression::CompressionPolicy;
use super::hold::Hold;
use super::host::{HostName, HostPattern};
use super::name::Site;
use super::project::SiteLimits;
use super::purge_key::PurgeKey;

/// Names the replicas of one release, `shop/master#3`. Never used again for another release: pools of connections,
/// cached responses and drains are kept under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpstreamId(pub String);

impl UpstreamId {
    /// The replicas of a site's release.
    pub fn of_release(site: &Site, number: u64) -> Self {
        Self(format!("{site}#r{number}"))
    }

    /// Whether it names something of this site: a release of it, or the addresses that it runs at.
    pub fn is_of(&self, site: &Site) -> bool {
        self.site() == site.to_string()
    }

    /// The name of its site.
    pub fn site(&self) -> &str {
        self.0.split(['#', '@']).next().unwrap_or_default()
    }
}

/// One entry of the routing section: which requests, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: HostPattern,
    /// A path prefix that matches on segment boundaries; `/` matches all.
    pub path: String,
    pub to: Target,
    /// For metrics, logs and the cache's isolation; `None` for Prime's own routes.
    pub site: Option<Site>,
    /// Whether plain HTTP is sent to HTTPS by a 308.
    #[serde(default)]
    pub https_only: bool,
    #[serde(default)]
    pub cache: CachePolicy,
    #[serde(default)]
    pub limits: SiteLimits,
    #[serde(default)]
    pub compression: CompressionPolicy,
    /// Of whoever may send PURGE requests; `None`: nobody.
    #[serde(default)]
    pub purge_key: Option<PurgeKey>,
    /// Whether search engines are told to pass it over.
    #[serde(default)]
    pub is_unlisted: bool,
    /// The releases that were replaced not long ago, the last first: what they called immutable is not gone yet.
    #[serde(default)]
    pub replaced: Vec<Replaced>,
    /// What stands before the app for now.
    #[serde(default)]
    pub hold: Option<Hold>,
}

/// A release that served a site before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub upstream: UpstreamId,
    #[serde(with = "super::instant")]
    pub at: SystemTime,
}

/// What answers a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Upstream(UpstreamId),
    /// 308 to the same path on this host.
    Redirect(HostName),
    /// Known, with nothing running: 503 with `Retry-After` and a page that says so.
    Absent,
}

/// Two entries for the same host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict<P> {
    pub host: HostPattern,
    pub path: String,
    pub first: P,
    pub second: P,
}

/// The index. An exact host wins over a wildcard, and within a host the longest path wins.
#[derive(Debug)]
pub struct RouteTable<P> {
    exact: Hosts<P>,
    /// Under what follows `*.`.
    wildcard: Hosts<P>,
}

/// Paths and what answers them, by host. Quick to ask, and nobody outside knows which hosts share a place in it.
type Hosts<P> = HashMap<String, Vec<(String, P)>, ahash::RandomState>;

impl<P> Default for RouteTable<P> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default() }
    }
}

impl<P: Clone> RouteTable<P> {
    /// Builds the index, or names every pair that claims the same host and path.
    pub fn build(entries: impl IntoIterator<Item = (HostPattern, String, P)>) -> Result<Self, Vec<Conflict<P>>> {
        let mut table = Self::default();
        let mut conflicts = Vec::new();
        for (host, path, payload) in entries {
            let index = match &host {
                HostPattern::Exact(_) => &mut table.exact,
                HostPattern::Wildcard(_) => &mut table.wildcard,
            };
            let (HostPattern::Exact(key) | HostPattern::Wildcard(key)) = &host;
            let paths = index.entry(key.as_str().to_owned()).or_default();
            match paths.iter().find(|(taken, _)| *taken == path) {
                Some((_, first)) => conflicts.push(Conflict { first: first.clone(), second: payload, host, path }),
                None => paths.push((path, payload)),
            }
        }
        for paths in table.exact.values_mut().chain(table.wildcard.values_mut()) {
            paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        }
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }
}

impl<P> RouteTable<P> {
    /// What answers `path` (as sent, without query) on `host`; `None` when no route knows the host or the path.
    pub fn lookup(&self, host: &HostName, path: &str) -> Option<&P> {
        self.paths(host)?.iter().find(|(prefix, _)| is_below(path, prefix)).map(|(_, payload)| payload)
    }

    /// Whether any route names this host.
    pub fn knows(&self, host: &HostName) -> bool {
        self.paths(host).is_some()
    }

    fn paths(&self, host: &HostName) -> Option<&[(String, P)]> {
        let wildcard = || match host.as_ip() {
            Some(_) => None,
            None => self.wildcard.get(host.parent()?),
        };
        self.exact.get(host.as_str()).or_else(wildcard).map(Vec::as_slice)
    }
}

/// Whether `path` lies at or below `prefix`, on a segment boundary: `/a` holds `/a` and `/a/b`, not `/ab`.
fn is_below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        // `OPTIONS *` and an empty path of an absolute target mean the host itself.
        None => prefix == "/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &str, &'static str)]) -> RouteTable<&'static str> {
        RouteTable::build(entries.iter().map(|(h, p, to)| (h.parse().unwrap(), p.to_string(), *to))).unwrap()
    }

    fn ask(table: &RouteTable<&'static str>, host: &str, path: &str) -> Option<&'static str> {
        table.lookup(&HostName::from_authority(host).unwrap(), path).copied()
    }

    #[test]
    fn exact_beats_wildcard_and_long_paths_beat_short_ones() {
        let table = table(&[
            ("shop.test", "/", "shop"),
            ("shop.test", "/api", "api"),
            ("*.test", "/", "any"),
            ("127.0.0.1", "/", "ip"),
        ]);
        assert_eq!(ask(&table, "Shop.Test:80", "/"), Some("shop"));
        assert_eq!(ask(&table, "shop.test", "/api/x"), Some("api"));
        assert_eq!(ask(&table, "shop.test", "/apix"), Some("shop"));
        assert_eq!(ask(&table, "shop.test", "*"), Some("shop"));
        assert_eq!(ask(&table, "other.test", "/"), Some("any"));
        assert_eq!(ask(&table, "a.other.test", "/"), None);
        assert_eq!(ask(&table, "127.0.0.1", "/"), Some("ip"));
        assert_eq!(ask(&table, "127.0.0.2", "/"), None);
    }

    #[test]
    fn one_host_and_path_cannot_be_claimed_twice() {
        let twice = [("a.test", "1"), ("a.test", "2"), ("b.test", "3")];
        let entries = twice.map(|(host, to)| (host.parse().unwrap(), "/".to_owned(), to));
        let conflicts = RouteTable::build(entries).unwrap_err();
        assert_eq!(conflicts.len(), 1);
        assert_eq!((conflicts[0].first, conflicts[0].second), ("1", "2"));
    }
}
