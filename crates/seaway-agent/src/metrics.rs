//! Metrics under the names, types and labels that kube-proxy gives them (1.36, pkg/proxy/metrics).

use std::sync::Mutex;
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
use crate::services;

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

/// The label of what is counted for each address family.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

/// The labels of Services without a local endpoint.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabel {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

type PerFamily<M> = Family<FamilyLabel, M, fn() -> M>;
type Seconds = Gauge<f64, AtomicU64>;

/// The families' names.
pub(crate) const FAMILIES: &[&str] = &["IPv4", "IPv6"];

/// Durations of syncs. kube-proxy's buckets begin at 1 ms and end at 16 s; ours begin earlier, since a change takes less.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_125, 2.0, 18))
}

/// From a pod's change to the kernel's: kube-proxy's buckets up to 5 minutes, and finer ones below a quarter of a second.
fn programming_histogram() -> Histogram {
    let fine = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];
    let seconds = (1..60).map(f64::from);
    let fives = (12..24).map(|n| f64::from(n * 5));
    let halves = (4..=10).map(|n| f64::from(n * 30));
    Histogram::new(fine.into_iter().chain([0.25, 0.5]).chain(seconds).chain(fives).chain(halves))
}

/// What is counted elsewhere and read when metrics are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampled {
    /// Services that changed since the start.
    pub(crate) service_changes: u64,
    /// EndpointSlices that changed since the start.
    pub(crate) endpoint_changes: u64,
    /// By family and policy (internal, external): ports of Services with the policy Local, endpoints, and none here.
    pub(crate) no_local_endpoints: [[u64; 2]; 2],
}

