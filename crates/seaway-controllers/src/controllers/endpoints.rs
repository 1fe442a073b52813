//! Endpoints: the older form of what EndpointSlices say, for those who still read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::slices::{HEADLESS, backends, is_headless, is_selecting, resolved_ports, service_families};
use crate::meta::{Labels, deleting, pod_finished, pod_node, pod_ready};
use crate::object::{Action, Object, Target};

/// Annotation: not all addresses are told.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Label: who keeps it.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The most addresses of one object.
const MOST_ADDRESSES: usize = 1000;

/// Who is named by [`MANAGED_BY`] here.
const CONTROLLER: &str = "endpoint-controller";

/// Whether Endpoints come from a Service's selector.
pub fn is_kept_here(endpoints: &Endpoints) -> bool {
    let keeper = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    keeper.map(String::as_str) == Some(CONTROLLER)
}

/// What a decision about a Service's Endpoints is made from.
pub struct Observed<'a> {
    /// The Service, if it is (still) there.
    pub service: Option<&'a Service>,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// The Endpoints of its name.
    pub endpoints: Option<&'a Endpoints>,
}

/// Decides the next write.
pub fn decide(observed: &Observed<'_>) -> Option<Action> {
    let Some(service) = observed.service else {
        return observed.endpoints.map(|endpoints| Action::Delete(Target::of(endpoints), None));
    };
    if deleting(service) || !is_selecting(service) {
        return None;
    }
    let mut subsets = subsets(service, observed.pods);
    let truncated = truncate(&mut subsets, MOST_ADDRESSES);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let Some(known) = observed.endpoints else {
        return Some(Action::Create(Object::from(Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: truncated.then(|| [(OVER_CAPACITY.into(), "truncated".into())].into()),
                ..ObjectMeta::default()
            },
            subsets,
        })));
    };
    let mut next = known.clone();
    let annotations: &mut Labels = next.metadata.annotations.get_or_insert_default();
    match truncated {
        true => annotations.insert(OVER_CAPACITY.into(), "truncated".into()),
        false => annotations.remove(OVER_CAPACITY),
    };
    if annotations.is_empty() {
        next.metadata.annotations = None;
    }
    next.metadata.labels = Some(labels);
    next.subsets = subsets;
    let had_none = known.subsets.as_ref().is_none_or(Vec::is_empty);
    let same_subsets = known.subsets == next.subsets || (had_none && next.subsets.is_none());
    let same = same_subsets
        && known.metadata.labels == next.metadata.labels
        && known.metadata.annotations.clone().unwrap_or_default()
            == next.metadata.annotations.clone().unwrap_or_default();
    (!same).then(|| Action::Replace(Object::from(next)))
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let always = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let families = service_families(service);
    let Some(family) = families.first() else { return Vec::new() };
    // By the ports' text, so that the order does not change without reason.
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod_finished(pod) && (always || !deleting(&***pod))) {
        let Some(ip) = backends::pod_address(pod, family) else { continue };
        let ports = ports(service, pod);
        if ports.is_empty()
            && service.spec.as_ref().is_some_and(|s| s.ports.iter().flatten().next().is_some())
        {
            continue;
        }
        let mut target = pod.object_ref(&());
        (target.api_version, target.resource_version) = (None, None);
        let address = EndpointAddress {
            ip,
            hostname: backends::hostname(service, pod).cloned(),
            node_name: pod_node(pod).map(str::to_owned),
            target_ref: Some(target),
        };
        let subset = by_ports.entry(format!("{ports:?}")).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..EndpointSubset::default()
        });
        let list =
            if always || pod_ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for list in subsets.iter_mut().flat_map(|s| [&mut s.addresses, &mut s.not_ready_addresses]) {
        list.iter_mut().for_each(|list| list.sort_by(|a, b| a.ip.cmp(&b.ip)));
    }
    subsets
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<EndpointPort> = resolved_ports(service, pod)
        .map(|(port, number)| EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: number,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort_by(|a, b| (&a.name, a.port).cmp(&(&b.name, b.port)));
    ports
}

/// Cuts the addresses down to `most`, the ready ones last; tells whether any went.
fn truncate(subsets: &mut Vec<EndpointSubset>, most: usize) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    if total <= most {
        return false;
    }
    let mut room = most;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(room);
            room -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    };
    subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
    subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    true
}
