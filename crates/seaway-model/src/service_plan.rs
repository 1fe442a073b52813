//! Which service addresses a node translates, and to which endpoints.

mod candidates;
mod contribution;
mod json;
mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use serde::{Deserialize, Serialize};

use crate::{Changes, Node, ObjectName, Snapshot};
use candidates::Here;
use contribution::{Contribution, contribution};

pub use contribution::RANGES_COVER_NODE_PORTS;
pub use port::{AddressKind, Backend, Caller, PortPlan, Refusal, ServiceAddress};

/// What a Service's `healthCheckNodePort` answers on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// How many endpoints of the Service are ready on this node.
    pub local_endpoints: usize,
}

/// How the plan for one address changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// The address.
    pub address: ServiceAddress,
    /// What was planned; `None` for a new address.
    pub before: Option<Arc<PortPlan>>,
    /// What is planned now; `None` for an address that went.
    pub after: Option<Arc<PortPlan>>,
}

/// Members that a set gained and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChange {
    /// Gained.
    pub added: BTreeSet<IpAddr>,
    /// Lost.
    pub removed: BTreeSet<IpAddr>,
}

impl SetChange {
    /// Neither gained nor lost anything.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    fn add(&mut self, ip: IpAddr) {
        if !self.removed.remove(&ip) {
            self.added.insert(ip);
        }
    }

    fn remove(&mut self, ip: IpAddr) {
        if !self.added.remove(&ip) {
            self.removed.insert(ip);
        }
    }
}

/// What an update changed: all that a driver has to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanDiff {
    /// Addresses, sorted, each once.
    pub ports: Vec<PortChange>,
    /// Members of [`ServicePlan::cluster_ips`].
    pub cluster_ips: SetChange,
    /// Members of [`ServicePlan::local_endpoints`].
    pub local_endpoints: SetChange,
    /// Services whose [`ServicePlan::health_checks`] changed, came or went.
    pub health_checks: BTreeSet<ObjectName>,
}

impl PlanDiff {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.cluster_ips.is_empty()
            && self.local_endpoints.is_empty()
            && self.health_checks.is_empty()
    }
}

/// The service addresses of a node. A copy is cheap and shares what did not change.
///
/// Where two Services ask for the same address, the one with the lesser kind of address has it, of equals the one whose
/// name comes first, and the other gets it when the first gives it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    generation: u64,
    node: Arc<str>,
    ports: HashTrieMapSync<ServiceAddress, Arc<PortPlan>>,
    contributions: HashTrieMapSync<ObjectName, Arc<Contribution>>,
    /// Services that wait for an address that another one has.
    waiting: HashTrieMapSync<ServiceAddress, BTreeSet<ObjectName>>,
    /// Cluster IPs, with the number of Services that have them.
    cluster_ips: HashTrieMapSync<IpAddr, u32>,
    /// How many of the cluster IPs are IPv6.
    ipv6_cluster_ips: usize,
    /// This node's endpoints, with the number of Services that they serve.
    local_endpoints: HashTrieMapSync<IpAddr, u32>,
    /// What load balancers ask for at `healthCheckNodePort`.
    health_checks: RedBlackTreeMapSync<ObjectName, HealthCheck>,
    /// What of the Node object the endpoints were chosen by.
    near: Near,
}

/// What of a Node object a choice of endpoints depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Near {
    zone: Option<Arc<str>>,
    internal_ips: Vec<IpAddr>,
}

impl Near {
    fn of(node: Option<&Node>) -> Self {
        node.map(|node| Self { zone: node.zone.clone(), internal_ips: node.internal_ips.clone() })
            .unwrap_or_default()
    }
}

impl ServicePlan {
    /// The empty plan for the node called `node`.
    pub fn new(node: impl Into<Arc<str>>) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// The plan for `node` made of nothing but `snapshot`.
    pub fn from_snapshot(node: impl Into<Arc<str>>, snapshot: &Snapshot) -> Self {
        let mut plan = Self::new(node);
        plan.update(snapshot, &Changes::everything());
        plan
    }

    /// The generation of the Snapshot that the plan follows from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The node that the plan is for.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// What is planned for `address`.
    pub fn port(&self, address: &ServiceAddress) -> Option<&Arc<PortPlan>> {
        self.ports.get(address)
    }

