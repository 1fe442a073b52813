//! Services and masquerade: the plan, its driver and the flows that have to move.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use seaway_kube::Update;
use seaway_model::{
    DetectLocal, Difference, EgressPlan, NodePlan, PlanDiff, ProxyPlan, ProxySettings, ServiceAddress,
    ServicePlan, Snapshot,
};
use seaway_proxy::{FlowCleaner, RETRY_REFUSED, ServiceDriver, leaves_flows};

use crate::part::{Outcome, Part};
use crate::status::Shared;

/// The taint of a node that the cluster autoscaler is about to remove (kube-proxy's health check looks for it).
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What is given and does not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct EgressSettings {
    /// The networks of all pods; where empty, what the nodes' podCIDRs add up to.
    pub(crate) pod_networks: Vec<IpNet>,
    /// Further destinations that pods reach under their own address.
    pub(crate) non_masquerade: Vec<IpNet>,
}

/// The part called `services`.
pub(crate) struct Services<D> {
    settings: EgressSettings,
    plan: NodePlan,
    diff: PlanDiff,
    /// Addresses whose change left flows behind, since the kernel was last in step.
    changed: HashSet<ServiceAddress>,
    driver: D,
    cleaner: FlowCleaner,
    shared: Arc<Shared>,
    /// The kernel refuses some Services.
    refused: bool,
}

impl<D: ServiceDriver> Services<D> {
    pub(crate) fn new(
        settings: EgressSettings,
        driver: D,
        cleaner: FlowCleaner,
        shared: Arc<Shared>,
    ) -> Self {
        let services = ServicePlan::new(shared.node.as_str());
        let plan = NodePlan { services, ..NodePlan::default() };
        let (diff, changed) = (PlanDiff::default(), HashSet::new());
        Self { settings, plan, diff, changed, driver, cleaner, shared, refused: false }
    }

    fn look_at_node(&self, snapshot: &Snapshot) {
        let node = snapshot.nodes.get(self.shared.node.as_str());
        let doomed = node.is_some_and(|node| {
            node.deleting || node.taints.iter().any(|taint| &**taint == TO_BE_DELETED_TAINT)
        });
        self.shared.set_node_eligible(!doomed);
    }
}

/// The masquerade of `node`.
pub(crate) fn egress(settings: &EgressSettings, node: &str, snapshot: &Snapshot) -> EgressPlan {
    let own = snapshot.nodes.get(node).map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let networks = if settings.pod_networks.is_empty() {
        snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect()
    } else {
        settings.pod_networks.clone()
    };
    EgressPlan::new(&networks, &own, &settings.non_masquerade)
}

/// What holds for all Services of `node`: who sends from the pod networks is a pod, and node ports are at the Node's own
/// addresses.
pub(crate) fn proxy(egress: &EgressPlan, node: &str, snapshot: &Snapshot) -> ProxyPlan {
    let detect_local = DetectLocal::ClusterCidr(egress.pod_networks.clone());
    let settings = ProxySettings { detect_local, ..ProxySettings::default() };
    ProxyPlan::new(&settings, node, snapshot)
}

impl<D: ServiceDriver + 'static> Part for Services<D> {
    fn name(&self) -> &'static str {
        "services"
    }

    fn follow(&mut self, update: &Update) -> bool {
        let Update { snapshot, changes } = update;
        let mut work = changes.all;
        if changes.all || !changes.nodes.is_empty() || !changes.service_cidrs.is_empty() {
            self.look_at_node(snapshot);
            let egress = egress(&self.settings, &self.shared.node, snapshot);
            let proxy = proxy(&egress, &self.shared.node, snapshot);
            work |= egress != self.plan.egress || proxy != self.plan.proxy;
            self.plan.egress = egress;
            self.plan.proxy = proxy;
        }
        self.shared.metrics.service_changes(changes.services.len());
        self.diff = self.plan.services.update(snapshot, changes);
        work || !self.diff.is_empty()
    }

    fn reconcile(&mut self) -> Result<Outcome, String> {
        let diff = std::mem::take(&mut self.diff);
        let left_behind = diff.ports.iter().filter(|change| leaves_flows(change));
        self.changed.extend(left_behind.map(|change| change.address));
        let report = self.driver.apply(&self.plan, &diff).map_err(|error| error.to_string())?;
        self.refused = !report.refused.is_empty();
        self.shared.publish(self.plan.clone());
        if !self.changed.is_empty() {
            self.cleaner.check(self.changed.drain(), &self.plan);
        }
        if report.full {
            self.cleaner.check_all(&self.plan);
        }
        Ok(Outcome { full: report.full, operations: report.operations })
    }

    fn mark_dirty(&mut self) {
        self.driver.mark_dirty();
    }

    fn resync(&self) -> Option<Duration> {
        self.refused.then_some(RETRY_REFUSED)
    }

    fn differences(&mut self) -> Vec<Difference> {
        let Some(plan) = self.shared.applied() else { return Vec::new() };
        self.driver.differences(&plan).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot tell what someone else changed");
            Vec::new()
        })
    }
}
