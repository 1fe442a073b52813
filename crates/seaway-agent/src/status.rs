//! What the agent knows of itself, and shows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use seaway_cni::{files, pods};
use seaway_kube::{Source, SourceStatus};
use seaway_model::{NodePlan, OverlayPlan, Underlay};
use serde::{Deserialize, Serialize};

use crate::mended::MendedLog;
use crate::metrics::Metrics;
use crate::part::Outcome;

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

/// The network between nodes that is in force.
struct Between {
    plan: Arc<OverlayPlan>,
    underlay: Arc<Underlay>,
}

/// What all tasks of the agent share.
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) metrics: Metrics,
    pub(crate) mended: MendedLog,
    started: Timestamp,
    source: Source,
    parts: Mutex<BTreeMap<&'static str, PartStatus>>,
    applied: ArcSwapOption<NodePlan>,
    overlay: ArcSwapOption<Between>,
    node_eligible: AtomicBool,
}

impl Shared {
    pub(crate) fn new(node: String, source: Source) -> Self {
        Self {
            node,
            metrics: Metrics::new(),
            mended: MendedLog::default(),
            started: Timestamp::now(),
            source,
            parts: Mutex::default(),
            applied: ArcSwapOption::empty(),
            overlay: ArcSwapOption::empty(),
            node_eligible: AtomicBool::new(true),
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
        self.applied.store(Some(Arc::new(plan)));
    }

    pub(crate) fn publish_overlay(&self, plan: OverlayPlan, underlay: Underlay) {
        let between = Between { plan: Arc::new(plan), underlay: Arc::new(underlay) };
        self.overlay.store(Some(Arc::new(between)));
    }

    pub(crate) fn applied(&self) -> Option<Arc<NodePlan>> {
        self.applied.load_full()
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

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
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
