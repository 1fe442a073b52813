//! `seaway lab node`, `cut` and `mend`: what happens to machines and to the network between them.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::boxes;
use crate::command::{NameArgs, show};
use crate::paths::Paths;
use crate::progress::Display;
use crate::ready;
use crate::state::LabState;
use crate::supervisor::{Answer, Request, ask};

/// How long a new node may take until it is Ready, and how long pods may take to leave one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the pods that have to leave.
const LOOK: Duration = Duration::from_millis(50);

/// `seaway lab node`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  seaway lab node stop node-2                the power is cut; the Node stays and becomes NotReady
  seaway lab node stop node-2 --graceful     its pods are ended first, as by a shutdown
  seaway lab node start node-2               with the same disk and address
  seaway lab node add                        node-4, and when that is Ready, done
  seaway lab node remove node-1              its pods move, then it is gone for good
  seaway lab node remove node-1 --now        as when somebody deletes the instance in the cloud's console")]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Subcommand, Debug)]
enum NodeCommand {
    /// End a node at once, as a power cut would
    Stop(StopArgs),
    /// Start a node that is stopped
    Start(NodeName),
    /// Add a node
    Add(AddArgs),
    /// Move a node's pods elsewhere, and remove it
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
struct NodeName {
    /// The node's name
    node: String,
    #[command(flatten)]
    lab: NameArgs,
}

#[derive(Args, Debug)]
struct StopArgs {
    #[command(flatten)]
    node: NodeName,
    /// Shut it down: its pods are told to end and get their time
    #[arg(long)]
    graceful: bool,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// The node's name [default: node-N, with the first number that is free]
    node: Option<String>,
    #[command(flatten)]
    lab: NameArgs,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    #[command(flatten)]
    node: NodeName,
    /// Remove the machine with all that runs on it; the cloud's controller then deletes the Node
    #[arg(long)]
    now: bool,
}

/// Two parts of the cloud.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  seaway lab cut node-1 node-2           pods on one do not reach those on the other; both nodes stay Ready
  seaway lab cut node-3 control-plane    node-3 becomes NotReady, what runs there goes on
  seaway lab cut node-2 internet         no way out for node-2
  seaway lab mend node-1 node-2
  seaway lab mend --all")]
pub(crate) struct CutArgs {
    /// A node, control-plane, gateway or internet
    a: String,
    /// Another one
    b: String,
    #[command(flatten)]
    lab: NameArgs,
}

/// Two parts of the cloud, or all.
#[derive(Args, Debug)]
pub(crate) struct MendArgs {
    /// A node, control-plane, gateway or internet
    #[arg(required_unless_present = "all", conflicts_with = "all", requires = "b")]
    a: Option<String>,
    /// Another one
    b: Option<String>,
    /// Mend all that is cut
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    lab: NameArgs,
}

/// A lab that runs, for those who change it.
struct Running {
    paths: Paths,
    state: LabState,
}

impl Running {
    fn find(lab: &NameArgs) -> anyhow::Result<Self> {
        let (paths, state) = LabState::running(&lab.name)?;
        Ok(Self { paths, state })
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        ask(&self.paths.control_socket(), request)
    }

    /// Does something with a client of the API server.
    fn with_client<T>(&self, f: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { f(seaway_kube::connect(Some(&self.paths.admin_kubeconfig())).await?).await })
    }
}

/// Runs `seaway lab node`.
pub(crate) fn run(args: NodeArgs) -> anyhow::Result<()> {
    match args.command {
        NodeCommand::Stop(StopArgs { node: NodeName { node, lab }, graceful }) => {
            Running::find(&lab)?.ask(&Request::StopNode { name: node, graceful }).map(drop)
        }
        NodeCommand::Start(NodeName { node, lab }) => {
            Running::find(&lab)?.ask(&Request::StartNode { name: node }).map(drop)
        }
        NodeCommand::Add(AddArgs { node, lab }) => add(&Running::find(&lab)?, node),
        NodeCommand::Remove(RemoveArgs { node: NodeName { node, lab }, now }) => {
            remove(&Running::find(&lab)?, node, now)
        }
    }
}

