//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

/// The flags of `seaway controllers`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  seaway controllers --kubeconfig /etc/kubernetes/admin.conf --cluster-cidr 10.244.0.0/16
  seaway controllers --kubeconfig admin.conf --cluster-cidr 10.244.0.0/16,fd00:10:244::/56 --node-cidr-mask-size-ipv6 64
  seaway controllers --kubeconfig admin.conf --node-monitor-grace-period 4s")]
pub struct ControllersArgs {
    /// Kubeconfig of the API server to work on; without it, the configuration of the pod this runs in
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Pod networks, one of each family at most; each node gets a part. Without it, nodes get none
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,

    /// Prefix length of a node's part of the IPv4 pod network
    #[arg(long, value_name = "BITS", default_value_t = 24, alias = "node-cidr-mask-size-ipv4")]
    pub node_cidr_mask_size: u8,

    /// Prefix length of a node's part of the IPv6 pod network
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,

    /// A node that has not been heard of for this long is not ready
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = parse_duration)]
    pub node_monitor_grace_period: Duration,

    /// Longest time between two looks at a node that is not heard of. Looks are timed by the node's
    /// grace period, so that this matters only if it is the shorter
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub node_monitor_period: Duration,

    /// File in which the cloud keeps its machines, a JSON object of node name to `running`, `stopped` or `terminated`. A
    /// node that is not ready is tainted where its machine is stopped, and deleted where that is terminated
    #[arg(long, value_name = "FILE")]
    pub cloud_instances: Option<PathBuf>,
}

/// A duration as Go writes it: `40s`, `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = |reason: String| format!("{reason}; give a duration such as 40s or 1m30s");
    let signed: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| wrong(e.to_string()))?;
    Duration::try_from(signed).ok().filter(|d| !d.is_zero()).ok_or_else(|| wrong("must be above 0".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("40s"), Ok(Duration::from_secs(40)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "40", "-4s", "0s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
