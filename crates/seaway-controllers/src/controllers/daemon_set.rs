//! DaemonSets: a pod on each node that can take it. Updates replace pods one after another (`RollingUpdate` with
//! `maxUnavailable`, no surge) or when they are deleted (`OnDelete`); there is no revision history.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use serde_json::json;

use crate::controllers::deployment::{available_in, template_hash};
use crate::controllers::eviction::pod_tolerates;
use crate::controllers::replica_set::pod_of;
use crate::controllers::scheduler::node_matches;
use crate::meta::{controls, count, deleting, pod_finished, pod_node, pod_ready, some};
use crate::object::{Action, Decision, Object, Target};

/// Label of the pods: which template they come from.
const TEMPLATE_HASH: &str = "controller-revision-hash";

/// Taints that a DaemonSet's pods are not kept away or driven out by, as (key, effect).
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// What a decision about a DaemonSet is made from.
pub struct Observed<'a> {
    /// The DaemonSet.
    pub daemon_set: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The pods that it controls.
    pub pods: &'a [Arc<Pod>],
    /// Now.
    pub now: Timestamp,
}

/// Decides the next writes.
pub fn decide(observed: &Observed<'_>) -> Decision {
    let set = observed.daemon_set;
    let Some(spec) = &set.spec else { return Decision::none() };
    let hash = template_hash(&spec.template, 0);
    let sample = pod_for(set, &hash, None);
    let pods: Vec<&Pod> =
        observed.pods.iter().map(|p| &**p).filter(|pod| controls(set, &pod.metadata)).collect();
    let mut decision = Decision::none();
    let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..Default::default() };
    let mut outdated: Vec<&Pod> = Vec::new();
    for node in observed.nodes.iter().filter(|node| !deleting(&***node)) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here: Vec<&Pod> = pods.iter().copied().filter(|pod| target_node(pod) == Some(name)).collect();
        let (should, may_stay) = fits(&sample, node);
        let mut alive: Vec<&Pod> =
            here.iter().copied().filter(|p| !deleting(*p) && !pod_finished(p)).collect();
        alive.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        if !may_stay {
            status.number_misscheduled += count(alive.len());
            decision.actions.extend(alive.iter().map(|pod| Action::Delete(Target::of(*pod), None)));
            continue;
        }
        decision.actions.extend(alive.iter().skip(1).map(|pod| Action::Delete(Target::of(*pod), None)));
        let finished = here.iter().filter(|pod| pod_finished(pod) && !deleting(**pod));
        decision.actions.extend(finished.map(|pod| Action::Delete(Target::of(*pod), None)));
        status.desired_number_scheduled += i32::from(should);
        match alive.first() {
            None if should && here.is_empty() && !deleting(set) => {
                decision.actions.push(Action::Create(Object::from(pod_for(set, &hash, Some(name)))));
            }
            None => {}
            Some(pod) => {
                tally(set, pod, &hash, observed.now, &mut status, &mut decision);
                if !is_current(pod, &hash) {
                    outdated.push(pod);
                }
            }
        }
    }
    let available = status.number_available.unwrap_or(0);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    decision.actions.extend(replaced(set, &outdated, &status));
    if set.status.as_ref() != Some(&status) && !deleting(set) {
        let object = DaemonSet { status: Some(status), ..set.clone() };
        decision.actions.push(Action::ReplaceStatus(Object::from(object)));
    }
    decision
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(TEMPLATE_HASH)).map(String::as_str) == Some(hash)
}

fn tally(
    set: &DaemonSet,
    pod: &Pod,
    hash: &str,
    now: Timestamp,
    status: &mut DaemonSetStatus,
    decision: &mut Decision,
) {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    status.current_number_scheduled += 1;
    status.number_ready += i32::from(pod_ready(pod));
    let up = |n: Option<i32>| Some(n.unwrap_or(0) + 1);
    match available_in(pod, min_ready, now) {
        Some(left) if left.is_zero() => status.number_available = up(status.number_available),
        Some(left) => decision.look_again(left),
        None => {}
    }
    if is_current(pod, hash) {
        status.updated_number_scheduled = up(status.updated_number_scheduled);
    }
}

/// The pods of an older template that can be spared now: those that don't work first.
fn replaced(set: &DaemonSet, outdated: &[&Pod], status: &DaemonSetStatus) -> Vec<Action> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.is_some_and(|s| s.type_.as_deref() == Some("OnDelete")) {
        return Vec::new();
    }
    let most = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
    let most = match most {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i32>().ok()).unwrap_or(0);
            (status.desired_number_scheduled.saturating_mul(percent.clamp(0, 100)) + 99) / 100
        }
        None => 1,
    };
    let unavailable = status.desired_number_scheduled - status.number_available.unwrap_or(0);
    let mut spare = usize::try_from(most.max(1) - unavailable).unwrap_or(0);
    let mut deletes = Vec::new();
    for pod in outdated {
        let broken = !pod_ready(pod);
        if broken || spare > 0 {
            spare -= usize::from(!broken);
            deletes.push(Action::Delete(Target::of(*pod), None));
        }
    }
    deletes
}

/// The node that a pod is for: where it is bound, or where its affinity sends it.
fn target_node(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod_node(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|r| r.key == "metadata.name").flat_map(|r| r.values.iter().flatten());
    names.next().map(String::as_str)
}

/// Whether a node should get the set's pod, and whether one that is there may stay.
fn fits(sample: &Pod, node: &Node) -> (bool, bool) {
    if !node_matches(sample, node) {
        return (false, false);
    }
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let against: Vec<_> = taints.filter(|taint| !pod_tolerates(sample, taint)).collect();
    let keeps_out = against.iter().any(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    let drives_out = against.iter().any(|t| t.effect == "NoExecute");
    (!keeps_out, !drives_out)
}

/// The set's pod for a node; the scheduler binds it there.
fn pod_for(set: &DaemonSet, hash: &str, node: Option<&str>) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_of(set, &template);
    pod.metadata.labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.to_owned());
    let spec: &mut PodSpec = pod.spec.get_or_insert_default();
    let tolerations = spec.tolerations.get_or_insert_default();
    tolerations.extend(TOLERATED.iter().map(|(key, effect)| Toleration {
        key: Some((*key).into()),
        operator: Some("Exists".into()),
        effect: Some((*effect).into()),
        ..Toleration::default()
    }));
    if let Some(node) = node {
        let here = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        if let Ok(here) = serde_json::from_value::<k8s_openapi::api::core::v1::NodeSelectorRequirement>(here)
        {
            let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
            let required =
                affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
            if required.node_selector_terms.is_empty() {
                required.node_selector_terms.push(Default::default());
            }
            for term in &mut required.node_selector_terms {
                term.match_fields = Some(vec![here.clone()]);
            }
        }
    }
    pod
}
