//! What the agent knows of itself, and shows.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use seaway_cni::{files, pods};
use seaway_kube::{Source, SourceStatus};
use seaway_model::{Caller, NodePlan, OverlayPlan, TrafficPolicy, Underlay};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::mended::MendedLog;
use crate::metrics::{self, Metrics, Sampled};
use crate::part::Outcome;
use crate::proxy::{KubeProxyConfiguration, Options};

/// How one part fares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartStatus {
    /// The generation of the Snapshot that the kernel follows.
    pub generation: u64,
    /// There is something that is not in the kernel yet.
    pub pending: bool,
    /// When the kernel was last brought into step.
    pub last_sync: Option<Timestamp>,
    /// How long that took, from the moment the change was known, in seconds.
    pub last_duration: f64,
    /// Changes that it made.
    pub last_operations: usize,
    /// Reconciliations that succeeded.
    pub syncs: u64,
    /// Reconciliations that compared everything.
    pub full_syncs: u64,
    /// Reconciliations that failed.
    pub failures: u64,
    /// The error of the last reconciliation, if it failed.
    pub error: Option<String>,
    /// Since when something has been waiting.
    #[serde(skip)]
    pub(crate) pending_since: Option<Instant>,
}

impl PartStatus {
    pub(crate) fn begin(&mut self) {
        self.pending = true;
        self.pending_since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn end(&mut self, generation: u64, elapsed: Duration, outcome: &Result<Outcome, String>) {
        match outcome {
            Ok(outcome) => {
                self.generation = generation;
                self.pending = false;
                self.pending_since = None;
                self.last_sync = Some(Timestamp::now());
                self.last_duration = elapsed.as_secs_f64();
                self.last_operations = outcome.operations;
                self.syncs += 1;
                self.full_syncs += u64::from(outcome.full);
                self.error = None;
            }
            Err(error) => {
                self.failures += 1;
                self.error = Some(error.clone());
            }
        }
    }
}

/// What `GET /v1/status` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// The watches of the API.
    pub api: SourceStatus,
    /// The parts by name.
    pub parts: BTreeMap<String, PartStatus>,
}

/// What `GET /v1/plan` answers: the plans that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedPlan {
    /// The generation of the Snapshot that the service plan follows from.
    pub generation: u64,
    /// Services and masquerade.
    #[serde(flatten)]
    pub plan: Arc<NodePlan>,
    /// The network between nodes, where it is the agent's.
    pub overlay: Option<Arc<OverlayPlan>>,
    /// The link towards the other nodes that `overlay` was planned for, with its addresses and MTU.
    pub underlay: Option<Arc<Underlay>>,
    /// The links of this node's pods by the pods' addresses, as the plugin noted them; absent where the network is not the
    /// agent's, or the notes cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<BTreeMap<IpAddr, String>>,
}

/// What the service proxy says of itself to those who know kube-proxy.
#[derive(Clone, Debug)]
pub(crate) struct ProxyFace {
    /// A change that has waited this long makes the proxy unhealthy: kube-proxy's two sync periods.
    pub(crate) health_limit: Duration,
    /// Its configuration, for `/configz`.
    pub(crate) configuration: serde_json::Value,
}

impl ProxyFace {
    /// Of a proxy that `configuration` was given to, which amounts to `options`.
    pub(crate) fn new(configuration: &KubeProxyConfiguration, options: &Options) -> Self {
        let configuration = configuration.clone().with_defaults();
        Self {
            health_limit: options.sync_period.saturating_mul(2),
            configuration: serde_json::to_value(configuration).unwrap_or_default(),
        }
    }
}

/// The network between nodes that is in force.
struct Between {
    plan: Arc<OverlayPlan>,
    underlay: Arc<Underlay>,
}

/// By family and policy (internal, external): ports of Services with the policy Local and endpoints, but none on this node.
fn without_local(plan: &NodePlan) -> [[u64; 2]; 2] {
    let mut ports: [[HashSet<_>; 2]; 2] = Default::default();
    for port in plan.services.ports().filter(|port| port.policy == TrafficPolicy::Local) {
        if port.has_endpoints && port.candidates(Caller::Outside).is_empty() {
            let family = usize::from(port.address.ip.is_ipv6());
            let policy = usize::from(port.kind.is_external());
            ports[family][policy].insert((&port.service, &port.port_name));
        }
    }
    ports.map(|policies| policies.map(|ports| ports.len() as u64))
}

/// kube-proxy's own ports: who has all of them that it wants knows that no kube-proxy runs.
#[derive(Debug, Default)]
pub(crate) struct KubeProxysPorts {
    wanted: AtomicUsize,
    held: AtomicUsize,
}

impl KubeProxysPorts {
    /// So many of them are served at.
    pub(crate) fn want(&self, count: usize) {
        self.wanted.store(count, Ordering::Relaxed);
    }