/// All metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    sync: PerFamily<Histogram>,
    sync_full: PerFamily<Histogram>,
    sync_partial: PerFamily<Histogram>,
    programming: PerFamily<Histogram>,
    last_sync: PerFamily<Seconds>,
    last_queued: PerFamily<Seconds>,
    service_changes: Counter,
    service_pending: Gauge,
    endpoint_changes: Counter,
    endpoint_pending: Gauge,
    no_local_endpoints: Family<PolicyLabel, Gauge>,
    nftables_failures: PerFamily<Counter>,
    flow_looks: PerFamily<Histogram>,
    flows_forgotten: PerFamily<Counter>,
    healthz: Family<Code, Counter>,
    livez: Family<Code, Counter>,
    part_failures: Family<PartLabel, Counter>,
    part_operations: Family<PartLabel, Counter>,
    /// What the sampled counters were set to last.
    sampled: Mutex<Sampled>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            sync: Family::new_with_constructor(sync_histogram),
            sync_full: Family::new_with_constructor(sync_histogram),
            sync_partial: Family::new_with_constructor(sync_histogram),
            programming: Family::new_with_constructor(programming_histogram),
            last_sync: Family::new_with_constructor(Seconds::default),
            last_queued: Family::new_with_constructor(Seconds::default),
            service_changes: Counter::default(),
            service_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            endpoint_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            nftables_failures: Family::new_with_constructor(Counter::default),
            flow_looks: Family::new_with_constructor(sync_histogram),
            flows_forgotten: Family::new_with_constructor(Counter::default),
            healthz: Family::default(),
            livez: Family::default(),
            part_failures: Family::default(),
            part_operations: Family::default(),
            sampled: Mutex::default(),
        };
        metrics.register_syncs();
        metrics.register_changes();
        let seaway = metrics.registry.sub_registry_with_prefix("seaway_agent");
        seaway.register("failures", "Failed reconciliations by part", metrics.part_failures.clone());
        seaway.register("operations", "Changes made to the node by part", metrics.part_operations.clone());
        // Counters and gauges that kube-proxy shows from its start on.
        for ip_family in FAMILIES {
            let label = FamilyLabel { ip_family };
            drop(metrics.nftables_failures.get_or_create(&label));
            drop(metrics.flows_forgotten.get_or_create(&label));
        }
        metrics
    }

    fn register_syncs(&mut self) {
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
            "network_programming_duration_seconds",
            "Time from a change of a pod or a Service to its being in the kernel",
            self.programming.clone(),
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
            "sync_proxy_rules_nftables_sync_failures",
            "Attempts that the kernel refused",
            self.nftables_failures.clone(),
        );
        let iptables: PerFamily<Counter> = Family::new_with_constructor(Counter::default);
        for ip_family in FAMILIES {
            drop(iptables.get_or_create(&FamilyLabel { ip_family }));
        }
        kubeproxy.register(
            "sync_proxy_rules_iptables_restore_failures",
            "Failures of iptables-restore, which is not used",
            iptables,
        );
    }

    fn register_changes(&mut self) {
        let kubeproxy = self.registry.sub_registry_with_prefix("kubeproxy");
        kubeproxy.register(
            "sync_proxy_rules_service_changes",
            "Services that changed",
            self.service_changes.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_service_changes_pending",
            "Services whose change is not in the kernel yet",
            self.service_pending.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_endpoint_changes",
            "EndpointSlices that changed",
            self.endpoint_changes.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Services whose endpoints' change is not in the kernel yet",
            self.endpoint_pending.clone(),
        );
        kubeproxy.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Ports of Services with the traffic policy Local, endpoints elsewhere, and none on this node",
            self.no_local_endpoints.clone(),
        );
        kubeproxy.register(
            "conntrack_reconciler_sync_duration_seconds",
            "Time to look for flows whose endpoint is gone",
            self.flow_looks.clone(),
        );
        kubeproxy.register(
            "conntrack_reconciler_deleted_entries",
            "Flows that were forgotten because their endpoint is gone",
            self.flows_forgotten.clone(),
        );
        kubeproxy.register("proxy_healthz", "Answers of /healthz by code", self.healthz.clone());
        kubeproxy.register("proxy_livez", "Answers of /livez by code", self.livez.clone());
    }

    /// Changes were queued that are not in the kernel yet.
    pub(crate) fn queued(&self, families: &'static [&'static str], services: usize, endpoints: usize) {
        for ip_family in families {
            self.last_queued.get_or_create(&FamilyLabel { ip_family }).set(now());
        }
        self.service_pending.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoint_pending.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// All changes are in the kernel; those of which it is known began `since`.
    pub(crate) fn programmed(
        &self,
        families: &'static [&'static str],
        since: impl IntoIterator<Item = SystemTime>,
    ) {
        self.service_pending.set(0);
        self.endpoint_pending.set(0);
        let now = SystemTime::now();
        for began in since {
            // Clocks of different machines: one that is ahead is not told.
            let Ok(took) = now.duration_since(began) else { continue };
            for ip_family in families {
                self.programming.get_or_create(&FamilyLabel { ip_family }).observe(took.as_secs_f64());
            }
        }
    }

    /// Flows were looked for.
    pub(crate) fn looked_for_flows(&self, family: usize, took: Duration) {
        let Some(ip_family) = FAMILIES.get(family) else { return };
        self.flow_looks.get_or_create(&FamilyLabel { ip_family }).observe(took.as_secs_f64());
    }

    /// Flows were forgotten because their endpoint is gone.
    pub(crate) fn forgot_flows(&self, family: usize, count: usize) {
        let Some(ip_family) = FAMILIES.get(family) else { return };
        self.flows_forgotten.get_or_create(&FamilyLabel { ip_family }).inc_by(count as u64);
    }

    pub(crate) fn observe(
        &self,
        part: &'static str,
        families: &'static [&'static str],
        elapsed: Duration,
        outcome: &Result<Outcome, String>,
    ) {
        let label = PartLabel { part };
        match outcome {
            Ok(outcome) => {
                self.part_operations.get_or_create(&label).inc_by(outcome.operations as u64);
            }
            Err(_) => {
                self.part_failures.get_or_create(&label).inc();
            }
        }
        if part != services::PART {
            return;
        }
        for ip_family in families {
            let label = FamilyLabel { ip_family };
            match outcome {
                Ok(Outcome { full, .. }) => {
                    let kind = if *full { &self.sync_full } else { &self.sync_partial };
                    kind.get_or_create(&label).observe(elapsed.as_secs_f64());
                    self.sync.get_or_create(&label).observe(elapsed.as_secs_f64());
                    self.last_sync.get_or_create(&label).set(now());
                }
                Err(_) => {
                    self.nftables_failures.get_or_create(&label).inc();
                }
            }
        }
    }

    pub(crate) fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&Code { code: code.to_string() }).inc();
    }

    pub(crate) fn livez(&self, code: u16) {
        self.livez.get_or_create(&Code { code: code.to_string() }).inc();
    }

    /// In the text format of OpenMetrics, or else in Prometheus' own.
    pub(crate) fn text(&self, sampled: Sampled, open: bool) -> Result<String, std::fmt::Error> {
        self.take(sampled);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(if open { text } else { classic(&text) })
    }

    fn take(&self, sampled: Sampled) {
        let mut last = self.sampled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let grow = |counter: &Counter, now: u64, last: u64| counter.inc_by(now.saturating_sub(last));
        grow(&self.service_changes, sampled.service_changes, last.service_changes);
        grow(&self.endpoint_changes, sampled.endpoint_changes, last.endpoint_changes);
        for (family, ip_family) in FAMILIES.iter().enumerate() {
            for (policy, traffic_policy) in ["internal", "external"].into_iter().enumerate() {
                let count = sampled.no_local_endpoints[family][policy];
                let label = PolicyLabel { ip_family, traffic_policy };
                self.no_local_endpoints.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        *last = sampled;
    }
}

/// OpenMetrics' text as Prometheus' format has it: counters are declared under the names of their samples, and there is no
/// end mark.
fn classic(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let declared = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match declared.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => {
                classic.push_str(&line[..7]);
                classic.push_str(&format!("{name}_total {rest}"));
            }
            _ => classic.push_str(line),
        }
        classic.push('\n');
    }
    classic
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kube-proxy's own names, as its users' dashboards and alerts have them, with type and labels.
    const NAMES: &[(&str, &str, &str)] = &[
        ("sync_proxy_rules_duration_seconds", "histogram", "ip_family"),
        ("sync_full_proxy_rules_duration_seconds", "histogram", "ip_family"),
        ("sync_partial_proxy_rules_duration_seconds", "histogram", "ip_family"),
        ("network_programming_duration_seconds", "histogram", "ip_family"),
        ("sync_proxy_rules_last_timestamp_seconds", "gauge", "ip_family"),
        ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge", "ip_family"),
        ("sync_proxy_rules_endpoint_changes_pending", "gauge", ""),
        ("sync_proxy_rules_endpoint_changes_total", "counter", ""),
        ("sync_proxy_rules_service_changes_pending", "gauge", ""),
        ("sync_proxy_rules_service_changes_total", "counter", ""),
        ("sync_proxy_rules_no_local_endpoints_total", "gauge", "traffic_policy"),
        ("sync_proxy_rules_nftables_sync_failures_total", "counter", "ip_family"),
        ("sync_proxy_rules_iptables_restore_failures_total", "counter", "ip_family"),
        ("proxy_healthz_total", "counter", "code"),
        ("proxy_livez_total", "counter", "code"),
        ("conntrack_reconciler_sync_duration_seconds", "histogram", "ip_family"),
        ("conntrack_reconciler_deleted_entries_total", "counter", "ip_family"),
    ];

    fn used() -> Metrics {
        let metrics = Metrics::new();
        metrics.healthz(200);
        metrics.livez(503);
        metrics.queued(FAMILIES, 1, 2);
        for full in [false, true] {
            let outcome = Ok(Outcome { full, operations: 3 });
            metrics.observe(services::PART, FAMILIES, Duration::from_millis(2), &outcome);
        }
        metrics.looked_for_flows(0, Duration::from_millis(1));
        metrics
    }

    #[test]
    fn names_types_and_labels_are_kube_proxys() {
        let metrics = used();
        metrics.programmed(FAMILIES, [SystemTime::now() - Duration::from_secs(3)]);
        let text = metrics.text(Sampled::default(), false).unwrap();
        for (name, kind, label) in NAMES {
            let name = format!("kubeproxy_{name}");
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind}: {text}");
            let sample = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.contains(label));
            assert!(text.lines().any(|line| sample(&line)), "{name}: {text}");
        }
        assert!(!text.contains("# EOF"));
        let buckets: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("kubeproxy_network_programming_duration_seconds_bucket"))
            .collect();
        for bound in ["0.25", "0.5", "1.0", "59.0", "60.0", "115.0", "120.0", "300.0"] {
            assert!(
                buckets.iter().any(|line| line.contains(&format!("le=\"{bound}\""))),
                "{bound}: {buckets:?}"
            );
        }
    }

    #[test]
    fn open_metrics_end_and_counters_only_grow() {
        let metrics = used();
        let sampled = |changes| Sampled { service_changes: changes, ..Sampled::default() };
        let counted = |text: String| {
            let name = "kubeproxy_sync_proxy_rules_service_changes_total ";
            text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap()
        };
        assert_eq!(counted(metrics.text(sampled(5), true).unwrap()), "5");
        assert_eq!(counted(metrics.text(sampled(7), true).unwrap()), "7");
        assert!(metrics.text(sampled(7), true).unwrap().ends_with("# EOF\n"));
    }
}
