//! Waiting until the lab works, by what its API server says.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client};

use crate::addresses::NodePlan;

/// Between two attempts to reach an API server that starts.
const RETRY: Duration = Duration::from_millis(10);

/// A client of the API server, when that answers.
pub(crate) async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let client = seaway_kube::connect(Some(kubeconfig)).await?;
    while client.apiserver_version().await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
    Ok(client)
}

/// Waits until all nodes are Ready.
pub(crate) async fn nodes(client: &Client, nodes: &[NodePlan]) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let wait = |node: &NodePlan| {
        let (api, name) = (api.clone(), node.name.clone());
        async move { await_condition(api, &name, node_is_ready()).await.with_context(|| format!("node {name}")) }
    };
    futures::future::try_join_all(nodes.iter().map(wait)).await?;
    Ok(())
}

fn node_is_ready() -> impl Condition<Node> {
    |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    }
}

/// Waits until these nodes' kubelets have said since `begun` that they are Ready: what the API server says at first of a lab that is
/// brought back is from before.
pub(crate) async fn nodes_again(client: &Client, nodes: &[&str], begun: Timestamp) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let wait = |name: &str| {
        let (api, leases, name) = (api.clone(), leases.clone(), name.to_owned());
        async move {
            let renewed = move |lease: Option<&Lease>| {
                let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
                renewed.is_some_and(|time| time.0 >= begun)
            };
            await_condition(leases, &name, renewed)
                .await
                .with_context(|| format!("node {name}: its Lease"))?;
            let ready = move |node: Option<&Node>| {
                let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
                // Written in whole seconds.
                let since = |time: &Time| time.0.as_second() >= begun.as_second();
                conditions.is_some_and(|all| {
                    all.iter().any(|c| {
                        c.type_ == "Ready"
                            && c.status == "True"
                            && c.last_heartbeat_time.as_ref().is_some_and(since)
                    })
                })
            };
            await_condition(api, &name, ready).await.with_context(|| format!("node {name}"))
        }
    };
    futures::future::try_join_all(nodes.iter().map(|name| wait(name))).await?;
    Ok(())
}

/// Waits until a pod of these labels is Ready whose container started since `begun`.
pub(crate) async fn a_pod_again(
    client: &Client,
    namespace: &str,
    labels: &str,
    begun: Timestamp,
) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    loop {
        let pods = api.list(&ListParams::default().labels(labels)).await?;
        if pods.iter().any(|pod| works_since(pod, begun)) {
            return Ok(());
        }
        tokio::time::sleep(RETRY * 5).await;
    }
}

fn works_since(pod: &Pod, begun: Timestamp) -> bool {
    let Some(status) = &pod.status else { return false };
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let started = |status: &ContainerStatus| {
        let running = status.state.as_ref().and_then(|state| state.running.as_ref());
        running
            .and_then(|running| running.started_at.as_ref())
            .is_some_and(|time| time.0.as_second() >= begun.as_second())
    };
    ready && status.container_statuses.iter().flatten().all(started)
}

/// Waits until all replicas of a Deployment are available.
pub(crate) async fn deployment(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    await_condition(api, name, |deployment: Option<&Deployment>| {
        deployment.is_some_and(|deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) >= wanted
        })
    })
    .await
    .with_context(|| format!("deployment {namespace}/{name}"))?;
    Ok(())
}
