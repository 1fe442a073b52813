//! The Node object and its Lease, kept in the API for as long as the kubelet runs.

mod status;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::cni::Network;
use crate::events::Severity;
use crate::kubelet::Kubelet;
use status::{NotReady, System};

pub(crate) use status::VERSION;

/// Where nodes' Leases are.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the network's configuration is looked at: until it is there, and from then on.
const LOOK_FOR_NETWORK: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Keeps the Node registered and its status current, for ever.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let api: Api<Node> = Api::all(kubelet.client.clone());
    let args = &kubelet.args;
    let system = system();
    let mut changes = Box::pin(watch_object(api.clone(), &args.node_name).default_backoff());
    let period = Duration::from_secs_f64(args.node_status_report_frequency);
    let mut known: Option<Node> = None;
    let mut told: Option<NotReady> = None;
    let mut due = Instant::now();
    loop {
        let not_ready = if kubelet.shutdown.is_cancelled() {
            Some("node is shutting down".to_owned())
        } else {
            network_problem(&args.cni_conf_dir)
        };
        let news = told.as_ref() != Some(&not_ready);
        if news || Instant::now() >= due {
            let old = known.as_ref().and_then(|node| node.status.as_ref());
            let status = status::status(args, kubelet.machine, &system, &not_ready, old, Timestamp::now());
            let node = status::node(args, status);
            match tell(&api, &node).await {
                Ok(fresh) => {
                    if told.as_ref().is_some_and(Option::is_some) && not_ready.is_none() {
                        kubelet.events.node(
                            &fresh,
                            Severity::Normal,
                            "NodeReady",
                            format!("Node {} status is now: NodeReady", args.node_name),
                        );
                    }
                    known = Some(fresh);
                    told = Some(not_ready.clone());
                    due = Instant::now() + period;
                }
                Err(error) => {
                    tracing::warn!(%error, "writing the Node's status");
                    due = Instant::now() + RETRY;
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        let not_ready_for_good = kubelet.shutdown.is_cancelled();
        let look = if not_ready.is_some() { LOOK_FOR_NETWORK.0 } else { LOOK_FOR_NETWORK.1 };
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(Some(node))) => {
                    if !status::tells(&node, &not_ready) {
                        due = Instant::now();
                    }
                    known = Some(node);
                }
                Some(Ok(None)) => {
                    tracing::info!("the Node is not in the API: registering it");
                    known = None;
                    due = Instant::now();
                }
                Some(Err(error)) => tracing::debug!(%error, "watching the Node"),
                None => return,
            },
            () = sleep_until(due.min(Instant::now() + look)) => {}
            () = kubelet.shutdown.cancelled(), if !not_ready_for_good => {}
        }
    }
}

/// Writes the Node's status; registers the Node where it is absent, and gives it its labels where they are.
async fn tell(api: &Api<Node>, node: &Node) -> kube::Result<Node> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams::default();
    let status = patch(node.status.as_ref());
    match api.patch_status(name, &params, &Patch::Strategic(status)).await {
        Ok(fresh) => {
            let has = fresh.metadata.labels.clone().unwrap_or_default();
            let wanted = node.metadata.labels.clone().unwrap_or_default();
            if wanted.iter().all(|(key, value)| has.get(key) == Some(value)) {
                return Ok(fresh);
            }
            api.patch(name, &params, &Patch::Merge(json!({"metadata": {"labels": wanted}}))).await
        }
        Err(kube::Error::Api(answer)) if answer.code == 404 => api.create(&PostParams::default(), node).await,
        Err(error) => Err(error),
    }
}

/// The patch that makes the status this one. Addresses are merged by type, of which a node of two families has two of one: they are
/// replaced as a whole, as kubelet does (kubernetes/kubernetes issue 52387).
fn patch(status: Option<&NodeStatus>) -> Value {
    let mut patch = json!({ "status": status });
    if let Some(addresses) = patch.pointer_mut("/status/addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
    patch
}

/// Why pods can't have a network, where they can't.
fn network_problem(conf_dir: &Path) -> NotReady {
    let problem = Network::load(conf_dir).err()?;
    Some(format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {problem}"
    ))
}

/// Renews the node's Lease, for ever.
pub(crate) async fn renew_lease(kubelet: Arc<Kubelet>) {
    let api: Api<Lease> = Api::namespaced(kubelet.client.clone(), LEASE_NAMESPACE);
    let period = Duration::from_secs_f64(kubelet.args.lease_renew);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A renewal that hangs must not keep the next one from being tried.
        let renewed = tokio::time::timeout(period.max(RETRY * 4), renew(&kubelet, &api)).await;
        match renewed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "renewing the node's Lease");
                ticks.reset_after(RETRY.min(period));
            }
            Err(_) => tracing::warn!("renewing the node's Lease takes too long"),
        }
    }
}

async fn renew(kubelet: &Kubelet, api: &Api<Lease>) -> kube::Result<()> {
    let args = &kubelet.args;
    let spec = LeaseSpec {
        holder_identity: Some(args.node_name.clone()),
        lease_duration_seconds: i32::try_from(args.node_lease_duration_seconds).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match api.patch(&args.node_name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => return Err(error),
    }
    let node: Api<Node> = Api::all(kubelet.client.clone());
    let owner = node.get_opt(&args.node_name).await?.and_then(|node| {
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.metadata.name?,
            uid: node.metadata.uid?,
            ..OwnerReference::default()
        })
    });
    let metadata = ObjectMeta {
        name: Some(args.node_name.clone()),
        namespace: Some(LEASE_NAMESPACE.to_owned()),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
}

fn system() -> System {
    let read =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    System {
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        machine_id: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
    }
}
