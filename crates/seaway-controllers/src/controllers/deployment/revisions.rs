//! Revisions: which ReplicaSet belongs to the current template, what a new one looks like.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::rolling::{Bounds, wanted};
use super::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY, TEMPLATE_HASH};
use crate::meta::{Labels, annotation, controller_reference};
use crate::object::{Action, Part, Target};

/// Letters and digits that spell no words and look unlike each other: those of Kubernetes' generated names.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a template's hash.
const HASH_LENGTH: usize = 10;
/// Longest name of a pod or ReplicaSet that a generated suffix is put to.
const LONGEST_BASE: usize = 63 - HASH_LENGTH - 1;

/// Annotations of a Deployment that say something about it alone.
const NOT_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// A revision's number.
pub(super) fn revision(replica_set: &ReplicaSet) -> i64 {
    annotation(&replica_set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        // A template's metadata that was never set and one that came back empty are the same.
        metadata.creation_timestamp = None;
        if let Some(labels) = &mut metadata.labels {
            labels.remove(TEMPLATE_HASH);
        }
    }
    template
}

/// Whether a ReplicaSet was made from this template.
pub(super) fn is_of_template(replica_set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let of = replica_set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    of.is_some_and(|of| without_hash(of) == without_hash(template))
}

/// The hash of a template: ten safe characters. `collisions` tells templates with the same hash apart.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(&without_hash(template)).unwrap_or_default());
    digest.update(collisions.to_be_bytes());
    let bytes = digest.finalize();
    bytes.iter().take(HASH_LENGTH).map(|byte| char::from(SAFE[usize::from(*byte) % SAFE.len()])).collect()
}

/// The annotations that a ReplicaSet takes over from its Deployment.
fn copied_annotations(deployment: &Deployment) -> Labels {
    let all = deployment.metadata.annotations.iter().flatten();
    all.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The annotations that tell how a ReplicaSet was sized.
pub(super) fn size_annotations(deployment: &Deployment) -> [(String, String); 2] {
    let replicas = wanted(deployment);
    let most = replicas + Bounds::of(deployment).max_surge;
    [(DESIRED_REPLICAS.into(), replicas.to_string()), (MAX_REPLICAS.into(), most.to_string())]
}

/// The ReplicaSet of a new revision.
pub(super) fn new_replica_set(deployment: &Deployment, hash: &str, number: i64, size: i32) -> ReplicaSet {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let base: String = name.chars().take(LONGEST_BASE).collect();
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let hashed = |labels: &mut Option<Labels>| {
        labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.to_owned());
    };
    let metadata = template.metadata.get_or_insert_default();
    hashed(&mut metadata.labels);
    let labels = metadata.labels.clone();
    let mut selector: LabelSelector = spec.selector;
    hashed(&mut selector.match_labels);
    let mut annotations = copied_annotations(deployment);
    annotations.insert(REVISION.into(), number.to_string());
    annotations.extend(size_annotations(deployment));
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Brings an existing ReplicaSet's annotations and size in line, if they are not.
pub(super) fn update_replica_set(
    deployment: &Deployment,
    replica_set: &ReplicaSet,
    number: Option<i64>,
    size: i32,
) -> Option<Action> {
    let mut annotations = Map::new();
    let mut set = |key: &str, value: String| {
        if annotation(&replica_set.metadata, key) != Some(value.as_str()) {
            annotations.insert(key.to_owned(), json!(value));
        }
    };
    if let Some(number) = number {
        for (key, value) in copied_annotations(deployment) {
            set(&key, value);
        }
        let known = revision(replica_set);
        if known < number {
            set(REVISION, number.to_string());
            if known > 0 {
                let history = annotation(&replica_set.metadata, REVISION_HISTORY).unwrap_or_default();
                let separator = if history.is_empty() { "" } else { "," };
                set(REVISION_HISTORY, format!("{history}{separator}{known}"));
            }
        }
    }
    let of = replica_set.spec.as_ref();
    let mut spec = Map::new();
    if of.and_then(|spec| spec.replicas) != Some(size) {
        spec.insert("replicas".into(), json!(size));
    }
    if number.is_some() {
        let seconds = |value: Option<i32>| value.unwrap_or(0);
        let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if seconds(of.and_then(|spec| spec.min_ready_seconds)) != seconds(min_ready) {
            spec.insert("minReadySeconds".into(), json!(seconds(min_ready)));
        }
    }
    if number.is_some() || size > 0 || !spec.is_empty() {
        for (key, value) in size_annotations(deployment) {
            set(&key, value);
        }
    }
    if annotations.is_empty() && spec.is_empty() {
        return None;
    }
    let mut patch = json!({});
    if !annotations.is_empty() {
        patch["metadata"] = json!({ "annotations": annotations });
    }
    if !spec.is_empty() {
        patch["spec"] = Value::Object(spec);
    }
    Some(Action::Patch(Target::unchanged(replica_set), Part::Main, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes() {
        let template = PodTemplateSpec::default();
        let hash = template_hash(&template, 0);
        assert_eq!(hash.len(), 10);
        assert!(hash.bytes().all(|c| SAFE.contains(&c)));
        assert_ne!(hash, template_hash(&template, 1));
        let mut labelled = template.clone();
        let labels = [(TEMPLATE_HASH.to_owned(), "x".to_owned())].into();
        labelled.metadata = Some(ObjectMeta { labels: Some(labels), ..Default::default() });
        let empty = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(Labels::new()), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(template_hash(&labelled, 0), template_hash(&empty, 0), "the label itself does not count");
    }
}
