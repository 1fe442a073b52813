//! Which packets leave a node with the node's own address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What a node needs to know to decide on masquerade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressPlan {
    /// The networks of all pods of the cluster (`Network` in flannel's net-conf.json).
    pub pod_networks: Vec<IpNet>,
    /// The part of them that is this node's.
    pub node_pod_cidrs: Vec<IpNet>,
    /// Destinations that pods reach under their own address, the pod networks and multicast among them.
    pub non_masquerade: Vec<IpNet>,
}

impl EgressPlan {
    /// As flannel does it: everything from a pod network that leaves it is masqueraded, multicast excepted, and
    /// destinations in `more_non_masquerade` too. All lists are kept sorted and free of networks that lie in others.
    pub fn new(pod_networks: &[IpNet], node_pod_cidrs: &[IpNet], more_non_masquerade: &[IpNet]) -> Self {
        let has_v4 = pod_networks.iter().any(|net| matches!(net, IpNet::V4(_)));
        let has_v6 = pod_networks.iter().any(|net| matches!(net, IpNet::V6(_)));
        let mut non_masquerade: Vec<IpNet> =
            pod_networks.iter().chain(more_non_masquerade).copied().collect();
        if has_v4 {
            // IANA IPv4 Multicast Address Space Registry: 224.0.0.0/4.
            non_masquerade.extend(Ipv4Net::new(Ipv4Addr::new(224, 0, 0, 0), 4).map(IpNet::V4));
        }
        if has_v6 {
            // RFC 4291, section 2.7: ff00::/8.
            non_masquerade.extend(Ipv6Net::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).map(IpNet::V6));
        }
        Self {
            pod_networks: IpNet::aggregate(&pod_networks.to_vec()),
            node_pod_cidrs: IpNet::aggregate(&node_pod_cidrs.to_vec()),
            non_masquerade: IpNet::aggregate(&non_masquerade),
        }
    }

    /// `ip` is in a pod network.
    pub fn is_pod_address(&self, ip: &IpAddr) -> bool {
        contains(&self.pod_networks, ip)
    }

    /// A flow from a pod that leaves the pod networks.
    pub fn leaves(&self, source: &IpAddr, destination: &IpAddr) -> bool {
        self.is_pod_address(source) && !contains(&self.non_masquerade, destination)
    }

    /// A flow from elsewhere that this node hands on to another node's pod: only masqueraded does its answer come
    /// back this way (flannel's last rule).
    pub fn enters_elsewhere(&self, source: &IpAddr, destination: &IpAddr) -> bool {
        !self.is_pod_address(source)
            && self.is_pod_address(destination)
            && !contains(&self.node_pod_cidrs, destination)
    }
}

fn contains(nets: &[IpNet], ip: &IpAddr) -> bool {
    nets.iter().any(|net| net.contains(ip))
}
