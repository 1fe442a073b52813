//! Pods that have to go: those that do not tolerate their node's taints, and those whose node is gone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::meta::{deleting, pod_node};
use crate::object::{Action, Decision, Notice, NoticeKind, Target};

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = is_empty(&toleration.effect) || toleration.effect.as_ref() == Some(&taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = if is_empty(&toleration.key) { exists } else { toleration.key.as_ref() == Some(&taint.key) };
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    effect && key && (exists || value(&toleration.value) == value(&taint.value))
}

/// Whether any of the pod's tolerations covers the taint.
pub fn pod_tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}

/// How long the pod may stay with this taint; `None` for ever.
fn allowance(pod: &Pod, taint: &Taint) -> Option<Duration> {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let covering: Vec<&Toleration> = tolerations.filter(|t| tolerates(t, taint)).collect();
    if covering.is_empty() {
        return Some(Duration::ZERO);
    }
    let seconds = covering.iter().filter_map(|t| t.toleration_seconds).min()?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Decides about a pod on a node that is there.
pub fn decide(pod: &Pod, node: &Node, now: Timestamp) -> Decision {
    if deleting(pod) {
        return Decision::none();
    }
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut decision = Decision::none();
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        let Some(allowance) = allowance(pod, taint) else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if passed >= allowance {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let notice = Notice::new(
                pod,
                NoticeKind::Normal,
                "taint-eviction-controller",
                "TaintManagerEviction",
                format!(
                    "Marking for deletion Pod {}/{name}",
                    pod.metadata.namespace.as_deref().unwrap_or_default()
                ),
            );
            return vec![Action::Notify(notice), Action::Delete(Target::of(pod), None)].into();
        }
        decision.look_again(allowance - passed);
    }
    decision
}

/// A pod that no kubelet will ever bring to its end: its node is gone, or it is being deleted and was never bound.
pub fn is_stranded(pod: &Pod, node_exists: impl Fn(&str) -> bool) -> bool {
    match pod_node(pod) {
        Some(node) => !node_exists(node),
        None => deleting(pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn tolerations() {
        let taint = taint("k", "v", "NoSchedule");
        let cases = [
            (toleration("k", "Equal", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Equal", "w", ""), false),
            (toleration("k", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("", "Equal", "v", ""), false),
            (toleration("other", "Exists", "", ""), false),
            (toleration("k", "Exists", "", "NoExecute"), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }

    #[test]
    fn evicted_after_what_it_tolerates() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let mut taint = taint("gone", "", "NoExecute");
        taint.time_added = Some(Time("2026-01-01T00:09:00Z".parse().unwrap()));
        let node = Node {
            spec: Some(NodeSpec { taints: Some(vec![taint]), ..Default::default() }),
            ..Default::default()
        };
        let cases = [
            (None, (true, None)),
            (Some(None), (false, None)),
            (Some(Some(300)), (false, Some(240))),
            (Some(Some(60)), (true, None)),
            (Some(Some(-1)), (true, None)),
        ];
        for (seconds, (deleted, again)) in cases {
            let tolerations = seconds.map(|toleration_seconds| {
                vec![Toleration { toleration_seconds, ..toleration("gone", "Exists", "", "NoExecute") }]
            });
            let pod = Pod { spec: Some(PodSpec { tolerations, ..Default::default() }), ..Default::default() };
            let decision = decide(&pod, &node, now);
            let deletes = decision.actions.iter().any(|a| matches!(a, Action::Delete(..)));
            assert_eq!((deletes, decision.again_after.map(|d| d.as_secs())), (deleted, again), "{seconds:?}");
        }
    }
}
