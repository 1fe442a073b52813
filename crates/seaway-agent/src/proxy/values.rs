//! The kinds of values that a KubeProxyConfiguration has beside numbers and plain text. Each reads from text, says what is
//! accepted where it cannot, and takes `""` for "not set", as Go's zero values are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use seaway_model::parse_go_duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Reads and writes a type as text.
macro_rules! as_text {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A duration as Go writes it; zero where not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(crate) struct GoDuration(pub(crate) Duration);

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = parse_go_duration(if text.is_empty() { "0" } else { text });
        parsed.map(Self).ok_or_else(|| {
            format!(
                "{text:?} is not a duration of 0 or more, such as \"30s\", \"1m30s\", \"500ms\" or \"24h\""
            )
        })
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        match self.0.subsec_nanos() {
            0 => write!(f, "{rest}s"),
            nanos => write!(f, "{}s", format!("{rest}.{nanos:09}").trim_end_matches('0')),
        }
    }
}

as_text!(GoDuration);

/// Where to listen: an address with or without a port; `None` where not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPort(pub(crate) Option<(IpAddr, Option<u16>)>);

impl HostPort {
    /// The address with its port, or with `default` where it has none.
    pub(crate) fn with_port(self, default: u16) -> Option<SocketAddr> {
        self.0.map(|(ip, port)| SocketAddr::new(ip, port.unwrap_or(default)))
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let parsed = match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Some((address.ip(), Some(address.port()))),
            Ok(_) => None,
            Err(_) => bare.parse().ok().map(|ip: IpAddr| (ip, None)),
        };
        parsed.map(|parsed| Self(Some(parsed))).ok_or_else(|| {
            format!("{text:?} is not an IP address with a port from 1 to 65535, such as \"0.0.0.0:10256\" or \"[::]:10256\"")
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some((ip, Some(port))) => SocketAddr::new(ip, port).fmt(f),
            Some((ip, None)) => ip.fmt(f),
        }
    }
}

as_text!(HostPort);

/// An IP address; `None` where not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) Option<IpAddr>);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|ip| Self(Some(ip))).map_err(|_| format!("{text:?} is not an IP address"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |ip| ip.fmt(f))
    }
}

as_text!(Address);

/// `mode`: what programs the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Left to the proxy.
    #[default]
    Unset,
    Iptables,
    Ipvs,
    Nftables,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Unset),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            "userspace" => {
                Err("\"userspace\" is no mode since Kubernetes 1.26; accepted: nftables, iptables, ipvs, \
                                or nothing, which is nftables"
                    .into())
            }
            other => Err(format!(
                "{other:?} is none of the accepted modes: nftables, iptables, ipvs, or nothing, which is nftables"
            )),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        })
    }
}

as_text!(Mode);

/// `detectLocalMode`: how pods are told from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LocalMode {
    /// Not set, which is `ClusterCIDR`.
    #[default]
    Unset,
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl FromStr for LocalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Unset),
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            other => Err(format!(
                "{other:?} is none of the accepted modes: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
            )),
        }
    }
}

impl fmt::Display for LocalMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "",
            Self::ClusterCidr => "ClusterCIDR",
            Self::NodeCidr => "NodeCIDR",
            Self::BridgeInterface => "BridgeInterface",
            Self::InterfaceNamePrefix => "InterfaceNamePrefix",
        })
    }
}

as_text!(LocalMode);

/// A network with its prefix length.
fn network(text: &str) -> Result<IpNet, String> {
    let network: Result<IpNet, _> = text.trim().parse();
    network
        .map(|network| network.trunc())
        .map_err(|_| format!("{text:?} is not a network, such as \"10.244.0.0/16\" or \"fd00:10:244::/56\""))
}

/// `clusterCIDR`: networks with commas between them, at most one of each family; none where not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterCidr(pub(crate) Vec<IpNet>);

