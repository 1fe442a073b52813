//! A KubeProxyConfiguration reduced to what has an effect here. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use seaway_model::{DetectLocal, NodePortAddresses, ProxySettings};

use super::configuration::{HEALTHZ_PORT, KubeProxyConfiguration, METRICS_PORT};
use super::conntrack::ConntrackSettings;
use super::values::{LocalMode, Mode, NodePortAddress};

/// A field whose value makes no sense beside the others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its path, with dots.
    pub(crate) field: String,
    /// What is wrong with it, and what is accepted.
    pub(crate) problem: String,
}

fn wrong(field: &str, problem: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), problem: problem.into() }
}

/// Checks what a field's own type does not say.
pub(crate) fn check(configuration: &KubeProxyConfiguration) -> Result<(), Wrong> {
    let full = configuration.clone().with_defaults();
    for (name, min, max) in [
        ("iptables", full.iptables.min_sync_period, full.iptables.sync_period),
        ("ipvs", full.ipvs.min_sync_period, full.ipvs.sync_period),
        ("nftables", full.nftables.min_sync_period, full.nftables.sync_period),
    ] {
        if min > max {
            let problem = format!("{min} is longer than syncPeriod, which is {max}");
            return Err(wrong(&format!("{name}.minSyncPeriod"), problem));
        }
    }
    for (field, bit) in [
        ("iptables.masqueradeBit", full.iptables.masquerade_bit),
        ("nftables.masqueradeBit", full.nftables.masquerade_bit),
    ] {
        if let Some(bit @ 32..) = bit {
            return Err(wrong(field, format!("{bit} is no bit of a packet mark; accepted: 0 to 31")));
        }
    }
    if let Some(score) = full.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(wrong("oomScoreAdj", format!("{score} is out of range; accepted: -1000 to 1000")));
    }
    if full.client_connection.burst < 0 {
        return Err(wrong("clientConnection.burst", "is negative"));
    }
    let primary = full.node_port_addresses.contains(&NodePortAddress::Primary);
    if primary && full.node_port_addresses.len() > 1 {
        return Err(wrong("nodePortAddresses", "primary stands alone, or networks, all and localhost do"));
    }
    let needed = match full.detect_local_mode {
        LocalMode::BridgeInterface => ("detectLocal.bridgeInterface", &full.detect_local.bridge_interface),
        LocalMode::InterfaceNamePrefix => {
            ("detectLocal.interfaceNamePrefix", &full.detect_local.interface_name_prefix)
        }
        _ => return Ok(()),
    };
    // IFNAMSIZ, 16 with the zero behind it (linux/if.h).
    match needed.1.len() {
        1..16 => Ok(()),
        0 => Err(wrong("detectLocalMode", format!("{} needs {}", full.detect_local_mode, needed.0))),
        _ => {
            Err(wrong(needed.0, "is longer than the name of an interface, which has 15 letters at the most"))
        }
    }
}

/// What a proxy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The Node's name, where it is not the host's.
    pub(crate) node_name: Option<String>,
    /// How the API server is reached; `None`: by the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where `/healthz` and `/livez` are; `None`: nowhere.
    pub(crate) healthz: Option<SocketAddr>,
    /// Where `/metrics` is; `None`: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// An address that cannot be listened on is the end.
    pub(crate) hard_fail: bool,
    /// The mode that was asked for.
    pub(crate) mode: Mode,
    /// A change that is not in the kernel for twice this long makes the proxy unhealthy.
    pub(crate) sync_period: Duration,
    /// The least time between two changes of the kernel.
    pub(crate) min_sync_period: Duration,
    /// What the plan follows. With no networks in `detect_local`'s ClusterCidr, what is known of them counts.
    pub(crate) settings: ProxySettings,
    /// Connection tracking.
    pub(crate) conntrack: ConntrackSettings,
    /// How soon the kernel ends this process where memory runs out.
    pub(crate) oom_score_adj: i32,
}

impl Options {
    /// What the plan follows on a node of a cluster whose pods are in `pods`, as far as that is known.
    pub(crate) fn settings(&self, pods: &[IpNet]) -> ProxySettings {
        let mut settings = self.settings.clone();
        if let DetectLocal::ClusterCidr(networks) = &mut settings.detect_local
            && networks.is_empty()
        {
            networks.extend_from_slice(pods);
        }
        settings
    }

    /// What `configuration`, which [`check`] has passed, amounts to. With the settings of the mode that kube-proxy would
    /// run in: a file without a mode is one for iptables.
    pub(crate) fn new(configuration: &KubeProxyConfiguration) -> Self {
        let full = configuration.clone().with_defaults();
        let (sync_period, min_sync_period, masquerade_all) = match full.mode {
            Mode::Unset | Mode::Iptables => {
                (full.iptables.sync_period, full.iptables.min_sync_period, full.iptables.masquerade_all)
            }
            Mode::Ipvs => (full.ipvs.sync_period, full.ipvs.min_sync_period, full.iptables.masquerade_all),
            Mode::Nftables => {
                (full.nftables.sync_period, full.nftables.min_sync_period, full.nftables.masquerade_all)
            }
        };
        let text = |text: &str| Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            node_name: text(&full.hostname_override).map(|name| name.to_lowercase()),
            kubeconfig: text(&full.client_connection.kubeconfig).map(PathBuf::from),
            healthz: full.healthz_bind_address.with_port(HEALTHZ_PORT),
            metrics: full.metrics_bind_address.with_port(METRICS_PORT),
            hard_fail: full.bind_address_hard_fail,
            mode: full.mode,
            sync_period: sync_period.0,
            min_sync_period: min_sync_period.0,
            settings: ProxySettings {
                detect_local: match full.detect_local_mode {
                    LocalMode::Unset | LocalMode::ClusterCidr => {
                        DetectLocal::ClusterCidr(full.cluster_cidr.0.clone())
                    }
                    LocalMode::NodeCidr => DetectLocal::NodeCidr,
                    LocalMode::BridgeInterface => {
                        DetectLocal::BridgeInterface(full.detect_local.bridge_interface.as_str().into())
                    }
                    LocalMode::InterfaceNamePrefix => DetectLocal::InterfaceNamePrefix(
                        full.detect_local.interface_name_prefix.as_str().into(),
                    ),
                },
                masquerade_all,
                node_port_addresses: node_port_addresses(&full),
            },
            conntrack: ConntrackSettings::new(&full.conntrack),
            oom_score_adj: full.oom_score_adj.unwrap_or_default(),
        }
    }
}

