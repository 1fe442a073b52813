//! What a rule can load into a register, and a set's key can be declared as (`typeof`).

use super::value::DataType;

/// A field of the packet, of its connection or made up by the kernel: nft's primary expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `th sport`: source port of TCP, UDP, SCTP
    ThSport,
    /// `th dport`: destination port of TCP, UDP, SCTP
    ThDport,
    /// `tcp flags`: [`tcp_flag`] bits
    TcpFlags,
    /// `meta l4proto`
    L4Proto,
    /// `meta nfproto`
    NfProto,
    /// `meta mark`
    Mark,
    /// `iifname`
    IifName,
    /// `oifname`
    OifName,
    /// `ct state`
    CtState,
    /// `ct status`
    CtStatus,
    /// `ct mark`
    CtMark,
    /// `ct direction`
    CtDirection,
    /// `ct original …` and `ct reply …`
    CtTuple(Direction, Tuple),
    /// `numgen random mod MODULUS offset OFFSET` and `numgen inc …`
    Numgen {
        /// How the number is made.
        mode: NumgenMode,
        /// The number is less than this, before the offset.
        modulus: u32,
        /// Added to the number.
        offset: u32,
    },
    /// `fib saddr type` and the like: what kind of address it is to this machine
    FibType(FibAddress),
    /// `fib saddr . iif oif`: the interface by which the packet's source is reached, 0 when it is not the one that
    /// the packet came by
    FibReversePath,
    /// `socket mark`: the mark of the local socket that the packet belongs to
    SocketMark,
}

/// Which tuple of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// As the first packet was sent (IP_CT_DIR_ORIGINAL).
    Original,
    /// As answers come (IP_CT_DIR_REPLY).
    Reply,
}

/// Which field of a connection's tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tuple {
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `protocol`
    Protocol,
    /// `proto-src`; nft's parser wants a transport protocol match earlier in the rule
    ProtoSrc,
    /// `proto-dst`; nft's parser wants a transport protocol match earlier in the rule
    ProtoDst,
}

/// How numgen makes numbers (enum nft_ng_types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumgenMode {
    /// One after the other.
    Incremental,
    /// At random.
    Random,
}

/// Which address `fib` looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibAddress {
    /// The source.
    Saddr,
    /// The destination.
    Daddr,
}

impl Field {
    /// `numgen random mod MODULUS`
    pub const fn random(modulus: u32) -> Self {
        Self::Numgen { mode: NumgenMode::Random, modulus, offset: 0 }
    }

    /// `numgen random mod MODULUS offset OFFSET`
    pub const fn random_from(offset: u32, modulus: u32) -> Self {
        Self::Numgen { mode: NumgenMode::Random, modulus, offset }
    }

    /// `ct original …`
    pub const fn original(field: Tuple) -> Self {
        Self::CtTuple(Direction::Original, field)
    }

    /// `ct reply …`
    pub const fn reply(field: Tuple) -> Self {
        Self::CtTuple(Direction::Reply, field)
    }

    /// What the field holds.
    pub const fn data_type(self) -> DataType {
        match self {
            Self::IpSaddr | Self::IpDaddr | Self::CtTuple(_, Tuple::IpSaddr | Tuple::IpDaddr) => {
                DataType::Ipv4Addr
            }
            Self::Ip6Saddr | Self::Ip6Daddr | Self::CtTuple(_, Tuple::Ip6Saddr | Tuple::Ip6Daddr) => {
                DataType::Ipv6Addr
            }
            Self::ThSport | Self::ThDport | Self::CtTuple(_, Tuple::ProtoSrc | Tuple::ProtoDst) => {
                DataType::InetService
            }
            Self::L4Proto | Self::CtTuple(_, Tuple::Protocol) => DataType::InetProto,
            Self::NfProto => DataType::NfProto,
            Self::TcpFlags => DataType::TcpFlag,
            Self::Mark | Self::CtMark | Self::SocketMark => DataType::Mark,
            Self::IifName | Self::OifName => DataType::IfName,
            Self::CtState => DataType::CtState,
            Self::CtStatus => DataType::CtStatus,
            Self::CtDirection => DataType::CtDirection,
            Self::Numgen { .. } | Self::FibReversePath => DataType::Integer,
            Self::FibType(_) => DataType::AddressType,
        }
    }
}

/// `ct state` bits (nft's NF_CT_STATE_BIT: 1 << (state % IP_CT_IS_REPLY + 1)).
pub mod ct_state {
    /// `invalid`
    pub const INVALID: u32 = 1;
    /// `established`
    pub const ESTABLISHED: u32 = 2;
    /// `related`
    pub const RELATED: u32 = 4;
    /// `new`
    pub const NEW: u32 = 8;
    /// `untracked`
    pub const UNTRACKED: u32 = 64;
}

/// `ct status` bits (linux/netfilter/nf_conntrack_common.h, IPS_*).
pub mod ct_status {
    /// `expected`
    pub const EXPECTED: u32 = 1;
    /// `seen-reply`
    pub const SEEN_REPLY: u32 = 2;
    /// `assured`
    pub const ASSURED: u32 = 4;
    /// `confirmed`
    pub const CONFIRMED: u32 = 8;
    /// `snat`
    pub const SNAT: u32 = 16;
    /// `dnat`
    pub const DNAT: u32 = 32;
    /// `dying`
    pub const DYING: u32 = 512;
}

/// TCP's flags (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// `syn`
    pub const SYN: u8 = 2;
    /// `ack`
    pub const ACK: u8 = 16;
}

/// Address types that `fib … type` gives (linux/rtnetlink.h, RTN_*).
pub mod address_type {
    /// `unicast`
    pub const UNICAST: u32 = 1;
    /// `local`
    pub const LOCAL: u32 = 2;
    /// `broadcast`
    pub const BROADCAST: u32 = 3;
    /// `multicast`
    pub const MULTICAST: u32 = 5;
}