    /// One more is listened on.
    pub(crate) fn hold(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// All that are wanted are listened on, and there is at least one.
    pub(crate) fn are_held(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        wanted > 0 && self.held.load(Ordering::Relaxed) == wanted
    }
}

/// What all tasks of the agent share.
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) metrics: Metrics,
    pub(crate) mended: MendedLog,
    started: Timestamp,
    source: Source,
    parts: Mutex<BTreeMap<&'static str, PartStatus>>,
    pub(crate) face: ProxyFace,
    applied: watch::Sender<Option<Arc<NodePlan>>>,
    overlay: ArcSwapOption<Between>,
    /// Connections may be sent to this node.
    node_eligible: AtomicBool,
    /// The Node object was there once.
    node_seen: AtomicBool,
    pub(crate) ports: KubeProxysPorts,
}

impl Shared {
    pub(crate) fn new(node: String, source: Source, face: ProxyFace) -> Self {
        Self {
            node,
            metrics: Metrics::new(),
            mended: MendedLog::default(),
            started: Timestamp::now(),
            source,
            parts: Mutex::default(),
            face,
            applied: watch::Sender::new(None),
            overlay: ArcSwapOption::empty(),
            node_eligible: AtomicBool::new(true),
            node_seen: AtomicBool::new(false),
            ports: KubeProxysPorts::default(),
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn with_part<T>(&self, name: &'static str, work: impl FnOnce(&mut PartStatus) -> T) -> T {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        work(parts.entry(name).or_default())
    }

    pub(crate) fn publish(&self, plan: NodePlan) {
        self.applied.send_replace(Some(Arc::new(plan)));
    }

    pub(crate) fn publish_overlay(&self, plan: OverlayPlan, underlay: Underlay) {
        let between = Between { plan: Arc::new(plan), underlay: Arc::new(underlay) };
        self.overlay.store(Some(Arc::new(between)));
    }

    pub(crate) fn applied(&self) -> Option<Arc<NodePlan>> {
        self.applied.borrow().clone()
    }

    /// Tells of each plan that is applied.
    pub(crate) fn plans(&self) -> watch::Receiver<Option<Arc<NodePlan>>> {
        self.applied.subscribe()
    }

    /// The address families that the service proxy programs.
    pub(crate) fn families(&self) -> &'static [&'static str] {
        let both = self.applied().is_some_and(|plan| plan.services.has_ipv6());
        if both { metrics::FAMILIES } else { &metrics::FAMILIES[..1] }
    }

    /// The metrics as text: OpenMetrics, or else Prometheus' own format.
    pub(crate) fn metrics_text(&self, open: bool) -> Result<String, std::fmt::Error> {
        let kinds = self.source.status().kinds;
        let changes = |kind: &str| kinds.get(kind).map_or(0, |status| status.changes);
        let sampled = Sampled {
            service_changes: changes("Service"),
            endpoint_changes: changes("EndpointSlice"),
            no_local_endpoints: self.applied().map(|plan| without_local(&plan)).unwrap_or_default(),
        };
        self.metrics.text(sampled, open)
    }

    pub(crate) fn overlay(&self) -> Option<(Arc<OverlayPlan>, Arc<Underlay>)> {
        let between = self.overlay.load_full()?;
        Some((between.plan.clone(), between.underlay.clone()))
    }

    pub(crate) fn applied_plan(&self) -> Option<AppliedPlan> {
        let plan = self.applied()?;
        let between = self.overlay.load_full();
        Some(AppliedPlan {
            generation: plan.services.generation(),
            plan,
            overlay: between.as_ref().map(|between| between.plan.clone()),
            underlay: between.as_ref().map(|between| between.underlay.clone()),
            pods: None,
        })
    }

    /// The same with the links of pods. Blocks.
    pub(crate) fn applied_plan_with_pods(&self) -> Option<AppliedPlan> {
        let applied = self.applied_plan()?;
        let links = || match pods::links(Path::new(files::IPAM_DIR)) {
            Ok(links) => Some(links),
            Err(error) => {
                tracing::warn!(%error, "the plan is told without the links of pods");
                None
            }
        };
        let pods = applied.overlay.as_ref().and_then(|_| links());
        Some(AppliedPlan { pods, ..applied })
    }

    /// A part is about to change the kernel.
    pub(crate) fn is_pending(&self) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.values().any(|part| part.pending && part.error.is_none())
    }

    /// What the Node object says of the node's eligibility; `None` where there is none. Until there is one the node is
    /// eligible: a proxy that starts is healthy.
    pub(crate) fn look_at_node(&self, eligible: Option<bool>) {
        self.node_seen.fetch_or(eligible.is_some(), Ordering::Relaxed);
        let eligible = eligible.unwrap_or(!self.node_seen.load(Ordering::Relaxed));
        self.node_eligible.store(eligible, Ordering::Relaxed);
    }

    pub(crate) fn node_eligible(&self) -> bool {
        self.node_eligible.load(Ordering::Relaxed)
    }

    pub(crate) fn status(&self) -> AgentStatus {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        AgentStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            api: self.source.status(),
            parts: parts.iter().map(|(name, part)| ((*name).to_owned(), part.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_of_two_is_not_enough() {
        let ports = KubeProxysPorts::default();
        assert!(!ports.are_held(), "none is wanted: nothing is known of kube-proxy");
        ports.want(2);
        ports.hold();
        assert!(!ports.are_held());
        ports.hold();
        assert!(ports.are_held());
    }
}
