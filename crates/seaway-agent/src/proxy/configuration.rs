//! KubeProxyConfiguration, `kubeproxy.config.k8s.io/v1alpha1`: kube-proxy's configuration file, field by field.
//!
//! Zero values mean "not set", as in Go: `null`, `""`, `0s`. Which of them have an effect here is in `effects`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::values::{Address, ClusterCidr, GoDuration, HostPort, LocalMode, Mode, Network, NodePortAddress};

/// The `apiVersion` of the file.
pub(crate) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The `kind` of the file.
pub(crate) const KIND: &str = "KubeProxyConfiguration";

/// Takes `null` for the default.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Declares a part of the file: every field may be absent or `null`, and nothing else may be there.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $written:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $($(#[$field_doc])*
            #[serde(rename = $written, deserialize_with = "or_null")]
            pub(crate) $field: $type,)*
        }
    };
}

part! {
    /// The file.
    KubeProxyConfiguration {
        api_version: String = "apiVersion",
        kind: String = "kind",
        feature_gates: BTreeMap<String, bool> = "featureGates",
        client_connection: ClientConnection = "clientConnection",
        logging: Logging = "logging",
        hostname_override: String = "hostnameOverride",
        bind_address: Address = "bindAddress",
        healthz_bind_address: HostPort = "healthzBindAddress",
        metrics_bind_address: HostPort = "metricsBindAddress",
        bind_address_hard_fail: bool = "bindAddressHardFail",
        enable_profiling: bool = "enableProfiling",
        show_hidden_metrics_for_version: String = "showHiddenMetricsForVersion",
        mode: Mode = "mode",
        iptables: Iptables = "iptables",
        ipvs: Ipvs = "ipvs",
        nftables: Nftables = "nftables",
        winkernel: Winkernel = "winkernel",
        detect_local_mode: LocalMode = "detectLocalMode",
        detect_local: DetectLocal = "detectLocal",
        cluster_cidr: ClusterCidr = "clusterCIDR",
        node_port_addresses: Vec<NodePortAddress> = "nodePortAddresses",
        oom_score_adj: Option<i32> = "oomScoreAdj",
        conntrack: Conntrack = "conntrack",
        config_sync_period: GoDuration = "configSyncPeriod",
        port_range: String = "portRange",
        /// Of Kubernetes before 1.26; still in files that came of it.
        udp_idle_timeout: GoDuration = "udpIdleTimeout",
        windows_run_as_service: bool = "windowsRunAsService",
    }
}

part! {
    /// How the API server is reached.
    ClientConnection {
        kubeconfig: String = "kubeconfig",
        accept_content_types: String = "acceptContentTypes",
        content_type: String = "contentType",
        qps: f32 = "qps",
        burst: i32 = "burst",
    }
}

part! {
    /// Settings of iptables mode.
    Iptables {
        masquerade_bit: Option<u8> = "masqueradeBit",
        masquerade_all: bool = "masqueradeAll",
        localhost_node_ports: Option<bool> = "localhostNodePorts",
        snat_node_internal_ip: Option<bool> = "snatNodeInternalIP",
        sync_period: GoDuration = "syncPeriod",
        min_sync_period: GoDuration = "minSyncPeriod",
    }
}

part! {
    /// Settings of IPVS mode.
    Ipvs {
        sync_period: GoDuration = "syncPeriod",
        min_sync_period: GoDuration = "minSyncPeriod",
        scheduler: String = "scheduler",
        exclude_cidrs: Vec<Network> = "excludeCIDRs",
        strict_arp: bool = "strictARP",
        tcp_timeout: GoDuration = "tcpTimeout",
        tcp_fin_timeout: GoDuration = "tcpFinTimeout",
        udp_timeout: GoDuration = "udpTimeout",
    }
}

part! {
    /// Settings of nftables mode.
    Nftables {
        masquerade_bit: Option<u8> = "masqueradeBit",
        masquerade_all: bool = "masqueradeAll",
        sync_period: GoDuration = "syncPeriod",
        min_sync_period: GoDuration = "minSyncPeriod",
    }
}

