//! What the edge counts. Names and labels are a contract with whoever scrapes them.
//!
//! Counted by `exchange`, `door` and `listen`; shown by `server`. The rule: every label's value comes from conf or from a
//! list in this file, never from a request.

pub mod server;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::Method;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::link::SiteTraffic;
use crate::model::name::Site;

use super::cache::{Cache, CacheStatus};
use super::failure::Failure;
use super::routing::Table;

/// The project that requests for unknown hosts count under, and Prime's own routes.
const UNKNOWN: &str = "_unknown";
const OWN: &str = "_opri";
/// Methods with a label of their own.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];
/// Codes that a GET is answered with all the time.
const COMMON: [u16; 6] = [200, 301, 304, 308, 404, 503];
/// Seconds, from a cache hit to an app that is slow.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// The status of a request whose client left before it was answered, as nginx counts it.
const GONE: &str = "499";

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: Histogram,
    in_flight: IntGauge,
    cache_requests: IntCounterVec,
    cache_bytes: IntGaugeVec,
    ejections: IntCounterVec,
    limits: IntCounterVec,
    refusals: IntCounterVec,
    pub access_log_dropped: IntCounter,
    unknown: Arc<SiteMeter>,
    sites: Mutex<HashMap<Option<Site>, Arc<SiteMeter>>>,
}

