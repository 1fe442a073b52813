//! API objects to the model's types. An error names the object, the field's path and its value.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use seaway_model::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerAddress, Namespace, Node, ObjectName, ObjectRef, Pod,
    Problem, Protocol, Service, ServicePort, ServiceType, TargetRef, TrafficPolicy,
};

/// The label that ties an EndpointSlice to its Service (discovery.k8s.io/v1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The annotation with the time of the pod's or Service's change that an EndpointSlice follows from (RFC 3339).
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where the API server has not set it (core/v1).
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// The outcome of converting one object.
pub type Convert<T> = Result<T, Problem>;

/// Where in which object a value stands, for errors.
struct At {
    object: ObjectRef,
}

impl At {
    fn new(kind: &str, meta: &ObjectMeta) -> Self {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        Self { object: ObjectRef::new(kind, namespace, meta.name.as_deref().unwrap_or_default()) }
    }

    fn problem(
        &self,
        field: impl Into<String>,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Problem {
        Problem {
            object: self.object.clone(),
            field: field.into(),
            value: value.into(),
            reason: reason.into(),
        }
    }

    fn parse<T: FromStr>(&self, field: impl Fn() -> String, value: &str, expected: &str) -> Convert<T> {
        value.parse().map_err(|_| self.problem(field(), value, format!("not {expected}")))
    }

    fn ip(&self, field: impl Fn() -> String, value: &str) -> Convert<IpAddr> {
        self.parse(field, value, "an IP address")
    }

    fn ips(&self, field: &str, values: &[String]) -> Convert<Vec<IpAddr>> {
        values.iter().enumerate().map(|(i, value)| self.ip(|| format!("{field}[{i}]"), value)).collect()
    }

    fn nets(&self, field: &str, values: &[String]) -> Convert<Vec<IpNet>> {
        let parse = |(i, value): (usize, &String)| -> Convert<IpNet> {
            let net: IpNet =
                self.parse(|| format!("{field}[{i}]"), value.trim(), "a network such as 10.244.1.0/24")?;
            Ok(net.trunc())
        };
        values.iter().enumerate().map(parse).collect()
    }

    fn port(&self, field: impl Fn() -> String, value: i32) -> Convert<u16> {
        match u16::try_from(value) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(self.problem(field(), value.to_string(), "not a port number from 1 to 65535")),
        }
    }

    fn protocol(&self, field: impl Fn() -> String, value: Option<&str>) -> Convert<Protocol> {
        match value {
            None | Some("TCP") => Ok(Protocol::Tcp),
            Some("UDP") => Ok(Protocol::Udp),
            Some("SCTP") => Ok(Protocol::Sctp),
            Some(other) => Err(self.problem(field(), other, "not one of TCP, UDP, SCTP")),
        }
    }

    fn policy(&self, field: &str, value: Option<&str>) -> Convert<TrafficPolicy> {
        match value {
            None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
            Some("Local") => Ok(TrafficPolicy::Local),
            Some(other) => Err(self.problem(field, other, "not one of Cluster, Local")),
        }
    }
}

fn arc(text: &str) -> Arc<str> {
    Arc::from(text)
}

/// A Service (core/v1).
pub fn convert_service(object: &core::Service) -> Convert<Service> {
    let at = At::new("Service", &object.metadata);
    let Some(spec) = &object.spec else {
        return Err(at.problem("spec", "", "missing"));
    };
    let kind = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIP,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            return Err(at.problem(
                "spec.type",
                other,
                "not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
            ));
        }
    };
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let cluster_ips =
        if kind == ServiceType::ExternalName || headless { Vec::new() } else { cluster_ips(&at, spec)? };
    Ok(Service {
        kind,
        cluster_ips,
        headless,
        ports: service_ports(&at, spec)?,
        external_ips: at.ips("spec.externalIPs", spec.external_ips.as_deref().unwrap_or_default())?,
        load_balancer: load_balancer(&at, object)?,
        source_ranges: at.nets(
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_deref().unwrap_or_default(),
        )?,
        affinity: affinity(&at, spec)?,
        external_policy: at.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
        internal_policy: at.policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        health_check_node_port: match spec.health_check_node_port {
            None | Some(0) => None,
            Some(port) => Some(at.port(|| "spec.healthCheckNodePort".into(), port)?),
        },
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        external_name: spec.external_name.as_deref().filter(|name| !name.is_empty()).map(arc),
        traffic_distribution: spec.traffic_distribution.as_deref().map(arc),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        annotations: object.metadata.annotations.clone().unwrap_or_default(),
    })
}

