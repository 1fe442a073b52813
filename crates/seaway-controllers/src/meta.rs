//! Small questions about objects that several controllers ask.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};
use kube::Resource;
use serde_json::{Value, json};

use crate::object::{Action, Part, Target, Watched};
use crate::store::controller_uid;

/// An object's labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Whether labels fulfil one requirement (`In`, `NotIn`, `Exists`, `DoesNotExist`, and a node selector's `Gt`, `Lt`).
pub fn requirement_matches(operator: &str, key: &str, values: &[String], labels: &Labels) -> bool {
    let value = labels.get(key);
    let number = |text: &String| text.parse::<i64>().ok();
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(v, w)| v > w),
        "Lt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(v, w)| v < w),
        _ => false,
    }
}

/// Whether a label selector selects these labels. An empty selector selects all.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let none = Labels::new();
    let labels = labels.unwrap_or(&none);
    let requirement = |r: &LabelSelectorRequirement| {
        requirement_matches(&r.operator, &r.key, r.values.as_deref().unwrap_or_default(), labels)
    };
    selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(requirement)
}

/// Whether a Service's selector selects these labels. An empty selector selects nothing.
pub fn service_selects(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector.filter(|s| !s.is_empty()) else { return false };
    selector.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
}

/// A pod's condition of this type.
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the pod says it is ready.
pub fn pod_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod has been ready.
pub fn pod_ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = pod_condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// A pod's phase, `Pending` if it has none.
pub fn pod_phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod's containers have ended for good.
pub fn pod_finished(pod: &Pod) -> bool {
    matches!(pod_phase(pod), "Succeeded" | "Failed")
}

/// The node that the pod is bound to.
pub fn pod_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether deletion has begun.
pub fn deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Whether the pod counts as one of its controller's.
pub fn pod_active(pod: &Pod) -> bool {
    !pod_finished(pod) && !deleting(pod)
}

/// The reference that makes `owner` the controller of an object.
pub fn controller_reference<K: Watched>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether `owner` is the controller of an object.
pub fn controls<K: Watched>(owner: &K, meta: &ObjectMeta) -> bool {
    owner.meta().uid.is_some() && controller_uid(meta) == owner.meta().uid.as_deref()
}

/// What to do about the ownership of an object: adopt what matches and has no controller, release what no longer
/// matches. `None` if nothing is to be done.
pub fn claim<O: Watched, K: Watched>(owner: &O, matches: bool, object: &K) -> Option<Action> {
    let meta = object.meta();
    let references = meta.owner_references.clone().unwrap_or_default();
    let references: Vec<OwnerReference> = match controller_uid(meta) {
        None if matches && !deleting(owner) && !deleting(object) => {
            references.into_iter().chain([controller_reference(owner)]).collect()
        }
        Some(uid) if owner.meta().uid.as_deref() == Some(uid) && !matches => {
            references.into_iter().filter(|r| r.uid != uid).collect()
        }
        _ => return None,
    };
    let patch = json!({"metadata": {"ownerReferences": references}});
    Some(Action::Patch(Target::unchanged(object), Part::Main, patch))
}

/// A merge patch of the object's conditions, with the given one put in or in place of the one of its type.
pub fn with_pod_condition(pod: &Pod, condition: PodCondition) -> Value {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    json!({"status": {"conditions": conditions}})
}

/// A count as the API has it.
pub fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A count that the API leaves out where it is none.
pub fn some(n: i32) -> Option<i32> {
    (n > 0).then_some(n)
}

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn requirements() {
        let of = labels(&[("tier", "web"), ("size", "5")]);
        let cases: &[(&str, &str, &[&str], bool)] = &[
            ("In", "tier", &["web", "db"], true),
            ("In", "tier", &["db"], false),
            ("In", "none", &["db"], false),
            ("NotIn", "tier", &["db"], true),
            ("NotIn", "tier", &["web"], false),
            ("NotIn", "none", &["web"], true),
            ("Exists", "tier", &[], true),
            ("Exists", "none", &[], false),
            ("DoesNotExist", "none", &[], true),
            ("DoesNotExist", "tier", &[], false),
            ("Gt", "size", &["4"], true),
            ("Gt", "size", &["5"], false),
            ("Lt", "size", &["6"], true),
            ("Lt", "tier", &["6"], false),
            ("Like", "tier", &["web"], false),
        ];
        for (operator, key, values, expected) in cases {
            let values: Vec<String> = values.iter().map(|v| (*v).into()).collect();
            assert_eq!(requirement_matches(operator, key, &values, &of), *expected, "{operator} {key}");
        }
    }

    #[test]
    fn empty_selectors() {
        assert!(selects(&LabelSelector::default(), None));
        assert!(!service_selects(None, Some(&labels(&[("a", "b")]))));
        assert!(!service_selects(Some(&Labels::new()), Some(&labels(&[("a", "b")]))));
        assert!(service_selects(Some(&labels(&[("a", "b")])), Some(&labels(&[("a", "b"), ("c", "d")]))));
        assert!(!service_selects(Some(&labels(&[("a", "b")])), None));
    }
}
