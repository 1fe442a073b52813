//! Pods that have to go: those that do not tolerate their node's taints, and those whose node is gone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

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

/// Nodes that pods are bound to and that are not there, with the time since when.
#[derive(Default)]
pub struct Missing {
    since: HashMap<String, Instant>,
}

impl Missing {
    /// What remains of the time for which a node that is not there may come (back): its kubelet may not have registered it yet,
    /// or register it again.
    pub fn left(&mut self, node: &str, grace: Duration, now: Instant) -> Duration {
        // Whoever has been missing for long has no pods any more that would ask.
        self.since.retain(|_, since| now.duration_since(*since) < grace * 2);
        let since = *self.since.entry(node.to_owned()).or_insert(now);
        grace.saturating_sub(now.duration_since(since))
    }

    /// The node is there.
    pub fn found(&mut self, node: &str) {
        self.since.remove(node);
    }
}

/// Decides about a pod that is bound to no node, or to one that is not there; `left` is what remains of the node's time.
pub fn decide_without_node(pod: &Pod, left: Duration) -> Decision {
    let is_stranded = match pod_node(pod) {
        Some(_) => left.is_zero(),
        None => deleting(pod),
    };
    if is_stranded {
        // No kubelet will ever bring it to its end.
        return vec![Action::Delete(Target::of(pod), Some(0))].into();
    }
    let mut decision = Decision::none();
    if !left.is_zero() {
        decision.look_again(left);
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

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
    fn nodes_may_come_back_for_a_while() {
        let (mut missing, grace, start) = (Missing::default(), Duration::from_secs(40), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(missing.left("n", grace, start), grace);
        assert_eq!(missing.left("n", grace, after(30)), Duration::from_secs(10));
        assert_eq!(missing.left("n", grace, after(50)), Duration::ZERO);
        missing.found("n");
        assert_eq!(missing.left("n", grace, after(60)), grace);
        assert_eq!(missing.left("n", grace, after(200)), grace, "another absence");

        let pod = |node: Option<&str>, deleting: bool| Pod {
            metadata: ObjectMeta {
                deletion_timestamp: deleting.then(|| Time("2026-01-01T00:00:00Z".parse().unwrap())),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: node.map(str::to_owned), ..Default::default() }),
            ..Default::default()
        };
        for (node, deleting, left, deleted, again) in [
            (Some("n"), false, 5, false, Some(5)),
            (Some("n"), true, 5, false, Some(5)),
            (Some("n"), false, 0, true, None),
            (None, true, 0, true, None),
            (None, false, 0, false, None),
        ] {
            let decision = decide_without_node(&pod(node, deleting), Duration::from_secs(left));
            let deletes = matches!(&decision.actions[..], [Action::Delete(_, Some(0))]);
            assert_eq!((deletes, decision.again_after.map(|d| d.as_secs())), (deleted, again));
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