impl Metrics {
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter =
            |name, help, labels: &[&str]| shown(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge = |name, help, labels: &[&str]| shown(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let seconds = "Time from a request's head to its answer's end.";
        let duration = HistogramOpts::new("opri_http_request_duration_seconds", seconds).buckets(BUCKETS.to_vec());
        let dropped = "Lines of the access log that were lost: written too slowly, or not at all.";
        let dropped = IntCounter::new("opri_access_log_dropped_total", dropped)?;
        let in_flight = IntGauge::new("opri_http_requests_in_flight", "Requests being answered.")?;
        let build = gauge("opri_build_info", "The version that runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let requests =
            counter("opri_http_requests_total", "Requests answered.", &["project", "branch", "method", "code"])?;
        let cache_requests =
            counter("opri_cache_requests_total", "What the cache did for requests.", &["project", "status"])?;
        Ok(Self {
            unknown: Arc::new(SiteMeter::new(None, UNKNOWN)),
            sites: Mutex::default(),
            duration: shown(&registry, Histogram::with_opts(duration)?)?,
            in_flight: shown(&registry, in_flight)?,
            access_log_dropped: shown(&registry, dropped)?,
            cache_bytes: gauge("opri_cache_bytes", "Bytes stored in the cache.", &["tier"])?,
            ejections: counter(
                "opri_edge_ejections_total",
                "How often a replica got no requests for a time, after failures in a row.",
                &["project", "branch"],
            )?,
            limits: counter("opri_edge_limits_total", "How often a limit was reached.", &["limit"])?,
            refusals: counter(
                "opri_edge_refusals_total",
                "Requests that the edge refused or could not serve.",
                &["reason"],
            )?,
            requests,
            cache_requests,
            registry,
        })
    }

    /// A request is being answered, for as long as this is kept.
    pub fn begin(&self, meter: &Arc<SiteMeter>) -> Busy {
        self.in_flight.inc();
        meter.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy { in_flight: self.in_flight.clone(), meter: meter.clone() }
    }

    /// Counts a request that is over.
    pub fn count(&self, counted: &Counted<'_>) {
        let meter = counted.meter;
        self.duration.observe(counted.took.as_secs_f64());
        meter.count(&self.requests, counted.method, counted.status);
        meter.requests.fetch_add(1, Ordering::Relaxed);
        if counted.status >= 500 {
            meter.errors.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(cache) = counted.cache.filter(|_| meter.is_site()) {
            meter.count_cache(&self.cache_requests, cache);
        }
    }

    /// The meter of requests for hosts that nobody knows.
    pub fn unknown(&self) -> &Arc<SiteMeter> {
        &self.unknown
    }

    /// The meter of a site, or of Prime's own routes.
    pub fn site(&self, site: Option<&Site>) -> Arc<SiteMeter> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.entry(site.cloned()).or_insert_with(|| Arc::new(SiteMeter::new(site.cloned(), OWN))).clone()
    }

    /// The counter of a site's ejections, or of Prime's own.
    pub fn ejections(&self, site: Option<&Site>) -> IntCounter {
        match site {
            Some(site) => self.ejections.with_label_values(&[site.project.as_str(), site.branch.as_str()]),
            None => self.ejections.with_label_values(&[OWN, ""]),
        }
    }

    pub fn limited(&self, limit: &'static str) {
        self.limits.with_label_values(&[limit]).inc();
    }

    pub fn refused(&self, failure: Failure) {
        self.refusals.with_label_values(&[failure.name()]).inc();
    }

    /// The counts of all sites since the edge began.
    pub fn traffic(&self) -> Vec<SiteTraffic> {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let mut traffic: Vec<_> = sites.values().filter_map(|meter| meter.traffic()).collect();
        traffic.sort_by(|a, b| a.site.cmp(&b.site));
        traffic
    }

    /// Everything in Prometheus' text format. What the cache holds and the table that does are looked up by the
    /// caller.
    pub fn text(&self, cache: &Cache, table: &Table) -> prometheus::Result<String> {
        for (tier, bytes) in [("memory", cache.bytes()), ("disk", cache.bytes_on_disk())] {
            self.cache_bytes.with_label_values(&[tier]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut families = self.registry.gather();
        families.extend(upstream_up(table)?);
        prometheus::TextEncoder::new().encode_to_string(&families)
    }
}

/// Which of the table's sites answered when they were asked last. Made anew each time, so that none stays that is gone.
fn upstream_up(table: &Table) -> prometheus::Result<Vec<MetricFamily>> {
    let help = "Whether a branch's app could be reached.";
    let gauge = IntGaugeVec::new(Opts::new("opri_upstream_up", help), &["project", "branch"])?;
    for (site, is_up) in table.sites() {
        gauge.with_label_values(&[site.project.as_str(), site.branch.as_str()]).set(is_up.into());
    }
    Ok(gauge.collect())
}

fn shown<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// The counts of one site.
#[derive(Debug)]
pub struct SiteMeter {
    site: Option<Site>,
    project: String,
    branch: String,
    /// Counters that are used all the time, found without a lock: GET by the codes below.
    common: [OnceLock<IntCounter>; COMMON.len()],
    hits: OnceLock<IntCounter>,
    misses: OnceLock<IntCounter>,
    requests: AtomicU64,
    errors: AtomicU64,
    cache_hits: AtomicU64,
    in_flight: AtomicU64,
}

impl SiteMeter {
    fn new(site: Option<Site>, without: &str) -> Self {
        let (project, branch) = match &site {
            Some(site) => (site.project.to_string(), site.branch.to_string()),
            None => (without.to_owned(), String::new()),
        };
        let common = std::array::from_fn(|_| OnceLock::new());
        let zero = || AtomicU64::new(0);
        Self {
            site,
            project,
            branch,
            common,
            hits: OnceLock::new(),
            misses: OnceLock::new(),
            requests: zero(),
            errors: zero(),
            cache_hits: zero(),
            in_flight: zero(),
        }
    }

    fn traffic(&self) -> Option<SiteTraffic> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(SiteTraffic {
            site: self.site.clone()?,
            requests: read(&self.requests),
            errors: read(&self.errors),
            cache_hits: read(&self.cache_hits),
            in_flight: read(&self.in_flight),
        })
    }

    pub fn is_site(&self) -> bool {
        self.site.is_some()
    }

    fn count(&self, vec: &IntCounterVec, method: &Method, code: u16) {
        let find = || {
            let method = METHODS.iter().find(|known| *known == method).map_or("other", Method::as_str);
            let code = if code == 0 { GONE.to_owned() } else { code.to_string() };
            vec.with_label_values(&[self.project.as_str(), self.branch.as_str(), method, &code])
        };
        match COMMON.iter().position(|common| *method == Method::GET && *common == code) {
            Some(common) => self.common[common].get_or_init(find).inc(),
            None => find().inc(),
        }
    }

    fn count_cache(&self, vec: &IntCounterVec, cache: CacheStatus) {
        let find = || vec.with_label_values(&[self.project.as_str(), cache.name()]);
        match cache.name() {
            "hit" => {
                self.cache_hits.fetch_add(1, Ordering::Relaxed);
                self.hits.get_or_init(find).inc();
            }
            "miss" => self.misses.get_or_init(find).inc(),
            _ => find().inc(),
        }
    }
}

/// A request that is over.
#[derive(Debug)]
pub struct Counted<'a> {
    pub meter: &'a SiteMeter,
    pub method: &'a Method,
    /// 0 when the client left before it was answered.
    pub status: u16,
    pub cache: Option<CacheStatus>,
    pub took: Duration,
}

/// One request being answered.
#[derive(Debug)]
pub struct Busy {
    in_flight: IntGauge,
    meter: Arc<SiteMeter>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.in_flight.dec();
        self.meter.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
