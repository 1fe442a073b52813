//! What a server is told at its start.

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

/// The configuration of a server.
#[derive(Debug)]
pub struct Config {
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Directory of the certificate authority ([`crate::Pki::ensure`]).
    pub cert_dir: PathBuf,
    /// Address by which the cluster reaches this server.
    pub advertise_address: IpAddr,
    /// Bound and listening sockets; the first one's port is the advertised one.
    pub listeners: Vec<TcpListener>,
    /// Addresses of services: one network, or one of each family, of which the first is the default. The first usable address is
    /// `default/kubernetes`.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports of services.
    pub node_ports: NodePorts,
    /// Names and addresses of the serving certificate, besides the ones that follow from the rest.
    pub tls_sans: Vec<String>,
}

/// A range of ports, ends included; written `30000-32767`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl Default for NodePorts {
    fn default() -> Self {
        NodePorts { first: 30000, last: 32767 }
    }
}

impl FromStr for NodePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match parsed {
            Some((first, last)) if 0 < first && first <= last => Ok(NodePorts { first, last }),
            _ => Err(format!("{text:?} is not a range of ports such as 30000-32767")),
        }
    }
}

impl std::fmt::Display for NodePorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        assert_eq!("30000-32767".parse(), Ok(NodePorts::default()));
        for wrong in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(wrong.parse::<NodePorts>().is_err(), "{wrong}");
        }
    }
}
