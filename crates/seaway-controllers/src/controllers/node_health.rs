//! Nodes' health: a node that is not heard of becomes unknown, taints say so, and its pods count as not ready.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::meta::{deleting, pod_condition, with_pod_condition};
use crate::object::{Action, Decision, Notice, NoticeKind, Part, Target};

/// Taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that is not heard of.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a node that is to get no new pods.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away while `True`, and their taints.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Conditions that nobody can vouch for when the node is not heard of.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// A node's last sign of life: what it said, and when we heard it by our own clock. The nodes' clocks don't matter.
#[derive(Default)]
pub struct Heard {
    last: HashMap<String, (Sign, Instant)>,
}

/// What a node says of itself: its lease's renewal, and its condition `Ready`.
#[derive(Clone, PartialEq)]
struct Sign {
    renewed: Option<String>,
    ready: Option<NodeCondition>,
}

impl Heard {
    /// Takes note of what a node's lease and status say now; gives how long ago the last news came.
    pub fn listen(&mut self, name: &str, lease: Option<&Lease>, node: &Node, now: Instant) -> Duration {
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0.to_string());
        // `Unknown` is our own word, and the end of what the node said.
        let ready = ready(node).filter(|c| c.status != "Unknown").cloned();
        let sign = Sign { renewed, ready };
        let Some((known, at)) = self.last.get_mut(name) else {
            self.last.insert(name.to_owned(), (sign, now));
            return Duration::ZERO;
        };
        let news = known.renewed != sign.renewed || (sign.ready.is_some() && known.ready != sign.ready);
        *known = sign;
        if news {
            *at = now;
        }
        now.duration_since(*at)
    }

    /// Forgets a node that is gone.
    pub fn forget(&mut self, name: &str) {
        self.last.remove(name);
    }
}

/// A node's condition of this type.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

/// What a decision about a node is made from.
pub struct Observed<'a> {
    /// The node.
    pub node: &'a Node,
    /// How long ago it was last heard of.
    pub silent: Duration,
    /// How long it may be silent.
    pub grace: Duration,
    /// The pods bound to it.
    pub pods: &'a [std::sync::Arc<Pod>],
    /// Now.
    pub now: Timestamp,
}

/// Decides the next writes.
pub fn decide(observed: &Observed<'_>) -> Decision {
    let node = observed.node;
    if deleting(node) {
        return Decision::none();
    }
    let mut decision = Decision::none();
    if observed.silent < observed.grace {
        decision.look_again(observed.grace - observed.silent);
    } else if let Some(action) = silence(node, observed.now) {
        // The taints follow when the status is written.
        decision.actions.push(action);
        decision.actions.extend(not_ready_notice(node));
        return decision;
    }
    decision.actions.extend(taint(node, observed.now));
    if ready(node).is_some_and(|c| c.status == "Unknown") {
        let pods = observed.pods.iter().filter_map(|pod| mark_not_ready(pod, observed.now));
        decision.actions.extend(pods);
    }
    decision
}

fn not_ready_notice(node: &Node) -> Option<Action> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    Some(Action::Notify(Notice::new(
        node,
        NoticeKind::Normal,
        "node-controller",
        "NodeNotReady",
        format!("Node {name} status is now: NodeNotReady"),
    )))
}

/// The conditions of a node that is not heard of; `None` if they say so already.
fn silence(node: &Node, now: Timestamp) -> Option<Action> {
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for kind in VOUCHED {
        let known = conditions.iter_mut().find(|c| c.type_ == kind);
        if known.as_ref().is_some_and(|c| c.status == "Unknown") || (known.is_none() && kind != "Ready") {
            continue;
        }
        changed = true;
        let never = known.is_none();
        let unknown = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(if never { "NodeStatusNeverUpdated" } else { "NodeStatusUnknown" }.into()),
            message: Some(
                if never {
                    "Kubelet never posted node status."
                } else {
                    "Kubelet stopped posting node status."
                }
                .into(),
            ),
            last_heartbeat_time: known.as_ref().and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(whole_second(now)),
        };
        match known {
            Some(known) => *known = unknown,
            None => conditions.push(unknown),
        }
    }
    let patch = json!({"status": {"conditions": conditions}});
    changed.then(|| Action::Patch(Target::unchanged(node), Part::Status, patch))
}

fn whole_second(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The taints that a node's conditions ask for, as (key, effect).
pub fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    match ready(node).map(|c| c.status.as_str()) {
        Some("True") => {}
        Some("Unknown") => taints.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => taints.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|c| c.status == "True") {
            taints.push((key, "NoSchedule"));
        }
    }
    taints
}

/// Whether a taint of this key is kept here.
fn is_kept_here(key: &str) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, taint)| *taint == key)
}