fn add(lab: &Running, name: Option<String>) -> anyhow::Result<()> {
    let mut display = Display::new();
    let Answer::Node(node) = lab.ask(&Request::AddNode { name })? else {
        anyhow::bail!("the supervisor's answer names no node");
    };
    display.done("machine");
    lab.with_client(async |client| {
        let ready = ready::nodes(&client, std::slice::from_ref(&node));
        tokio::time::timeout(PATIENCE, ready).await.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("node {} is not Ready after {} s", node.name, PATIENCE.as_secs()))
        })
    })?;
    display.done("node ready");
    display.finish(&format!("{} has joined at {}", node.name, boxes::list(&node.addresses)));
    show(&node.name)
}

fn remove(lab: &Running, name: String, now: bool) -> anyhow::Result<()> {
    let cloud = lab.state.cloud(&lab.paths)?;
    cloud.must_have(&name).map_err(anyhow::Error::msg)?;
    if now {
        lab.ask(&Request::RemoveNode { name: name.clone() })?;
        return show(&format!(
            "the machine {name} is gone; the cloud's controller deletes its Node within some seconds"
        ));
    }
    let mut display = Display::new();
    lab.with_client(async |client| {
        let drained = tokio::time::timeout(PATIENCE, drain(&client, &name)).await;
        drained.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "pods are on {name} still after {} s; it gets no new ones. `seaway lab node remove {name} --now` does not wait for them",
                PATIENCE.as_secs()
            ))
        })
    })?;
    display.done("pods moved");
    lab.ask(&Request::RemoveNode { name: name.clone() })?;
    display.done("machine gone");
    lab.with_client(async |client| delete(&client, &name).await)?;
    display.finish(&format!("{name} is removed"));
    Ok(())
}

/// Keeps new pods away and moves those that are there, as `kubectl drain --ignore-daemonsets --delete-emptydir-data --force` does.
async fn drain(client: &Client, name: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    match nodes.patch(name, &PatchParams::default(), &cordon).await {
        // Somebody has deleted it already: what was bound to it is going.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        patched => drop(patched.with_context(|| format!("node {name}"))?),
    }
    let begun = Instant::now();
    loop {
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods = Api::<Pod>::all(client.clone()).list(&here).await?;
        let mut left: Vec<&Pod> = pods.iter().filter(|pod| !stays(pod)).collect();
        if left.is_empty() {
            return Ok(());
        }
        left.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        for pod in left {
            evict(client, pod).await?;
        }
        tracing::debug!(name, waited = ?begun.elapsed(), "pods are leaving");
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a pod goes with its node: it is the node's own, or has ended.
fn stays(pod: &Pod) -> bool {
    let of_daemon_set =
        pod.owner_references().iter().any(|o| o.kind == "DaemonSet" && o.controller == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    of_daemon_set || matches!(phase, Some("Succeeded" | "Failed"))
}

async fn evict(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let evicted = api.evict(&name, &EvictParams::default()).await.map(drop);
    match evicted {
        // Too Many Requests: a disruption budget asks for patience; Not Found: it went by itself.
        Err(kube::Error::Api(status))
            if status.code == 429 || (status.code == 404 && status.reason == "NotFound") =>
        {
            Ok(())
        }
        result => result.with_context(|| format!("evict pod {namespace}/{name}")),
    }
}

async fn delete(client: &Client, name: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code != 404 => {
            anyhow::bail!("node {name}: {}", status.message)
        }
        Err(kube::Error::Api(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Runs `seaway lab cut`.
pub(crate) fn cut(args: CutArgs) -> anyhow::Result<()> {
    let lab = Running::find(&args.lab)?;
    change(&lab, &Request::Cut { a: args.a, b: args.b }, ["are lost from now on", "are lost already"])
}

/// Runs `seaway lab mend`.
pub(crate) fn mend(args: MendArgs) -> anyhow::Result<()> {
    let lab = Running::find(&args.lab)?;
    let words = ["arrive again", "were not lost"];
    if let (Some(a), Some(b)) = (args.a, args.b) {
        return change(&lab, &Request::Mend { a, b }, words);
    }
    for cut in lab.state.cloud(&lab.paths)?.cuts {
        change(&lab, &Request::Mend { a: cut.a, b: cut.b }, words)?;
    }
    Ok(())
}

fn change(lab: &Running, request: &Request, [news, no_news]: [&str; 2]) -> anyhow::Result<()> {
    let Answer::Cut { cut, news: is_news } = lab.ask(request)? else {
        anyhow::bail!("the supervisor's answer names no pair");
    };
    let verb = if is_news { news } else { no_news };
    show(&format!("packets between {} and {} {verb}", cut.a, cut.b))
}
