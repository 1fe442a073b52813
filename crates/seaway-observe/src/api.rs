//! Requests to an observer and its answers, as JSON over its unix socket.
//!
//! ```text
//! GET    /v1/links                       [Link]           the namespace's links
//! POST   /v1/route        RouteQuery  →  RouteAnswer      what the kernel would do with a packet
//! POST   /v1/connections  [Tuple]     →  [Connection?]    conntrack's entry of each original tuple, null for none
//! GET    /v1/connections?translated=true [Connection]     all entries, or those with a translated address
//! POST   /v1/observations Observe     →  201 Started      answered when capture and rules are in place
//! PUT    /v1/observations/ID/packets  [PacketFilter]      keeps these packets from now on, in place of the former; 204
//! POST   /v1/observations/ID/packets  Select → Packets    what was captured so far and matches
//! GET    /v1/observations/ID/rules    →  Rules            the rules that matching packets met so far
//! DELETE /v1/observations/ID             204              ends it; it also ends by itself after `seconds`
//! POST   /v1/capture      Capture     →  Streamed, …      packets with their bytes as they come, a line each, until the
//!                                                         client closes; the first line says that it has begun
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Starts an observation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observe {
    /// Packets that match any of these are kept; what is inside VXLAN is matched too.
    pub packets: Vec<PacketFilter>,
    /// First packets of flows that match any of these have the nf_tables rules that they meet written down.
    #[serde(default)]
    pub rules: Vec<RuleFilter>,
    /// When it ends by itself; 60 at the most.
    pub seconds: u16,
}

/// Which packets an observation keeps. What is empty or absent matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PacketFilter {
    /// The transport protocol's number. ICMP errors about a matching packet match as well.
    pub protocol: Option<u8>,
    /// The source or the destination is one of these.
    pub addresses: Vec<IpAddr>,
    /// The address at the other end than one of `addresses` is one of these.
    pub peers: Vec<IpAddr>,
    /// The source or the destination port is one of these.
    pub ports: Vec<u16>,
    /// Of TCP only segments with SYN or RST, which open a connection or refuse it: few, however much it carries.
    pub opening: bool,
}

/// Which flows' first packets have their rules written down; every absent field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RuleFilter {
    /// The transport protocol's number.
    pub protocol: u8,
    /// The source address, before any translation in this namespace.
    pub source: Option<IpAddr>,
    /// The source port.
    pub source_port: Option<u16>,
    /// The destination address, before any translation in this namespace.
    pub destination: Option<IpAddr>,
    /// The destination port.
    pub destination_port: Option<u16>,
}

/// An observation has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its id.
    pub id: String,
}

/// Which of the captured packets are wanted: those that match any of the matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The matches; none: every packet.
    #[serde(default)]
    pub any: Vec<PacketMatch>,
}

/// One match; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PacketMatch {
    /// The transport protocol's number.
    pub protocol: Option<u8>,
    /// This address and port (0: any) is the source or the destination.
    pub endpoint: Option<(IpAddr, u16)>,
    /// A TCP connection whose SYN had this sequence number: NAT keeps it, so it finds a connection on any link.
    /// Matches all of the connection's packets on each link where the SYN was seen.
    pub tcp_isn: Option<u32>,
    /// The payload contains this text (a token in a UDP datagram or an echo request).
    pub payload: Option<String>,
    /// A DNS message whose question has this name (absolute, case ignored).
    pub dns_name: Option<String>,
}

/// Asks for packets as they come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capture {
    /// Packets that match any of these are told; what is inside VXLAN is matched too.
    pub packets: Vec<PacketFilter>,
    /// Bytes of each packet that are told, from the IP header on.
    pub snap: u32,
}

/// A line of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Streamed {
    /// A packet.
    Packet(Captured),
    /// Packets that there was no room for since the capture began; told first of all, and when there are more.
    Lost(u64),
}

/// A packet with its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Captured {
    /// Nanoseconds since 1970, by the kernel's clock.
    pub time: u64,
    /// The link's name.
    pub link: String,
    /// It left by the link; else it came in.
    pub out: bool,
    /// Its length in bytes from the IP header on.
    pub length: u32,
    /// Its bytes from the IP header on, in base64; fewer than `length` where it was cut off.
    pub data: String,
}

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packets {
    /// In the order in which they were seen.
    pub packets: Vec<Packet>,
    /// Packets that the kernel or the observer had no room for since the observation began. Not 0: whatever is missing
    /// may be among them.
    pub lost: u64,
}

