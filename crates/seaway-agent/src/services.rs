//! Services and masquerade: the plan, its driver and the flows that have to move.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use seaway_kube::Update;
use seaway_model::{
    Difference, EgressPlan, NodePlan, PlanDiff, ProxyPlan, ServiceAddress, ServicePlan, Snapshot,
};
use seaway_proxy::{FlowCleaner, RETRY_REFUSED, ServiceDriver, leaves_flows};

use crate::lateness::Lateness;
use crate::part::{Outcome, Part};
use crate::proxy::Options;
use crate::status::Shared;
use crate::trouble::Troubles;

/// The part's name.
pub(crate) const PART: &str = "services";

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

/// How Services are served.
#[derive(Clone, Debug)]
pub(crate) struct ServiceSettings {
    /// The way out of pods; `None`: someone else's.
    pub(crate) egress: Option<EgressSettings>,
    /// What kube-proxy's configuration says.
    pub(crate) proxy: Options,
}

/// The part called `services`.
pub(crate) struct Services<D> {
    settings: ServiceSettings,
    plan: NodePlan,
    diff: PlanDiff,
    /// Addresses whose change left flows behind, since the kernel was last in step.
    changed: HashSet<ServiceAddress>,
    driver: D,
    cleaner: FlowCleaner,
    shared: Arc<Shared>,
    /// The kernel refuses some Services.
    refused: bool,
    lateness: Lateness,
    troubles: Troubles,
}

impl<D: ServiceDriver> Services<D> {
    pub(crate) fn new(
        settings: ServiceSettings,
        driver: D,
        cleaner: FlowCleaner,
        shared: Arc<Shared>,
        troubles: Troubles,
    ) -> Self {
        let services = ServicePlan::new(shared.node.as_str());
        let plan = NodePlan { services, ..NodePlan::default() };
        let (diff, changed) = (PlanDiff::default(), HashSet::new());
        let lateness = Lateness::new();
        Self { settings, plan, diff, changed, driver, cleaner, shared, refused: false, lateness, troubles }
    }

    fn look_at_node(&self, snapshot: &Snapshot) {
        let node = snapshot.nodes.get(self.shared.node.as_str());
        self.shared.look_at_node(
            node.map(|node| {
                !node.deleting && node.taints.iter().all(|taint| &**taint != TO_BE_DELETED_TAINT)
            }),
        );
    }
}

/// The masquerade of `node`.
pub(crate) fn egress(settings: &ServiceSettings, node: &str, snapshot: &Snapshot) -> EgressPlan {
    let Some(settings) = &settings.egress else { return EgressPlan::default() };
    let own = snapshot.nodes.get(node).map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let networks = if settings.pod_networks.is_empty() {
        node_networks(snapshot)
    } else {
        settings.pod_networks.clone()
    };
    EgressPlan::new(&networks, &own, &settings.non_masquerade)
}

/// What holds for all Services of `node`.
pub(crate) fn proxy(
    settings: &ServiceSettings,
    egress: &EgressPlan,
    node: &str,
    snapshot: &Snapshot,
) -> ProxyPlan {
    let pods =
        if egress.pod_networks.is_empty() { node_networks(snapshot) } else { egress.pod_networks.clone() };
    ProxyPlan::new(&settings.proxy.settings(&pods), node, snapshot)
}

/// The nodes' podCIDRs.
fn node_networks(snapshot: &Snapshot) -> Vec<IpNet> {
    snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect()
}

impl<D: ServiceDriver + 'static> Part for Services<D> {
    fn name(&self) -> &'static str {
        PART
    }

    fn follow(&mut self, update: &Update) -> bool {
        let Update { snapshot, changes } = update;
        let mut work = changes.all;
        if changes.all || !changes.nodes.is_empty() || !changes.service_cidrs.is_empty() {
            self.look_at_node(snapshot);
            let egress = egress(&self.settings, &self.shared.node, snapshot);
            let proxy = proxy(&self.settings, &egress, &self.shared.node, snapshot);
            work |= egress != self.plan.egress || proxy != self.plan.proxy;
            self.plan.egress = egress;
            self.plan.proxy = proxy;
        }
        self.lateness.follow(changes);
        let (services, endpoints) = self.lateness.waiting();
        self.shared.metrics.queued(self.shared.families(), services, endpoints);
        self.diff = self.plan.services.update(snapshot, changes);
        work || !self.diff.is_empty()
    }

    fn reconcile(&mut self) -> Result<Outcome, String> {
        let diff = std::mem::take(&mut self.diff);
        let left_behind = diff.ports.iter().filter(|change| leaves_flows(change));
        self.changed.extend(left_behind.map(|change| change.address));
        let report = self.driver.apply(&self.plan, &diff).map_err(|error| error.to_string())?;
        self.refused = !report.refused.is_empty();
        for refused in report.refused {
            let message = format!("node {}: {}", self.shared.node, refused.reason);
            self.troubles.tell(refused.service, "RefusedByKernel", message);
        }
        self.shared.publish(self.plan.clone());
        self.shared.metrics.programmed(self.shared.families(), self.lateness.done());
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
