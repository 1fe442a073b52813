//! A rolling update as a whole: the decisions for Deployment and ReplicaSets taken in any order, with pods that come
//! up, fail and go at any moment, stay within the bounds at every step and come to their end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use seaway_controllers::controllers::{deployment, replica_set};
use seaway_controllers::object::{Action, Object};
use serde_json::{Value, json};

/// The objects, as an API server would keep them.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, Arc<ReplicaSet>>,
    pods: BTreeMap<String, Arc<Pod>>,
    serial: u64,
    now: Timestamp,
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match value {
                    Value::Null => drop(into.remove(key)),
                    _ => merge(into.entry(key).or_insert(Value::Null), value),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn merged<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, patch: &Value) -> K {
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

impl World {
    fn new(replicas: i32, surge: i32, unavailable: i32) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "0"}]}},
            },
        }));
        Self {
            deployment: deployment.unwrap(),
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            serial: 0,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn apply(&mut self, action: Action) {
        self.serial += 1;
        let uid = format!("u{:05}", self.serial);
        match action {
            Action::Create(Object::ReplicaSet(set)) => {
                let name = set.metadata.name.clone().unwrap();
                let made = json!({"metadata": {"uid": uid, "generation": 1,
                    "creationTimestamp": self.now.to_string()}});
                let before = self.sets.insert(name, Arc::new(merged(&*set, &made)));
                assert!(before.is_none(), "a name taken twice");
            }
            Action::Create(Object::Pod(pod)) => {
                let made = json!({"metadata": {"name": uid, "uid": uid,
                    "creationTimestamp": self.now.to_string()}, "spec": {"nodeName": "n"}});
                self.pods.insert(uid, Arc::new(merged(&*pod, &made)));
            }
            Action::ReplaceStatus(Object::ReplicaSet(set)) => {
                let name = set.metadata.name.clone().unwrap();
                self.sets.insert(name, Arc::new(*set));
            }
            Action::ReplaceStatus(Object::Deployment(deployment)) => self.deployment = *deployment,
            Action::Patch(target, _, patch) => match self.sets.get(&target.key.name) {
                Some(set) => {
                    let mut patch = patch;
                    if patch.get("spec").is_some() {
                        patch["metadata"]["generation"] = json!(set.metadata.generation.unwrap() + 1);
                    }
                    let set = merged(&**set, &patch);
                    self.sets.insert(target.key.name, Arc::new(set));
                }
                None => self.deployment = merged(&self.deployment, &patch),
            },
            Action::Delete(target, _) => {
                let known = self.pods.remove(&target.key.name).is_some();
                assert!(known || self.sets.remove(&target.key.name).is_some());
            }
            Action::Notify(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn sync_deployment(&mut self) {
        let sets: Vec<_> = self.sets.values().cloned().collect();
        let decision = deployment::decide(&deployment::Observed {
            deployment: &self.deployment,
            replica_sets: &sets,
            pods: &[],
            now: self.now,
        });
        decision.actions.into_iter().for_each(|action| self.apply(action));
    }

    fn sync_set(&mut self, number: usize) {
        let Some(set) = self.sets.values().nth(number % self.sets.len().max(1)).cloned() else { return };
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let observed = replica_set::Observed { replica_set: &set, pods: &pods, now: self.now };
        let plan = replica_set::decide(&observed);
        let actions = if plan.pods.is_empty() { plan.rest.actions } else { plan.pods };
        actions.into_iter().for_each(|action| self.apply(action));
    }

    fn set_ready(&mut self, number: usize, ready: bool) {
        let Some(pod) = self.pods.values().nth(number % self.pods.len().max(1)).cloned() else { return };
        let status = if ready { "True" } else { "False" };
        let condition =
            json!({"type": "Ready", "status": status, "lastTransitionTime": self.now.to_string()});
        let patch = json!({"status": {"phase": "Running", "conditions": [condition]}});
        let name = pod.metadata.name.clone().unwrap();
        self.pods.insert(name, Arc::new(merged(&*pod, &patch)));
    }

    fn update(&mut self, image: usize) {
        let generation = self.deployment.metadata.generation.unwrap() + 1;
        let containers = json!([{"name": "c", "image": image.to_string()}]);
        let patch = json!({"metadata": {"generation": generation},
            "spec": {"template": {"spec": {"containers": containers}}}});
        self.deployment = merged(&self.deployment, &patch);
    }

    /// Lets everything happen that is due, all pods coming up, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = (self.deployment.clone(), self.sets.clone(), self.pods.len());
            self.sync_deployment();
            (0..self.sets.len()).for_each(|i| self.sync_set(i));
            (0..self.pods.len()).for_each(|i| self.set_ready(i, true));
            (0..self.sets.len()).for_each(|i| self.sync_set(i));
            if before == (self.deployment.clone(), self.sets.clone(), self.pods.len()) {
                return;
            }
            self.now += k8s_openapi::jiff::SignedDuration::from_secs(1);
        }
        panic!("never comes to rest");
    }

    fn ready(&self) -> usize {
        self.pods.values().filter(|pod| is_ready(pod)).count()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deployment,
    Set(usize),
    Up(usize),
    Update(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Deployment),
        6 => any::<usize>().prop_map(Step::Set),
        6 => any::<usize>().prop_map(Step::Up),
        1 => (0..4usize).prop_map(Step::Update),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// While pods only come up (those that go are taken by the controllers alone), there are never more pods than
    /// replicas + surge nor fewer ready ones than replicas − unavailable, however updates overlap.
    #[test]
    fn bounds_hold(
        replicas in 1..8i32, surge in 0..4i32, unavailable in 0..4i32,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(replicas, surge, unavailable);
        world.settle();
        prop_assert_eq!(world.ready(), usize::try_from(replicas).unwrap());
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        let most = usize::try_from(replicas + surge).unwrap();
        let least = usize::try_from(replicas - unavailable).unwrap_or(0);
        for step in steps {
            match step {
                Step::Deployment => world.sync_deployment(),
                Step::Set(number) => world.sync_set(number),
                Step::Up(number) => world.set_ready(number, true),
                Step::Update(image) => world.update(image),
            }
            prop_assert!(world.pods.len() <= most, "{} pods, {most} allowed", world.pods.len());
            prop_assert!(world.ready() >= least, "{} ready, {least} promised", world.ready());
        }
        world.settle();
        let status = world.deployment.status.clone().unwrap();
        prop_assert_eq!(status.updated_replicas, Some(replicas));
        prop_assert_eq!(status.available_replicas, Some(replicas));
        prop_assert_eq!(world.pods.len(), usize::try_from(replicas).unwrap());
        let progressing = status.conditions.iter().flatten().find(|c| c.type_ == "Progressing").unwrap();
        prop_assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
    }
}

#[test]
fn a_failing_update_stops_and_is_told() {
    let mut world = World::new(4, 1, 1);
    world.settle();
    world.update(1);
    // The new pods never come up.
    for _ in 0..50 {
        world.sync_deployment();
        (0..world.sets.len()).for_each(|i| world.sync_set(i));
    }
    assert_eq!(world.ready(), 3);
    assert_eq!(world.pods.len(), 5);
    let reason = |world: &World| {
        let conditions = world.deployment.status.clone().unwrap().conditions.unwrap();
        conditions.into_iter().find(|c| c.type_ == "Progressing").unwrap().reason.unwrap()
    };
    assert_eq!(reason(&world), "ReplicaSetUpdated");
    world.now += k8s_openapi::jiff::SignedDuration::from_secs(601);
    world.sync_deployment();
    assert_eq!(reason(&world), "ProgressDeadlineExceeded");
    // Back to what worked.
    world.update(0);
    world.settle();
    assert_eq!(reason(&world), "NewReplicaSetAvailable");
    assert_eq!(world.ready(), 4);
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(1, 1, 0);
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for image in 1..6 {
        world.update(image);
        world.settle();
    }
    assert_eq!(world.sets.len(), 3);
    let revisions: Vec<_> = world
        .sets
        .values()
        .map(|s| s.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone())
        .collect();
    let mut sorted = revisions.clone();
    sorted.sort();
    assert_eq!(sorted, ["3", "4", "5"]);
}
