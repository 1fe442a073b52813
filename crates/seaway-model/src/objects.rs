//! The Kubernetes objects that the network depends on, validated and reduced to what it needs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ObjectName, Protocol};

/// How a Service is exposed (`spec.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached at its cluster IPs only.
    #[default]
    ClusterIP,
    /// Reached at a port of each node as well.
    NodePort,
    /// Reached at a load balancer's addresses as well.
    LoadBalancer,
    /// A CNAME in cluster DNS and nothing else.
    ExternalName,
}

/// Whether traffic may go to endpoints of other nodes (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// To all endpoints.
    #[default]
    Cluster,
    /// To endpoints of the node that received it.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name; empty where the Service has one unnamed port.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port at each node's addresses.
    pub node_port: Option<u16>,
}

/// An address in `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerAddress {
    /// The address.
    pub ip: IpAddr,
    /// False where `ipMode` is `Proxy`: the balancer hands packets to node ports and nodes must not short-cut it.
    pub is_vip: bool,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// How it is exposed.
    pub kind: ServiceType,
    /// Its cluster IPs, one a family; empty when headless or ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`, the entries with an address.
    pub load_balancer: Vec<LoadBalancerAddress>,
    /// `spec.loadBalancerSourceRanges`; empty: every source.
    pub source_ranges: Vec<IpNet>,
    /// ClientIP affinity with its timeout; `None` for no affinity.
    pub affinity: Option<Duration>,
    /// Policy for traffic from outside.
    pub external_policy: TrafficPolicy,
    /// Policy for traffic to the cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.externalName`, for ExternalName Services.
    pub external_name: Option<Arc<str>>,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// A port of an EndpointSlice, which all its endpoints have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Matches the Service port of the same name.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on the endpoint's address.
    pub port: u16,
}

/// What an endpoint's address belongs to (`targetRef`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRef {
    /// The kind, `Pod` nearly always.
    pub kind: Arc<str>,
    /// The object's name.
    pub name: ObjectName,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its addresses; consumers use the first (discovery.k8s.io/v1: the addresses are fungible).
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, true where absent.
    pub ready: bool,
    /// `conditions.serving`, as `ready` where absent.
    pub serving: bool,
    /// `conditions.terminating`, false where absent.
    pub terminating: bool,
    /// The name that DNS gives it under its Service.
    pub hostname: Option<Arc<str>>,
    /// The node that it runs on.
    pub node_name: Option<Arc<str>>,
    /// The zone that it runs in.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Arc<str>>,
    /// The pod behind it.
    pub target: Option<TargetRef>,
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// The Service, from the label `kubernetes.io/service-name`.
    pub service: ObjectName,
    /// The ports that all the endpoints have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints; all of one address family.
    pub endpoints: Vec<Endpoint>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP.
    pub external_ips: Vec<IpAddr>,
    /// The Ready condition is True.
    pub ready: bool,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, flannel's backend data among them.
    pub annotations: BTreeMap<String, String>,
    /// Keys of `spec.taints`.
    pub taints: Vec<Arc<str>>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.nodeName`.
    pub node_name: Option<Arc<str>>,
    /// The Ready condition is True.
    pub ready: bool,
    /// Succeeded or Failed: its address may belong to another pod by now.
    pub finished: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}
