//! The files that decide a pod's name lookups, as the kubelet writes them.
//!
//! Pure: the kubelet writes what comes out, and `trace` tells it beforehand.

use k8s_openapi::api::core::v1::Pod;
use seaway_dns::resolvconf::{ClusterDns, DnsEvent, PodDns, PodDnsError, ResolvConf, pod_resolv_conf};

use super::names::{NSSWITCH, Names, host_network_hosts_file, hosts_file, names};

/// What of the node's own files goes into a pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFiles {
    /// The node's `/etc/hosts`.
    pub hosts: String,
    /// The node's `/etc/resolv.conf`, read by [`ResolvConf::parse_host`].
    pub resolv_conf: ResolvConf,
}

/// A pod's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/nsswitch.conf`
    pub nsswitch: String,
    /// `/etc/resolv.conf`
    pub resolv_conf: ResolvConf,
    /// What the kubelet tells about them in Events.
    pub events: Vec<DnsEvent>,
}

/// Why a pod cannot have its files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodFilesError {
    /// It has no usable name.
    #[error("pod {pod}: {reason}")]
    Name {
        /// Its name.
        pod: String,
        /// What is wrong.
        reason: String,
    },
    /// Its DNS settings do not work.
    #[error(transparent)]
    Dns(#[from] PodDnsError),
}

/// The files that the kubelet writes for `pod`, by the addresses in its status, on a node called `node_hostname`.
///
/// # Errors
/// Names and settings that keep the pod from starting.
pub fn predicted_files(
    pod: &Pod,
    node_hostname: &str,
    node: &NodeFiles,
    cluster: &ClusterDns,
) -> Result<PodFiles, PodFilesError> {
    let names = names(pod, &cluster.domain, node_hostname).map_err(|reason| PodFilesError::Name {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        reason,
    })?;
    let status = pod.status.iter();
    let listed = status.clone().flat_map(|status| status.pod_ips.iter().flatten());
    let mut ips: Vec<String> = listed.map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.filter_map(|status| status.pod_ip.clone()));
    }
    Ok(pod_files(pod, &names, &ips, node, cluster)?)
}

/// The files of a pod that is called `names` and has the addresses `pod_ips`.
pub(crate) fn pod_files(
    pod: &Pod,
    names: &Names,
    pod_ips: &[String],
    node: &NodeFiles,
    cluster: &ClusterDns,
) -> Result<PodFiles, PodDnsError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let hosts = match spec.host_network == Some(true) {
        true => host_network_hosts_file(&node.hosts, aliases),
        false => hosts_file(names, pod_ips, aliases),
    };
    let dns = PodDns::from_spec(pod.metadata.namespace.as_deref().unwrap_or_default(), &spec)?;
    let resolv = pod_resolv_conf(&dns, cluster, &node.resolv_conf)?;
    Ok(PodFiles { hosts, nsswitch: NSSWITCH.to_owned(), resolv_conf: resolv.conf, events: resolv.events })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_policy_and_network() {
        let node = NodeFiles {
            hosts: "127.0.0.1 localhost node-1\n".to_owned(),
            resolv_conf: ResolvConf::parse_host("nameserver 192.0.2.53\n"),
        };
        let cluster =
            ClusterDns { servers: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".into() };
        let own = "10.244.0.5\tweb";
        for (spec, host_line, server) in [
            (json!({}), own, "10.96.0.10"),
            (json!({"hostNetwork": true}), "127.0.0.1 localhost node-1", "192.0.2.53"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "127.0.0.1 localhost node-1",
                "10.96.0.10",
            ),
            (json!({"dnsPolicy": "Default"}), own, "192.0.2.53"),
            (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"]}}), own, "192.0.2.9"),
            (
                json!({"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a.example"]}]}),
                "192.0.2.1\ta.example",
                "10.96.0.10",
            ),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = json!({
                "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
                "status": {"podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}]}
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let files = predicted_files(&pod, "node-1", &node, &cluster).unwrap();
            assert!(files.hosts.lines().any(|line| line == host_line), "{spec}: {}", files.hosts);
            assert_eq!(files.resolv_conf.nameservers, [server], "{spec}");
            assert!(files.nsswitch.contains("hosts: files dns\n"));
        }
    }
}
