//! The objects of a scenario's cluster in a few words. Whatever has an address has it in both families, and whatever has
//! a port has it in all protocols, unless it says otherwise.

use std::time::Duration;

use seaway_model::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerAddress, Node as NodeObject, ObjectName, Protocol,
    Service, ServicePort, ServiceType, TrafficPolicy,
};

use crate::addresses::*;
use crate::sockets::PROTOCOLS;

/// A Service and its EndpointSlices.
#[derive(Clone, Debug)]
pub(crate) struct Svc {
    pub(crate) name: ObjectName,
    pub(crate) service: Service,
    families: Vec<Family>,
    protocols: Vec<Protocol>,
    /// The ports, and where endpoints have them.
    ports: Vec<(PortOf, u16)>,
    endpoints: Vec<At>,
}

#[derive(Clone, Copy, Debug)]
struct PortOf {
    port: u16,
    node_port: Option<u16>,
}

/// A Service of both families without anything.
pub(crate) fn service(name: &str) -> Svc {
    Svc {
        name: ObjectName::new("default", name),
        service: Service::default(),
        families: Family::BOTH.into(),
        protocols: PROTOCOLS.clone(),
        ports: Vec::new(),
        endpoints: Vec::new(),
    }
}

impl Svc {
    /// The Service of the family alone; first of all, before its addresses.
    pub(crate) fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// Of this protocol alone.
    pub(crate) fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocols = vec![protocol];
        self
    }

    pub(crate) fn cluster_ip(mut self, ip: &str) -> Self {
        self.service.cluster_ips.extend(self.families.iter().map(|family| family.ip(ip)));
        self
    }

    pub(crate) fn headless(mut self) -> Self {
        self.service.headless = true;
        self
    }

    /// One more port, which endpoints have at 8080.
    pub(crate) fn port(self, port: u16) -> Self {
        self.port_to(port, PORTS[0])
    }

    /// One more port.
    pub(crate) fn port_to(mut self, port: u16, target: u16) -> Self {
        self.ports.push((PortOf { port, node_port: None }, target));
        self
    }

    /// The last port's number at each node.
    pub(crate) fn node_port(mut self, port: u16) -> Self {
        self.ports.last_mut().unwrap().0.node_port = Some(port);
        if self.service.kind == ServiceType::ClusterIP {
            self.service.kind = ServiceType::NodePort;
        }
        self
    }

    pub(crate) fn external_ip(mut self, ip: &str) -> Self {
        self.service.external_ips.extend(self.families.iter().map(|family| family.ip(ip)));
        self
    }

    pub(crate) fn load_balancer(self, ip: &str) -> Self {
        self.balanced_at(ip, true)
    }

    /// A load balancer that hands packets to node ports (ipMode Proxy).
    pub(crate) fn proxying_load_balancer(self, ip: &str) -> Self {
        self.balanced_at(ip, false)
    }

    fn balanced_at(mut self, ip: &str, is_vip: bool) -> Self {
        self.service.kind = ServiceType::LoadBalancer;
        let of = |family: &Family| LoadBalancerAddress { ip: family.ip(ip), is_vip };
        self.service.load_balancer.extend(self.families.iter().map(of));
        self
    }

    pub(crate) fn source_range(mut self, net: &str) -> Self {
        self.service.source_ranges.extend(self.families.iter().map(|family| family.net(net)));
        self
    }

    pub(crate) fn source_range_of(mut self, family: Family, net: &str) -> Self {
        self.service.source_ranges.push(family.net(net));
        self
    }

    /// `externalTrafficPolicy: Local`
    pub(crate) fn external_local(mut self) -> Self {
        self.service.external_policy = TrafficPolicy::Local;
        self
    }

    /// `internalTrafficPolicy: Local`
    pub(crate) fn internal_local(mut self) -> Self {
        self.service.internal_policy = TrafficPolicy::Local;
        self
    }

    /// ClientIP affinity that ends after this time.
    pub(crate) fn affinity(mut self, timeout: Duration) -> Self {
        self.service.affinity = Some(timeout);
        self
    }

    pub(crate) fn health_check(mut self, port: u16) -> Self {
        self.service.health_check_node_port = Some(port);
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.service.labels.insert(key.into(), value.into());
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.service.annotations.insert(key.into(), value.into());
        self
    }

    pub(crate) fn endpoints<E: Into<At>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The Service's ports by their names.
    pub(crate) fn complete(&self) -> Service {
        let mut service = self.service.clone();
        for (of, _) in &self.ports {
            service.ports.extend(self.protocols.iter().map(|protocol| ServicePort {
                name: port_name(*protocol, of.port),
                protocol: *protocol,
                port: of.port,
                node_port: of.node_port,
            }));
        }
        service
    }

    /// One slice a family, with a name of its own.
    pub(crate) fn slices(&self) -> Vec<(String, EndpointSlice)> {
        let mut ports = Vec::new();
        for (of, target) in &self.ports {
            ports.extend(self.protocols.iter().map(|protocol| EndpointPort {
                name: port_name(*protocol, of.port),
                protocol: *protocol,
                port: *target,
            }));
        }
        let slice = |family: &Family| {
            let endpoints = self.endpoints.iter().map(|at| at.endpoint(*family)).collect();
            let slice = EndpointSlice { service: self.name.clone(), ports: ports.clone(), endpoints };
            (format!("{}-{family:?}", self.name.name), slice)
        };
        self.families.iter().map(slice).collect()
    }
}

