//! ReplicaSets: as many pods of one template as asked for.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controllers::deployment::available_in;
use crate::meta::{
    self, annotation, claim, controller_reference, controls, count, deleting, pod_active, pod_finished,
    pod_node, pod_phase, pod_ready, pod_ready_since, selects,
};
use crate::object::{Action, Decision, Notice, NoticeKind, Object, Target, Watched};

/// Annotation of a pod: pods with the lower number are deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The most pods that are created or deleted in one round.
const BURST: usize = 500;

/// What a decision about a ReplicaSet is made from.
pub struct Observed<'a> {
    /// The ReplicaSet.
    pub replica_set: &'a ReplicaSet,
    /// The pods of its namespace that it controls or selects.
    pub pods: &'a [Arc<Pod>],
    /// Now.
    pub now: Timestamp,
}

/// A decision, its writes of pods apart: these don't depend on each other.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to create, delete, adopt or release, and the events about it.
    pub pods: Vec<Action>,
    /// The status, after them.
    pub rest: Decision,
}

/// Decides the next step.
pub fn decide(observed: &Observed<'_>) -> Plan {
    let set = observed.replica_set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let claims: Vec<Action> = observed
        .pods
        .iter()
        .filter(|pod| !pod_finished(pod))
        .filter_map(|pod| claim(set, selects(&spec.selector, pod.metadata.labels.as_ref()), &**pod))
        .collect();
    if !claims.is_empty() {
        return Plan { pods: claims, rest: Decision::none() };
    }
    let owned: Vec<&Pod> =
        observed.pods.iter().map(|p| &**p).filter(|p| controls(set, &p.metadata)).collect();
    let mut active: Vec<&Pod> = owned.iter().copied().filter(|pod| pod_active(pod)).collect();
    let mut plan = Plan::default();
    if !deleting(set) {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let template = spec.template.clone().unwrap_or_default();
            for _ in 0..(wanted - active.len()).min(BURST) {
                plan.pods.push(Action::Create(Object::from(pod_of(set, &template))));
            }
        } else if active.len() > wanted {
            active.sort_by(|a, b| first_to_go(a, b));
            for pod in active.iter().take((active.len() - wanted).min(BURST)) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                plan.pods.push(Action::Delete(Target::of(*pod), None));
                plan.pods.push(Action::Notify(Notice::new(
                    set,
                    NoticeKind::Normal,
                    "replicaset-controller",
                    "SuccessfulDelete",
                    format!("Deleted pod: {name}"),
                )));
            }
        }
    }
    plan.rest = status(set, &active, &owned, observed.now);
    plan
}

/// The labels, annotations and spec of a template, as a pod of `owner`.
pub fn pod_of<K: Watched>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let of = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.meta().name.as_deref().unwrap_or_default())),
            namespace: owner.meta().namespace.clone(),
            labels: of.labels,
            annotations: of.annotations,
            finalizers: of.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Orders pods by who is to be deleted first: the unscheduled, the pending, the not ready, the cheap, the last to
