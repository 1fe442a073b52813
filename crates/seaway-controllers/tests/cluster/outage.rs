//! The API server goes away and comes back.

use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Cluster, GRACE, create, deployment, patch, until};

/// The states of readiness that any node was ever in.
fn watch_readiness(nodes: Api<Node>) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let states = seen.clone();
    tokio::spawn(async move {
        let mut events = pin!(watcher(nodes, watcher::Config::default()).default_backoff());
        loop {
            let Ok(Some(Event::Apply(node) | Event::InitApply(node))) = events.try_next().await else {
                continue;
            };
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            states.lock().extend(conditions.filter(|c| c.type_ == "Ready").map(|c| c.status.clone()));
        }
    });
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_not_blamed_for_the_api_servers_absence() {
    let mut cluster = Cluster::new(&["a", "b"]).await;
    let (deployments, pods) = (cluster.api::<Deployment>(), cluster.api::<Pod>());
    create(&deployments, deployment("web", 2, 1, 0)).await;
    let running = |count: usize| {
        move |pods: &[Pod]| {
            let has_address = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
            pods.iter().filter(|pod| has_address(pod)).count() == count
        }
    };
    until(&pods, "two pods", running(2)).await;
    let states = watch_readiness(Api::all(cluster.client.clone()));
    // Longer than a node may be silent.
    cluster.interrupt(tokio::time::sleep(GRACE * 2)).await;
    patch(&deployments, "web", json!({"spec": {"replicas": 5}})).await;
    until(&pods, "five pods", running(5)).await;
    let states = states.lock();
    assert!(!states.is_empty());
    assert!(states.iter().all(|state| state == "True"), "{states:?}");
}
