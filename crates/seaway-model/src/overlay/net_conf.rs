//! flannel's `net-conf.json`.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The overlay's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConf {
    /// All pods' IPv4 addresses.
    pub network: Option<Ipv4Net>,
    /// All pods' IPv6 addresses.
    pub ipv6_network: Option<Ipv6Net>,
    /// IPv4 is on.
    pub enable_ipv4: bool,
    /// IPv6 is on.
    pub enable_ipv6: bool,
    /// How packets get from node to node.
    pub backend: OverlayBackend,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlayBackend {
    /// In VXLAN packets.
    Vxlan {
        /// The network's identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// Nodes of the same link-layer network are reached without a tunnel.
        direct_routing: bool,
        /// The device's MTU, where it is not to follow from the underlay's.
        mtu: Option<u32>,
    },
    /// By routes through the nodes themselves, which must be on one link-layer network.
    HostGw,
}

impl OverlayBackend {
    /// The name in net-conf.json and in the Node's annotation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan { .. } => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// What is wrong with a `net-conf.json`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetConfError {
    /// It is not JSON, or a value is of another type.
    #[error("net-conf.json: line {line}, column {column}: {problem}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What the parser says.
        problem: String,
    },
    /// A field's value cannot be used.
    #[error("net-conf.json: {field}: {value}: {problem}")]
    Value {
        /// The field's path.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        problem: String,
    },
}

/// The file as it is. Fields that Seaway has no use for (SubnetMin, EnableNFTables, …) are passed over, as
/// flannel does.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    network: Option<String>,
    #[serde(rename = "IPv6Network")]
    ipv6_network: Option<String>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6", default)]
    enable_ipv6: bool,
    subnet_len: Option<u8>,
    #[serde(rename = "IPv6SubnetLen")]
    ipv6_subnet_len: Option<u8>,
    #[serde(default)]
    backend: RawBackend,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawBackend {
    #[serde(default, rename = "Type")]
    kind: String,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    port: Option<u32>,
    #[serde(default)]
    direct_routing: bool,
    #[serde(rename = "MTU")]
    mtu: Option<u32>,
}

/// VNIs have 24 bits (RFC 7348, section 5).
const MAX_VNI: u32 = (1 << 24) - 1;
/// Linux's VXLAN port from before IANA gave it 4789; flannel's default.
const DEFAULT_PORT: u32 = 8472;
/// What every IPv6 link must carry (RFC 8200, section 5); IPv4's 68 would leave nothing of use.
const MIN_MTU: u32 = 1280;
/// The largest packet of IPv4 and IPv6.
const MAX_MTU: u32 = 65_535;

impl NetConf {
    /// Reads and checks the file's text.
    pub fn parse(text: &str) -> Result<Self, NetConfError> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| {
            let problem = error.to_string();
            let end = problem.rfind(" at line ").unwrap_or(problem.len());
            let problem = problem[..end].to_owned();
            NetConfError::Syntax { line: error.line(), column: error.column(), problem }
        })?;
        let enable_ipv4 = raw.enable_ipv4.unwrap_or(true);
        let network = network(
            "Network",
            raw.network,
            ("SubnetLen", raw.subnet_len.unwrap_or(24)),
            enable_ipv4,
            "10.244.0.0/16",
            |net| if let IpNet::V4(net) = net { Some(net) } else { None },
        )?;
        let ipv6_network = network_v6(raw.ipv6_network, raw.ipv6_subnet_len.unwrap_or(64), raw.enable_ipv6)?;
        if !enable_ipv4 && !raw.enable_ipv6 {
            let problem = "EnableIPv4 or EnableIPv6 must be true".to_owned();
            return Err(NetConfError::Value { field: "EnableIPv4", value: "false".to_owned(), problem });
        }
        Ok(Self {
            network,
            ipv6_network,
            enable_ipv4,
            enable_ipv6: raw.enable_ipv6,
            backend: backend(raw.backend)?,
        })
    }
}

fn network_v6(
    text: Option<String>,
    subnet_length: u8,
    needed: bool,
) -> Result<Option<Ipv6Net>, NetConfError> {
    let length = ("IPv6SubnetLen", subnet_length);
    network("IPv6Network", text, length, needed, "fd00:244::/56", |net| {
        if let IpNet::V6(net) = net { Some(net) } else { None }
    })
}

fn network<N>(
    field: &'static str,
    text: Option<String>,
    (length_field, subnet_length): (&'static str, u8),
    needed: bool,
    example: &str,
    of_family: impl Fn(IpNet) -> Option<N>,
) -> Result<Option<N>, NetConfError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        if !needed {
            return Ok(None);
        }
        let problem = format!("expected the pods' network, such as {example:?}");
        return Err(NetConfError::Value { field, value: "missing".to_owned(), problem });
    };
    let parsed = text.parse::<IpNet>().ok().map(|net| net.trunc());
    let Some(net) = parsed.and_then(&of_family) else {
        let problem = format!("expected a network such as {example:?}");
        return Err(NetConfError::Value { field, value: format!("{text:?}"), problem });
    };
    let (prefix, widest) = parsed.map_or((0, 0), |net| (net.prefix_len(), net.max_prefix_len() - 2));
    if needed && !(prefix..=widest).contains(&subnet_length) {
        let problem = format!("expected a prefix length from {field}'s {prefix} to {widest}");
        return Err(NetConfError::Value { field: length_field, value: subnet_length.to_string(), problem });
    }
    Ok(Some(net))
}

