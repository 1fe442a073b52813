//! The main process of a lab's node: it starts the agent and the kubelet, and starts them again when they end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use seaway_net::sandbox::{self, Spec, Stdio};

use crate::boxes;

/// How long a process that ended stays away.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// The longest that one stays away which keeps ending.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// A process that ran this long starts with a clean record.
const STABLE: Duration = Duration::from_secs(30);

/// What `seaway kubelet` ends with when it has shut the node down.
const SHUT_DOWN: i32 = 100;

/// `seaway lab node-main`: the supervisor starts it, nobody else.
#[derive(clap::Args, Debug)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    node_name: String,
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    #[arg(long)]
    cluster_dns: IpAddr,
    #[arg(long, default_value = "")]
    zone: String,
}

/// Runs the node's processes until the node ends.
pub(crate) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let agent = spec(args, "agent", agent_argv(args));
    let kubelet = spec(args, "kubelet", kubelet_argv(args));
    thread::scope(|scope| {
        scope.spawn(|| keep_running(&agent));
        scope.spawn(|| keep_running(&kubelet));
    });
    Ok(())
}

fn spec(args: &NodeArgs, process: &str, argv: Vec<String>) -> Spec {
    let mut spec = Spec::new(format!("node/{}/{process}", args.node_name), argv);
    spec.env = boxes::environment();
    spec
}

fn agent_argv(args: &NodeArgs) -> Vec<String> {
    boxes::argv([
        "agent",
        &format!("--node-name={}", args.node_name),
        "--kubeconfig=/etc/seaway/agent.kubeconfig",
        "--net-conf=/etc/kube-flannel/net-conf.json",
        "--iface=eth0",
        // Load balancers ask at the node's addresses, of whichever family.
        &format!("--healthz-bind={}", SocketAddr::new(boxes::any_address(&args.node_ip), 10256)),
    ])
}

fn kubelet_argv(args: &NodeArgs) -> Vec<String> {
    let mut argv = boxes::argv([
        "kubelet",
        &format!("--node-name={}", args.node_name),
        "--kubeconfig=/etc/seaway/kubelet.kubeconfig",
        "--cert=/etc/seaway/kubelet.crt",
        "--key=/etc/seaway/kubelet.key",
        "--client-ca=/etc/seaway/ca.crt",
        &format!("--cluster-dns={}", args.cluster_dns),
        "--cluster-domain=cluster.local",
        "--resolv-conf=/etc/resolv.conf",
        "--lease-renew=1",
        "--node-lease-duration-seconds=4",
        "--restart-backoff-base=1",
    ]);
    argv.extend(args.node_ip.iter().map(|address| format!("--node-ip={address}")));
    if !args.zone.is_empty() {
        argv.push(format!("--node-labels=topology.kubernetes.io/zone={}", args.zone));
    }
    argv
}

/// Starts the process, waits for its end, and starts it again; a kubelet that has shut the node down switches it off.
fn keep_running(spec: &Spec) {
    let mut delay = RESTART_DELAY;
    loop {
        let started = Instant::now();
        match run_once(spec) {
            Ok(SHUT_DOWN) => {
                tracing::info!("shut down: switching off");
                std::process::exit(0);
            }
            Ok(code) => tracing::warn!(process = spec.label, code, "ended; starting it again"),
            Err(error) => tracing::error!(process = spec.label, error = format!("{error:#}"), "not started"),
        }
        if started.elapsed() > STABLE {
            delay = RESTART_DELAY;
        }
        thread::sleep(delay);
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

fn run_once(spec: &Spec) -> anyhow::Result<i32> {
    let error = || io::stderr().as_fd().try_clone_to_owned();
    let stdio = Stdio { stdin: None, stdout: Some(error()?), stderr: Some(error()?) };
    let mut running = sandbox::spawn(spec, stdio)?;
    running.wait().context("cannot wait for the process")
}