/// A packet on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Packet {
    /// Nanoseconds since 1970, by the kernel's clock.
    pub time: u64,
    /// The link's name.
    pub link: String,
    /// It left by the link; else it came in.
    pub out: bool,
    /// Length of the IP packet in bytes.
    pub length: u32,
    /// The packet, or, where it is a VXLAN packet, the one inside.
    #[serde(flatten)]
    pub ip: IpPacket,
    /// The tunnel packet around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
}

/// The headers of an IP packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpPacket {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// The transport protocol's number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's identification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_id: Option<u16>,
    /// Source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// TCP's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// ICMP's or ICMPv6's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// A DNS message over UDP port 53.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Bytes after the transport header.
    pub payload_length: u32,
}

/// A TCP header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledged sequence number.
    pub acknowledgment: u32,
    /// SYN
    pub syn: bool,
    /// ACK
    pub ack: bool,
    /// FIN
    pub fin: bool,
    /// RST
    pub rst: bool,
}

/// An ICMP or ICMPv6 header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier of an echo request or reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Sequence number of an echo request or reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u16>,
    /// The next hop's MTU, where the packet was too big (RFC 1191, RFC 4443 section 3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The packet that an error is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<Box<IpPacket>>,
}

/// A DNS message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dns {
    /// The transaction's id.
    pub id: u16,
    /// An answer, not a query.
    pub response: bool,
    /// The RCODE's name, such as `NXDOMAIN`.
    pub rcode: String,
    /// The question's name, absolute, in lower case.
    pub name: String,
    /// The question's type, such as `AAAA`.
    pub kind: String,
    /// The answer section: `name type data` each.
    pub answers: Vec<DnsRecord>,
}

/// A resource record.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsRecord {
    /// The owner's name, absolute, in lower case.
    pub name: String,
    /// The type, such as `CNAME`.
    pub kind: String,
    /// Seconds that it may be kept.
    pub ttl: u32,
    /// The data as text.
    pub data: String,
}

/// The tunnel packet around a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outer {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
}

/// The rules met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// In the order in which they were met.
    pub hits: Vec<RuleHit>,
    /// Messages of the kernel that there was no room for.
    pub lost: u64,
}

/// A packet met a rule, or came to a chain's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleHit {
    /// The packet's number within the observation: hits of one packet have the same.
    pub packet: u32,
    /// Family and name of the table, such as `ip seaway`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; absent for a chain's policy or return.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The rule's comment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// `accept`, `drop`, `continue`, `jump CHAIN`, `goto CHAIN`, `return`, `queue`.
    pub verdict: String,
    /// The packet's addresses at this point.
    pub source: Option<IpAddr>,
    /// Its destination.
    pub destination: Option<IpAddr>,
    /// Its transport protocol.
    pub protocol: u8,
    /// Its source port.
    pub source_port: Option<u16>,
    /// Its destination port.
    pub destination_port: Option<u16>,
    /// TCP's sequence number, which NAT keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_sequence: Option<u32>,
    /// The link that it came in by.
    pub iif: Option<String>,
    /// The link that it leaves by.
    pub oif: Option<String>,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tuple {
    /// The transport protocol's number.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Source port; the identifier of ICMP echo.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; 0 for ICMP echo.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers come in.
    pub reply: Tuple,
    /// Names of the status bits that are set, such as `dst-nat`, `src-nat`, `seen-reply`, `assured`.
    pub status: Vec<String>,
    /// TCP's state, such as `ESTABLISHED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_state: Option<String>,
    /// Seconds that it is kept without packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Packets and bytes in both directions; absent where the kernel does not count (net.netfilter.nf_conntrack_acct).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What went through a connection, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It is up.
    pub up: bool,
    /// `veth`, `vxlan`, …; empty for physical links.
    pub kind: String,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// `net.ipv4.conf.LINK.rp_filter` as the kernel applies it: the larger of the link's own and `all`.
    pub rp_filter: u8,
}

/// Asks what the kernel would do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteQuery {
    /// The destination.
    pub destination: IpAddr,
    /// The source, if it is to count.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// The link that it comes in by; absent: it is sent from here.
    #[serde(default)]
    pub iif: Option<String>,
}

/// What the kernel would do with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteAnswer {
    /// `unicast`, `local`, `blackhole`, `unreachable`, `prohibit`, or `error: …` with the kernel's reason.
    pub kind: String,
    /// The network of the route that matched, such as `10.244.1.0/24`; empty where the kernel does not say.
    pub network: String,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The link that it leaves by.
    pub oif: Option<String>,
    /// The MTU that the kernel has for the way, where it has learnt one.
    pub mtu: Option<u32>,
}
