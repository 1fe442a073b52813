//! The scheduler: a node for each pod that has none.

mod filter;
mod resources;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use filter::{NodeView, node_matches};

use crate::meta::{deleting, pod_condition, pod_finished, pod_node, with_pod_condition};
use crate::object::{Action, Notice, NoticeKind, Part, Target};
use crate::store::controller_uid;

/// The name under which pods ask for this scheduler, and get it by default.
pub const SCHEDULER: &str = "default-scheduler";

/// Where a pod goes.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// To the node of this name.
    Fits(String),
    /// Nowhere; a sentence says why.
    Nowhere(String),
}

/// Whether the pod waits for this scheduler.
pub fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or(SCHEDULER) == SCHEDULER;
    let gated = spec.is_some_and(|s| s.scheduling_gates.iter().flatten().next().is_some());
    ours && !gated && pod_node(pod).is_none() && !deleting(pod) && !pod_finished(pod)
}

/// Chooses a node: of those that can take the pod, the one with the fewest pods of the same owner, then the one
/// with the fewest pods, then the first by name. `pods_of` gives a node's pods.
pub fn choose<'a>(pod: &Pod, nodes: &'a [Arc<Node>], pods_of: &dyn Fn(&str) -> Vec<&'a Arc<Pod>>) -> Verdict {
    let views: Vec<NodeView<'_>> = nodes
        .iter()
        .map(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = pods_of(name).into_iter().filter(|pod| !pod_finished(pod)).map(|pod| &**pod).collect();
            NodeView { node, name, pods }
        })
        .collect();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<((usize, usize), &str)> = None;
    for view in &views {
        match filter::reason_against(pod, view, &views) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => {
                let score = (siblings(pod, view), view.pods.len());
                if best.is_none_or(|(lowest, name)| (score, view.name) < (lowest, name)) {
                    best = Some((score, view.name));
                }
            }
        }
    }
    match best {
        Some((_, name)) => Verdict::Fits(name.to_owned()),
        None => Verdict::Nowhere(explain(views.len(), &reasons)),
    }
}

fn siblings(pod: &Pod, view: &NodeView<'_>) -> usize {
    let Some(owner) = controller_uid(&pod.metadata) else { return 0 };
    view.pods.iter().filter(|other| controller_uid(&other.metadata) == Some(owner)).count()
}

fn explain(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

/// The pod as it will be once it is bound: what other decisions count with meanwhile.
pub fn bound(pod: &Pod, node: &str) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.to_owned());
    }
    pod
}

/// Tells of the binding.
pub fn scheduled_notice(pod: &Pod, node: &str) -> Action {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    Action::Notify(Notice::new(pod, NoticeKind::Normal, SCHEDULER, "Scheduled", message))
}

/// Writes down that the pod found no node; nothing if that is written already.
pub fn unschedulable(pod: &Pod, message: &str, now: Timestamp) -> Vec<Action> {
    let known = pod_condition(pod, "PodScheduled");
    let same = |c: &PodCondition| {
        c.status == "False"
            && c.reason.as_deref() == Some("Unschedulable")
            && c.message.as_deref() == Some(message)
    };
    if known.is_some_and(same) {
        return Vec::new();
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.to_owned()),
        last_transition_time: since.or(Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)))),
        ..PodCondition::default()
    };
    let notice = Notice::new(pod, NoticeKind::Warning, SCHEDULER, "FailedScheduling", message.to_owned());
    let patch = with_pod_condition(pod, condition);
    // The news follows what it is about, so that a write that has to be repeated makes no second one.
    vec![Action::Patch(Target::unchanged(pod), Part::Status, patch), Action::Notify(notice)]
}

#[cfg(test)]
mod tests;
