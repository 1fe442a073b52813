//! The services that all contestants program.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::ensure;
use seaway_model::{
    Changes, EgressPlan, Endpoint, EndpointPort, EndpointSlice, LocalSources, NodePlan, ObjectName, Protocol,
    ProxyPlan, Service, ServicePlan, ServicePort, Snapshot,
};

/// The node that programs them: none of the endpoints is on it.
const NODE: &str = "node-1";
/// The port of every service and endpoint.
pub(crate) const PORT: u16 = 8080;

/// A number of services with as many endpoints each.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) services: u32,
    endpoints: u32,
}

impl Cluster {
    pub(crate) fn new(services: u32, endpoints: u32) -> anyhow::Result<Self> {
        ensure!((1..=1000).contains(&endpoints), "--endpoints: 1 to 1000, not {endpoints}");
        ensure!((1..=60_000).contains(&services), "--services: 1 to 60000, not {services}");
        Ok(Self { services, endpoints })
    }

    pub(crate) fn pod_network() -> ipnet::IpNet {
        ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9).into()
    }

    /// What the cluster IPs are from.
    pub(crate) fn service_network() -> ipnet::IpNet {
        ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10).into()
    }

    pub(crate) fn name(index: u32) -> String {
        format!("service-{index:05}")
    }

    /// The cluster IP of a service.
    pub(crate) fn cluster_ip(index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 1).to_bits() + index)
    }

    /// The endpoints of a service, from the pod network; different services share some.
    pub(crate) fn endpoints(&self, index: u32) -> impl Iterator<Item = Ipv4Addr> {
        let first = u64::from(index) * u64::from(self.endpoints);
        let base = Ipv4Addr::new(10, 128, 0, 0).to_bits();
        (first..first + u64::from(self.endpoints))
            .map(move |number| Ipv4Addr::from_bits(base + 1 + (number % ((1 << 23) - 2)) as u32))
    }

    /// All services as the API's watcher would have them.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for index in 0..self.services {
            self.add(&mut snapshot, index);
        }
        snapshot
    }

    /// Adds a service; gives what changed.
    pub(crate) fn add(&self, snapshot: &mut Snapshot, index: u32) -> Changes {
        let name = ObjectName::new("default", Self::name(index));
        let port_name: Arc<str> = "http".into();
        let service = Service {
            cluster_ips: vec![IpAddr::V4(Self::cluster_ip(index))],
            ports: vec![ServicePort {
                name: Arc::clone(&port_name),
                protocol: Protocol::Tcp,
                port: PORT,
                node_port: None,
            }],
            ..Service::default()
        };
        let endpoints = self.endpoints(index).map(|address| Endpoint {
            addresses: vec![IpAddr::V4(address)],
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node_name: Some("node-2".into()),
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            target: None,
        });
        let slice = EndpointSlice {
            service: name.clone(),
            ports: vec![EndpointPort { name: port_name, protocol: Protocol::Tcp, port: PORT }],
            endpoints: endpoints.collect(),
        };
        let mut slices = snapshot.slices.get(&name).cloned().unwrap_or_default();
        slices.insert_mut(Self::name(index).into(), Arc::new(slice));
        snapshot.generation += 1;
        snapshot.services.insert_mut(name.clone(), Arc::new(service));
        snapshot.slices.insert_mut(name.clone(), slices);
        Changes { services: [name].into(), ..Changes::default() }
    }

    /// The node's plan for all services.
    pub(crate) fn plan(snapshot: &Snapshot) -> NodePlan {
        let services = ServicePlan::from_snapshot(NODE, snapshot);
        let egress = EgressPlan::new(&[Self::pod_network()], &[], &[]);
        let local_sources = LocalSources::Networks(egress.pod_networks.clone());
        NodePlan { services, egress, proxy: ProxyPlan { local_sources, ..ProxyPlan::default() } }
    }
}
