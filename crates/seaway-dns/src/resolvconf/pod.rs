//! A pod's `resolv.conf`, as kubelet makes it (pkg/kubelet/network/dns).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use super::{ResolvConf, ResolvOption};

/// Nameservers in a file at most (MAXNS of resolv.h).
pub const MAX_NAMESERVERS: usize = 3;
/// Search domains at most (KEP-2595).
pub const MAX_SEARCHES: usize = 32;
/// Characters of the search list at most, joined by blanks (KEP-2595).
pub const MAX_SEARCH_CHARS: usize = 2048;
/// Characters of one search domain at most; a longer one makes some resolvers abort.
pub const MAX_SEARCH_DOMAIN: usize = 253;

/// `spec.dnsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's DNS, unless the pod has the host's network.
    #[default]
    ClusterFirst,
    /// The cluster's DNS in any case.
    ClusterFirstWithHostNet,
    /// The host's file.
    Default,
    /// Nothing but the pod's `dnsConfig`.
    None,
}

/// `spec.dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDnsConfig {
    /// Further nameservers.
    pub nameservers: Vec<String>,
    /// Further search domains.
    pub searches: Vec<String>,
    /// Options, each overriding one of the same name.
    pub options: Vec<ResolvOption>,
}

/// What of a pod decides its `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDns {
    /// The pod's namespace.
    pub namespace: String,
    /// Its policy.
    pub policy: DnsPolicy,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.dnsConfig`.
    pub config: PodDnsConfig,
}

/// The kubelet's own settings (`clusterDNS`, `clusterDomain`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// The addresses of the cluster's DNS.
    pub servers: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local` mostly; empty: no search domains of the cluster.
    pub domain: String,
}

/// An event that the kubelet records, of type Warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEvent {
    /// `DNSConfigForming` or `MissingClusterDNS`.
    pub reason: &'static str,
    /// What was left out, and what is used in its place.
    pub message: String,
}

/// A pod's file, and what is to be told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResolvConf {
    /// The file's contents.
    pub conf: ResolvConf,
    /// Events to record at the pod.
    pub events: Vec<DnsEvent>,
}

/// Why a pod can't have a `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodDnsError {
    /// Policy `None` without a nameserver: the API server refuses such a pod.
    #[error("spec.dnsConfig.nameservers: dnsPolicy None needs at least one nameserver")]
    NoNameserver,
    /// A policy that Kubernetes does not know.
    #[error(
        "spec.dnsPolicy: unknown value {0:?}; known are ClusterFirst, ClusterFirstWithHostNet, Default and None"
    )]
    UnknownPolicy(String),
}

impl PodDns {
    /// Takes what matters from a pod's spec.
    ///
    /// # Errors
    /// An unknown `dnsPolicy`.
    pub fn from_spec(namespace: &str, spec: &PodSpec) -> Result<Self, PodDnsError> {
        let policy = match spec.dns_policy.as_deref() {
            Option::None | Some("" | "ClusterFirst") => DnsPolicy::ClusterFirst,
            Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
            Some("Default") => DnsPolicy::Default,
            Some("None") => DnsPolicy::None,
            Some(other) => return Err(PodDnsError::UnknownPolicy(other.to_owned())),
        };
        let config = spec.dns_config.clone().map_or_else(PodDnsConfig::default, |config| PodDnsConfig {
            nameservers: config.nameservers.unwrap_or_default(),
            searches: config.searches.unwrap_or_default(),
            options: config
                .options
                .unwrap_or_default()
                .into_iter()
                .map(|o| ResolvOption::new(o.name.unwrap_or_default(), o.value))
                .collect(),
        });
        let host_network = spec.host_network.unwrap_or(false);
        Ok(Self { namespace: namespace.to_owned(), policy, host_network, config })
    }
}

