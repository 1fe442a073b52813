//! A tracked connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol's number.
    pub protocol: u8,
    /// What tells connections between the same addresses apart.
    pub transport: Transport,
}

/// What tells connections of one transport protocol between the same addresses apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Nothing.
    #[default]
    None,
    /// TCP, UDP, SCTP and others with ports.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// Identifier of echo requests.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

impl Tuple {
    /// Source address and port, if the protocol has ports.
    pub fn source_socket(&self) -> Option<SocketAddr> {
        match self.transport {
            Transport::Ports { source, .. } => Some(SocketAddr::new(self.source, source)),
            _ => None,
        }
    }

    /// Destination address and port, if the protocol has ports.
    pub fn destination_socket(&self) -> Option<SocketAddr> {
        match self.transport {
            Transport::Ports { destination, .. } => Some(SocketAddr::new(self.destination, destination)),
            _ => None,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 => f.write_str("icmp ")?,
            6 => f.write_str("tcp ")?,
            17 => f.write_str("udp ")?,
            58 => f.write_str("ipv6-icmp ")?,
            132 => f.write_str("sctp ")?,
            other => write!(f, "protocol {other} ")?,
        }
        match self.transport {
            Transport::Ports { source, destination } => {
                let (source, destination) =
                    (SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination));
                write!(f, "{source} > {destination}")
            }
            Transport::Icmp { id, kind, .. } => {
                write!(f, "{} > {} type {kind} id {id}", self.source, self.destination)
            }
            Transport::None => write!(f, "{} > {}", self.source, self.destination),
        }
    }
}

/// What went through in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, network headers included.
    pub bytes: u64,
}

/// Status bits (linux/netfilter/nf_conntrack_common.h, enum ip_conntrack_status).
pub mod status {
    pub use crate::nft::ct_status::*;
}

/// A tracked connection. What an event does not carry is `None`, 0 or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet was sent, before any translation.
    pub original: Tuple,
    /// As answers come in: its source is where packets really go, its destination is what they really come from.
    pub reply: Tuple,
    /// [`status`] bits.
    pub status: u32,
    /// How long it is kept without packets.
    pub timeout: Option<Duration>,
    /// Mark.
    pub mark: u32,
    /// Zone.
    pub zone: u16,
    /// The kernel's number of it.
    pub id: Option<u32>,
    /// TCP state (linux/netfilter/nf_conntrack_tcp.h, enum tcp_conntrack): 3 is established.
    pub tcp_state: Option<u8>,
    /// Labels, a bit each.
    pub labels: Vec<u8>,
    /// What was sent, if the kernel counts (net.netfilter.nf_conntrack_acct).
    pub sent: Option<Counters>,
    /// What was answered, if the kernel counts.
    pub answered: Option<Counters>,
}

/// Names of the status bits that are set, as conntrack-tools and nft write them, lowest first.
pub fn status_names(status: u32) -> Vec<&'static str> {
    const NAMES: [&str; 16] = [
        "expected",
        "seen-reply",
        "assured",
        "confirmed",
        "src-nat",
        "dst-nat",
        "seq-adjust",
        "src-nat-done",
        "dst-nat-done",
        "dying",
        "fixed-timeout",
        "template",
        "nat-clash",
        "helper",
        "offload",
        "hw-offload",
    ];
    NAMES.iter().enumerate().filter(|(bit, _)| status & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

/// The name of a TCP state (linux/netfilter/nf_conntrack_tcp.h, enum tcp_conntrack).
pub fn tcp_state_name(state: u8) -> Option<&'static str> {
    const NAMES: [&str; 10] = [
        "NONE",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    NAMES.get(usize::from(state)).copied()
}

impl Flow {
    /// Its destination is translated.
    pub const fn is_dnat(&self) -> bool {
        self.status & status::DNAT != 0
    }

    /// Its source is translated.
    pub const fn is_snat(&self) -> bool {
        self.status & status::SNAT != 0
    }
}
