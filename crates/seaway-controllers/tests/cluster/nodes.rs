//! Nodes that come, fall silent, return and go.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::{Cluster, create, deployment, patch, until};

fn ready(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone()).unwrap_or_default()
}

fn named<'a>(nodes: &'a [Node], name: &str) -> &'a Node {
    nodes.iter().find(|n| n.metadata.name.as_deref() == Some(name)).unwrap()
}

fn taints(node: &Node) -> Vec<&str> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.map(|t| t.key.as_str()).collect()
}

fn ready_on(slices: &[EndpointSlice], node: &str) -> usize {
    let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    endpoints
        .filter(|e| e.node_name.as_deref() == Some(node))
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_falls_silent_and_returns() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    let seen = until(&nodes, "pod networks and no taints", |nodes| {
        nodes.iter().all(|n| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some()) && taints(n).is_empty())
    })
    .await;
    let cidrs: BTreeSet<_> = seen.iter().map(|n| n.spec.clone().unwrap().pod_cidr.unwrap()).collect();
    assert_eq!(cidrs.into_iter().collect::<Vec<_>>(), ["10.244.0.0/24", "10.244.1.0/24"]);
    // Which of the two came first is not said.
    let of_b = named(&seen, "b").spec.clone().unwrap().pod_cidr;

    let service = json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    create(&cluster.api::<Service>(), service).await;
    create(&cluster.api::<Deployment>(), deployment("web", 4, 1, 0)).await;
    let slices = cluster.api::<EndpointSlice>();
    until(&slices, "endpoints on both", |s| ready_on(s, "a") == 2 && ready_on(s, "b") == 2).await;

    cluster.kill_kubelet("b");
    let seen = until(&nodes, "silence noticed", |n| ready(named(n, "b")) == "Unknown").await;
    assert_eq!(ready(named(&seen, "a")), "True");
    until(&nodes, "the taint", |n| taints(named(n, "b")) == ["node.kubernetes.io/unreachable"; 2]).await;
    until(&slices, "no endpoint on it", |s| ready_on(s, "b") == 0 && ready_on(s, "a") >= 2).await;

    // Its pods stay until their tolerance ends; new ones go elsewhere.
    let pods = cluster.api::<Pod>();
    patch(&cluster.api::<Deployment>(), "web", json!({"spec": {"replicas": 6}})).await;
    until(&slices, "more on the other", |s| ready_on(s, "a") == 4).await;

    cluster.start_kubelet("b").await;
    until(&nodes, "its return", |n| ready(named(n, "b")) == "True" && taints(named(n, "b")).is_empty()).await;

    // Its Node object goes, and its pods with it, though nobody confirms their end.
    cluster.kill_kubelet("b");
    nodes.delete("b", &DeleteParams::default()).await.unwrap();
    until(&pods, "all on the other", |pods| {
        pods.len() == 6 && pods.iter().all(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("a"))
    })
    .await;
    // What it had is free again.
    cluster.start_kubelet("c").await;
    until(&nodes, "its pod network taken over", |n| {
        named(n, "c").spec.as_ref().is_some_and(|s| s.pod_cidr.is_some() && s.pod_cidr == of_b)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_waits() {
    let cluster = Cluster::new(&["a"]).await;
    let pods = cluster.api::<Pod>();
    let spec = json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "one"}]});
    create(&pods, json!({"metadata": {"name": "picky"}, "spec": spec})).await;
    let events = cluster.api::<Event>();
    let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    until(&events, "the reason", |events| {
        events
            .iter()
            .any(|e| e.reason.as_deref() == Some("FailedScheduling") && e.message.as_deref() == Some(message))
    })
    .await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    patch(&nodes, "a", json!({"metadata": {"labels": {"disk": "ssd"}}})).await;
    until(&pods, "its node", |pods| pods[0].spec.as_ref().unwrap().node_name.as_deref() == Some("a")).await;
    until(&events, "the good news", |events| {
        events.iter().any(|e| {
            e.reason.as_deref() == Some("Scheduled")
                && e.message.as_deref() == Some("Successfully assigned default/picky to a")
        })
    })
    .await;
}
