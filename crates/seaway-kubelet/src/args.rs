//! The kubelet's command line, with kubelet's own names where it has them.

use std::net::IpAddr;
use std::path::PathBuf;

/// Arguments of `seaway kubelet`.
#[derive(clap::Args, Debug, Clone)]
#[command(
    about = "Run a node's pods",
    after_help = "Example:\n  seaway kubelet --node-name node-1 --node-ip 172.18.0.11 --kubeconfig /etc/seaway/kubeconfig \\\n    --cert /etc/seaway/kubelet.crt --key /etc/seaway/kubelet.key --client-ca /etc/seaway/ca.crt

SIGUSR1 shuts the node down: it is not ready any more, its pods end within their grace periods (30 seconds at the most) and count as
failed, and the kubelet ends with exit code 100."
)]
pub struct KubeletArgs {
    /// The Node's name
    #[arg(long)]
    pub node_name: String,
    /// How to reach the API server; in-cluster configuration or ~/.kube/config where absent
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The node's address, which hostNetwork pods have too; give it twice for both families
    #[arg(long, required = true)]
    pub node_ip: Vec<IpAddr>,
    /// Where pods' directories, logs and state are
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Where pods' network namespaces are bound
    #[arg(long, default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// The cluster DNS service's address; may be repeated
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The node's own resolv.conf
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// The node's own hosts file, which hostNetwork pods get
    #[arg(long, default_value = "/etc/hosts")]
    pub hosts_file: PathBuf,
    /// Where CNI configuration lists are; the first by name is used
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are; may be repeated
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// The port for logs and exec, by HTTPS
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// The server's certificate; without it, one signed by itself
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// The server's private key
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Who may ask for logs and exec: clients with a certificate of this authority; without it, nobody
    #[arg(long)]
    pub client_ca: Option<PathBuf>,
    /// Labels of the Node: key=value,key=value
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<String>,
    /// How many pods the node takes
    #[arg(long, default_value_t = 250)]
    pub max_pods: u32,
    /// Seconds between reports of an unchanged node status: all agents hear of each, and the Lease is the sign of life
    #[arg(long, default_value_t = 300.0, value_parser = positive)]
    pub node_status_report_frequency: f64,
    /// Seconds after which the node's Lease counts as expired
    #[arg(long, default_value_t = 40)]
    pub node_lease_duration_seconds: u32,
    /// Seconds between renewals of the Lease
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub lease_renew: f64,
    /// Seconds before a container's second restart; doubles with each one more, up to five minutes
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub restart_backoff_base: f64,
}

/// A label with its value.
fn label(text: &str) -> Result<String, String> {
    if text.contains('=') { Ok(text.to_owned()) } else { Err("give it as key=value".to_owned()) }
}

/// Seconds above zero and up to a day.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("give seconds above 0, up to 86400".to_owned()),
    }
}
