//! What a node's plan does with a flow. The kernel is programmed from the same plan, so what is explained here is
//! what happens there.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AddressKind, Backend, Caller, EgressPlan, Origin, PortPlan, Protocol, ProxyPlan, Refusal, ServiceAddress,
    ServicePlan, TrafficPolicy,
};

/// The first packet of a flow, as it comes to the node or is made there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Flow {
    /// Where it comes from.
    pub origin: Origin,
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
    /// To one of the port's candidates for this caller, each as probable as the next. One with affinity goes where it went
    /// before, if it did so within the port's time.
    Dnat {
        /// The address that matched.
        port: Arc<PortPlan>,
        /// Whose candidates.
        caller: Caller,
    },
    /// Refused with a reset (TCP) or an ICMP error: the port has no endpoint.
    RejectNoEndpoints {
        /// The address that matched.
        port: Arc<PortPlan>,
    },
    /// Dropped: the traffic policy is Local, and the port has endpoints, but none on this node.
    DropNoLocalEndpoints {
        /// The address that matched.
        port: Arc<PortPlan>,
        /// Whose candidates there would be.
        caller: Caller,
    },
    /// Dropped: the source is in none of the Service's source ranges.
    DropSourceRange {
        /// The address that matched.
        port: Arc<PortPlan>,
    },
    /// Refused with a reset (TCP) or an ICMP error: a cluster IP, but no Service has this port on it.
    RejectNoSuchPort,
    /// Dropped: an address that cluster IPs are taken from, but no Service has it.
    DropUnallocated,
}

/// Why a flow gets the node's address as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// An endpoint was sent on to itself: it would answer itself and never the service address.
    Hairpin,
    /// From a caller that is no pod to a cluster IP: the answer must come back through this node.
    ClusterIpFromOutside,
    /// To a cluster IP, and all its callers are masqueraded (`--masquerade-all`).
    All,
    /// To an external address with the Cluster policy: the answer must come back through this node.
    External,
    /// From the node itself to an external address with the Local policy.
    ExternalFromNode,
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
    /// What holds for all Services.
    #[serde(default)]
    pub proxy: ProxyPlan,
}

impl NodePlan {
    /// What is planned for the destination of `flow`: a service address, or else a node port where the destination is
    /// this node's.
    pub fn port_of(&self, flow: &Flow) -> Option<&Arc<PortPlan>> {
        let address = ServiceAddress { ip: flow.destination, protocol: flow.protocol, port: flow.port };
        self.services.port_at(&address, self.proxy.has_node_ports(&flow.destination))
    }

    /// Which of an address's candidates `flow` is for.
    pub fn caller(&self, flow: &Flow) -> Caller {
        match &flow.origin {
            Origin::Node => Caller::Inside,
            origin if self.proxy.is_local(origin, &flow.source) => Caller::Inside,
            _ => Caller::Outside,
        }
    }

    /// What becomes of the destination of a new flow.
    pub fn translate(&self, flow: &Flow) -> Translation {
        let Some(port) = self.port_of(flow).cloned() else {
            return if self.services.has_cluster_ip(&flow.destination) {
                Translation::RejectNoSuchPort
            } else if self.proxy.is_service_network(&flow.destination) {
                Translation::DropUnallocated
            } else {
                Translation::None
            };
        };
        if !port.admits(&flow.source) {
            return Translation::DropSourceRange { port };
        }
        let caller = self.caller(flow);
        match (port.candidates(caller), port.refusal()) {
            ([], Refusal::Reject) => Translation::RejectNoEndpoints { port },
            ([], Refusal::Drop) => Translation::DropNoLocalEndpoints { port, caller },
            _ => Translation::Dnat { port, caller },
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
            if let Some(why) = self.port_of(flow).and_then(|port| self.masquerade_for(flow, port)) {
                return Some(why);
            }
        }
        if self.egress.leaves(&flow.source, &destination) {
            return Some(Masquerade::Egress);
        }
        self.egress.enters_elsewhere(&flow.source, &destination).then_some(Masquerade::Ingress)
    }

    fn masquerade_for(&self, flow: &Flow, port: &PortPlan) -> Option<Masquerade> {
        match (port.kind, port.policy) {
            (AddressKind::ClusterIp, _) if self.proxy.masquerade_all => Some(Masquerade::All),
            (AddressKind::ClusterIp, _) => {
                let known = self.proxy.knows_pods(flow.source.is_ipv6());
                let local = self.proxy.is_local(&flow.origin, &flow.source);
                (known && !local).then_some(Masquerade::ClusterIpFromOutside)
            }
            (_, TrafficPolicy::Cluster) => Some(Masquerade::External),
            (_, TrafficPolicy::Local) => {
                (flow.origin == Origin::Node).then_some(Masquerade::ExternalFromNode)
            }
        }
    }
}

#[cfg(test)]
mod tests;
