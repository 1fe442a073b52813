//! The cluster's Services, endpoints, namespaces and pods, by what a query says.
//!
//! Immutable like the Snapshot that it comes from: a changed copy shares what did not change, so that one more
//! endpoint costs the same at ten Services as at ten thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};
use seaway_model::{Changes, ObjectName, Protocol, Service, ServiceType, Snapshot};

use super::options::{Options, PodMode};

/// Characters of a label at most (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// A port that SRV records tell of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name in lower case; empty where it has none.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An endpoint's name, address and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointRecord {
    /// The label that stands before the Service's name, in lower case.
    pub label: Arc<str>,
    /// Its address.
    pub ip: IpAddr,
    /// Its ports.
    pub ports: Arc<[Port]>,
}

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Cluster IPs.
    Cluster(Vec<IpAddr>),
    /// Its endpoints.
    Headless,
    /// Another name.
    External(Arc<str>),
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// What its name stands for.
    pub kind: ServiceKind,
    /// The Service's ports.
    pub ports: Box<[Port]>,
    /// Ready endpoints in the order of their labels.
    pub endpoints: Box<[EndpointRecord]>,
}

impl ServiceRecord {
    /// The endpoints whose label is `label`.
    pub fn endpoints_named(&self, label: &str) -> &[EndpointRecord] {
        let start = self.endpoints.partition_point(|e| &*e.label < label);
        let length = self.endpoints[start..].partition_point(|e| &*e.label == label);
        &self.endpoints[start..start + length]
    }
}

/// Who has an address: names as `service.namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Services whose cluster IP it is.
    pub services: BTreeSet<Arc<str>>,
    /// Endpoints: the Service and the endpoint's label.
    pub endpoints: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// The index.
#[derive(Clone, Debug, Default)]
pub struct Index {
    services: HashTrieMapSync<Arc<str>, Arc<ServiceRecord>>,
    holders: HashTrieMapSync<IpAddr, Arc<Holders>>,
    namespaces: HashTrieSetSync<Arc<str>>,
    /// Pods by their address and namespace.
    pods: HashTrieMapSync<(IpAddr, Arc<str>), BTreeSet<Arc<str>>>,
    /// The addresses under which a pod stands in `pods`.
    pod_ips: HashTrieMapSync<ObjectName, Vec<IpAddr>>,
}

/// `service.namespace` in lower case: what stands before `.svc.<zone>`.
fn key(name: &ObjectName) -> Arc<str> {
    format!("{}.{}", name.name, name.namespace).into()
}

impl Index {
    /// The index of a whole snapshot.
    pub fn build(snapshot: &Snapshot, options: &Options) -> Self {
        let mut index = Self::default();
        for name in snapshot.namespaces.keys() {
            index.update_namespace(snapshot, options, name);
        }
        for name in snapshot.services.keys() {
            index.update_service(snapshot, options, name);
        }
        for name in snapshot.pods.keys() {
            index.update_pod(snapshot, options, name);
        }
        index
    }

    /// The index of `snapshot`, made of that of an earlier one and what changed since; `None` where it is the same.
    #[must_use]
    pub fn updated(&self, snapshot: &Snapshot, changes: &Changes, options: &Options) -> Option<Self> {
        if changes.all {
            return Some(Self::build(snapshot, options));
        }
        let mut index = self.clone();
        let mut changed = false;
        for name in &changes.namespaces {
            changed |= index.update_namespace(snapshot, options, name);
        }
        for name in &changes.services {
            changed |= index.update_service(snapshot, options, name);
        }
        for name in &changes.pods {
            changed |= index.update_pod(snapshot, options, name);
        }
        changed.then_some(index)
    }

    /// The Service called `key`, `service.namespace` in lower case.
    pub fn service(&self, key: &str) -> Option<&Arc<ServiceRecord>> {
        self.services.get(key)
    }

    /// Who has the address `ip`.
    pub fn holders(&self, ip: IpAddr) -> Option<&Holders> {
        self.holders.get(&ip).map(|holders| &**holders)
    }

    /// Whether there is a namespace of that name.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Whether a pod of `namespace` has the address `ip`.
    pub fn has_pod(&self, ip: IpAddr, namespace: &str) -> bool {
        self.pods.contains_key(&(ip, Arc::from(namespace)))
    }

