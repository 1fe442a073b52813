//! Metrics under the names that kube-proxy gives them (1.36, pkg/proxy/metrics).

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::part::Outcome;

/// The label of a health endpoint's answers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: String,
}

/// The label of what belongs to a part.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

/// All metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    sync: Histogram,
    sync_full: Histogram,
    sync_partial: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    failures: Counter,
    healthz: Family<Code, Counter>,
    livez: Family<Code, Counter>,
    part_failures: Family<PartLabel, Counter>,
    part_operations: Family<PartLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        // kube-proxy's buckets begin at 1 ms; ours earlier, since a change takes less.
        let histogram = || Histogram::new(exponential_buckets(0.000_125, 2.0, 18));
        let mut metrics = Self {
            registry: Registry::default(),
            sync: histogram(),
            sync_full: histogram(),
            sync_partial: histogram(),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            service_changes: Counter::default(),
            failures: Counter::default(),
            healthz: Family::default(),
            livez: Family::default(),
            part_failures: Family::default(),
            part_operations: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let kubeproxy = self.registry.sub_registry_with_prefix("kubeproxy");
        kubeproxy.register(
            "sync_proxy_rules_duration_seconds",
            "Time from a change to its being in the kernel",
            self.sync.clone(),
        );
        kubeproxy.register(
            "sync_full_proxy_rules_duration_seconds",
            "The same, where everything was compared",
            self.sync_full.clone(),
        );
        kubeproxy.register(
            "sync_partial_proxy_rules_duration_seconds",
            "The same, where only changes were made",
            self.sync_partial.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the kernel was last brought into step",
            self.last_sync.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last queued",
            self.last_queued.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_service_changes",
            "Services that changed, or whose endpoints did",
            self.service_changes.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Attempts that the kernel refused",
            self.failures.clone(),
        );
        kubeproxy.register("proxy_healthz", "Answers of /healthz by code", self.healthz.clone());
        kubeproxy.register("proxy_livez", "Answers of /livez by code", self.livez.clone());
        let seaway = self.registry.sub_registry_with_prefix("seaway_agent");
        seaway.register("failures", "Failed reconciliations by part", self.part_failures.clone());
        seaway.register("operations", "Changes made to the node by part", self.part_operations.clone());
    }

    pub(crate) fn service_changes(&self, count: usize) {
        self.service_changes.inc_by(count as u64);
        self.last_queued.set(now());
    }

    pub(crate) fn observe(&self, part: &'static str, elapsed: Duration, outcome: &Result<Outcome, String>) {
        let label = PartLabel { part };
        match outcome {
            Ok(outcome) => {
                self.part_operations.get_or_create(&label).inc_by(outcome.operations as u64);
            }
            Err(_) => {
                self.part_failures.get_or_create(&label).inc();
            }
        }
        if part != "services" {
            return;
        }
        match outcome {
            Ok(Outcome { full, .. }) => {
                let kind = if *full { &self.sync_full } else { &self.sync_partial };
                kind.observe(elapsed.as_secs_f64());
                self.sync.observe(elapsed.as_secs_f64());
                self.last_sync.set(now());
            }
            Err(_) => {
                self.failures.inc();
            }
        }
    }

    pub(crate) fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&Code { code: code.to_string() }).inc();
    }

    pub(crate) fn livez(&self, code: u16) {
        self.livez.get_or_create(&Code { code: code.to_string() }).inc();
    }

    /// In the text format of OpenMetrics.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
