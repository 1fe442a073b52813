//! Mirrors Endpoints that someone keeps by hand, for a Service without a selector, into EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::slices::{Group, Kin, MANAGED_BY, SERVICE_NAME, is_selecting, pack};
use crate::meta::{Labels, annotation, controller_reference, deleting};
use crate::object::{Action, Target};

/// The slices that are kept here carry this in [`MANAGED_BY`].
pub const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are a leader's lock and no addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are not taken over.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// The most endpoints of a mirrored slice.
const MOST_ENDPOINTS: usize = 1000;

/// What a decision about mirrored slices is made from.
pub struct Observed<'a> {
    /// The Endpoints, if they are there.
    pub endpoints: Option<&'a Endpoints>,
    /// The Service of that name, if it is there.
    pub service: Option<&'a Service>,
    /// The slices that carry its name.
    pub slices: &'a [Arc<EndpointSlice>],
}

/// Decides the next writes.
pub fn decide(observed: &Observed<'_>) -> Vec<Action> {
    let label =
        |slice: &EndpointSlice| slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).cloned();
    let slices: Vec<&EndpointSlice> = observed
        .slices
        .iter()
        .map(|slice| &**slice)
        .filter(|slice| !deleting(*slice) && label(slice).as_deref() == Some(CONTROLLER))
        .collect();
    let endpoints = observed.endpoints.filter(|e| !deleting(*e) && is_mirrored(e));
    let service = observed.service.filter(|service| !deleting(*service) && !is_selecting(service));
    let (Some(endpoints), Some(service)) = (endpoints, service) else {
        return slices.into_iter().map(|slice| Action::Delete(Target::of(slice), None)).collect();
    };
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels: Labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut annotations: Labels = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let kin = Kin {
        base: name,
        namespace: endpoints.metadata.namespace.clone(),
        labels,
        annotations,
        owner: controller_reference(endpoints),
    };
    pack(&kin, groups(endpoints), &slices, MOST_ENDPOINTS)
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP));
    skipped.map(String::as_str) != Some("true") && annotation(&endpoints.metadata, LEADER).is_none()
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for address_type in ["IPv4", "IPv6"] {
            let of_type: Vec<Endpoint> = addresses(subset)
                .filter(|(a, _)| is_of(a, address_type))
                .map(|(a, r)| endpoint(a, r))
                .collect();
            if of_type.is_empty() {
                continue;
            }
            let ports = ports(subset);
            match groups.iter_mut().find(|g| g.address_type == address_type && g.ports == ports) {
                Some(group) => group.endpoints.extend(of_type),
                None => groups.push(Group { address_type, ports, endpoints: of_type }),
            }
        }
    }
    groups
}

fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    ready.chain(not_ready)
}

fn is_of(address: &EndpointAddress, address_type: &str) -> bool {
    match address.ip.parse::<IpAddr>() {
        Ok(ip) => ip.is_ipv6() == (address_type == "IPv6"),
        Err(_) => false,
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}