part! {
    /// Settings of Windows.
    Winkernel {
        network_name: String = "networkName",
        source_vip: String = "sourceVip",
        enable_dsr: bool = "enableDSR",
        root_hns_endpoint_name: String = "rootHnsEndpointName",
        forward_health_check_vip: bool = "forwardHealthCheckVip",
    }
}

part! {
    /// What the detect-local modes need.
    DetectLocal {
        bridge_interface: String = "bridgeInterface",
        interface_name_prefix: String = "interfaceNamePrefix",
    }
}

part! {
    /// Limits and timeouts of connection tracking; an absent number is kube-proxy's default, zero leaves the kernel's own.
    Conntrack {
        max_per_core: Option<u32> = "maxPerCore",
        min: Option<u32> = "min",
        tcp_established_timeout: Option<GoDuration> = "tcpEstablishedTimeout",
        tcp_close_wait_timeout: Option<GoDuration> = "tcpCloseWaitTimeout",
        tcp_be_liberal: bool = "tcpBeLiberal",
        udp_timeout: GoDuration = "udpTimeout",
        udp_stream_timeout: GoDuration = "udpStreamTimeout",
    }
}

part! {
    /// What component-base logs, and how.
    Logging {
        format: String = "format",
        flush_frequency: FlushFrequency = "flushFrequency",
        verbosity: u32 = "verbosity",
        vmodule: Vec<VmoduleItem> = "vmodule",
        options: LoggingOptions = "options",
    }
}

part! {
    /// A source file pattern and its verbosity.
    VmoduleItem {
        file_pattern: String = "filePattern",
        verbosity: u32 = "verbosity",
    }
}

part! {
    /// Settings of the formats.
    LoggingOptions {
        text: FormatOptions = "text",
        json: FormatOptions = "json",
    }
}

part! {
    /// Settings of a format.
    FormatOptions {
        split_stream: bool = "splitStream",
        info_buffer_size: Quantity = "infoBufferSize",
    }
}

/// Nanoseconds, or a duration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of nanoseconds, or a duration such as \"5s\"")]
pub(crate) enum FlushFrequency {
    Nanoseconds(u64),
    Duration(GoDuration),
}

impl Default for FlushFrequency {
    fn default() -> Self {
        Self::Nanoseconds(0)
    }
}

/// A number, or a number with a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a quantity of bytes, such as 0 or \"64Ki\"")]
pub(crate) enum Quantity {
    Number(u64),
    Text(String),
}

impl Default for Quantity {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl KubeProxyConfiguration {
    /// A file that says nothing.
    pub(crate) fn empty() -> Self {
        Self { api_version: API_VERSION.into(), kind: KIND.into(), ..Self::default() }
    }

    /// With kube-proxy's defaults in the place of what is not set, where they are defaults here too: what `/configz` shows and
    /// `--write-config-to` writes.
    pub(crate) fn with_defaults(mut self) -> Self {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let bind = *self.bind_address.0.get_or_insert(Ipv4Addr::UNSPECIFIED.into());
        let (any, loopback) = if bind.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into())
        };
        let complete = |address: &mut HostPort, ip, port| {
            let (ip, own) = address.0.unwrap_or((ip, None));
            address.0 = Some((ip, own.or(Some(port))));
        };
        complete(&mut self.healthz_bind_address, any, HEALTHZ_PORT);
        complete(&mut self.metrics_bind_address, loopback, METRICS_PORT);
        self.oom_score_adj.get_or_insert(-999);
        let seconds = |seconds| GoDuration(std::time::Duration::from_secs(seconds));
        for period in
            [&mut self.iptables.sync_period, &mut self.ipvs.sync_period, &mut self.nftables.sync_period]
        {
            if period.0.is_zero() {
                *period = seconds(30);
            }
        }
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(seconds(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(seconds(3600));
        if self.detect_local_mode == LocalMode::Unset {
            self.detect_local_mode = LocalMode::ClusterCidr;
        }
        self
    }
}

/// Where `/healthz` is.
pub(crate) const HEALTHZ_PORT: u16 = 10256;
/// Where `/metrics` is.
pub(crate) const METRICS_PORT: u16 = 10249;