fn port_name(protocol: Protocol, port: u16) -> std::sync::Arc<str> {
    format!("{}-{port}", protocol.label()).into()
}

/// An endpoint and its state.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) host: Host,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) zones: Vec<String>,
    pub(crate) nodes: Vec<String>,
}

impl From<Host> for At {
    fn from(host: Host) -> Self {
        Self { host, ready: true, serving: true, terminating: false, zones: Vec::new(), nodes: Vec::new() }
    }
}

impl Host {
    pub(crate) fn ready(self) -> At {
        self.into()
    }

    pub(crate) fn not_ready(self) -> At {
        At { ready: false, serving: false, ..self.into() }
    }

    /// Terminates and still serves.
    pub(crate) fn terminating(self) -> At {
        At { ready: false, terminating: true, ..self.into() }
    }

    /// Terminates and serves no more.
    pub(crate) fn ended(self) -> At {
        At { ready: false, serving: false, terminating: true, ..self.into() }
    }

    pub(crate) fn for_zone(self, zone: &str) -> At {
        At::from(self).for_zone(zone)
    }

    pub(crate) fn for_node(self, node: &str) -> At {
        At::from(self).for_node(node)
    }
}

impl At {
    pub(crate) fn for_zone(mut self, zone: &str) -> Self {
        self.zones.push(zone.into());
        self
    }

    pub(crate) fn for_node(mut self, node: &str) -> Self {
        self.nodes.push(node.into());
        self
    }

    fn endpoint(&self, family: Family) -> Endpoint {
        Endpoint {
            addresses: vec![self.host.ip(family)],
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            hostname: None,
            node_name: self.host.node_name().map(Into::into),
            zone: None,
            zone_hints: self.zones.iter().map(|zone| zone.as_str().into()).collect(),
            node_hints: self.nodes.iter().map(|node| node.as_str().into()).collect(),
            target: None,
        }
    }
}

/// The Node object of a node, in zone `east` (the node under test) or `west`.
pub(crate) fn node_object(node: Host) -> NodeObject {
    let (pods, zone) = if node == Node { (NODE_PODS, "east") } else { (OTHER_NODE_PODS, "west") };
    NodeObject {
        pod_cidrs: Family::BOTH.map(|family| family.net(pods)).into(),
        internal_ips: Family::BOTH.map(|family| node.ip(family)).into(),
        ready: true,
        zone: Some(zone.into()),
        ..NodeObject::default()
    }
}

/// A way to reach a Service from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exposure {
    NodePort,
    ExternalIp,
    LoadBalancer,
}

impl Exposure {
    pub(crate) const ALL: [Self; 3] = [Self::NodePort, Self::ExternalIp, Self::LoadBalancer];

    /// Where a Service that is exposed so is called.
    pub(crate) const fn address(self) -> &'static str {
        match self {
            Self::NodePort => "192.0.2.1:30080",
            Self::ExternalIp => "198.18.0.1:80",
            Self::LoadBalancer => "198.18.0.2:80",
        }
    }

    /// A Service with port 80 that is exposed so.
    pub(crate) fn service(self) -> Svc {
        let service = service("web").cluster_ip("10.96.0.7").port(80);
        match self {
            Self::NodePort => service.node_port(30080),
            Self::ExternalIp => service.external_ip("198.18.0.1"),
            Self::LoadBalancer => service.load_balancer("198.18.0.2"),
        }
    }
}
