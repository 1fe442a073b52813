//! Which service addresses a node translates, and to which endpoints.

mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rpds::HashTrieMapSync;
use serde::{Deserialize, Serialize};

use crate::{
    Changes, Endpoint, ObjectName, Protocol, Service, ServicePort, ServiceType, Snapshot, TrafficPolicy,
};

/// The label of a Service that another proxy looks after (kube-proxy's, KEP-2447).
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// An address at which a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// The virtual IP address.
    pub ip: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Backend { ip: self.ip, port: self.port }, self.protocol)
    }
}

/// Where a packet to a service address may be sent on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The port on it.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// One service address and what becomes of packets to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortPlan {
    /// The Service that the address belongs to.
    pub service: ObjectName,
    /// The name of the Service's port; empty where it has one unnamed port.
    pub port_name: Arc<str>,
    /// The address.
    pub address: ServiceAddress,
    /// The candidates, each as probable as the next: first those of this node, then the others, each part sorted.
    /// Empty: packets are rejected.
    pub backends: Vec<Backend>,
    /// How many of the backends, from the first on, are on this node.
    pub local: usize,
    /// No endpoint is ready: the backends are terminating ones that still serve.
    pub terminating: bool,
    /// How long a client stays with its endpoint; `None` for no affinity.
    pub affinity: Option<Duration>,
}

impl PortPlan {
    /// The candidates on this node.
    pub fn local_backends(&self) -> &[Backend] {
        self.backends.get(..self.local).unwrap_or_default()
    }
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
}

impl PlanDiff {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.cluster_ips.is_empty() && self.local_endpoints.is_empty()
    }
}

/// What one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contribution {
    ports: BTreeMap<ServiceAddress, Arc<PortPlan>>,
    cluster_ips: BTreeSet<IpAddr>,
    local_endpoints: BTreeSet<IpAddr>,
}

/// The service addresses of a node. A copy is cheap and shares what did not change.
///
/// Where two Services ask for the same address, the one whose name comes first has it, and the other gets it
/// when the first gives it up.
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

    /// Services that ask for an address that another Service has, with that address.
    pub fn waiting(&self) -> impl Iterator<Item = (&ServiceAddress, &ObjectName)> {
        self.waiting
            .iter()
            .flat_map(|(address, services)| services.iter().map(move |service| (address, service)))
    }

    /// Follows `snapshot`. Looks at nothing but the Services that `changes` names, so one Service costs the same
    /// among ten thousand as among ten.
    pub fn update(&mut self, snapshot: &Snapshot, changes: &Changes) -> PlanDiff {
        self.generation = snapshot.generation;
        let mut diff = Diff::default();
        if changes.all {
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
        let new =
            service.map(|service| contribution(&self.node, snapshot, name, service)).unwrap_or_default();
        let old = self.contributions.get(name).cloned().unwrap_or_default();
        if *old == new {
            return;
        }
        for address in old.ports.keys().filter(|address| !new.ports.contains_key(address)) {
            self.give_up(name, address, diff);
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
    }

    /// `port`'s Service asks for its address: it gets it unless one with a lesser name has it.
    fn claim(&mut self, port: &Arc<PortPlan>, diff: &mut Diff) {
        let address = port.address;
        match self.ports.get(&address) {
            Some(holder) if holder.service < port.service => self.wait(address, port.service.clone()),
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
        let next = self.waiting.get(address).and_then(|services| services.first()).cloned();
        let heir = next.and_then(|next| self.contributions.get(&next)?.ports.get(address).cloned());
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

/// What `service` asks for on `node`.
fn contribution(node: &str, snapshot: &Snapshot, name: &ObjectName, service: &Service) -> Contribution {
    let mut all = Contribution::default();
    if service.headless
        || service.kind == ServiceType::ExternalName
        || service.labels.contains_key(OTHER_PROXY_LABEL)
    {
        return all;
    }
    all.cluster_ips.extend(&service.cluster_ips);
    for port in &service.ports {
        for ip in &service.cluster_ips {
            let candidates = candidates(node, snapshot, name, port, ip.is_ipv6());
            let (backends, local) = candidates.arranged(service.internal_policy);
            all.local_endpoints.extend(backends.iter().take(local).map(|backend| backend.ip));
            let address = ServiceAddress { ip: *ip, protocol: port.protocol, port: port.port };
            let plan = PortPlan {
                service: name.clone(),
                port_name: port.name.clone(),
                address,
                backends,
                local,
                terminating: candidates.terminating,
                affinity: service.affinity,
            };
            // The API server refuses a port and protocol used twice; should it come, the first counts.
            all.ports.entry(address).or_insert_with(|| Arc::new(plan));
        }
    }
    all
}

/// The endpoints that a port of a Service may use, with whether each is on this node.
#[derive(Default)]
struct Candidates {
    backends: BTreeMap<Backend, bool>,
    terminating: bool,
}

impl Candidates {
    /// This node's first; with the Local policy no others.
    fn arranged(&self, policy: TrafficPolicy) -> (Vec<Backend>, usize) {
        let on_node =
            |wanted: bool| self.backends.iter().filter(move |(_, local)| **local == wanted).map(|(b, _)| *b);
        let mut backends: Vec<Backend> = on_node(true).collect();
        let local = backends.len();
        if policy == TrafficPolicy::Cluster {
            backends.extend(on_node(false));
        }
        (backends, local)
    }
}

/// The ready endpoints; where there are none, those that terminate but still serve (KEP-1669). An endpoint that
/// is in two slices, as happens while it moves between them, counts once, by its better state.
fn candidates(
    node: &str,
    snapshot: &Snapshot,
    name: &ObjectName,
    port: &ServicePort,
    v6: bool,
) -> Candidates {
    let mut ready = BTreeMap::new();
    let mut terminating = BTreeMap::new();
    for slice in snapshot.slices_of(name) {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in ports.map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.addresses.first().filter(|ip| ip.is_ipv6() == v6) else { continue };
                let set = match state(endpoint) {
                    State::Ready => &mut ready,
                    State::Terminating => &mut terminating,
                    State::Unusable => continue,
                };
                let local = endpoint.node_name.as_deref() == Some(node);
                *set.entry(Backend { ip: *ip, port: number }).or_insert(local) |= local;
            }
        }
    }
    if ready.is_empty() && !terminating.is_empty() {
        Candidates { backends: terminating, terminating: true }
    } else {
        Candidates { backends: ready, terminating: false }
    }
}

enum State {
    Ready,
    Terminating,
    Unusable,
}

fn state(endpoint: &Endpoint) -> State {
    if endpoint.ready {
        State::Ready
    } else if endpoint.serving && endpoint.terminating {
        State::Terminating
    } else {
        State::Unusable
    }
}

#[cfg(test)]
mod tests;