fn cluster_ips(at: &At, spec: &core::ServiceSpec) -> Convert<Vec<IpAddr>> {
    match (&spec.cluster_ips, spec.cluster_ip.as_deref()) {
        (Some(ips), _) if !ips.is_empty() => at.ips("spec.clusterIPs", ips),
        (_, None | Some("")) => Ok(Vec::new()),
        (_, Some(ip)) => Ok(vec![at.ip(|| "spec.clusterIP".into(), ip)?]),
    }
}

fn service_ports(at: &At, spec: &core::ServiceSpec) -> Convert<Vec<ServicePort>> {
    let convert = |(i, port): (usize, &core::ServicePort)| {
        Ok(ServicePort {
            name: arc(port.name.as_deref().unwrap_or_default()),
            protocol: at.protocol(|| format!("spec.ports[{i}].protocol"), port.protocol.as_deref())?,
            port: at.port(|| format!("spec.ports[{i}].port"), port.port)?,
            node_port: match port.node_port {
                None | Some(0) => None,
                Some(node_port) => Some(at.port(|| format!("spec.ports[{i}].nodePort"), node_port)?),
            },
        })
    };
    spec.ports.iter().flatten().enumerate().map(convert).collect()
}

fn load_balancer(at: &At, object: &core::Service) -> Convert<Vec<LoadBalancerAddress>> {
    let ingress =
        object.status.iter().flat_map(|s| &s.load_balancer).flat_map(|lb| lb.ingress.iter().flatten());
    let mut addresses = Vec::new();
    for (i, entry) in ingress.enumerate() {
        if let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) {
            let ip = at.ip(|| format!("status.loadBalancer.ingress[{i}].ip"), ip)?;
            addresses.push(LoadBalancerAddress { ip, is_vip: entry.ip_mode.as_deref() != Some("Proxy") });
        }
    }
    Ok(addresses)
}

fn affinity(at: &At, spec: &core::ServiceSpec) -> Convert<Option<Duration>> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Ok(None),
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let Some(seconds) = config.and_then(|config| config.timeout_seconds) else {
                return Ok(Some(DEFAULT_AFFINITY));
            };
            match u64::try_from(seconds) {
                Ok(seconds @ 1..=86_400) => Ok(Some(Duration::from_secs(seconds))),
                _ => Err(at.problem(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    seconds.to_string(),
                    "not from 1 to 86400",
                )),
            }
        }
        Some(other) => Err(at.problem("spec.sessionAffinity", other, "not one of None, ClientIP")),
    }
}

/// An EndpointSlice (discovery.k8s.io/v1); `None` for one that belongs to no Service or has no IP addresses.
pub fn convert_endpoint_slice(object: &discovery::EndpointSlice) -> Convert<Option<EndpointSlice>> {
    let at = At::new("EndpointSlice", &object.metadata);
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    let Some(service) = label.filter(|name| !name.is_empty()) else { return Ok(None) };
    let v6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => return Err(at.problem("addressType", other, "not one of IPv4, IPv6, FQDN")),
    };
    let mut ports = Vec::new();
    for (i, port) in object.ports.iter().flatten().enumerate() {
        // A port without a number means all ports (discovery.k8s.io/v1), which no Service port can stand for.
        let Some(number) = port.port else { continue };
        ports.push(EndpointPort {
            name: arc(port.name.as_deref().unwrap_or_default()),
            protocol: at.protocol(|| format!("ports[{i}].protocol"), port.protocol.as_deref())?,
            port: at.port(|| format!("ports[{i}].port"), number)?,
        });
    }
    let endpoints = object.endpoints.iter().flatten().enumerate();
    let endpoints =
        endpoints.map(|(i, endpoint)| convert_endpoint(&at, i, endpoint, v6)).collect::<Convert<_>>()?;
    Ok(Some(EndpointSlice {
        service: ObjectName::new(at.object.namespace.clone(), arc(service)),
        ports,
        endpoints,
    }))
}

