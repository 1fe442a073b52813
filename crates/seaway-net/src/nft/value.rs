//! Typed values as the kernel keeps them in registers, keys and map data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::align;

/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_SCTP.
pub const SCTP: u8 = 132;
/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_ICMPV6.
pub const ICMPV6: u8 = 58;

/// Longest interface name with its terminating zero (linux/if.h, IFNAMSIZ).
pub(crate) const IFNAMSIZ: usize = 16;

/// What a field holds; the variants are nft's data types by their own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `inet_proto`: a transport protocol's number
    InetProto,
    /// `inet_service`: a port
    InetService,
    /// `mark`: a packet or connection mark
    Mark,
    /// `ifname`: an interface's name
    IfName,
    /// `integer`: a 32-bit number in the machine's byte order, as numgen makes it; nft can name it by `typeof` alone
    Integer,
    /// `nf_proto`: NFPROTO_IPV4 (2) or NFPROTO_IPV6 (10)
    NfProto,
    /// `ct_state` bits
    CtState,
    /// `ct_status` bits
    CtStatus,
    /// `tcp_flag` bits
    TcpFlag,
    /// `ct_dir`: original (0) or reply (1)
    CtDirection,
    /// `fib_addrtype`: RTN_* of linux/rtnetlink.h
    AddressType,
}

impl DataType {
    /// Length of a value in bytes, without padding.
    pub const fn length(self) -> usize {
        match self {
            Self::InetProto | Self::NfProto | Self::CtDirection | Self::TcpFlag => 1,
            Self::InetService => 2,
            Self::Ipv4Addr
            | Self::Mark
            | Self::Integer
            | Self::CtState
            | Self::CtStatus
            | Self::AddressType => 4,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// nft's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
            Self::IfName => "ifname",
            Self::Integer => "integer",
            Self::NfProto => "nf_proto",
            Self::CtState => "ct_state",
            Self::CtStatus => "ct_status",
            Self::CtDirection => "ct_dir",
            Self::TcpFlag => "tcp_flag",
            Self::AddressType => "fib_addrtype",
        }
    }
}

/// One value, or several concatenated (`ip daddr . th dport`), each padded to 4 bytes as in the kernel's registers.
///
/// ```
/// use seaway_net::nft::{TCP, Value};
/// let key = Value::new().ipv4([10, 96, 0, 1].into()).protocol(TCP).port(443);
/// assert_eq!(key.bytes(), [10, 96, 0, 1, 6, 0, 0, 0, 1, 187, 0, 0]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(Vec<u8>);

impl Value {
    /// A value of no fields yet.
    pub fn new() -> Self {
        Self(Vec::with_capacity(16))
    }

    /// A value from bytes as the kernel has them; padded to a multiple of 4.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut value = Vec::with_capacity(align(bytes.len()));
        value.extend_from_slice(bytes);
        value.resize(align(bytes.len()), 0);
        Self(value)
    }

    /// Appends an IPv4 address.
    #[must_use]
    pub fn ipv4(self, address: Ipv4Addr) -> Self {
        self.field(&address.octets())
    }

    /// Appends an IPv6 address.
    #[must_use]
    pub fn ipv6(self, address: Ipv6Addr) -> Self {
        self.field(&address.octets())
    }

    /// Appends an address of either family.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4(address),
            IpAddr::V6(address) => self.ipv6(address),
        }
    }

    /// Appends a transport protocol's number, such as [`TCP`].
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.field(&[protocol])
    }

    /// Appends a port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Appends a number in the machine's byte order: numgen's, a mark, status or state bits.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    /// Appends an interface's name, cut off after 15 bytes.
    #[must_use]
    pub fn interface(self, name: &str) -> Self {
        let mut bytes = [0; IFNAMSIZ];
        let length = name.len().min(IFNAMSIZ - 1);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.field(&bytes)
    }

    /// The padded bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// The value that is one more (or less) as one big-endian number of `length` bytes, unless it would wrap around.
    pub(crate) fn stepped(&self, length: usize, up: bool) -> Option<Self> {
        let mut bytes = self.0.clone();
        for byte in bytes.iter_mut().take(length).rev() {
            let (next, carry) = if up { byte.overflowing_add(1) } else { byte.overflowing_sub(1) };
            *byte = next;
            if !carry {
                return Some(Self(bytes));
            }
        }
        None
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        Self::new().address(address)
    }
}

impl From<Ipv4Addr> for Value {
    fn from(address: Ipv4Addr) -> Self {
        Self::new().ipv4(address)
    }
}

impl From<Ipv6Addr> for Value {
    fn from(address: Ipv6Addr) -> Self {
        Self::new().ipv6(address)
    }
}

/// Padded length of a concatenation of `types`.
pub(crate) fn padded_length(types: &[DataType]) -> usize {
    types.iter().map(|kind| align(kind.length())).sum()
}

/// A value with the types that say how to print it, in nft's syntax; see [`Value::typed`].
#[derive(Debug)]
pub struct Typed<'a> {
    value: &'a Value,
    end: Option<&'a Value>,
    types: &'a [DataType],
}