    /// What is planned for packets to `address`: by the Service that has it, or else, where it is an address of the
    /// node's, by the one that has the node port.
    pub fn port_at(&self, address: &ServiceAddress, at_node: bool) -> Option<&Arc<PortPlan>> {
        let node_port = ServiceAddress::node_port(address.ip.is_ipv6(), address.protocol, address.port);
        let own = self.port(address).filter(|port| port.kind != AddressKind::NodePort);
        own.or_else(|| self.port(&node_port).filter(|_| at_node))
    }

    /// All addresses, in no particular order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PortPlan>> {
        self.ports.values()
    }

    /// The number of addresses.
    pub fn len(&self) -> usize {
        self.ports.size()
    }

    /// No address at all.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// All cluster IPs: whatever new flow to one of them is not translated is rejected.
    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster_ips.keys().copied()
    }

    /// `ip` is a Service's cluster IP.
    pub fn has_cluster_ip(&self, ip: &IpAddr) -> bool {
        self.cluster_ips.contains_key(ip)
    }

    /// There is a Service with an IPv6 cluster IP.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6_cluster_ips > 0
    }

    /// The addresses of this node's endpoints: those that can be sent on to themselves (hairpin).
    pub fn local_endpoints(&self) -> impl Iterator<Item = IpAddr> {
        self.local_endpoints.keys().copied()
    }

    /// `ip` is an endpoint on this node.
    pub fn has_local_endpoint(&self, ip: &IpAddr) -> bool {
        self.local_endpoints.contains_key(ip)
    }

    /// What this node answers at `healthCheckNodePort`s, by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = (&ObjectName, &HealthCheck)> {
        self.health_checks.iter()
    }

    /// What this node answers at `service`'s `healthCheckNodePort`.
    pub fn health_check(&self, service: &ObjectName) -> Option<&HealthCheck> {
        self.health_checks.get(service)
    }

    /// Services that ask for an address that another Service has, with that address.
    pub fn waiting(&self) -> impl Iterator<Item = (&ServiceAddress, &ObjectName)> {
        self.waiting
            .iter()
            .flat_map(|(address, services)| services.iter().map(move |service| (address, service)))
    }

    /// Follows `snapshot`. Looks at nothing but the Services that `changes` names, so one Service costs the same
    /// among ten thousand as among ten; at all of them where this node's zone or address changed.
    pub fn update(&mut self, snapshot: &Snapshot, changes: &Changes) -> PlanDiff {
        self.generation = snapshot.generation;
        let mut diff = Diff::default();
        let near = Near::of(snapshot.nodes.get(&self.node).map(|node| &**node));
        let moved = near != self.near;
        self.near = near;
        if changes.all || moved {
            let known: Vec<ObjectName> = self.contributions.keys().cloned().collect();
            let gone = known.iter().filter(|name| !snapshot.services.contains_key(name));
            for name in gone.chain(snapshot.services.keys()) {
                self.update_service(snapshot, name, &mut diff);
            }
        } else {
            for name in &changes.services {
                self.update_service(snapshot, name, &mut diff);
            }
        }
        let diff = diff.finish(self);
        let ipv6 = |ips: &BTreeSet<IpAddr>| ips.iter().filter(|ip| ip.is_ipv6()).count();
        self.ipv6_cluster_ips += ipv6(&diff.cluster_ips.added);
        self.ipv6_cluster_ips -= ipv6(&diff.cluster_ips.removed);
        diff
    }

    fn update_service(&mut self, snapshot: &Snapshot, name: &ObjectName, diff: &mut Diff) {
        let service = snapshot.services.get(name);
        let node = snapshot.nodes.get(&self.node).map(|node| &**node);
        let here = Here { name: &self.node, node };
        let new = service.map(|service| contribution(here, snapshot, name, service)).unwrap_or_default();
        let old = self.contributions.get(name).cloned().unwrap_or_default();
        if *old == new {
            return;
        }
        // One that is now another kind of address may have to yield it to someone who waits.
        let kept = |port: &PortPlan| new.ports.get(&port.address).is_some_and(|new| new.kind == port.kind);
        for port in old.ports.values().filter(|port| !kept(port)) {
            self.give_up(name, &port.address, diff);
        }
        let new = Arc::new(new);
        if *new == Contribution::default() {
            self.contributions.remove_mut(name);
        } else {
            self.contributions.insert_mut(name.clone(), new.clone());
        }
        for port in new.ports.values() {
            self.claim(port, diff);
        }
        for ip in new.cluster_ips.difference(&old.cluster_ips) {
            count_up(&mut self.cluster_ips, *ip, &mut diff.cluster_ips);
        }
        for ip in old.cluster_ips.difference(&new.cluster_ips) {
            count_down(&mut self.cluster_ips, *ip, &mut diff.cluster_ips);
        }
        for ip in new.local_endpoints.difference(&old.local_endpoints) {
            count_up(&mut self.local_endpoints, *ip, &mut diff.local_endpoints);
        }
        for ip in old.local_endpoints.difference(&new.local_endpoints) {
            count_down(&mut self.local_endpoints, *ip, &mut diff.local_endpoints);
        }
        if new.health_check != old.health_check {
            diff.health_checks.insert(name.clone());
            match new.health_check {
                Some(check) => self.health_checks.insert_mut(name.clone(), check),
                None => {
                    self.health_checks.remove_mut(name);
                }
            }
        }
    }

    /// `port`'s Service asks for its address: it gets it unless one that precedes it has it.
    fn claim(&mut self, port: &Arc<PortPlan>, diff: &mut Diff) {
        let address = port.address;
        match self.ports.get(&address) {
            Some(holder) if holder.service != port.service && holder.precedes(port) => {
                self.wait(address, port.service.clone());
            }
            holder => {
                let holder = holder.cloned();
                diff.touch(address, holder.as_ref());
                if let Some(holder) = holder.filter(|holder| holder.service != port.service) {
                    self.wait(address, holder.service.clone());
                }
                self.stop_waiting(&address, &port.service);
                self.ports.insert_mut(address, port.clone());
            }
        }
    }

    /// `service` no longer asks for `address`: the first that waits for it gets it.
    fn give_up(&mut self, service: &ObjectName, address: &ServiceAddress, diff: &mut Diff) {
        let Some(holder) = self.ports.get(address).cloned() else { return };
        if holder.service != *service {
            self.stop_waiting(address, service);
            return;
        }
        diff.touch(*address, Some(&holder));
        let waiting = self.waiting.get(address).into_iter().flatten();
        let claims = waiting.filter_map(|next| self.contributions.get(next)?.ports.get(address));
        let heir = claims.reduce(|best, next| if next.precedes(best) { next } else { best }).cloned();
        match heir {
            Some(heir) => {
                self.stop_waiting(address, &heir.service);
                self.ports.insert_mut(*address, heir);
            }
            None => {
                self.ports.remove_mut(address);
            }
        }
    }

    fn wait(&mut self, address: ServiceAddress, service: ObjectName) {
        let mut services = self.waiting.get(&address).cloned().unwrap_or_default();
        services.insert(service);
        self.waiting.insert_mut(address, services);
    }

    fn stop_waiting(&mut self, address: &ServiceAddress, service: &ObjectName) {
        let Some(services) = self.waiting.get(address) else { return };
        let mut services = services.clone();
        services.remove(service);
        if services.is_empty() {
            self.waiting.remove_mut(address);
        } else {
            self.waiting.insert_mut(*address, services);
        }
    }
}

