//! Waiting until the lab works, by what its API server says.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
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
