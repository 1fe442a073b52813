//! Endpoints and EndpointSlices.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::{Cluster, create, deployment, patch, until};

fn of<'a>(slices: &'a [EndpointSlice], service: &str) -> Vec<&'a Endpoint> {
    let is = |s: &&EndpointSlice| {
        s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).map(String::as_str)
            == Some(service)
    };
    slices.iter().filter(is).flat_map(|s| s.endpoints.iter().flatten()).collect()
}

fn ready(slices: &[EndpointSlice], service: &str) -> usize {
    let ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    of(slices, service).into_iter().filter(ready).count()
}

fn addresses(endpoints: &[Endpoints], service: &str) -> usize {
    let subsets = endpoints.iter().filter(|e| e.metadata.name.as_deref() == Some(service));
    subsets.flat_map(|e| e.subsets.iter().flatten()).map(|s| s.addresses.iter().flatten().count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_pods() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let slices = cluster.api::<EndpointSlice>();
    let services = cluster.api::<Service>();
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}]);
    create(
        &services,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}),
    )
    .await;
    let deployments = cluster.api::<Deployment>();
    let mut object = deployment("web", 3, 1, 0);
    object["spec"]["template"]["metadata"]["labels"]["drain"] = json!("yes");
    create(&deployments, object).await;
    let seen = until(&slices, "three endpoints", |s| ready(s, "web") == 3).await;
    let endpoint = of(&seen, "web")[0].clone();
    assert_eq!(endpoint.zone, endpoint.node_name.as_ref().map(|node| format!("zone-of-{node}")));
    let slice = seen.iter().find(|s| s.metadata.generate_name.as_deref() == Some("web-")).unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    until(&cluster.api::<Endpoints>(), "three addresses", |e| addresses(e, "web") == 3).await;

    // A pod that is going but still serves.
    let pods = cluster.api::<Pod>();
    let victim = endpoint.target_ref.unwrap().name.unwrap();
    pods.delete(&victim, &DeleteParams::default()).await.unwrap();
    let seen = until(&slices, "a terminating endpoint", |slices| {
        let terminating = |e: &&&Endpoint| e.conditions.as_ref().and_then(|c| c.terminating) == Some(true);
        let endpoints = of(slices, "web");
        endpoints.iter().filter(terminating).count() == 1 && ready(slices, "web") == 3
    })
    .await;
    let all = of(&seen, "web");
    let going = all.iter().find(|e| e.target_ref.as_ref().unwrap().name.as_ref() == Some(&victim)).unwrap();
    let conditions = going.conditions.as_ref().unwrap();
    assert_eq!((conditions.ready, conditions.serving), (Some(false), Some(true)));
    until(&cluster.api::<Endpoints>(), "its replacement", |e| addresses(e, "web") == 3).await;
    pods.delete(&victim, &DeleteParams::default().grace_period(0)).await.unwrap();
    until(&slices, "its end", |s| of(s, "web").len() == 3).await;

    patch(&deployments, "web", json!({"spec": {"replicas": 0}})).await;
    until(&cluster.api::<Endpoints>(), "no address", |e| addresses(e, "web") == 0).await;
    until(&slices, "no ready endpoint", |s| ready(s, "web") == 0).await;

    services.delete("web", &DeleteParams::default()).await.unwrap();
    until(&slices, "no slice", |s| s.iter().all(|s| s.metadata.generate_name.as_deref() != Some("web-")))
        .await;
    until(&cluster.api::<Endpoints>(), "no Endpoints", |e| {
        e.iter().all(|e| e.metadata.name.as_deref() != Some("web"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_by_hand_are_mirrored() {
    let cluster = Cluster::new(&[]).await;
    let endpoints = cluster.api::<Endpoints>();
    let subsets = json!([{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]);
    create(&endpoints, json!({"metadata": {"name": "db"}, "subsets": subsets})).await;
    let services = cluster.api::<Service>();
    create(&services, json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    let slices = cluster.api::<EndpointSlice>();
    let seen = until(&slices, "a mirrored endpoint", |s| ready(s, "db") == 1).await;
    assert_eq!(of(&seen, "db")[0].addresses, ["192.0.2.7"]);
    let subsets =
        json!([{"addresses": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8"}], "ports": [{"port": 5432}]}]);
    patch(&endpoints, "db", json!({"subsets": subsets})).await;
    until(&slices, "two mirrored endpoints", |s| ready(s, "db") == 2).await;
    endpoints.delete("db", &DeleteParams::default()).await.unwrap();
    until(&slices, "no mirrored slice", |s| of(s, "db").is_empty()).await;
}