    /// How many Services there are.
    pub fn service_count(&self) -> usize {
        self.services.size()
    }

    fn update_namespace(&mut self, snapshot: &Snapshot, options: &Options, name: &Arc<str>) -> bool {
        let before = self.namespaces.contains(name);
        let exists = snapshot.namespaces.contains_key(name) && options.exposes(name);
        if exists {
            self.namespaces.insert_mut(name.clone());
        } else {
            self.namespaces.remove_mut(name);
        }
        exists != before
    }

    fn update_service(&mut self, snapshot: &Snapshot, options: &Options, name: &ObjectName) -> bool {
        let key = key(name);
        let record = snapshot
            .services
            .get(name)
            .filter(|_| options.exposes(&name.namespace))
            .map(|service| Arc::new(ServiceRecord::new(snapshot, options, name, service)));
        let before = self.services.get(&key).cloned();
        if before == record {
            return false;
        }
        match &record {
            Some(record) => self.services.insert_mut(key.clone(), record.clone()),
            None => {
                self.services.remove_mut(&key);
            }
        }
        let added = record.as_deref().map(|r| holdings(&key, r)).unwrap_or_default();
        let gone = before.as_deref().map(|r| holdings(&key, r)).unwrap_or_default();
        for (ip, holding) in gone.difference(&added) {
            self.change_holders(*ip, |holders| holding.remove_from(holders));
        }
        for (ip, holding) in added.difference(&gone) {
            self.change_holders(*ip, |holders| holding.add_to(holders));
        }
        true
    }

    fn change_holders(&mut self, ip: IpAddr, change: impl FnOnce(&mut Holders)) {
        let mut holders = self.holders.get(&ip).map(|h| (**h).clone()).unwrap_or_default();
        change(&mut holders);
        if holders == Holders::default() {
            self.holders.remove_mut(&ip);
        } else {
            self.holders.insert_mut(ip, Arc::new(holders));
        }
    }

    fn update_pod(&mut self, snapshot: &Snapshot, options: &Options, name: &ObjectName) -> bool {
        let pod = snapshot.pods.get(name).filter(|pod| {
            options.pods == PodMode::Verified && !pod.finished && options.exposes(&name.namespace)
        });
        let ips = pod.map(|pod| pod.ips.clone()).unwrap_or_default();
        let before = self.pod_ips.get(name).cloned().unwrap_or_default();
        if ips == before {
            return false;
        }
        for ip in before {
            self.change_pods((ip, name.namespace.clone()), |pods| {
                pods.remove(&name.name);
            });
        }
        for ip in &ips {
            self.change_pods((*ip, name.namespace.clone()), |pods| {
                pods.insert(name.name.clone());
            });
        }
        if ips.is_empty() {
            self.pod_ips.remove_mut(name);
        } else {
            self.pod_ips.insert_mut(name.clone(), ips);
        }
        true
    }

    fn change_pods(&mut self, at: (IpAddr, Arc<str>), change: impl FnOnce(&mut BTreeSet<Arc<str>>)) {
        let mut pods = self.pods.get(&at).cloned().unwrap_or_default();
        change(&mut pods);
        if pods.is_empty() {
            self.pods.remove_mut(&at);
        } else {
            self.pods.insert_mut(at, pods);
        }
    }
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.services == other.services
            && self.holders == other.holders
            && self.namespaces == other.namespaces
            && self.pods == other.pods
            && self.pod_ips == other.pod_ips
    }
}

impl Options {
    /// Whether the directive serves the namespace.
    fn exposes(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

/// One reason for an address to be in the index.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Holding {
    Service(Arc<str>),
    Endpoint(Arc<str>, Arc<str>),
}

impl Holding {
    fn add_to(&self, holders: &mut Holders) {
        match self {
            Self::Service(key) => holders.services.insert(key.clone()),
            Self::Endpoint(key, label) => holders.endpoints.insert((key.clone(), label.clone())),
        };
    }

