//! `seaway lab status`: nodes, pods, the cloud and the processes of a lab.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use seaway_net::sandbox;
use serde::Serialize;

use crate::addresses::CloudPlan;
use crate::boxes;
use crate::cloud::{CloudState, Cut, Instance};
use crate::command::{Output, show};
use crate::kept::Kept;
use crate::paths::{self, Paths};
use crate::state::LabState;

/// What `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    kubeconfig: String,
    api_server: String,
    nodes: Vec<NodeStatus>,
    pods: Vec<PodStatus>,
    cloud: CloudPlan,
    /// Between these the cloud loses all packets.
    cuts: Vec<Cut>,
    internet: Vec<HostStatus>,
    processes: Vec<ProcessStatus>,
    /// Why nodes and pods are missing, where the API server does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    name: String,
    /// How its machine is: `running`, `stopped`; `terminated` where there is none (any more).
    state: Instance,
    ready: bool,
    address: String,
    public_addresses: Vec<String>,
    pod_cidr: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    namespace: String,
    name: String,
    phase: String,
    ready: bool,
    address: String,
    node: String,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    name: String,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProcessStatus {
    /// On the host.
    pid: i32,
    /// What it is, as `seaway lab exec` calls it.
    what: String,
}

/// Shows the lab `name`; exit code 1 where its API server does not answer.
pub(crate) fn run(name: &str, output: Output) -> anyhow::Result<ExitCode> {
    let (paths, state) = LabState::running(name)?;
    let status = collect(&paths, &state)?;
    match output {
        Output::Json => show(&serde_json::to_string_pretty(&status)?)?,
        Output::Text => show(text(&status).trim_end())?,
    }
    Ok(if status.error.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line of `seaway lab list`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// It is down, and `lab up` goes on with it.
    kept: bool,
    /// A lab that is not has left something over, which `seaway lab down` removes.
    running: bool,
}

/// Lists the labs of this machine.
pub(crate) fn list(output: Output) -> anyhow::Result<()> {
    let listed = |name: String| {
        let running = LabState::running(&name).is_ok();
        let is_kept = |paths: Paths| matches!(Kept::read(&paths), Ok(Some(_)));
        Listed { running, kept: !running && Paths::new(&name).is_ok_and(is_kept), name }
    };
    let labs: Vec<Listed> = paths::names().into_iter().map(listed).collect();
    if output == Output::Json {
        return show(&serde_json::to_string_pretty(&labs)?);
    }
    let mut out = String::new();
    let state = |lab: &Listed| {
        let state = match (lab.running, lab.kept) {
            (true, _) => "up",
            (false, true) => "down (kept)",
            (false, false) => "down (left over)",
        };
        state.to_owned()
    };
    table(&mut out, &["LAB", "STATE"], labs.iter().map(|lab| vec![lab.name.clone(), state(lab)]));
    show(out.trim())
}

fn collect(paths: &Paths, state: &LabState) -> anyhow::Result<Status> {
    let cloud = state.cloud(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listed = runtime.block_on(async {
        let wait = list_objects(paths, &cloud);
        tokio::time::timeout(std::time::Duration::from_secs(5), wait)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer")))
    });
    let (nodes, pods, error) = match listed {
        Ok((nodes, pods)) => (nodes, pods, None),
        Err(error) => (machines(&cloud, &[]), vec![], Some(format!("{error:#}"))),
    };
    let host = |(name, addresses): (String, Vec<std::net::IpAddr>)| HostStatus {
        name,
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    Ok(Status {
        name: state.design.name.clone(),
        kubeconfig: paths.admin_kubeconfig().display().to_string(),
        api_server: format!("https://127.0.0.1:{}", state.port),
        nodes,
        pods,
        cuts: cloud.cuts.into_iter().collect(),
        cloud: cloud.plan,
        internet: boxes::internet_addresses(&state.design).into_iter().map(host).collect(),
        processes: processes(state)?,
        error,
    })
}

fn processes(state: &LabState) -> anyhow::Result<Vec<ProcessStatus>> {
    let mut processes = vec![ProcessStatus { pid: state.init.pid, what: "init".into() }];
    for sandbox in sandbox::find_sandboxes(state.init.pid)? {
        processes.push(ProcessStatus { pid: sandbox.shim_pid, what: format!("shim of {}", sandbox.label) });
        processes.push(ProcessStatus { pid: sandbox.pid, what: sandbox.label });
    }
    for pid in sandbox::children(state.init.pid)? {
        if !processes.iter().any(|process| process.pid == pid) {
            processes.push(ProcessStatus { pid, what: "supervisor".into() });
        }
    }
    Ok(processes)
}

async fn list_objects(
    paths: &Paths,
    cloud: &CloudState,
) -> anyhow::Result<(Vec<NodeStatus>, Vec<PodStatus>)> {
    let client = seaway_kube::connect(Some(&paths.admin_kubeconfig())).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
    Ok((machines(cloud, &nodes.items), pods.iter().map(pod_status).collect()))
}

/// The machines in the order of their addresses, then the Nodes that have none.
fn machines(cloud: &CloudState, nodes: &[Node]) -> Vec<NodeStatus> {
    let mut planned: Vec<_> = cloud.plan.nodes.iter().collect();
    planned.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let others =
        nodes.iter().map(ResourceExt::name_any).filter(|name| !cloud.node_names().any(|n| n == name));
    let names: Vec<String> = planned.into_iter().map(|node| node.name.clone()).chain(others).collect();
    let object = |name: &str| nodes.iter().find(|node| node.name_any() == name);
    names.into_iter().map(|name| node_status(object(&name), name, cloud)).collect()
}

fn node_status(node: Option<&Node>, name: String, cloud: &CloudState) -> NodeStatus {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
    let planned = cloud.plan.nodes.iter().find(|planned| planned.name == name);
    let addresses = planned.map(|planned| planned.addresses.as_slice()).unwrap_or_default();
    let public = cloud
        .plan
        .source_nat
        .iter()
        .filter(|nat| addresses.iter().any(|address| nat.nodes.contains(address)))
        .flat_map(|nat| &nat.addresses);
    let spec = node.and_then(|node| node.spec.as_ref());
    let pod_cidrs = spec.map(|spec| match &spec.pod_cidrs {
        Some(all) if !all.is_empty() => all.join(","),
        _ => spec.pod_cidr.clone().unwrap_or_default(),
    });
    NodeStatus {
        state: cloud.instance(&name),
        name,
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        address: boxes::list(addresses),
        public_addresses: public.map(ToString::to_string).collect(),
        pod_cidr: pod_cidrs.unwrap_or_default(),
    }
}

fn pod_status(pod: &Pod) -> PodStatus {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    PodStatus {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        phase: status.phase.unwrap_or_default(),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        address: match status.pod_ips {
            Some(all) if !all.is_empty() => all.into_iter().map(|ip| ip.ip).collect::<Vec<_>>().join(","),
            _ => status.pod_ip.unwrap_or_default(),
        },
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
    }
}

fn text(status: &Status) -> String {
    let mut out = format!(
        "lab {}   API server {}   KUBECONFIG={}\n",
        status.name, status.api_server, status.kubeconfig
    );
    if let Some(error) = &status.error {
        out += &format!("the API server does not answer: {error}\n");
    }
    let yes = |ready: bool| if ready { "yes" } else { "no" }.to_owned();
    let nodes = status.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.name().to_owned(),
            yes(node.ready),
            node.address.clone(),
            node.public_addresses.join(","),
            node.pod_cidr.clone(),
        ]
    });
    table(&mut out, &["NODE", "STATE", "READY", "ADDRESS", "SEEN OUTSIDE AS", "PODS"], nodes);
    if !status.cuts.is_empty() {
        let cuts = status.cuts.iter().map(|cut| vec![cut.a.clone(), cut.b.clone()]);
        table(&mut out, &["CUT BETWEEN", "AND"], cuts);
    }
    let pods = status.pods.iter().map(|pod| {
        let name = format!("{}/{}", pod.namespace, pod.name);
        vec![name, yes(pod.ready), pod.phase.clone(), pod.address.clone(), pod.node.clone()]
    });
    table(&mut out, &["POD", "READY", "PHASE", "ADDRESS", "NODE"], pods);
    let hosts = status.internet.iter().map(|host| vec![host.name.clone(), host.addresses.join(",")]);
    table(&mut out, &["INTERNET HOST", "ADDRESSES"], hosts);
    let programs = status.processes.iter().filter(|process| !process.what.starts_with("shim of "));
    let programs = programs.map(|process| vec![process.pid.to_string(), process.what.clone()]);
    table(&mut out, &["PID", "PROCESS"], programs);
    out
}

fn table(out: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec()).add_rows(rows);
    out.push('\n');
    for line in table.lines() {
        out.push_str(line.trim());
        out.push('\n');
    }
}