/// The `resolv.conf` of `pod` on a host whose own file is `host`.
///
/// # Errors
/// Policy `None` without a nameserver.
pub fn pod_resolv_conf(
    pod: &PodDns,
    cluster: &ClusterDns,
    host: &ResolvConf,
) -> Result<PodResolvConf, PodDnsError> {
    let mut events = Vec::new();
    let wants_cluster = match pod.policy {
        DnsPolicy::ClusterFirst => !pod.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let mut conf = if pod.policy == DnsPolicy::None {
        if pod.config.nameservers.is_empty() {
            return Err(PodDnsError::NoNameserver);
        }
        ResolvConf::default()
    } else if wants_cluster && !cluster.servers.is_empty() {
        cluster_first(&pod.namespace, cluster, host)
    } else {
        if wants_cluster {
            events.push(DnsEvent {
                reason: "MissingClusterDNS",
                message: "the kubelet has no cluster DNS address (clusterDNS), so the pod can't use the \
                          ClusterFirst policy; it gets the Default policy instead"
                    .to_owned(),
            });
        }
        host.clone()
    };
    add_config(&mut conf, &pod.config);
    fit_limits(&mut conf, &mut events);
    Ok(PodResolvConf { conf, events })
}

fn cluster_first(namespace: &str, cluster: &ClusterDns, host: &ResolvConf) -> ResolvConf {
    let mut searches = Vec::new();
    if !cluster.domain.is_empty() {
        let domain = &cluster.domain;
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    }
    searches.extend(host.searches.iter().cloned());
    deduplicate(&mut searches);
    ResolvConf {
        nameservers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec![ResolvOption::new("ndots", Some("5".to_owned()))],
    }
}

fn add_config(conf: &mut ResolvConf, config: &PodDnsConfig) {
    conf.nameservers.extend(config.nameservers.iter().cloned());
    deduplicate(&mut conf.nameservers);
    conf.searches.extend(config.searches.iter().cloned());
    deduplicate(&mut conf.searches);
    for option in &config.options {
        conf.set_option(option.clone());
    }
}

fn deduplicate(words: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    words.retain(|word| seen.insert(word.clone()));
}

fn fit_limits(conf: &mut ResolvConf, events: &mut Vec<DnsEvent>) {
    if conf.nameservers.len() > MAX_NAMESERVERS {
        let left_out = conf.nameservers.split_off(MAX_NAMESERVERS);
        events.push(DnsEvent {
            reason: "DNSConfigForming",
            message: format!(
                "more than {MAX_NAMESERVERS} nameservers: left out {}; used: {}",
                left_out.join(" "),
                conf.nameservers.join(" ")
            ),
        });
    }
    let before = conf.searches.len();
    fit_searches(&mut conf.searches);
    if conf.searches.len() < before {
        events.push(DnsEvent {
            reason: "DNSConfigForming",
            message: format!(
                "the search list is over a limit ({MAX_SEARCHES} domains, {MAX_SEARCH_DOMAIN} characters each, \
                 {MAX_SEARCH_CHARS} together): left out {}; used: {}",
                before - conf.searches.len(),
                conf.searches.join(" ")
            ),
        });
    }
}

/// The first 32 domains, of these the ones that are not too long, of these as many as fit.
fn fit_searches(searches: &mut Vec<String>) {
    searches.truncate(MAX_SEARCHES);
    searches.retain(|domain| domain.len() <= MAX_SEARCH_DOMAIN);
    let mut length = 0;
    let fitting = searches
        .iter()
        .take_while(|domain| {
            length += domain.len() + usize::from(length > 0);
            length <= MAX_SEARCH_CHARS
        })
        .count();
    searches.truncate(fitting);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str =
        "nameserver 192.0.2.53\nsearch corp.example svc.cluster.local\noptions rotate ndots:2\n";

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".into() }
    }

    fn pod(policy: DnsPolicy, host_network: bool) -> PodDns {
        PodDns { namespace: "default".into(), policy, host_network, config: PodDnsConfig::default() }
    }

    #[test]
    fn each_policy_with_and_without_the_hosts_network() {
        let first = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                     nameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search corp.example svc.cluster.local\nnameserver 192.0.2.53\noptions rotate ndots:2\n";
        let table = [
            (DnsPolicy::ClusterFirst, false, first),
            (DnsPolicy::ClusterFirst, true, host),
            (DnsPolicy::ClusterFirstWithHostNet, false, first),
            (DnsPolicy::ClusterFirstWithHostNet, true, first),
            (DnsPolicy::Default, false, host),
            (DnsPolicy::Default, true, host),
        ];
        for (policy, host_network, file) in table {
            let made = pod_resolv_conf(&pod(policy, host_network), &cluster(), &ResolvConf::parse_host(HOST))
                .unwrap();
            assert_eq!(made.conf.to_string(), file, "{policy:?}, host network {host_network}");
            assert_eq!(made.events, []);
        }
    }

    #[test]
    fn a_plain_pod_on_a_host_without_search_list() {
        let host = ResolvConf::parse_host("nameserver 192.0.2.53\n");
        let made = pod_resolv_conf(&pod(DnsPolicy::ClusterFirst, false), &cluster(), &host).unwrap();
        assert_eq!(
            made.conf.to_string(),
            "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn without_cluster_dns_the_host_serves_and_an_event_says_so() {
        let host = ResolvConf::parse_host(HOST);
        let none = ClusterDns { servers: vec![], domain: "cluster.local".into() };
        let made = pod_resolv_conf(&pod(DnsPolicy::ClusterFirst, false), &none, &host).unwrap();
        assert_eq!(made.conf, host);
        assert_eq!(made.events.iter().map(|e| e.reason).collect::<Vec<_>>(), ["MissingClusterDNS"]);
    }

    #[test]
    fn policy_none_takes_the_pods_own_settings() {
        let mut pod = pod(DnsPolicy::None, false);
        let host = ResolvConf::parse_host(HOST);
        assert_eq!(pod_resolv_conf(&pod, &cluster(), &host), Err(PodDnsError::NoNameserver));
        pod.config = PodDnsConfig {
            nameservers: vec!["192.0.2.1".into(), "192.0.2.1".into()],
            searches: vec!["my_domain.example".into(), ".".into()],
            options: vec![ResolvOption::new("ndots", Some("2".into())), ResolvOption::new("edns0", None)],
        };
        assert_eq!(
            pod_resolv_conf(&pod, &cluster(), &host).unwrap().conf.to_string(),
            "search my_domain.example .\nnameserver 192.0.2.1\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn the_pods_settings_are_added_and_its_options_override() {
        let mut pod = pod(DnsPolicy::ClusterFirst, false);
        pod.config = PodDnsConfig {
            nameservers: vec!["192.0.2.1".into(), "10.96.0.10".into()],
            searches: vec!["a.example".into(), "cluster.local".into()],
            options: vec![
                ResolvOption::new("ndots", Some("1".into())),
                ResolvOption::new("single-request", Some(String::new())),
            ],
        };
        let made = pod_resolv_conf(&pod, &cluster(), &ResolvConf::default()).unwrap();
        assert_eq!(
            made.conf.to_string(),
            "search default.svc.cluster.local svc.cluster.local cluster.local a.example\n\
             nameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:1 single-request\n"
        );
    }

    #[test]
    fn what_is_over_a_limit_is_left_out_with_an_event() {
        let numbered = |n: usize, len: usize| -> Vec<String> {
            (0..n).map(|i| format!("{i:02}{}", "x".repeat(len - 2))).collect()
        };
        // (nameservers, searches, kept nameservers, kept searches, events)
        let table = [
            (3, numbered(32, 10), 3, 32, 0),
            (4, numbered(1, 10), 3, 1, 1),
            (1, numbered(33, 10), 1, 32, 1),
            (1, numbered(2, 254), 1, 0, 1),
            (1, numbered(2, 253), 1, 2, 0),
            // 8 × 253 + 7 = 2031 fit, 9 × 253 + 8 = 2285 do not.
            (1, numbered(9, 253), 1, 8, 1),
            // 32 × 63 + 31 = 2047.
            (5, numbered(40, 63), 3, 32, 2),
        ];
        for (servers, searches, kept_servers, kept_searches, events) in table {
            let mut pod = pod(DnsPolicy::None, false);
            pod.config.nameservers = (1..=servers).map(|i| format!("192.0.2.{i}")).collect();
            pod.config.searches = searches;
            let made = pod_resolv_conf(&pod, &cluster(), &ResolvConf::default()).unwrap();
            assert_eq!(made.conf.nameservers.len(), kept_servers);
            assert_eq!(made.conf.searches.len(), kept_searches);
            assert_eq!(made.events.len(), events);
            assert!(made.events.iter().all(|e| e.reason == "DNSConfigForming"));
        }
    }

    #[test]
    fn reads_a_spec() {
        let spec = |json: serde_json::Value| serde_json::from_value::<PodSpec>(json).unwrap();
        let read = PodDns::from_spec(
            "ns",
            &spec(serde_json::json!({
                "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
                "dnsConfig": {"searches": ["a"], "options": [{"name": "ndots", "value": "3"}]}
            })),
        )
        .unwrap();
        assert_eq!(read.policy, DnsPolicy::ClusterFirstWithHostNet);
        assert!(read.host_network);
        assert_eq!(read.config.options, [ResolvOption::new("ndots", Some("3".into()))]);
        let bad =
            PodDns::from_spec("ns", &spec(serde_json::json!({"containers": [], "dnsPolicy": "Cluster"})));
        assert_eq!(bad, Err(PodDnsError::UnknownPolicy("Cluster".into())));
    }
}
