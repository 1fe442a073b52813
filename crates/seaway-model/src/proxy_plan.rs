//! What holds for all Services of a node: which callers count as the cluster's own, and where node ports are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::Snapshot;

/// How pods are told from other callers (kube-proxy's `--detect-local-mode`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DetectLocal {
    /// Their addresses are in these networks (`ClusterCIDR`).
    ClusterCidr(Vec<IpNet>),
    /// Their addresses are in the node's podCIDRs (`NodeCIDR`).
    NodeCidr,
    /// Their packets come in by this bridge (`BridgeInterface`).
    BridgeInterface(Arc<str>),
    /// Their packets come in by interfaces whose names begin so (`InterfaceNamePrefix`).
    InterfaceNamePrefix(Arc<str>),
}

impl Default for DetectLocal {
    fn default() -> Self {
        Self::ClusterCidr(Vec::new())
    }
}

/// At which of a node's addresses node ports are (kube-proxy's `--nodeport-addresses`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePortAddresses {
    /// At the Node's InternalIPs.
    #[default]
    Primary,
    /// At all of the node's addresses in these networks, but for loopback ones.
    Networks(Vec<IpNet>),
}

/// What a node's proxy is told by flags or its configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// How pods are told from other callers.
    pub detect_local: DetectLocal,
    /// Callers of cluster IPs are masqueraded wherever they come from.
    pub masquerade_all: bool,
    /// Where node ports are.
    pub node_port_addresses: NodePortAddresses,
}

/// Which callers are pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LocalSources {
    /// Those with an address in one of these networks; none where there are no networks.
    Networks(Vec<IpNet>),
    /// Those whose packets come in by this interface.
    Interface(Arc<str>),
    /// Those whose packets come in by an interface whose name begins so.
    InterfacePrefix(Arc<str>),
}

impl Default for LocalSources {
    fn default() -> Self {
        Self::Networks(Vec::new())
    }
}

/// Where a flow's first packet comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The node itself.
    Node,
    /// It comes in by the link of this name.
    Link(Arc<str>),
    /// It comes in, by which link is not known.
    #[default]
    Unknown,
}

/// What holds for all Services of a node. All lists are sorted and free of networks that lie in others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyPlan {
    /// Which callers are pods: they reach cluster IPs under their own address, and an `externalTrafficPolicy: Local` does
    /// not restrict them.
    pub local_sources: LocalSources,
    /// Callers of cluster IPs are masqueraded wherever they come from.
    pub masquerade_all: bool,
    /// Node ports are at the node's addresses in these networks.
    pub node_port_networks: Vec<IpNet>,
    /// What the Node object says of its addresses.
    pub node_addresses: Vec<IpAddr>,
    /// Cluster IPs are taken from these networks; packets to those that no Service has are dropped.
    pub service_networks: Vec<IpNet>,
}

impl ProxyPlan {
    /// `settings` for the node called `node`.
    pub fn new(settings: &ProxySettings, node: &str, snapshot: &Snapshot) -> Self {
        let found = snapshot.nodes.get(node);
        let own = || found.map(|node| node.internal_ips.clone()).unwrap_or_default();
        let local_sources = match &settings.detect_local {
            DetectLocal::ClusterCidr(networks) => LocalSources::Networks(IpNet::aggregate(networks)),
            DetectLocal::NodeCidr => {
                let cidrs = found.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
                LocalSources::Networks(IpNet::aggregate(&cidrs))
            }
            DetectLocal::BridgeInterface(name) => LocalSources::Interface(name.clone()),
            DetectLocal::InterfaceNamePrefix(prefix) => LocalSources::InterfacePrefix(prefix.clone()),
        };
        let networks: Vec<IpNet> = match &settings.node_port_addresses {
            NodePortAddresses::Primary => own().into_iter().map(IpNet::from).collect(),
            NodePortAddresses::Networks(networks) => networks.clone(),
        };
        let mut node_addresses = own();
        node_addresses.sort();
        node_addresses.dedup();
        let services: Vec<IpNet> =
            snapshot.service_cidrs.values().flat_map(|it| it.iter().copied()).collect();
        Self {
            local_sources,
            masquerade_all: settings.masquerade_all,
            node_port_networks: IpNet::aggregate(&networks),
            node_addresses,
            service_networks: IpNet::aggregate(&services),
        }
    }

    /// Whoever sends from `source` and comes from `origin` is a pod.
    pub fn is_local(&self, origin: &Origin, source: &IpAddr) -> bool {
        match (&self.local_sources, origin) {
            (LocalSources::Networks(networks), _) => contains(networks, source),
            (LocalSources::Interface(name), Origin::Link(link)) => link == name,
            (LocalSources::InterfacePrefix(prefix), Origin::Link(link)) => link.starts_with(&**prefix),
            (LocalSources::Interface(_) | LocalSources::InterfacePrefix(_), _) => false,
        }
    }

    /// Pods can be told from others in this address family. Where they cannot, nobody is masqueraded for not being one, as
    /// kube-proxy does without a cluster CIDR: better the answer finds no way than every pod loses its address.
    pub fn knows_pods(&self, v6: bool) -> bool {
        match &self.local_sources {
            LocalSources::Networks(networks) => networks.iter().any(|net| net.addr().is_ipv6() == v6),
            LocalSources::Interface(_) | LocalSources::InterfacePrefix(_) => true,
        }
    }

    /// Node ports are at `ip`, as far as the Node object tells this node's addresses.
    pub fn has_node_ports(&self, ip: &IpAddr) -> bool {
        self.node_addresses.contains(ip) && !is_loopback(ip) && contains(&self.node_port_networks, ip)
    }

    /// `ip` could be a cluster IP.
    pub fn is_service_network(&self, ip: &IpAddr) -> bool {
        contains(&self.service_networks, ip)
    }
}

/// Addresses at which node ports never are: 127.0.0.0/8 (RFC 1122, section 3.2.1.3) and ::1 (RFC 4291, section 2.5.3).
pub fn loopback_networks() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    [IpNet::V4(v4), IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))]
}

fn is_loopback(ip: &IpAddr) -> bool {
    loopback_networks().iter().any(|network| network.contains(ip))
}

fn contains(networks: &[IpNet], ip: &IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}
