//! What all parts of the kubelet share.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use seaway_dns::resolvconf::{ClusterDns, ResolvConf};
use tokio_util::sync::CancellationToken;

use crate::args::KubeletArgs;
use crate::cni::Plugins;
use crate::env::Machine;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::registry::Registry;

/// The kubelet: its settings and the parts that pods use.
pub(crate) struct Kubelet {
    pub args: KubeletArgs,
    pub client: Client,
    pub objects: Objects,
    pub events: Recorder,
    pub registry: Registry,
    pub plugins: Plugins,
    pub machine: Machine,
    pub hostname: String,
    /// The node is shutting down.
    pub shutdown: CancellationToken,
}

impl Kubelet {
    pub(crate) fn new(args: KubeletArgs, client: Client) -> Self {
        Self {
            objects: Objects::start(&client),
            events: Recorder::start(client.clone(), args.node_name.clone()),
            registry: Registry::default(),
            plugins: Plugins { dirs: args.cni_bin_dir.clone() },
            machine: machine(),
            hostname: hostname().unwrap_or_else(|| args.node_name.clone()),
            shutdown: CancellationToken::new(),
            client,
            args,
        }
    }

    /// A pod's own directory.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// Where all pods' directories are.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.args.root_dir.join("pods")
    }

    /// The empty directory on which containers' roots are assembled.
    pub(crate) fn root_mount(&self) -> PathBuf {
        self.args.root_dir.join("root")
    }

    /// The node's addresses.
    pub(crate) fn node_ips(&self) -> Vec<String> {
        self.args.node_ip.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn cluster_dns(&self) -> ClusterDns {
        ClusterDns { servers: self.args.cluster_dns.clone(), domain: self.args.cluster_domain.clone() }
    }

    /// The node's own resolv.conf; empty where there is none.
    pub(crate) fn node_resolv_conf(&self) -> ResolvConf {
        ResolvConf::parse_host(&std::fs::read_to_string(&self.args.resolv_conf).unwrap_or_default())
    }

    pub(crate) fn backoff_base(&self) -> Duration {
        Duration::from_secs_f64(self.args.restart_backoff_base)
    }
}

fn hostname() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Processors and memory of the machine.
fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Machine { cpus: cpus as f64, memory: memory.unwrap_or(0) as f64 * 1024.0 }
}