/// Which of the node's addresses node ports are at. Unset, it is what kube-proxy does in the same mode.
fn node_port_addresses(full: &KubeProxyConfiguration) -> NodePortAddresses {
    let networks = NodePortAddresses::Networks;
    let primary = match (full.node_port_addresses.as_slice(), full.mode) {
        ([], Mode::Nftables) => true,
        ([], _) => return networks(NodePortAddress::All.networks()),
        (addresses, _) => addresses.contains(&NodePortAddress::Primary),
    };
    match full.bind_address.0 {
        _ if !primary => {
            networks(full.node_port_addresses.iter().flat_map(|address| address.networks()).collect())
        }
        // kube-proxy's name for "this is my primary address".
        Some(ip) if !ip.is_unspecified() => networks(vec![ip.into()]),
        _ => NodePortAddresses::Primary,
    }
}

#[cfg(test)]
mod tests {
    use super::super::config_file::parse;
    use super::super::configuration::{API_VERSION, KIND};
    use super::*;

    fn options(text: &str) -> Options {
        Options::new(&parse("test", &format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{text}")).unwrap())
    }

    #[test]
    fn an_empty_file_is_kube_proxy_as_it_comes() {
        let options = options("");
        assert_eq!(options.healthz, "0.0.0.0:10256".parse().ok());
        assert_eq!(options.metrics, "127.0.0.1:10249".parse().ok());
        assert_eq!((options.sync_period, options.min_sync_period), (Duration::from_secs(30), Duration::ZERO));
        let pods: IpNet = "10.244.0.0/16".parse().unwrap();
        assert_eq!(options.settings(&[pods]).detect_local, DetectLocal::ClusterCidr(vec![pods]));
        assert_eq!(
            options.settings.node_port_addresses,
            NodePortAddresses::Networks(NodePortAddress::All.networks())
        );
        assert_eq!(options.oom_score_adj, -999);
    }

    #[test]
    fn settings_are_those_of_the_mode() {
        let text = "iptables: {masqueradeAll: true, syncPeriod: 10s}\nnftables: {syncPeriod: 20s, minSyncPeriod: 1s}\n\
                    ipvs: {syncPeriod: 40s}\n";
        for (mode, sync, min, masquerade_all) in
            [("", 10, 0, true), ("iptables", 10, 0, true), ("ipvs", 40, 0, true), ("nftables", 20, 1, false)]
        {
            let options = options(&format!("{text}mode: {mode:?}\n"));
            assert_eq!(options.sync_period, Duration::from_secs(sync), "{mode}");
            assert_eq!(options.min_sync_period, Duration::from_secs(min), "{mode}");
            assert_eq!(options.settings.masquerade_all, masquerade_all, "{mode}");
        }
    }

    #[test]
    fn where_node_ports_are() {
        for (text, networks) in [
            ("", Some("0.0.0.0/0 ::/0")),
            ("mode: ipvs", Some("0.0.0.0/0 ::/0")),
            ("mode: nftables", None),
            ("mode: nftables\nbindAddress: 172.18.0.11", Some("172.18.0.11/32")),
            ("nodePortAddresses: [primary]", None),
            ("nodePortAddresses: [10.0.0.0/8, localhost]", Some("10.0.0.0/8 127.0.0.0/8 ::1/128")),
        ] {
            let found = match options(text).settings.node_port_addresses {
                NodePortAddresses::Primary => None,
                NodePortAddresses::Networks(networks) => Some(networks),
            };
            let found = found.map(|it| it.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), networks, "{text}");
        }
    }

    #[test]
    fn an_ipv6_bind_address_moves_the_ports() {
        let options = options("bindAddress: \"::\"\nmetricsBindAddress: \"::1\"\n");
        assert_eq!(options.healthz, "[::]:10256".parse().ok());
        assert_eq!(options.metrics, "[::1]:10249".parse().ok());
    }

    #[test]
    fn who_is_local() {
        for (text, local) in [
            (
                "detectLocalMode: ClusterCIDR\nclusterCIDR: 10.0.0.0/8",
                DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().unwrap()]),
            ),
            ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8", DetectLocal::NodeCidr),
            (
                "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
                DetectLocal::BridgeInterface("cni0".into()),
            ),
            (
                "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
                DetectLocal::InterfaceNamePrefix("veth".into()),
            ),
        ] {
            let other: IpNet = "192.168.0.0/16".parse().unwrap();
            assert_eq!(options(text).settings(&[other]).detect_local, local);
        }
    }
}