fn taint(node: &Node, now: Timestamp) -> Option<Action> {
    let wanted = wanted_taints(node);
    let known: &[Taint] = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut next: Vec<Taint> = known
        .iter()
        .filter(|taint| !is_kept_here(&taint.key) || wanted.iter().any(|w| is(taint, *w)))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !next.iter().any(|taint| is(taint, (key, effect))) {
            next.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: (effect == "NoExecute").then(|| whole_second(now)),
                value: None,
            });
        }
    }
    // From this the time that pods tolerate a taint is counted; of one that somebody sets by hand nobody has said it.
    for taint in next.iter_mut().filter(|taint| taint.effect == "NoExecute") {
        taint.time_added.get_or_insert_with(|| whole_second(now));
    }
    let patch = json!({"spec": {"taints": next}});
    (next != known).then(|| Action::Patch(Target::unchanged(node), Part::Main, patch))
}

/// A pod on a node that is not heard of must get no traffic.
fn mark_not_ready(pod: &Pod, now: Timestamp) -> Option<Action> {
    let known = pod_condition(pod, "Ready").filter(|c| c.status == "True")?;
    let condition = PodCondition {
        status: "False".into(),
        last_transition_time: Some(whole_second(now)),
        ..known.clone()
    };
    Some(Action::Patch(Target::unchanged(pod), Part::Status, with_pod_condition(pod, condition)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, PodStatus};
    use std::sync::Arc;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            time_added: Some(Time("2025-01-01T00:00:00Z".parse().unwrap())),
            ..Default::default()
        };
        Node {
            spec: Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..Default::default() }),
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn run(node: &Node, silent: u64, pods: &[Arc<Pod>]) -> Decision {
        let (silent, grace) = (Duration::from_secs(silent), Duration::from_secs(40));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        decide(&Observed { node, silent, grace, pods, now })
    }

    fn patch(decision: &Decision) -> &serde_json::Value {
        let Some(Action::Patch(_, _, patch)) = decision.actions.first() else { panic!("{decision:?}") };
        patch
    }

    #[test]
    fn a_silent_node_is_unknown() {
        let decision = run(&node("True", &[]), 39, &[]);
        assert_eq!(decision.again_after, Some(Duration::from_secs(1)));
        assert!(decision.actions.is_empty());
        let decision = run(&node("True", &[]), 40, &[]);
        let ready = &patch(&decision)["status"]["conditions"][0];
        assert_eq!(ready["status"], "Unknown");
        assert_eq!(ready["reason"], "NodeStatusUnknown");
        assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    }

    #[test]
    fn taints_follow_conditions() {
        let both = |key| [(key, "NoSchedule"), (key, "NoExecute")];
        let other = ("mine", "NoSchedule");
        let cases = [
            ("True", vec![other], None),
            ("Unknown", vec![other], Some(vec!["mine", UNREACHABLE, UNREACHABLE])),
            ("False", both(UNREACHABLE).to_vec(), Some(vec![NOT_READY, NOT_READY])),
            ("True", both(NOT_READY).into_iter().chain([other]).collect(), Some(vec!["mine"])),
        ];
        for (ready, taints, expected) in cases {
            let decision = run(&node(ready, &taints), 0, &[]);
            let keys = (!decision.actions.is_empty()).then(|| {
                let taints = patch(&decision)["spec"]["taints"].as_array().unwrap();
                taints.iter().map(|t| t["key"].as_str().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(keys, expected, "{ready} {taints:?}");
        }
    }

    #[test]
    fn taints_set_by_hand_get_their_time() {
        let mut node = node("True", &[("mine", "NoExecute")]);
        node.spec.as_mut().unwrap().taints.as_mut().unwrap()[0].time_added = None;
        let decision = run(&node, 0, &[]);
        assert_eq!(patch(&decision)["spec"]["taints"][0]["timeAdded"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn pods_of_an_unknown_node_are_not_ready() {
        let pod = |ready: &str| {
            let ready = PodCondition { type_: "Ready".into(), status: ready.into(), ..Default::default() };
            let status = PodStatus { conditions: Some(vec![ready]), ..Default::default() };
            Arc::new(Pod { status: Some(status), ..Default::default() })
        };
        let tainted = node("Unknown", &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        let decision = run(&tainted, 50, &[pod("True"), pod("False")]);
        assert_eq!(decision.actions.len(), 1);
        assert_eq!(patch(&decision)["status"]["conditions"][0]["status"], "False");
    }

    #[test]
    fn any_news_counts() {
        let mut heard = Heard::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut node = node("True", &[]);
        assert_eq!(heard.listen("n", None, &node, start), Duration::ZERO);
        assert_eq!(heard.listen("n", None, &node, after(9)), Duration::from_secs(9));
        node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_heartbeat_time =
            Some(Time("2020-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(heard.listen("n", None, &node, after(10)), Duration::ZERO, "whatever its clock says");
        assert_eq!(heard.listen("n", None, &node, after(12)), Duration::from_secs(2));
        let unknown = self::node("Unknown", &[]);
        assert_eq!(heard.listen("n", None, &unknown, after(13)), Duration::from_secs(3), "our own word");
        assert_eq!(heard.listen("n", None, &node, after(14)), Duration::ZERO, "it says the same anew");
    }
}