/// When the change happened that made `object` what it is; `None` where it does not say so, or not in a way that can be
/// read: nothing but a metric depends on it.
pub(crate) fn triggered(object: &discovery::EndpointSlice) -> Option<SystemTime> {
    let text = object.metadata.annotations.as_ref()?.get(TRIGGER_TIME_ANNOTATION)?;
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn convert_endpoint(at: &At, i: usize, endpoint: &discovery::Endpoint, v6: bool) -> Convert<Endpoint> {
    let addresses = at.ips(&format!("endpoints[{i}].addresses"), &endpoint.addresses)?;
    for (k, address) in addresses.iter().enumerate() {
        if address.is_ipv6() != v6 {
            let expected = if v6 {
                "not an IPv6 address as addressType says"
            } else {
                "not an IPv4 address as addressType says"
            };
            return Err(at.problem(format!("endpoints[{i}].addresses[{k}]"), address.to_string(), expected));
        }
    }
    if addresses.is_empty() {
        return Err(at.problem(format!("endpoints[{i}].addresses"), "[]", "at least one address is needed"));
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.clone().unwrap_or_default();
    Ok(Endpoint {
        addresses,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(arc),
        node_name: endpoint.node_name.as_deref().map(arc),
        zone: endpoint.zone.as_deref().map(arc),
        zone_hints: hints.for_zones.iter().flatten().map(|zone| arc(&zone.name)).collect(),
        node_hints: hints.for_nodes.iter().flatten().map(|node| arc(&node.name)).collect(),
        target: endpoint.target_ref.as_ref().map(|target| TargetRef {
            kind: arc(target.kind.as_deref().unwrap_or_default()),
            name: ObjectName::new(
                target.namespace.as_deref().map_or_else(|| at.object.namespace.clone(), arc),
                arc(target.name.as_deref().unwrap_or_default()),
            ),
        }),
    })
}

/// A Node (core/v1).
pub fn convert_node(object: &core::Node) -> Convert<Node> {
    let at = At::new("Node", &object.metadata);
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.as_ref();
    let cidrs = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(cidrs), _) if !cidrs.is_empty() => at.nets("spec.podCIDRs", &cidrs)?,
        (_, Some(cidr)) if !cidr.is_empty() => at.nets("spec.podCIDR", &[cidr])?,
        _ => Vec::new(),
    };
    let mut internal_ips = Vec::new();
    let mut external_ips = Vec::new();
    for (i, address) in status.iter().flat_map(|s| s.addresses.iter().flatten()).enumerate() {
        let list = match address.type_.as_str() {
            "InternalIP" => &mut internal_ips,
            "ExternalIP" => &mut external_ips,
            _ => continue,
        };
        list.push(at.ip(|| format!("status.addresses[{i}].address"), &address.address)?);
    }
    let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    let labels = object.metadata.labels.clone().unwrap_or_default();
    Ok(Node {
        pod_cidrs: cidrs,
        internal_ips,
        external_ips,
        ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        zone: labels.get(ZONE_LABEL).map(|zone| arc(zone)),
        labels,
        annotations: object.metadata.annotations.clone().unwrap_or_default(),
        taints: spec.taints.iter().flatten().map(|taint| arc(&taint.key)).collect(),
        deleting: object.metadata.deletion_timestamp.is_some(),
    })
}

/// The networks of a ServiceCIDR (networking.k8s.io/v1).
pub(crate) fn convert_service_cidr(object: &networking::ServiceCIDR) -> Convert<Arc<[IpNet]>> {
    let at = At::new("ServiceCIDR", &object.metadata);
    let cidrs = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    at.nets("spec.cidrs", cidrs).map(Arc::from)
}

/// A Namespace (core/v1).
pub fn convert_namespace(object: &core::Namespace) -> Convert<Namespace> {
    Ok(Namespace { labels: object.metadata.labels.clone().unwrap_or_default() })
}

/// A Pod (core/v1).
pub fn convert_pod(object: &core::Pod) -> Convert<Pod> {
    let at = At::new("Pod", &object.metadata);
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let mut ips = Vec::new();
    for (i, ip) in status.iter().flat_map(|s| s.pod_ips.iter().flatten()).enumerate() {
        if !ip.ip.is_empty() {
            ips.push(at.ip(|| format!("status.podIPs[{i}].ip"), &ip.ip)?);
        }
    }
    if let (true, Some(ip)) =
        (ips.is_empty(), status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty()))
    {
        ips.push(at.ip(|| "status.podIP".into(), ip)?);
    }
    let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    Ok(Pod {
        ips,
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        node_name: spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty()).map(arc),
        ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        finished: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
        labels: object.metadata.labels.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
