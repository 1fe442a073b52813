//! Everything that a prediction is made of, gathered before the first packet. Plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use seaway_lab::CloudPlan;
use seaway_model::{NodePlan, ObjectName, OverlayPlan, Protocol, Underlay};

use crate::hop::Proto;

/// The cluster and what is around it, as the places themselves say it.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// Nodes by name.
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    /// Pods by name.
    pub(crate) pods: BTreeMap<ObjectName, PodFacts>,
    /// Services by name.
    pub(crate) services: BTreeMap<ObjectName, ServiceFacts>,
    /// The cloud that the nodes are in, where it is declared.
    pub(crate) cloud: Option<CloudPlan>,
    /// Hosts outside, where they are declared.
    pub(crate) hosts: Vec<HostFacts>,
}

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    /// Its name.
    pub(crate) name: String,
    /// Its own addresses, the one that others reach first.
    pub(crate) addresses: Vec<IpAddr>,
    /// What its agent applies, or why the agent could not be asked.
    pub(crate) plan: Result<AppliedFacts, String>,
    /// The TCP port of its kubelet, as the Node says.
    pub(crate) kubelet: Option<u16>,
}

/// A node's applied plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedFacts {
    /// Services and masquerade.
    pub(crate) node: NodePlan,
    /// The network between nodes, where it is the agent's.
    pub(crate) overlay: Option<OverlayPlan>,
    /// The node's link to the others, with its addresses.
    pub(crate) underlay: Option<Underlay>,
    /// The links of the node's pods by the pods' addresses, where the agent can tell.
    pub(crate) pods: Option<BTreeMap<IpAddr, String>>,
}

/// A pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    /// Its node.
    pub(crate) node: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// It has its node's network.
    pub(crate) host_network: bool,
    /// It is ready.
    pub(crate) ready: bool,
    /// The ports that its containers declare.
    pub(crate) ports: Vec<(Protocol, u16)>,
}

/// A Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceFacts {
    /// Its cluster IPs; none: headless or ExternalName.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Protocol, port and name of its ports.
    pub(crate) ports: Vec<(Protocol, u16, String)>,
}

/// A host outside the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Sources that it serves, where it does not serve all.
    pub(crate) allow: Option<Vec<IpNet>>,
    /// It is a name server.
    pub(crate) resolver: bool,
}

/// What an address belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    /// A pod with a network of its own.
    Pod(&'a ObjectName, &'a PodFacts),
    /// A node; pods in its network too.
    Node(&'a NodeFacts),
    /// A host outside.
    Host(&'a HostFacts),
    /// The cloud's router.
    Gateway,
    /// The cloud's control plane.
    ControlPlane,
    /// Nothing that is known.
    Nobody,
}

impl World {
    /// What `address` belongs to.
    pub(crate) fn owner(&self, address: IpAddr) -> Owner<'_> {
        let pod = |(_, pod): &(&ObjectName, &PodFacts)| !pod.host_network && pod.addresses.contains(&address);
        if let Some((name, pod)) = self.pods.iter().find(pod) {
            return Owner::Pod(name, pod);
        }
        if let Some(node) = self.nodes.values().find(|node| node.has(address)) {
            return Owner::Node(node);
        }
        if let Some(host) = self.hosts.iter().find(|host| host.addresses.contains(&address)) {
            return Owner::Host(host);
        }
        match &self.cloud {
            Some(cloud) if cloud.gateways.contains(&address) || cloud.gateways_public.contains(&address) => {
                Owner::Gateway
            }
            Some(cloud) if cloud.control_plane.contains(&address) => Owner::ControlPlane,
            _ => Owner::Nobody,
        }
    }

    /// Something listens on the node's own addresses: ICMP, its kubelet, what load balancers ask at, or a ready
    /// pod in its network that declares the port.
    pub(crate) fn listens(&self, node: &NodeFacts, proto: Proto, port: u16) -> bool {
        let protocol = match proto {
            Proto::Icmp => return true,
            Proto::Tcp if node.kubelet == Some(port) || node.has_health_check(port) => return true,
            Proto::Tcp => Protocol::Tcp,
            Proto::Udp => Protocol::Udp,
        };
        let has = |pod: &PodFacts| {
            pod.host_network && pod.ready && pod.node == node.name && pod.ports.contains(&(protocol, port))
        };
        self.pods.values().any(has)
    }

    /// How people call what has `address`, or the address.
    pub(crate) fn name_of(&self, address: IpAddr) -> String {
        match self.owner(address) {
            Owner::Pod(name, _) => format!("pod {name}"),
            Owner::Node(node) => node.name.clone(),
            Owner::Host(host) => host.name.clone(),
            Owner::Gateway => "the gateway".to_owned(),
            Owner::ControlPlane => "the control plane".to_owned(),
            Owner::Nobody => address.to_string(),
        }
    }
}

impl NodeFacts {
    /// `address` is one of the node's own: on its link or on its tunnel device.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || self
                .overlay()
                .is_some_and(|it| it.devices.iter().any(|device| device.address.addr() == address))
    }

    /// Whether `address` is in a network of the node's link, where the agent can tell: nothing is between.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> Option<bool> {
        let underlay = self.plan.as_ref().ok()?.underlay.as_ref()?;
        Some(underlay.addresses.iter().any(|net| net.contains(&address)))
    }

    /// The links of the node's pods by the pods' addresses, where the agent can tell.
    pub(crate) fn pod_links(&self) -> Option<&BTreeMap<IpAddr, String>> {
        self.plan.as_ref().ok()?.pods.as_ref()
    }

    /// A Service's `healthCheckNodePort` that the agent answers at.
    fn has_health_check(&self, port: u16) -> bool {
        self.plan.as_ref().is_ok_and(|plan| plan.node.services.health_checks().any(|(_, it)| it.port == port))
    }

    /// The network between nodes.
    pub(crate) fn overlay(&self) -> Option<&OverlayPlan> {
        self.plan.as_ref().ok()?.overlay.as_ref()
    }

    /// Its address of the family of `other`.
    pub(crate) fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
    }
}
