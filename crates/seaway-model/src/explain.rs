//! What a node's plan does with a flow. The kernel is programmed from the same plan, so what is explained here is
//! what happens there.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Backend, EgressPlan, PortPlan, Protocol, ServiceAddress, ServicePlan};

/// The first packet of a flow, as it comes to the node or is made there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Flow {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
}

/// What becomes of a flow's destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub enum Translation {
    /// Not for a Service: the destination stays.
    None,
    /// To one of the port's backends, each as probable as the next.
    Dnat {
        /// The address that matched, with its candidates.
        port: Arc<PortPlan>,
    },
    /// Answered with ICMP port unreachable: the port has no endpoint.
    RejectNoEndpoints {
        /// The address that matched.
        port: Arc<PortPlan>,
    },
    /// Answered with ICMP port unreachable: a cluster IP, but no Service has this port on it.
    RejectNoSuchPort,
}

/// Why a flow gets the node's address as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// An endpoint was sent on to itself: it would answer itself and never the service address.
    Hairpin,
    /// From outside the pod networks to a cluster IP: the answer must come back through this node.
    ClusterIpFromOutside,
    /// From a pod to beyond the pod networks.
    Egress,
    /// From outside the pod networks to a pod of another node.
    Ingress,
}

/// All that a node does to addresses. A copy is cheap. Read back from its JSON it answers as before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Destinations.
    pub services: ServicePlan,
    /// Sources.
    pub egress: EgressPlan,
}

impl NodePlan {
    /// What becomes of the destination of a new flow.
    pub fn translate(&self, flow: &Flow) -> Translation {
        let address = ServiceAddress { ip: flow.destination, protocol: flow.protocol, port: flow.port };
        match self.services.port(&address) {
            Some(port) if port.backends.is_empty() => Translation::RejectNoEndpoints { port: port.clone() },
            Some(port) => Translation::Dnat { port: port.clone() },
            None if self.services.has_cluster_ip(&flow.destination) => Translation::RejectNoSuchPort,
            None => Translation::None,
        }
    }

    /// Whether and why the source of a new flow is replaced when it leaves the node for `to`; `chosen` is the backend
    /// that its destination was translated to, if it was.
    pub fn masquerade(&self, flow: &Flow, chosen: Option<Backend>) -> Option<Masquerade> {
        let destination = chosen.map_or(flow.destination, |backend| backend.ip);
        if chosen.is_some() {
            if flow.source == destination && self.services.has_local_endpoint(&destination) {
                return Some(Masquerade::Hairpin);
            }
            if self.services.has_cluster_ip(&flow.destination) && !self.egress.is_pod_address(&flow.source) {
                return Some(Masquerade::ClusterIpFromOutside);
            }
        }
        if self.egress.leaves(&flow.source, &destination) {
            return Some(Masquerade::Egress);
        }
        self.egress.enters_elsewhere(&flow.source, &destination).then_some(Masquerade::Ingress)
    }
}

#[cfg(test)]
mod tests;
