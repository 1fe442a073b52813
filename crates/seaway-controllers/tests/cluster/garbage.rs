//! Namespaces and garbage collection.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use serde_json::json;

use crate::support::{Cluster, create, deployment, until};

fn name<K: kube::Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_begins_and_ends() {
    let cluster = Cluster::new(&["a"]).await;
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), "shop");
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "shop");
    until(&accounts, "the default account", |a| a.iter().any(|a| name(a) == "default")).await;
    let is_ca = |m: &ConfigMap| {
        name(m) == "kube-root-ca.crt" && m.data.as_ref().is_some_and(|d| d["ca.crt"].contains("authority"))
    };
    until(&maps, "the root certificate", |maps| maps.iter().any(is_ca)).await;
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    until(&accounts, "the default account again", |a| a.iter().any(|a| name(a) == "default")).await;

    create(&maps, json!({"metadata": {"name": "mine"}, "data": {"a": "b"}})).await;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "shop");
    create(&deployments, deployment("web", 2, 1, 0)).await;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "shop");
    until(&pods, "two pods", |pods| pods.len() == 2).await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    until(&namespaces, "the end", |n| n.iter().all(|n| name(n) != "shop")).await;
    for left in [
        pods.list(&Default::default()).await.unwrap().items.len(),
        maps.list(&Default::default()).await.unwrap().items.len(),
    ] {
        assert_eq!(left, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_as_their_owner_wished() {
    let cluster = Cluster::new(&["a"]).await;
    let deployments = cluster.api::<Deployment>();
    let (sets, pods) = (cluster.api::<ReplicaSet>(), cluster.api::<Pod>());
    let policy = |policy| DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    for propagation in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        create(&deployments, deployment("web", 2, 1, 0)).await;
        until(&pods, "two pods", |pods| pods.len() == 2).await;
        deployments.delete("web", &policy(propagation)).await.unwrap();
        until(&pods, "no pods", <[Pod]>::is_empty).await;
        until(&sets, "no sets", <[ReplicaSet]>::is_empty).await;
        until(&deployments, "no deployment", <[Deployment]>::is_empty).await;
    }
    create(&deployments, deployment("web", 2, 1, 0)).await;
    until(&pods, "two pods", |pods| pods.len() == 2).await;
    deployments.delete("web", &policy(PropagationPolicy::Orphan)).await.unwrap();
    until(&deployments, "no deployment", <[Deployment]>::is_empty).await;
    let orphans = until(&sets, "an orphan", |sets| {
        sets.iter().all(|s| s.metadata.owner_references.iter().flatten().next().is_none())
    })
    .await;
    assert_eq!(orphans.len(), 1);
    // A Deployment of the same template takes them over again.
    create(&deployments, deployment("web", 2, 1, 0)).await;
    let adopted = until(&sets, "an adoption", |sets| {
        sets.iter().all(|s| s.metadata.owner_references.iter().flatten().next().is_some())
    })
    .await;
    assert_eq!(name(&adopted[0]), name(&orphans[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_any_kind() {
    let cluster = Cluster::new(&[]).await;
    let (maps, secrets) = (cluster.api::<ConfigMap>(), cluster.api::<Secret>());
    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await;
    let reference =
        |name: &str, uid: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}]);
    let uid = owner.metadata.uid.unwrap();
    create(&secrets, json!({"metadata": {"name": "owned", "ownerReferences": reference("owner", &uid)}}))
        .await;
    let stranger = reference("owner", "11111111-2222-3333-4444-555555555555");
    create(&secrets, json!({"metadata": {"name": "stray", "ownerReferences": stranger}})).await;
    // The uid is another's: its owner is gone, whatever now has the name.
    until(&secrets, "one secret", |s| s.len() == 1 && name(&s[0]) == "owned").await;
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    until(&secrets, "no secret", <[Secret]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_nobody_looks_is_cleared_away() {
    let mut cluster = Cluster::new(&[]).await;
    let (maps, secrets) = (cluster.api::<ConfigMap>(), cluster.api::<Secret>());
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let inside = Api::<Secret>::namespaced(cluster.client.clone(), "short");
    create(&namespaces, json!({"metadata": {"name": "short"}})).await;
    create(&inside, json!({"metadata": {"name": "inside"}})).await;
    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await;
    let owners =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}]);
    create(&secrets, json!({"metadata": {"name": "owned", "ownerReferences": owners}})).await;
    let ending = async {
        namespaces.delete("short", &DeleteParams::default()).await.unwrap();
        maps.delete("owner", &DeleteParams::default()).await.unwrap();
    };
    cluster.without_controllers(ending).await;
    until(&namespaces, "no namespace", |all| !all.iter().any(|n| name(n) == "short")).await;
    assert!(inside.list(&ListParams::default()).await.unwrap().items.is_empty(), "a namespace goes last");
    until(&secrets, "no secret", <[Secret]>::is_empty).await;
}
