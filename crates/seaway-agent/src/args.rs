//! The agent's command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;
use seaway_proxy::leftovers::CleanupKubeProxy;

/// Options of `seaway agent`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  seaway agent --node-name node-1 --kubeconfig /etc/seaway/kubeconfig
  seaway agent --node-name node-1 --iface eth1 --non-masquerade-cidr 10.0.0.0/8
  seaway agent --node-name node-1 --dry-run      # print what would change in the kernel, change nothing

The agent needs CAP_NET_ADMIN in the node's network namespace. When it ends, by whatever signal, it leaves the kernel as
it is, so that traffic goes on; when it starts it takes over what it finds.")]
pub struct AgentArgs {
    /// This node's name in the Kubernetes API
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// How to reach the API server; without it, the pod's service account
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// flannel's net-conf.json: the pod network and the backend between nodes [default: /etc/kube-flannel/net-conf.json,
    /// and if there is none, the network between pods is left alone]
    #[arg(long, value_name = "FILE")]
    pub net_conf: Option<PathBuf>,
    /// The interface towards the other nodes; auto: the one that the node's InternalIP is on
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub iface: String,
    /// Directory for the socket
    #[arg(long, value_name = "DIR", default_value = "/run/seaway")]
    pub run_dir: PathBuf,
    /// Where the container runtime looks for network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the container runtime looks for CNI plugins; ends in opt/cni/bin
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// flannel's file for other programs
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Where /metrics and /proxyMode are served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind: SocketAddr,
    /// Where /healthz and /livez are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    pub healthz_bind: SocketAddr,
    /// A destination that pods reach under their own address, beside the pod network and multicast (may be repeated)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub non_masquerade_cidr: Vec<IpNet>,
    /// How Services are served, as kube-proxy's configuration file (KubeProxyConfiguration): detectLocalMode, nodePortAddresses,
    /// masqueradeAll, conntrack and the sync periods; addresses, kubeconfig and the node's name are this command's own
    #[arg(long, value_name = "FILE")]
    pub proxy_config: Option<PathBuf>,
    /// Whether what a kube-proxy left in the kernel is removed once Services are served from here and no kube-proxy runs: auto
    /// or never
    #[arg(long, value_name = "WHEN", default_value_t)]
    pub cleanup_kube_proxy: CleanupKubeProxy,
    /// Print what would change in the kernel, and end
    #[arg(long)]
    pub dry_run: bool,
}
