//! IPv4 or IPv6: what differs between the two tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use seaway_net::nft::{DataType, Family, Field, Tuple};

/// One of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    pub(crate) fn has(self, net: &IpNet) -> bool {
        self == Self::of(&net.addr())
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }

    pub(super) const fn saddr(self) -> Field {
        match self {
            Self::V4 => Field::IpSaddr,
            Self::V6 => Field::Ip6Saddr,
        }
    }

    pub(super) const fn daddr(self) -> Field {
        match self {
            Self::V4 => Field::IpDaddr,
            Self::V6 => Field::Ip6Daddr,
        }
    }

    pub(super) const fn original_saddr(self) -> Field {
        Field::original(match self {
            Self::V4 => Tuple::IpSaddr,
            Self::V6 => Tuple::Ip6Saddr,
        })
    }

    pub(super) const fn original_daddr(self) -> Field {
        Field::original(match self {
            Self::V4 => Tuple::IpDaddr,
            Self::V6 => Tuple::Ip6Daddr,
        })
    }

    pub(super) const fn data_type(self) -> DataType {
        match self {
            Self::V4 => DataType::Ipv4Addr,
            Self::V6 => DataType::Ipv6Addr,
        }
    }

    /// The address that nobody has.
    pub(crate) const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Bytes of an address.
    pub(crate) const fn address_length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}
