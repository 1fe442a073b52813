//! Who is where. Scenarios are written with IPv4 addresses; for IPv6 each has its counterpart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    /// The address called `text`, which is IPv4; in IPv6 it has the same numbers: 10.244.1.5 is fd00:10:244:1::5, and
    /// the loopback is the loopback.
    pub(crate) fn ip(self, text: &str) -> IpAddr {
        let ip: Ipv4Addr = text.parse().unwrap_or_else(|_| panic!("{text} is no IPv4 address"));
        match self {
            Self::V4 => ip.into(),
            Self::V6 if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            Self::V6 if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED.into(),
            Self::V6 => {
                let [a, b, c, d] =
                    ip.octets().map(|octet| u16::from_str_radix(&octet.to_string(), 16).unwrap());
                Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d).into()
            }
        }
    }

    /// The network called `text`, whose prefix ends with an octet; in IPv6 with the group that has its number.
    pub(crate) fn net(self, text: &str) -> IpNet {
        let net: Ipv4Net = text.parse().unwrap_or_else(|_| panic!("{text} is no IPv4 network"));
        match self.ip(&net.addr().to_string()) {
            IpAddr::V4(_) => net.into(),
            IpAddr::V6(ip) => {
                let length = match net.prefix_len() {
                    0 => 0,
                    32 => 128,
                    octets if octets % 8 == 0 => 16 + octets * 2,
                    _ => panic!("{text} has no counterpart in IPv6"),
                };
                Ipv6Net::new(ip, length).unwrap().into()
            }
        }
    }

    /// The socket called `text`: `10.96.0.7:80`.
    pub(crate) fn socket(self, text: &str) -> SocketAddr {
        let (ip, port) = text.split_once(':').unwrap_or_else(|| panic!("{text} has no port"));
        SocketAddr::new(self.ip(ip), port.parse().unwrap())
    }
}

/// A machine or pod. All of them serve at [`PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    /// A pod of the node under test that callers use.
    Client,
    /// Pods of the node under test.
    A,
    B,
    /// Pods of another node.
    X,
    Y,
    /// The node under test itself.
    Node,
    /// The other node itself.
    OtherNode,
    /// A machine that is no node.
    Outside,
    /// Whoever has an address that looks like a Service's where no node translates it: packets that the node under
    /// test lets pass are answered here.
    Beyond,
    /// Where a pod was: the way is there, but nobody answers.
    Gone,
}

pub(crate) use Host::{A, B, Beyond, Client, Gone, Node, OtherNode, Outside, X, Y};

/// Where each host serves.
pub(crate) const PORTS: [u16; 2] = [8080, 8081];

impl Host {
    pub(crate) const ALL: [Self; 10] = [Client, A, B, X, Y, Node, OtherNode, Outside, Beyond, Gone];

    /// Its first address.
    pub(crate) const fn address(self) -> &'static str {
        match self {
            Client => "10.244.1.2",
            A => "10.244.1.5",
            B => "10.244.1.6",
            X => "10.244.2.5",
            Y => "10.244.2.6",
            Gone => "10.244.2.9",
            Node => "192.0.2.1",
            OtherNode => "198.51.100.1",
            Outside => "203.0.113.2",
            Beyond => "10.99.0.1",
        }
    }

    pub(crate) fn ip(self, family: Family) -> IpAddr {
        family.ip(self.address())
    }

    /// The node that it is on, if it is a pod or a node.
    pub(crate) const fn node_name(self) -> Option<&'static str> {
        match self {
            Client | A | B | Node => Some(NODE),
            X | Y | Gone | OtherNode => Some(OTHER_NODE),
            Outside | Beyond => None,
        }
    }
}

/// The name of the node under test.
pub(crate) const NODE: &str = "node-1";
/// The other node's.
pub(crate) const OTHER_NODE: &str = "node-2";
/// An address of the node under test that its Node object does not tell.
pub(crate) const SECOND_NODE_IP: &str = "172.20.0.1";
/// The addresses of all pods, and of each node's.
pub(crate) const POD_NETWORK: &str = "10.244.0.0/16";
pub(crate) const NODE_PODS: &str = "10.244.1.0/24";
pub(crate) const OTHER_NODE_PODS: &str = "10.244.2.0/24";
/// Where Services have their cluster IPs.
pub(crate) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// Where they could have more of them.
pub(crate) const MORE_SERVICES: &str = "10.97.0.0/16";
/// Where they have external IPs and load balancers' addresses.
pub(crate) const EXTERNAL_NETWORK: &str = "198.18.0.0/16";
/// [`Host::Outside`] has the addresses from 203.0.113.2 to the one with this number.
pub(crate) const OUTSIDERS: u8 = 25;

/// The name of the link of the node under test that leads to a pod of its own.
pub(crate) fn link_of(pod: Host) -> String {
    format!("pod-{}", format!("{pod:?}").to_lowercase())
}