    fn remove_from(&self, holders: &mut Holders) {
        match self {
            Self::Service(key) => holders.services.remove(key),
            Self::Endpoint(key, label) => holders.endpoints.remove(&(key.clone(), label.clone())),
        };
    }
}

fn holdings(key: &Arc<str>, record: &ServiceRecord) -> BTreeSet<(IpAddr, Holding)> {
    let cluster = match &record.kind {
        ServiceKind::Cluster(ips) => &ips[..],
        ServiceKind::Headless | ServiceKind::External(_) => &[],
    };
    let services = cluster.iter().map(|ip| (*ip, Holding::Service(key.clone())));
    let endpoints = record.endpoints.iter().map(|e| (e.ip, Holding::Endpoint(key.clone(), e.label.clone())));
    services.chain(endpoints).collect()
}

impl ServiceRecord {
    fn new(snapshot: &Snapshot, options: &Options, name: &ObjectName, service: &Service) -> Self {
        let kind = match (service.kind, &service.external_name) {
            (ServiceType::ExternalName, target) => ServiceKind::External(target.clone().unwrap_or_default()),
            _ if service.headless || service.cluster_ips.is_empty() => ServiceKind::Headless,
            _ => ServiceKind::Cluster(service.cluster_ips.clone()),
        };
        let ports = service.ports.iter().map(|p| Port {
            name: p.name.to_ascii_lowercase().into(),
            protocol: p.protocol,
            port: p.port,
        });
        let endpoints = match kind {
            ServiceKind::External(_) => Box::default(),
            _ if options.no_endpoints => Box::default(),
            _ => endpoints(snapshot, options, name, service),
        };
        Self { kind, ports: ports.collect(), endpoints }
    }
}

/// The ready endpoints of all slices, sorted; an endpoint that is in two slices counts once, with the ports of both.
fn endpoints(
    snapshot: &Snapshot,
    options: &Options,
    name: &ObjectName,
    service: &Service,
) -> Box<[EndpointRecord]> {
    let mut merged: BTreeMap<(Arc<str>, IpAddr), Arc<[Port]>> = BTreeMap::new();
    for slice in snapshot.slices_of(name) {
        let ports: Arc<[Port]> = slice
            .ports
            .iter()
            .map(|p| Port { name: p.name.to_ascii_lowercase().into(), protocol: p.protocol, port: p.port })
            .collect();
        for endpoint in slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
            let pod = endpoint.target.as_ref().filter(|target| &*target.kind == "Pod");
            for ip in &endpoint.addresses {
                let pod_name = pod.map(|t| &*t.name.name).filter(|_| options.endpoint_pod_names);
                let label = label(endpoint.hostname.as_deref(), pod_name, *ip);
                merged
                    .entry((label, *ip))
                    .and_modify(|there| *there = union(there, &ports))
                    .or_insert_with(|| ports.clone());
            }
        }
    }
    merged.into_iter().map(|((label, ip), ports)| EndpointRecord { label, ip, ports }).collect()
}

fn union(a: &Arc<[Port]>, b: &Arc<[Port]>) -> Arc<[Port]> {
    if b.iter().all(|port| a.contains(port)) {
        return a.clone();
    }
    a.iter().chain(b.iter().filter(|port| !a.contains(port))).cloned().collect()
}

/// The label of an endpoint: its hostname, else its pod's name if it fits a label, else its address with dashes.
fn label(hostname: Option<&str>, pod: Option<&str>, ip: IpAddr) -> Arc<str> {
    let fits = |name: &&str| !name.is_empty() && name.len() <= MAX_LABEL && !name.contains('.');
    match hostname.filter(fits).or(pod.filter(fits)) {
        Some(name) => name.to_ascii_lowercase().into(),
        None => dashed(ip).into(),
    }
}

/// An address as a label: dots and colons become dashes, and one at the end gets a zero after it.
pub(super) fn dashed(ip: IpAddr) -> String {
    let mut text = ip.to_string().replace(['.', ':'], "-");
    if text.ends_with('-') {
        text.push('0');
    }
    text
}

/// The address that [`dashed`] or a person made a label of.
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    if label.matches('-').count() == 3 && !label.contains("--") {
        return label.replace('-', ".").parse().ok().map(IpAddr::V4);
    }
    label.replace('-', ":").parse().ok().map(IpAddr::V6)
}