/// become ready, the often restarted, the newest.
pub fn first_to_go(a: &Pod, b: &Pod) -> Ordering {
    let phase = |pod: &Pod| match pod_phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        annotation(&pod.metadata, DELETION_COST).and_then(|text| text.parse::<i32>().ok()).unwrap_or(0)
    };
    let restarts = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.map(|c| c.restart_count).max().unwrap_or(0)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.clone();
    let by_state = |pod: &Pod| (pod_node(pod).is_some(), phase(pod), pod_ready(pod), cost(pod));
    by_state(a)
        .cmp(&by_state(b))
        .then_with(|| pod_ready_since(b).cmp(&pod_ready_since(a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
        .then_with(|| b.metadata.name.cmp(&a.metadata.name))
}

fn status(set: &ReplicaSet, active: &[&Pod], owned: &[&Pod], now: Timestamp) -> Decision {
    let Some(spec) = &set.spec else { return Decision::none() };
    let some = |n: usize| meta::some(count(n));
    let mut decision = Decision::none();
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let fully_labelled = active.iter().filter(|pod| {
        template.into_iter().flatten().all(|(key, value)| {
            pod.metadata.labels.as_ref().is_some_and(|labels| labels.get(key) == Some(value))
        })
    });
    let mut available = 0;
    for pod in active {
        match available_in(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Some(left) if left.is_zero() => available += 1,
            Some(left) => decision.look_again(left),
            None => {}
        }
    }
    let known = set.status.clone().unwrap_or_default();
    let terminating = owned.iter().filter(|pod| deleting(**pod) && !pod_finished(pod)).count();
    let next = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(fully_labelled.count()),
        ready_replicas: some(active.iter().filter(|pod| pod_ready(pod)).count()),
        available_replicas: some(available),
        terminating_replicas: some(terminating).or(known.terminating_replicas.map(|_| 0)),
        observed_generation: set.metadata.generation,
        conditions: known.conditions.clone(),
    };
    if next != known {
        let object = ReplicaSet { status: Some(next), ..set.clone() };
        decision.actions.push(Action::ReplaceStatus(Object::from(object)));
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
    use std::time::Duration;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn set(replicas: i32) -> ReplicaSet {
        let labels: crate::meta::Labels = [("app".to_owned(), "web".to_owned())].into();
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some("web-1".into()),
                namespace: Some("ns".into()),
                uid: Some("set".into()),
                generation: Some(1),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                selector: LabelSelector { match_labels: Some(labels.clone()), ..Default::default() },
                template: Some(PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels), ..Default::default() }),
                    spec: Some(PodSpec::default()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(name: &str, age: i64, node: bool, ready: Option<i64>) -> Pod {
        let set = set(1);
        let mut pod = pod_of(&set, &set.spec.clone().unwrap().template.unwrap());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.metadata.creation_timestamp = Some(Time(now() - age.seconds()));
        pod.spec.as_mut().unwrap().node_name = node.then(|| "n".into());
        pod.status = Some(PodStatus {
            phase: Some(if ready.is_some() { "Running" } else { "Pending" }.into()),
            conditions: ready.map(|since| {
                vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(Time(now() - since.seconds())),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        });
        pod
    }

    fn plan(set: &ReplicaSet, pods: Vec<Pod>) -> Plan {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        decide(&Observed { replica_set: set, pods: &pods, now: now() })
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        let mut names = Vec::new();
        for action in &plan.pods {
            if let Action::Delete(target, _) = action {
                names.push(target.key.name.as_str());
            }
        }
        names
    }

    #[test]
    fn creates_what_is_missing() {
        let plan = plan(&set(3), vec![pod("a", 9, true, Some(5))]);
        let created = |action: &&Action| matches!(action, Action::Create(Object::Pod(_)));
        assert_eq!(plan.pods.iter().filter(created).count(), 2);
    }

    #[test]
    fn deletes_the_least_useful_first() {
        let pods = vec![
            pod("old", 90, true, Some(80)),
            pod("new", 20, true, Some(10)),
            pod("pending", 50, true, None),
            pod("unscheduled", 60, false, None),
        ];
        let order = ["unscheduled", "pending", "new", "old"];
        for wanted in 0..4 {
            let plan = plan(&set(wanted), pods.clone());
            assert_eq!(deleted(&plan), order[..4 - usize::try_from(wanted).unwrap()], "{wanted} wanted");
        }
    }

    #[test]
    fn terminating_and_finished_pods_are_replaced() {
        let mut going = pod("going", 9, true, Some(5));
        going.metadata.deletion_timestamp = Some(Time(now()));
        let mut failed = pod("failed", 9, true, None);
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        let plan = plan(&set(1), vec![going, failed]);
        assert_eq!(plan.pods.len(), 1);
        let [Action::ReplaceStatus(Object::ReplicaSet(set))] = &plan.rest.actions[..] else { panic!() };
        let status = set.status.clone().unwrap();
        assert_eq!((status.replicas, status.terminating_replicas), (0, Some(1)));
    }

    #[test]
    fn availability_needs_time() {
        let mut set = set(1);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        let plan = plan(&set, vec![pod("a", 9, true, Some(4))]);
        assert_eq!(plan.rest.again_after, Some(Duration::from_secs(6)));
        let [Action::ReplaceStatus(Object::ReplicaSet(set))] = &plan.rest.actions[..] else { panic!() };
        let status = set.status.clone().unwrap();
        assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), None));
    }

    #[test]
    fn adopts_and_releases() {
        let mut orphan = pod("orphan", 9, true, Some(5));
        orphan.metadata.owner_references = None;
        let plan = plan(&set(1), vec![orphan]);
        assert!(matches!(&plan.pods[..], [Action::Patch(target, ..)] if target.key.name == "orphan"));
        let mut stray = pod("stray", 9, true, Some(5));
        stray.metadata.labels = None;
        let plan = self::plan(&set(1), vec![stray]);
        let [Action::Patch(_, _, patch)] = &plan.pods[..] else { panic!() };
        assert_eq!(patch["metadata"]["ownerReferences"], serde_json::json!([]));
    }
}