fn backend(raw: RawBackend) -> Result<OverlayBackend, NetConfError> {
    let wrong = |field, value: String, problem: &str| NetConfError::Value {
        field,
        value,
        problem: problem.to_owned(),
    };
    match raw.kind.as_str() {
        "vxlan" => {
            let vni = raw.vni.unwrap_or(1);
            if vni == 0 || vni > MAX_VNI {
                return Err(wrong("Backend.VNI", vni.to_string(), "expected 1 to 16777215"));
            }
            // flannel takes 0 for the default.
            let port = raw.port.filter(|&port| port != 0).unwrap_or(DEFAULT_PORT);
            let port = u16::try_from(port)
                .map_err(|_| wrong("Backend.Port", port.to_string(), "expected a UDP port, 1 to 65535"))?;
            let mtu = raw.mtu.filter(|&mtu| mtu != 0);
            if let Some(mtu) = mtu.filter(|mtu| !(MIN_MTU..=MAX_MTU).contains(mtu)) {
                return Err(wrong("Backend.MTU", mtu.to_string(), "expected 1280 to 65535 bytes"));
            }
            Ok(OverlayBackend::Vxlan { vni, port, direct_routing: raw.direct_routing, mtu })
        }
        "host-gw" => Ok(OverlayBackend::HostGw),
        other => Err(wrong("Backend.Type", format!("{other:?}"), r#"expected "vxlan" or "host-gw""#)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_files() {
        let parse = |text| NetConf::parse(text).unwrap();
        let conf = parse(r#"{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}"#);
        assert_eq!(conf.network, Some("10.244.0.0/16".parse().unwrap()));
        assert_eq!((conf.enable_ipv4, conf.enable_ipv6), (true, false));
        let plain = OverlayBackend::Vxlan { vni: 1, port: 8472, direct_routing: false, mtu: None };
        assert_eq!(conf.backend, plain);
        let conf = parse(
            r#"{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00::/48","SubnetLen":26,
                "Backend":{"Type":"vxlan","VNI":7,"Port":4789,"DirectRouting":true,"MTU":1400}}"#,
        );
        assert_eq!(conf.ipv6_network, Some("fd00::/48".parse().unwrap()));
        let all = OverlayBackend::Vxlan { vni: 7, port: 4789, direct_routing: true, mtu: Some(1400) };
        assert_eq!(conf.backend, all);
        let conf = parse(r#"{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}"#);
        assert_eq!(conf.backend, OverlayBackend::HostGw);
    }

    #[test]
    fn bad_files() {
        for (text, message) in [
            ("", "net-conf.json: line 1, column 0: EOF while parsing a value"),
            (
                "{\n \"Network\": 5}",
                "net-conf.json: line 2, column 13: invalid type: integer `5`, expected a string",
            ),
            ("{}", r#"net-conf.json: Network: missing: expected the pods' network, such as "10.244.0.0/16""#),
            (
                r#"{"Network":"10.244.0.0"}"#,
                r#"net-conf.json: Network: "10.244.0.0": expected a network such as "10.244.0.0/16""#,
            ),
            (
                r#"{"Network":"fd00::/48"}"#,
                r#"net-conf.json: Network: "fd00::/48": expected a network such as "10.244.0.0/16""#,
            ),
            (
                r#"{"Network":"10.244.0.0/16","SubnetLen":8}"#,
                "net-conf.json: SubnetLen: 8: expected a prefix length from Network's 16 to 30",
            ),
            (
                r#"{"Network":"10.244.0.0/16","EnableIPv6":true}"#,
                r#"net-conf.json: IPv6Network: missing: expected the pods' network, such as "fd00:244::/56""#,
            ),
            (
                r#"{"EnableIPv4":false}"#,
                "net-conf.json: EnableIPv4: false: EnableIPv4 or EnableIPv6 must be true",
            ),
            (
                r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#,
                r#"net-conf.json: Backend.Type: "udp": expected "vxlan" or "host-gw""#,
            ),
            (
                r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
                "net-conf.json: Backend.VNI: 16777216: expected 1 to 16777215",
            ),
            (
                r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":65536}}"#,
                "net-conf.json: Backend.Port: 65536: expected a UDP port, 1 to 65535",
            ),
            (
                r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","MTU":100}}"#,
                "net-conf.json: Backend.MTU: 100: expected 1280 to 65535 bytes",
            ),
        ] {
            assert_eq!(NetConf::parse(text).unwrap_err().to_string(), message);
        }
    }

    const FULL: &str = r#"{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00::/48","SubnetLen":26,
        "Backend":{"Type":"vxlan","VNI":7,"Port":4789,"DirectRouting":true,"MTU":1400}}"#;

    proptest! {
        /// A good file with a piece of it replaced by anything.
        #[test]
        fn any_file_is_read_without_panic(from in 0..FULL.len(), length in 0..40_usize, text in "\\PC{0,20}") {
            let to = (from + length).min(FULL.len());
            if let Err(error) = NetConf::parse(&format!("{}{text}{}", &FULL[..from], &FULL[to..])) {
                prop_assert!(error.to_string().starts_with("net-conf.json: "));
            }
        }
    }
}