impl Value {
    /// Prints in nft's syntax: `10.96.0.1 . tcp . 443`.
    pub fn typed<'a>(&'a self, types: &'a [DataType]) -> Typed<'a> {
        Typed { value: self, end: None, types }
    }

    /// Prints a range in nft's syntax: `10.0.0.0-10.255.255.255 . 1-1024`.
    pub fn typed_range<'a>(&'a self, end: Option<&'a Value>, types: &'a [DataType]) -> Typed<'a> {
        Typed { value: self, end, types }
    }
}

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        for (index, kind) in self.types.iter().enumerate() {
            let range = at..at + kind.length();
            at += align(kind.length());
            let separator = if index > 0 { " . " } else { "" };
            let Some(from) = self.value.0.get(range.clone()) else {
                return write!(f, "{separator}(missing {})", kind.name());
            };
            f.write_str(separator)?;
            let to = self.end.and_then(|end| end.0.get(range)).filter(|to| *to != from);
            match to {
                None => write_field(f, *kind, from)?,
                Some(to) => {
                    // A symbolic name cannot stand in a range.
                    write_plain(f, *kind, from)?;
                    f.write_str("-")?;
                    write_plain(f, *kind, to)?;
                }
            }
        }
        Ok(())
    }
}

fn write_field(f: &mut fmt::Formatter<'_>, kind: DataType, bytes: &[u8]) -> fmt::Result {
    let name = match (kind, bytes) {
        (DataType::InetProto, [TCP]) => "tcp",
        (DataType::InetProto, [UDP]) => "udp",
        (DataType::InetProto, [SCTP]) => "sctp",
        (DataType::InetProto, [ICMP]) => "icmp",
        (DataType::InetProto, [ICMPV6]) => "ipv6-icmp",
        (DataType::NfProto, [2]) => "ipv4",
        (DataType::NfProto, [10]) => "ipv6",
        (DataType::CtDirection, [0]) => "original",
        (DataType::CtDirection, [1]) => "reply",
        (DataType::AddressType, [..]) => match number(bytes) {
            1 => "unicast",
            2 => "local",
            3 => "broadcast",
            5 => "multicast",
            _ => return write_plain(f, kind, bytes),
        },
        _ => return write_plain(f, kind, bytes),
    };
    f.write_str(name)
}

fn write_plain(f: &mut fmt::Formatter<'_>, kind: DataType, bytes: &[u8]) -> fmt::Result {
    match kind {
        DataType::Ipv4Addr => {
            let octets: [u8; 4] = bytes.try_into().unwrap_or_default();
            write!(f, "{}", Ipv4Addr::from(octets))
        }
        DataType::Ipv6Addr => {
            let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
            write!(f, "{}", Ipv6Addr::from(octets))
        }
        DataType::InetProto | DataType::NfProto | DataType::CtDirection | DataType::TcpFlag => {
            write!(f, "{}", bytes.first().copied().unwrap_or_default())
        }
        DataType::InetService => write!(f, "{}", u16::from_be_bytes(bytes.try_into().unwrap_or_default())),
        DataType::Mark => write!(f, "{:#010x}", number(bytes)),
        DataType::IfName => {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            write!(f, "\"{}\"", String::from_utf8_lossy(&bytes[..end]))
        }
        DataType::Integer | DataType::CtState | DataType::CtStatus | DataType::AddressType => {
            write!(f, "{}", number(bytes))
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_nft_does() {
        use DataType::*;
        let cases: &[(&[DataType], Value, &str)] = &[
            (
                &[Ipv4Addr, InetProto, InetService, Integer],
                Value::new().ipv4([10, 96, 0, 1].into()).protocol(TCP).port(443).number(7),
                "10.96.0.1 . tcp . 443 . 7",
            ),
            (&[Ipv6Addr], Value::from("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()), "fd00::1"),
            (&[IfName], Value::new().interface("eth0"), "\"eth0\""),
            (&[Mark], Value::new().number(0x4000), "0x00004000"),
            (&[Ipv4Addr, InetService], Value::new().port(1), "0.1.0.0 . (missing inet_service)"),
        ];
        for (types, value, text) in cases {
            assert_eq!(value.typed(types).to_string(), *text);
        }
        let (from, to) = (Value::from([10, 0, 0, 0]), Value::from([10, 0, 0, 255]));
        assert_eq!(from.typed_range(Some(&to), &[Ipv4Addr]).to_string(), "10.0.0.0-10.0.0.255");
    }

    #[test]
    fn stepping_carries_and_stops_at_the_ends() {
        let address = Value::from(std::net::Ipv4Addr::new(10, 0, 255, 255));
        assert_eq!(address.stepped(4, true), Some(Value::from(std::net::Ipv4Addr::new(10, 1, 0, 0))));
        assert_eq!(Value::from(std::net::Ipv4Addr::BROADCAST).stepped(4, true), None);
        assert_eq!(Value::new().port(0).stepped(2, false), None);
        assert_eq!(Value::new().port(256).stepped(2, false), Some(Value::new().port(255)));
    }

    impl From<[u8; 4]> for Value {
        fn from(octets: [u8; 4]) -> Self {
            Self::from(std::net::Ipv4Addr::from(octets))
        }
    }
}
