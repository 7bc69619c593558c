//! Control's metrics: what is deployed, hooked, reloaded and certified.
//!
//! Called wherever such a thing ends. Label values come from conf and from enums alone, so that nothing from outside can
//! make a series.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use serde::{Deserialize, Serialize};

use crate::control::certs::Certificate;
use crate::model::deployment::{Deployment, Outcome, Stage};
use crate::model::name::Site;
use crate::model::push::Provider;

/// Seconds; a build takes seconds to half an hour.
const STAGE_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
/// Seconds; a swap takes a millisecond.
const SWAP_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0];

/// What lies on disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskUse {
    /// As plain processes.
    pub releases: u64,
    /// In the engine; what images share counts for each.
    pub images: u64,
    pub git: u64,
    /// Of builds, apps and requests.
    pub logs: u64,
    pub cache: u64,
}

impl DiskUse {
    /// Each kind by its name.
    pub fn kinds(&self) -> [(&'static str, u64); 5] {
        let Self { releases, images, git, logs, cache } = *self;
        [("releases", releases), ("images", images), ("git", git), ("logs", logs), ("cache", cache)]
    }
}

/// The counters and gauges; clones are the same.
#[derive(Debug, Clone)]
pub struct Observed {
    registry: Registry,
    deployments: IntCounterVec,
    rollbacks: IntCounterVec,
    stages: HistogramVec,
    swaps: Histogram,
    hooks: IntCounterVec,
    expiries: Arc<GaugeVec>,
    reload: IntGauge,
    disk: IntGaugeVec,
}

impl Observed {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters =
            |name, help, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let deployments =
            counters("opri_deployments_total", "Deployments that ended, by how.", &["project", "branch", "outcome"])?;
        let rollbacks = counters(
            "opri_automatic_rollbacks_total",
            "Releases that did badly and were rolled back by themselves.",
            &["project", "branch"],
        )?;
        let hooks =
            counters("opri_hooks_total", "Webhooks by provider and what became of them.", &["provider", "outcome"])?;
        let stages = HistogramOpts::new("opri_deployment_stage_seconds", "How long deployments spent in each stage.");
        let stages = register(&registry, HistogramVec::new(stages.buckets(STAGE_BUCKETS.to_vec()), &["stage"])?)?;
        let swaps =
            HistogramOpts::new("opri_swap_seconds", "From the decision to swap until the edge serves the new release.");
        let swaps = register(&registry, Histogram::with_opts(swaps.buckets(SWAP_BUCKETS.to_vec()))?)?;
        let expiries = Opts::new("opri_certificate_expiry_timestamp_seconds", "When the certificate of a host ends.");
        let expiries = Arc::new(register(&registry, GaugeVec::new(expiries, &["host"])?)?);
        let reload =
            Opts::new("opri_config_last_reload_success", "Whether the last reload of conf was without a fault.");
        let reload = register(&registry, IntGauge::with_opts(reload)?)?;
        let disk = Opts::new("opri_disk_bytes", "What lies on disk, by kind.");
        let disk = register(&registry, IntGaugeVec::new(disk, &["kind"])?)?;
        Ok(Self { registry, deployments, rollbacks, stages, swaps, hooks, expiries, reload, disk })
    }

    /// All of them, in Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    pub fn ended(&self, deployment: &Deployment) {
        let site = &deployment.id.site;
        let outcome = deployment.outcome.as_ref().map_or("unfinished", Outcome::as_str);
        self.deployments.with_label_values(&[site.project.as_str(), site.branch.as_str(), outcome]).inc();
    }

    pub fn rolled_back(&self, site: &Site) {
        self.rollbacks.with_label_values(&[site.project.as_str(), site.branch.as_str()]).inc();
    }

    pub fn stage_took(&self, stage: Stage, took: Duration) {
        self.stages.with_label_values(&[stage.as_str()]).observe(took.as_secs_f64());
    }

    pub fn swapped(&self, took: Duration) {
        self.swaps.observe(took.as_secs_f64());
    }

    /// `None`: it could not be told whose hook it was.
    pub fn hook(&self, provider: Option<Provider>, outcome: &'static str) {
        let provider = provider.map_or("_unknown", Provider::as_str);
        self.hooks.with_label_values(&[provider, outcome]).inc();
    }

    pub fn reloaded(&self, is_good: bool) {
        self.reload.set(i64::from(is_good));
    }

    pub fn disk(&self, disk: DiskUse) {
        for (kind, bytes) in disk.kinds() {
            self.disk.with_label_values(&[kind]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// As it was measured last.
    pub fn disk_use(&self) -> DiskUse {
        let bytes = |kind: &str| u64::try_from(self.disk.with_label_values(&[kind]).get()).unwrap_or(0);
        DiskUse {
            releases: bytes("releases"),
            images: bytes("images"),
            git: bytes("git"),
            logs: bytes("logs"),
            cache: bytes("cache"),
        }
    }

    pub fn certified(&self, certificates: &[Certificate]) {
        self.expiries.reset();
        for certificate in certificates {
            let ends = certificate.validity.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            for host in &certificate.files.hosts {
                self.expiries.with_label_values(&[&host.to_string()]).set(ends.as_secs_f64());
            }
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