impl FromStr for ClusterCidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let networks: Vec<IpNet> = text.split(',').map(network).collect::<Result<_, _>>()?;
        let v6 = networks.iter().filter(|network| network.addr().is_ipv6()).count();
        if v6 > 1 || networks.len() - v6 > 1 {
            return Err(format!("{text:?}: at most one network of each IP family is accepted"));
        }
        Ok(Self(networks))
    }
}

impl fmt::Display for ClusterCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

as_text!(ClusterCidr);

/// An entry of `ipvs.excludeCIDRs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        network(text).map(Self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Network);

/// An entry of `nodePortAddresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodePortAddress {
    /// The Node object's addresses.
    Primary,
    /// All of the node's addresses.
    All,
    /// Loopback addresses.
    Localhost,
    /// The node's addresses in a network.
    In(IpNet),
}

impl NodePortAddress {
    /// The networks that it stands for; none for [`NodePortAddress::Primary`].
    pub(crate) fn networks(self) -> Vec<IpNet> {
        let v4 = |ip: [u8; 4], prefix| IpNet::new_assert(Ipv4Addr::from(ip).into(), prefix);
        let v6 = |ip: Ipv6Addr, prefix| IpNet::new_assert(ip.into(), prefix);
        match self {
            Self::Primary => Vec::new(),
            Self::All => vec![v4([0; 4], 0), v6(Ipv6Addr::UNSPECIFIED, 0)],
            Self::Localhost => vec![v4([127, 0, 0, 0], 8), v6(Ipv6Addr::LOCALHOST, 128)],
            Self::In(network) => vec![network],
        }
    }
}

impl FromStr for NodePortAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            "localhost" => Ok(Self::Localhost),
            other => network(other)
                .map(Self::In)
                .map_err(|error| format!("{error}, nor one of the words primary, all, localhost")),
        }
    }
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::All => f.write_str("all"),
            Self::Localhost => f.write_str("localhost"),
            Self::In(network) => network.fmt(f),
        }
    }
}

as_text!(NodePortAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (text, written) in [
            ("", "0s"),
            ("0", "0s"),
            ("30s", "30s"),
            ("90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("500ms", "0.5s"),
            ("15m", "15m0s"),
        ] {
            let duration: GoDuration = text.parse().unwrap();
            assert_eq!(duration.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(duration), "{text}");
        }
        assert!("-5s".parse::<GoDuration>().is_err() && "5".parse::<GoDuration>().is_err());
    }

    #[test]
    fn addresses_may_lack_a_port() {
        for (text, address) in [
            ("", None),
            ("0.0.0.0", Some("0.0.0.0:10256")),
            ("127.0.0.1:99", Some("127.0.0.1:99")),
            ("::1", Some("[::1]:10256")),
            ("[::1]", Some("[::1]:10256")),
            ("[::]:99", Some("[::]:99")),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.with_port(10256).map(|it| it.to_string()).as_deref(), address, "{text}");
        }
        for wrong in ["localhost:10256", "1.2.3.4:0", "1.2.3.4:70000", ":10256", "1.2.3"] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_told_with_what_is_accepted() {
        let told = |error: Result<(), String>, word: &str| {
            let error = error.unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        told("kernelspace".parse::<Mode>().map(drop), "nftables, iptables, ipvs");
        told("userspace".parse::<Mode>().map(drop), "1.26");
        told("clusterCIDR".parse::<LocalMode>().map(drop), "ClusterCIDR, NodeCIDR");
        told("secondary".parse::<NodePortAddress>().map(drop), "primary, all, localhost");
        told("10.0.0.0/8,10.1.0.0/16".parse::<ClusterCidr>().map(drop), "one network of each");
        for mode in [Mode::Unset, Mode::Iptables, Mode::Ipvs, Mode::Nftables] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for text in ["primary", "all", "localhost", "10.0.0.0/8", "fd00::/64"] {
            assert_eq!(text.parse::<NodePortAddress>().unwrap().to_string(), text);
        }
        assert_eq!(
            "10.1.2.3/8,fd00::1/64".parse::<ClusterCidr>().unwrap().to_string(),
            "10.0.0.0/8,fd00::/64"
        );
    }
}
