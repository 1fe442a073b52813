//! What one Service asks for on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::candidates::{Arranged, Candidates, Here};
use super::{AddressKind, HealthCheck, PortPlan, ServiceAddress};
use crate::{ObjectName, Service, ServicePort, ServiceType, Snapshot, TrafficPolicy};

/// The label of a Service that another proxy looks after (kube-proxy's, KEP-2447).
pub(super) const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// The annotation that makes `spec.loadBalancerSourceRanges` hold for the Service's node ports too, when it is `"true"`.
/// kube-proxy never filters these (kubernetes issue 33586).
pub const RANGES_COVER_NODE_PORTS: &str = "seaway.io/source-ranges-cover-node-ports";

/// What one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contribution {
    pub(super) ports: BTreeMap<ServiceAddress, Arc<PortPlan>>,
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    pub(super) local_endpoints: BTreeSet<IpAddr>,
    pub(super) health_check: Option<HealthCheck>,
}

/// What `service` asks for on the node `here`.
pub(super) fn contribution(
    here: Here<'_>,
    snapshot: &Snapshot,
    name: &ObjectName,
    service: &Service,
) -> Contribution {
    let mut all = Contribution::default();
    if service.headless
        || service.kind == ServiceType::ExternalName
        || service.cluster_ips.is_empty()
        || service.labels.contains_key(OTHER_PROXY_LABEL)
    {
        return all;
    }
    all.cluster_ips.extend(&service.cluster_ips);
    // An endpoint of both families has an address in each.
    let mut ready_here = [BTreeSet::new(), BTreeSet::new()];
    for port in &service.ports {
        for (v6, ready_here) in [false, true].into_iter().zip(&mut ready_here) {
            if !service.cluster_ips.iter().any(|ip| ip.is_ipv6() == v6) {
                continue;
            }
            let candidates = Candidates::of(here, snapshot, name, port, v6);
            ready_here.extend(candidates.ready_on_node());
            let maker = PortMaker { here, name, service, port, candidates: &candidates };
            for (kind, address) in addresses(service, port, v6) {
                let plan = maker.port_plan(kind, address);
                all.local_endpoints.extend(plan.local_backends().iter().map(|backend| backend.ip));
                // One that is asked for twice, as an external IP that is a load balancer's address too, counts once.
                all.ports.entry(address).or_insert_with(|| Arc::new(plan));
            }
        }
    }
    if let Some(port) = service.health_check_node_port
        && service.kind == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local
    {
        all.health_check = Some(HealthCheck {
            port,
            local_endpoints: ready_here.iter().map(BTreeSet::len).max().unwrap_or_default(),
        });
    }
    all
}

/// The addresses of one family at which `port` is reached, the best kind first.
fn addresses(service: &Service, port: &ServicePort, v6: bool) -> Vec<(AddressKind, ServiceAddress)> {
    let exposed = matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let balancer =
        service.load_balancer.iter().filter(|it| service.kind == ServiceType::LoadBalancer && it.is_vip);
    let ips = (service.cluster_ips.iter().map(|ip| (AddressKind::ClusterIp, *ip)))
        .chain(balancer.map(|it| (AddressKind::LoadBalancer, it.ip)))
        .chain(service.external_ips.iter().map(|ip| (AddressKind::ExternalIp, *ip)))
        .filter(|(_, ip)| ip.is_ipv6() == v6 && !ip.is_unspecified());
    let mut all: Vec<_> = ips
        .map(|(kind, ip)| (kind, ServiceAddress { ip, protocol: port.protocol, port: port.port }))
        .collect();
    if let Some(number) = port.node_port.filter(|_| exposed) {
        all.push((AddressKind::NodePort, ServiceAddress::node_port(v6, port.protocol, number)));
    }
    all
}

/// Makes the plans for the addresses of one port and family.
struct PortMaker<'a> {
    here: Here<'a>,
    name: &'a ObjectName,
    service: &'a Service,
    port: &'a ServicePort,
    candidates: &'a Candidates,
}

impl PortMaker<'_> {
    fn port_plan(&self, kind: AddressKind, address: ServiceAddress) -> PortPlan {
        let Self { name, service, port, candidates, .. } = self;
        let policy = if kind.is_external() { service.external_policy } else { service.internal_policy };
        let Arranged { backends, local, inside_from, has_endpoints, terminating, local_terminating } =
            candidates.arranged(policy, kind.is_external());
        PortPlan {
            service: (*name).clone(),
            port_name: port.name.clone(),
            address,
            kind,
            policy,
            backends,
            local,
            inside_from,
            has_endpoints,
            terminating,
            local_terminating,
            affinity: service.affinity,
            source_ranges: self.source_ranges(kind, address.ip),
        }
    }

    /// `loadBalancerSourceRanges` as they hold for an address. As with kube-proxy, a family without a range of its own is
    /// open to all.
    fn source_ranges(&self, kind: AddressKind, ip: IpAddr) -> Option<Vec<IpNet>> {
        let Self { here, service, .. } = self;
        let covered = match kind {
            AddressKind::LoadBalancer => true,
            AddressKind::NodePort => {
                service.annotations.get(RANGES_COVER_NODE_PORTS).is_some_and(|value| value == "true")
            }
            AddressKind::ClusterIp | AddressKind::ExternalIp => false,
        };
        let of_family = |it: &&IpNet| it.addr().is_ipv6() == ip.is_ipv6();
        let mut ranges: Vec<IpNet> =
            service.source_ranges.iter().filter(of_family).map(IpNet::trunc).collect();
        if !covered || ranges.is_empty() {
            return None;
        }
        // Where the balancer's address is bound on the node, the node calls from it.
        let node_ips = here.node.map(|node| node.internal_ips.as_slice()).unwrap_or_default();
        if kind == AddressKind::LoadBalancer
            && ranges.iter().any(|range| node_ips.iter().any(|own| range.contains(own)))
        {
            ranges.push(IpNet::from(ip));
        }
        Some(IpNet::aggregate(&ranges))
    }
}
