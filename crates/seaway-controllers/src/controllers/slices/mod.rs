//! EndpointSlices: where a Service's connections can go.

pub(super) mod backends;
mod pack;
pub mod topology;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) use backends::{is_headless, resolved_ports, service_families};
pub(super) use pack::{Group, Kin, pack};

use crate::meta::{Labels, controller_reference, deleting};
use crate::object::Action;

/// Label of a slice: its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a slice: who keeps it.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of slices and Endpoints of a Service without a cluster IP.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// The slices that are kept here carry this in [`MANAGED_BY`].
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// The most endpoints of a slice.
const MOST_ENDPOINTS: usize = 100;

/// What a decision about a Service's slices is made from.
pub struct Observed<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pods that its selector selects.
    pub pods: &'a [Arc<Pod>],
    /// The slices that carry its name.
    pub slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node, by the node's name.
    pub zone: &'a dyn Fn(&str) -> Option<String>,
    /// The part of the cluster's processors that each zone has ([`topology::shares`]).
    pub shares: &'a dyn Fn() -> Option<BTreeMap<String, f64>>,
}

/// Whether the Service's endpoints come from pods.
pub fn is_selecting(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
    })
}

/// Decides the next writes.
pub fn decide(observed: &Observed<'_>) -> Vec<Action> {
    let service = observed.service;
    if deleting(service) || !is_selecting(service) {
        return Vec::new();
    }
    let mut groups = backends::groups(service, observed.pods, observed.zone);
    if topology::is_asked_for(service) {
        topology::assign(&mut groups, (observed.shares)().as_ref());
    }
    let slices: Vec<&EndpointSlice> = observed
        .slices
        .iter()
        .map(|slice| &**slice)
        .filter(|slice| {
            !deleting(*slice)
                && slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).map(String::as_str)
                    == Some(CONTROLLER)
        })
        .collect();
    let kin = Kin {
        base: service.metadata.name.clone().unwrap_or_default(),
        namespace: service.metadata.namespace.clone(),
        labels: slice_labels(service),
        annotations: Labels::new(),
        owner: controller_reference(service),
    };
    pack(&kin, groups, &slices, MOST_ENDPOINTS)
}

fn slice_labels(service: &Service) -> Labels {
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    labels
}

/// A new slice's metadata.
fn slice_meta(kin: &Kin) -> ObjectMeta {
    ObjectMeta {
        generate_name: Some(format!("{}-", kin.base)),
        namespace: kin.namespace.clone(),
        labels: Some(kin.labels.clone()),
        annotations: (!kin.annotations.is_empty()).then(|| kin.annotations.clone()),
        owner_references: Some(vec![kin.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
