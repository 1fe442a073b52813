//! Endpoints into slices, with as few writes as can be: an endpoint stays where it is, new ones go into slices
//! that are written anyway, and a slice that would be deleted is filled anew if one is needed.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::slice_meta;
use crate::meta::Labels;
use crate::object::{Action, Object, Target};

/// Endpoints that can share slices.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::controllers) struct Group {
    pub(in crate::controllers) address_type: &'static str,
    pub(in crate::controllers) ports: Vec<EndpointPort>,
    pub(in crate::controllers) endpoints: Vec<Endpoint>,
}

/// What all slices of one owner have in common.
pub(in crate::controllers) struct Kin {
    /// What their names begin with.
    pub(in crate::controllers) base: String,
    pub(in crate::controllers) namespace: Option<String>,
    pub(in crate::controllers) labels: Labels,
    pub(in crate::controllers) annotations: Labels,
    pub(in crate::controllers) owner: OwnerReference,
}

/// A slice on its way from what it is to what it should be.
struct Draft<'a> {
    existing: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// What makes two versions of an endpoint the same one.
fn identity(endpoint: &Endpoint) -> String {
    match endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()) {
        Some(uid) => format!("{uid}/{}", endpoint.addresses.join(",")),
        None => endpoint.addresses.join(","),
    }
}

fn sorted(ports: &[EndpointPort]) -> Vec<EndpointPort> {
    let mut ports = ports.to_vec();
    ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    ports
}

fn belongs(slice: &EndpointSlice, group: &Group) -> bool {
    slice.address_type == group.address_type
        && sorted(slice.ports.as_deref().unwrap_or_default()) == sorted(&group.ports)
}

fn meta_differs(kin: &Kin, slice: &EndpointSlice) -> bool {
    let meta = &slice.metadata;
    meta.labels.as_ref() != Some(&kin.labels)
        || meta.owner_references.as_deref() != Some(std::slice::from_ref(&kin.owner))
        || meta.annotations.clone().unwrap_or_default() != kin.annotations
}

/// The writes that make `existing` hold exactly `groups`, `most` endpoints a slice.
pub(in crate::controllers) fn pack(
    kin: &Kin,
    groups: Vec<Group>,
    existing: &[&EndpointSlice],
    most: usize,
) -> Vec<Action> {
    let mut creates: Vec<EndpointSlice> = Vec::new();
    let mut replaces: Vec<EndpointSlice> = Vec::new();
    let mut spare: Vec<&EndpointSlice> =
        existing.iter().copied().filter(|slice| !groups.iter().any(|group| belongs(slice, group))).collect();
    for group in &groups {
        let mine: Vec<&EndpointSlice> = existing.iter().copied().filter(|s| belongs(s, group)).collect();
        let (drafts, new) = place(kin, group, &mine, most);
        let is_placeholder = group.endpoints.is_empty();
        for (i, draft) in drafts.into_iter().enumerate() {
            if draft.endpoints.is_empty() && !(is_placeholder && i == 0) {
                spare.push(draft.existing);
            } else if draft.changed {
                replaces.push(filled(kin, draft.existing, group, draft.endpoints));
            }
        }
        if is_placeholder && mine.is_empty() {
            creates.push(fresh(kin, group, Vec::new()));
        }
        creates.extend(new.chunks(most).map(|chunk| fresh(kin, group, chunk.to_vec())));
    }
    // A slice that is no longer needed becomes one that is.
    creates.retain(|create| {
        let Some(i) = spare.iter().position(|slice| slice.address_type == create.address_type) else {
            return true;
        };
        let mut reused = spare.swap_remove(i).clone();
        set_meta(kin, &mut reused);
        reused.ports = create.ports.clone();
        reused.endpoints = create.endpoints.clone();
        replaces.push(reused);
        false
    });
    let creates = creates.into_iter().map(|slice| Action::Create(Object::from(slice)));
    let replaces = replaces.into_iter().map(|slice| Action::Replace(Object::from(slice)));
    let deletes = spare.into_iter().map(|slice| Action::Delete(Target::of(slice), None));
    creates.chain(replaces).chain(deletes).collect()
}

/// Puts a group's endpoints into its slices; gives the slices and what found no room.
fn place<'a>(
    kin: &Kin,
    group: &Group,
    mine: &[&'a EndpointSlice],
    most: usize,
) -> (Vec<Draft<'a>>, Vec<Endpoint>) {
    let mut wanted: BTreeMap<String, &Endpoint> =
        group.endpoints.iter().map(|endpoint| (identity(endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for slice in mine {
        let known = slice.endpoints.as_deref().unwrap_or_default();
        let kept = known.iter().filter_map(|e| wanted.remove(&identity(e)).cloned()).collect::<Vec<_>>();
        let changed = kept != known || meta_differs(kin, slice);
        drafts.push(Draft { existing: slice, endpoints: kept, changed });
    }
    let mut new: Vec<Endpoint> = wanted.into_values().cloned().collect();
    // First into slices that are written anyway, then into the fullest others with room.
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|&i| (!drafts[i].changed, std::cmp::Reverse(drafts[i].endpoints.len())));
    for i in order {
        let room = most.saturating_sub(drafts[i].endpoints.len()).min(new.len());
        if room > 0 {
            drafts[i].endpoints.extend(new.drain(..room));
            drafts[i].changed = true;
        }
    }
    (drafts, new)
}

fn fresh(kin: &Kin, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        address_type: group.address_type.into(),
        endpoints: Some(endpoints),
        metadata: slice_meta(kin),
        ports: Some(group.ports.clone()),
    }
}

fn filled(kin: &Kin, existing: &EndpointSlice, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = existing.clone();
    set_meta(kin, &mut slice);
    slice.ports = Some(group.ports.clone());
    slice.endpoints = Some(endpoints);
    slice
}

fn set_meta(kin: &Kin, slice: &mut EndpointSlice) {
    let wanted = slice_meta(kin);
    slice.metadata.labels = wanted.labels;
    slice.metadata.annotations = wanted.annotations;
    slice.metadata.owner_references = wanted.owner_references;
}
