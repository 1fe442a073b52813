//! A Service's endpoints, pod by pod.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;

use super::Group;
use crate::meta::{deleting, pod_finished, pod_node, pod_ready};

/// Whether the Service has no cluster IP by its own wish.
pub(in crate::controllers) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The address types of the Service, the primary first.
pub(in crate::controllers) fn service_families(service: &Service) -> Vec<&'static str> {
    let Some(spec) = &service.spec else { return vec!["IPv4"] };
    let families = spec.ip_families.iter().flatten();
    let families: Vec<_> = families.map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if !families.is_empty() {
        return families;
    }
    match spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(IpAddr::V6(_)) => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

/// The pod's first address of this type.
pub(in crate::controllers) fn pod_address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let is = |ip: &IpAddr| ip.is_ipv6() == (family == "IPv6");
    all.filter_map(|text| text.parse::<IpAddr>().ok()).find(is).map(|ip| ip.to_string())
}

/// The number of a Service's port on this pod; `None` if the pod has no port of that name.
pub(in crate::controllers) fn port_on(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Of the init containers, those that go on running beside the others.
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            ports
                .find(|p| {
                    p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|p| p.container_port)
        }
    }
}

/// The Service's ports as this pod has them.
pub(in crate::controllers) fn resolved_ports<'a>(
    service: &'a Service,
    pod: &'a Pod,
) -> impl Iterator<Item = (&'a ServicePort, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| port_on(pod, port).map(|number| (port, number)))
}

fn slice_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    resolved_ports(service, pod)
        .map(|(port, number)| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

/// The name under which the pod can be found below the Service's.
pub(in crate::controllers) fn hostname<'a>(service: &Service, pod: &'a Pod) -> Option<&'a String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.is_some()
        && spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.as_ref().filter(|name| below && !name.is_empty())
}

fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }]);
    match wish {
        "PreferClose" | "PreferSameZone" if for_zones.is_some() => {
            Some(EndpointHints { for_zones, for_nodes: None })
        }
        "PreferSameNode" if for_zones.is_some() || for_nodes.is_some() => {
            Some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    }
}

fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>) -> Endpoint {
    let always = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pod_ready(pod), deleting(pod));
    let ready = always || (serving && !terminating);
    let node = pod_node(pod);
    let mut target = pod.object_ref(&());
    (target.api_version, target.resource_version) = (None, None);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready { hints(service, node, zone.as_deref()) } else { None },
        hostname: hostname(service, pod).cloned(),
        node_name: node.map(str::to_owned),
        target_ref: Some(target),
        zone,
        deprecated_topology: None,
    }
}

/// The Service's endpoints, together where address type and ports are the same. Each address type has a group
/// at least, if only an empty one.
pub(super) fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups = Vec::new();
    for family in service_families(service) {
        let mut of_family: Vec<Group> = Vec::new();
        for pod in pods.iter().filter(|pod| !pod_finished(pod)) {
            let Some(address) = pod_address(pod, family) else { continue };
            let ports = slice_ports(service, pod);
            let endpoint = endpoint(service, pod, address, pod_node(pod).and_then(zone));
            match of_family.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => of_family.push(Group { address_type: family, ports, endpoints: vec![endpoint] }),
            }
        }
        if of_family.is_empty() {
            of_family.push(Group { address_type: family, ports: Vec::new(), endpoints: Vec::new() });
        }
        groups.extend(of_family);
    }
    groups
}