/// A diff under construction: the first state of each touched address.
#[derive(Default)]
struct Diff {
    before: BTreeMap<ServiceAddress, Option<Arc<PortPlan>>>,
    cluster_ips: SetChange,
    local_endpoints: SetChange,
    health_checks: BTreeSet<ObjectName>,
}

impl Diff {
    fn touch(&mut self, address: ServiceAddress, before: Option<&Arc<PortPlan>>) {
        self.before.entry(address).or_insert_with(|| before.cloned());
    }

    fn finish(self, plan: &ServicePlan) -> PlanDiff {
        let changes = self.before.into_iter().filter_map(|(address, before)| {
            let after = plan.ports.get(&address).cloned();
            (before != after).then_some(PortChange { address, before, after })
        });
        PlanDiff {
            ports: changes.collect(),
            cluster_ips: self.cluster_ips,
            local_endpoints: self.local_endpoints,
            health_checks: self.health_checks,
        }
    }
}

fn count_up(counts: &mut HashTrieMapSync<IpAddr, u32>, ip: IpAddr, change: &mut SetChange) {
    let count = counts.get(&ip).copied().unwrap_or(0);
    if count == 0 {
        change.add(ip);
    }
    counts.insert_mut(ip, count + 1);
}

fn count_down(counts: &mut HashTrieMapSync<IpAddr, u32>, ip: IpAddr, change: &mut SetChange) {
    match counts.get(&ip).copied().unwrap_or(0) {
        0 => {}
        1 => {
            counts.remove_mut(&ip);
            change.remove(ip);
        }
        count => {
            counts.insert_mut(ip, count - 1);
        }
    }
}

#[cfg(test)]
mod tests;
