//! One service address and what becomes of packets to it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ObjectName, Protocol, TrafficPolicy};

/// An address at which a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// The virtual IP address; the unspecified one (0.0.0.0, ::) for a node port, which is reached at the node's own.
    pub ip: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl ServiceAddress {
    /// A port of the node's own addresses of IPv4, or of IPv6.
    pub fn node_port(v6: bool, protocol: Protocol, port: u16) -> Self {
        let ip = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self { ip, protocol, port }
    }

    /// It is a port of the node's own addresses.
    pub fn is_node_port(&self) -> bool {
        self.ip.is_unspecified()
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => write!(f, "node port {}/{}", self.port, self.protocol),
            IpAddr::V6(ip) if ip.is_unspecified() => {
                write!(f, "IPv6 node port {}/{}", self.port, self.protocol)
            }
            ip => write!(f, "{}/{}", Backend { ip, port: self.port }, self.protocol),
        }
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

/// What a service address is. Where several Services ask for one address, the lesser kind has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressKind {
    /// `spec.clusterIPs`.
    #[default]
    ClusterIp,
    /// `status.loadBalancer.ingress` with `ipMode: VIP`.
    LoadBalancer,
    /// `spec.externalIPs`. Anyone who may write a Service may name any address here (CVE-2020-8554), so it never takes
    /// an address from the other kinds.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl AddressKind {
    /// Callers from outside of the cluster are meant to use it; `externalTrafficPolicy` holds.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster IP",
            Self::LoadBalancer => "load balancer's address",
            Self::ExternalIp => "external IP",
            Self::NodePort => "node port",
        })
    }
}

/// Who calls, as far as `externalTrafficPolicy: Local` tells callers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Caller {
    /// A pod (as far as `--detect-local-mode` can tell) or the node itself.
    Inside,
    /// Anyone else.
    Outside,
}

/// What becomes of a packet to a service address for which there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// It is answered with a reset (TCP) or an ICMP error: there is no endpoint anywhere.
    Reject,
    /// It is dropped: there are endpoints, but none on this node, and the traffic policy is Local.
    Drop,
}

/// One service address and what becomes of packets to it.
///
/// `backends` holds two sets of endpoints that overlap as a rule: the first `local` ones are all of this node's, for callers
/// that an `externalTrafficPolicy: Local` restricts to them; those from `inside_from` on are for everyone else. Within these
/// bounds they are sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortPlan {
    /// The Service that the address belongs to.
    pub service: ObjectName,
    /// The name of the Service's port; empty where it has one unnamed port.
    pub port_name: Arc<str>,
    /// The address.
    pub address: ServiceAddress,
    /// What the address is.
    #[serde(default)]
    pub kind: AddressKind,
    /// `internalTrafficPolicy` for a cluster IP, `externalTrafficPolicy` for the other kinds.
    #[serde(default)]
    pub policy: TrafficPolicy,
    /// All candidates, of whichever caller; see [`PortPlan::candidates`].
    pub backends: Vec<Backend>,
    /// How many of the backends, from the first on, are on this node.
    pub local: usize,
    /// The first of the backends that are for callers from inside. Not 0 only where all of this node's endpoints terminate,
    /// or topology keeps its callers from some of them.
    #[serde(default)]
    pub inside_from: usize,
    /// Somewhere in the cluster there is an endpoint that could serve, be it one that this node may not use.
    #[serde(default)]
    pub has_endpoints: bool,
    /// No endpoint is ready: the candidates for callers from inside are terminating ones that still serve.
    pub terminating: bool,
    /// The same of the candidates on this node, where they are chosen on their own.
    #[serde(default)]
    pub local_terminating: bool,
    /// How long a client stays with its endpoint; `None` for no affinity.
    pub affinity: Option<Duration>,
    /// Who may call, disjoint and sorted; `None`: everyone.
    #[serde(default)]
    pub source_ranges: Option<Vec<IpNet>>,
}

impl PortPlan {
    /// The endpoints that packets of `caller` may be sent to, each as probable as the next.
    pub fn candidates(&self, caller: Caller) -> &[Backend] {
        if caller == Caller::Outside && self.tells_callers_apart() {
            self.local_backends()
        } else {
            self.backends.get(self.inside_from..).unwrap_or_default()
        }
    }

    /// What becomes of packets of `caller` where there are no candidates.
    pub fn refusal(&self) -> Refusal {
        if self.has_endpoints { Refusal::Drop } else { Refusal::Reject }
    }

    /// The backends on this node.
    pub fn local_backends(&self) -> &[Backend] {
        self.backends.get(..self.local).unwrap_or_default()
    }

    /// Callers from outside have other candidates than those from inside.
    pub fn tells_callers_apart(&self) -> bool {
        self.kind.is_external() && self.policy == TrafficPolicy::Local
    }

    /// The candidates of `caller` are terminating.
    pub fn is_terminating(&self, caller: Caller) -> bool {
        if caller == Caller::Outside && self.tells_callers_apart() {
            self.local_terminating
        } else {
            self.terminating
        }
    }

    /// `source` may call.
    pub fn admits(&self, source: &IpAddr) -> bool {
        self.source_ranges.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(source)))
    }

    /// It goes before `other`, which asks for the same address.
    pub(super) fn precedes(&self, other: &Self) -> bool {
        (self.kind, &self.service) < (other.kind, &other.service)
    }
}
