//! Deployments.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Cluster, create, deployment, patch, until};

fn is_available(deployments: &[Deployment], replicas: i32) -> bool {
    deployments.iter().all(|d| {
        let status = d.status.clone().unwrap_or_default();
        status.observed_generation == d.metadata.generation
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas
    })
}

fn reason<'a>(deployment: &'a Deployment, kind: &str) -> Option<&'a str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)?.reason.as_deref()
}

fn revision(deployment: &Deployment) -> &str {
    &deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"]
}

/// Pods as a watch shows them, and the most and the fewest that there ever were.
#[derive(Debug, Default)]
struct Watched {
    alive: BTreeSet<String>,
    ready: BTreeSet<String>,
    most: usize,
    fewest_ready: Option<usize>,
}

impl Watched {
    fn see(&mut self, pod: &Pod, gone: bool) {
        let name = pod.metadata.name.clone().unwrap();
        let alive = !gone && pod.metadata.deletion_timestamp.is_none();
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let ready = alive && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        for (set, belongs) in [(&mut self.alive, alive), (&mut self.ready, ready)] {
            if belongs {
                set.insert(name.clone())
            } else {
                set.remove(&name)
            };
        }
        self.most = self.most.max(self.alive.len());
        if let Some(fewest) = &mut self.fewest_ready {
            *fewest = (*fewest).min(self.ready.len());
        }
    }
}

fn observe(api: Api<Pod>) -> Arc<Mutex<Watched>> {
    let watched = Arc::new(Mutex::new(Watched::default()));
    let seen = watched.clone();
    tokio::spawn(async move {
        let mut events = pin!(watcher(api, watcher::Config::default()));
        while let Ok(Some(event)) = events.try_next().await {
            match event {
                Event::Apply(pod) | Event::InitApply(pod) => seen.lock().see(&pod, false),
                Event::Delete(pod) => seen.lock().see(&pod, true),
                Event::Init | Event::InitDone => {}
            }
        }
    });
    watched
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_and_back() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let (deployments, pods) = (cluster.api::<Deployment>(), cluster.api::<Pod>());
    let watched = observe(pods.clone());
    create(&deployments, deployment("web", 6, 1, 0)).await;
    let seen = until(&deployments, "six pods", |d| is_available(d, 6)).await;
    assert_eq!(revision(&seen[0]), "1");
    until(&deployments, "completion", |d| reason(&d[0], "Progressing") == Some("NewReplicaSetAvailable"))
        .await;
    assert_eq!(reason(&seen[0], "Available"), Some("MinimumReplicasAvailable"));

    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in until(&pods, "six pods", |pods| pods.len() == 6).await {
        assert!(pod.metadata.labels.unwrap().contains_key("pod-template-hash"));
        *per_node.entry(pod.spec.unwrap().node_name.unwrap()).or_default() += 1;
    }
    assert_eq!(per_node.values().copied().collect::<Vec<_>>(), [2, 2, 2], "spread over the nodes");

    watched.lock().fewest_ready = Some(6);
    let image = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": image, "ports": [{"name": "web", "containerPort": 8080}]}]}}}})
    };
    patch(&deployments, "web", image("two")).await;
    let seen =
        until(&deployments, "the new revision", |d| is_available(d, 6) && revision(&d[0]) == "2").await;
    assert_eq!(seen[0].status.as_ref().unwrap().unavailable_replicas, None);
    {
        let watched = watched.lock();
        assert!(watched.most <= 7, "{watched:?}");
        assert_eq!(watched.fewest_ready, Some(6), "never fewer than promised");
    }

    // Back: the first revision's ReplicaSet is used again, under a new number.
    patch(&deployments, "web", image("one")).await;
    until(&deployments, "the old revision", |d| is_available(d, 6) && revision(&d[0]) == "3").await;
    let sets = cluster.api::<ReplicaSet>();
    let sets = until(&sets, "two sets", |sets| sets.len() == 2).await;
    let history: Vec<_> = sets
        .iter()
        .filter_map(|s| s.metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision-history"))
        .collect();
    assert_eq!(history, ["1"]);

    patch(&deployments, "web", json!({"spec": {"replicas": 2}})).await;
    until(&deployments, "two pods", |d| is_available(d, 2)).await;
    until(&pods, "two pods", |pods| pods.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_recreate() {
    let cluster = Cluster::new(&["a"]).await;
    let (deployments, pods) = (cluster.api::<Deployment>(), cluster.api::<Pod>());
    let mut object = deployment("web", 2, 1, 0);
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    create(&deployments, object).await;
    until(&deployments, "two pods", |d| is_available(d, 2)).await;
    let old = until(&pods, "two pods", |pods| pods.len() == 2).await;

    patch(&deployments, "web", json!({"spec": {"paused": true}})).await;
    until(&deployments, "the pause", |d| reason(&d[0], "Progressing") == Some("DeploymentPaused")).await;
    let update = json!({"spec": {"paused": false, "template": {"metadata": {"labels": {"version": "two"}}}}});
    let watched = observe(pods.clone());
    patch(&deployments, "web", update).await;
    until(&deployments, "the new revision", |d| is_available(d, 2) && revision(&d[0]) == "2").await;
    let new = until(&pods, "two pods", |pods| pods.len() == 2).await;
    let names = |pods: &[Pod]| pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<BTreeSet<_>>();
    assert!(names(&old).is_disjoint(&names(&new)));
    assert!(watched.lock().most <= 2, "the old pods end before the new ones begin");
}
