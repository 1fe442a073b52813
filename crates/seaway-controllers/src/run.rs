//! Wires the watches, the queues and the controllers together.

mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use kube::runtime::watcher;
use kube::{Client, Config as ClientConfig};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::ControllersArgs;
use crate::cluster::Cluster;
use crate::controllers::endpoints;
use crate::controllers::garbage::{self, Kinds};
use crate::controllers::namespace::ROOT_CA;
use crate::controllers::node_cidr::Pool;
use crate::execute::Executor;
use crate::object::{Kind, with_watched_kinds};
use crate::watch::pump;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// What the controllers need to know besides the cluster's state.
#[derive(Clone, Debug)]
pub struct Config {
    /// The networks of which nodes get parts.
    pub pools: Vec<Pool>,
    /// How long a node may be silent.
    pub grace: Duration,
    /// Longest time between two looks at a node.
    pub period: Duration,
    /// The cloud's file of its machines, where there is a cloud.
    pub cloud_instances: Option<PathBuf>,
    /// The API server's certificate authority in PEM, for the namespaces' `kube-root-ca.crt`.
    pub root_ca: String,
}

/// Runs the controllers until the process is told to end (SIGINT or SIGTERM).
pub fn run(args: ControllersArgs) -> anyhow::Result<ExitCode> {
    let pools = Pool::all(&args.cluster_cidr, args.node_cidr_mask_size, args.node_cidr_mask_size_ipv6)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client_config = seaway_kube::configuration(args.kubeconfig.as_deref()).await?;
        let config = Config {
            pools,
            grace: args.node_monitor_grace_period,
            period: args.node_monitor_period,
            cloud_instances: args.cloud_instances,
            root_ca: root_ca(&client_config),
        };
        let client = seaway_kube::client(client_config)?;
        let stop = CancellationToken::new();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let signalled = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            stop.cancel();
        };
        tokio::join!(start(client, config, stop.clone()), signalled);
        info!("controllers end");
        Ok(ExitCode::SUCCESS)
    })
}

/// The certificate authority of a client configuration, in PEM (RFC 7468).
fn root_ca(config: &ClientConfig) -> String {
    let mut pem = String::new();
    for certificate in config.root_cert.iter().flatten() {
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// Runs the controllers with this client until `stop`.
pub async fn start(client: Client, config: Config, stop: CancellationToken) {
    let cluster = Cluster::new();
    let kinds = Kinds::new(client.clone());
    let executor = Executor::new(client.clone(), cluster.clone());
    let mut tasks: FuturesUnordered<BoxFuture<'static, ()>> = pumps(&cluster, &client);
    let config = Arc::new(config);
    tasks.push(Box::pin(async move {
        cluster.wait_synced().await;
        info!("controllers have seen all objects and begin");
        wake_for_leftovers(&cluster);
        // ConfigMaps are watched in part only.
        let whole = whole_kinds().into_iter().map(|kind| kind.resource()).collect();
        tokio::join!(
            garbage::watch_other_kinds(cluster.clone(), kinds.clone(), whole),
            garbage::work(cluster.clone(), kinds.clone()),
            workers::all(executor, kinds, config),
        );
    }));
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { while tasks.next().await.is_some() {} } => {}
    }
}

/// Wakes the controllers whose objects no owner reference ties to what they come from: where that went while nobody looked,
/// no event will tell.
fn wake_for_leftovers(cluster: &Cluster) {
    let stores = cluster.stores();
    for (key, endpoints) in stores.endpoints.iter() {
        if endpoints::is_kept_here(endpoints) && stores.services.get(key).is_none() {
            cluster.queues.endpoints.add(key.clone());
        }
    }
}

macro_rules! define_pumps {
    ($($kind:ident $field:ident $group:expr;)*) => {
        /// All watches.
        fn pumps(cluster: &Arc<Cluster>, client: &Client) -> FuturesUnordered<BoxFuture<'static, ()>> {
            let tasks = FuturesUnordered::new();
            $(tasks.push(Box::pin(pump::<$kind>(cluster.clone(), client.clone(), selection(Kind::$kind)))
                as BoxFuture<'static, ()>);)*
            tasks
        }

        /// The kinds of which every object is watched whole.
        fn whole_kinds() -> Vec<Kind> {
            [$(Kind::$kind),*].into_iter().filter(|kind| *kind != Kind::ConfigMap).collect()
        }
    };
}
with_watched_kinds!(define_pumps);

/// The objects of a kind that are watched: of the ConfigMaps those alone that are kept here.
fn selection(kind: Kind) -> watcher::Config {
    match kind {
        Kind::ConfigMap => watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}")),
        _ => watcher::Config::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_whose_service_went_meanwhile_are_found() {
        let cluster = Cluster::new();
        for (name, keeper) in [("by-hand", "somebody"), ("left", "endpoint-controller")] {
            let object = serde_json::json!({"metadata": {"namespace": "ns", "name": name, "uid": name,
                "labels": {"endpoints.kubernetes.io/managed-by": keeper}}});
            cluster.observe(serde_json::from_value::<Endpoints>(object).unwrap());
        }
        wake_for_leftovers(&cluster);
        assert_eq!(cluster.queues.endpoints.next().await.name, "left");
        let other = tokio::time::timeout(Duration::from_millis(1), cluster.queues.endpoints.next());
        assert!(other.await.is_err());
    }
}
