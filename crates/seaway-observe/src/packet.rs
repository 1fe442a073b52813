//! Bytes of an IP packet as its headers.
//!
//! Packets may be cut off anywhere: what is there is read, the rest is absent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use seaway_net::capture::VXLAN_PORTS;

use crate::api::{Icmp, IpPacket, Outer, Tcp};
use crate::dns;

/// Transport protocols (IANA).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// IPv6 extension headers that are passed over at the most.
const EXTENSIONS: usize = 8;

/// A packet as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// Its headers; of a VXLAN packet, those of the packet inside.
    pub ip: IpPacket,
    /// Length of the packet that `ip` tells about, as its header says.
    pub length: u32,
    /// What follows the transport header; of an ICMP error, the packet that it quotes.
    pub payload: &'a [u8],
    /// The tunnel packet around it.
    pub outer: Option<Outer>,
}

/// Reads a captured packet, and what is in it where it is VXLAN; `None` where it is not IP.
pub fn parse(data: &[u8]) -> Option<Parsed<'_>> {
    let outer = parse_ip(data, true)?;
    if outer.ip.protocol == UDP
        && let Some(port) = outer.ip.destination_port.filter(|port| VXLAN_PORTS.contains(port))
        && let Some((vni, inside)) = decapsulate(outer.payload)
        && let Some(inner) = parse_ip(inside, true)
    {
        let around = Outer { source: outer.ip.source, destination: outer.ip.destination, port, vni };
        return Some(Parsed { outer: Some(around), ..inner });
    }
    Some(outer)
}

/// The network identifier and the IP packet inside a VXLAN packet (RFC 7348).
fn decapsulate(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (header, frame) = payload.split_at_checked(8)?;
    let vni = be32(header, 4)? >> 8;
    let (ethernet, packet) = frame.split_at_checked(14)?;
    matches!(be16(ethernet, 12)?, 0x0800 | 0x86dd).then_some((vni, packet))
}

fn parse_ip(data: &[u8], errors: bool) -> Option<Parsed<'_>> {
    match data.first()? >> 4 {
        4 => parse_v4(data, errors),
        6 => parse_v6(data, errors),
        _ => None,
    }
}

/// RFC 791.
fn parse_v4(data: &[u8], errors: bool) -> Option<Parsed<'_>> {
    let header = data.get(..20)?;
    let length = usize::from(header[0] & 0xf) * 4;
    if length < 20 {
        return None;
    }
    let address = |at: usize| be32(header, at).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let ip = IpPacket {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        ttl: header[8],
        ip_id: be16(header, 4),
        ..IpPacket::default()
    };
    let total = usize::from(be16(header, 2)?);
    // Packets that the card will cut up (TSO of more than 64 KiB) have length 0.
    let total = if total < length { data.len() } else { total };
    let first = be16(header, 6)? & 0x1fff == 0;
    Some(transport(ip, data, total, length, first, errors))
}

/// RFC 8200.
fn parse_v6(data: &[u8], errors: bool) -> Option<Parsed<'_>> {
    let header = data.get(..40)?;
    let address = |at: usize| {
        let octets: Option<[u8; 16]> = header.get(at..at + 16).and_then(|bytes| bytes.try_into().ok());
        octets.map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let mut ip =
        IpPacket { source: address(8), destination: address(24), ttl: header[7], ..IpPacket::default() };
    let said = usize::from(be16(header, 4)?);
    let total = if said == 0 { data.len() } else { said + 40 };
    let mut next = header[6];
    let mut at = 40;
    let mut first = true;
    for _ in 0..EXTENSIONS {
        let length = match next {
            // Hop-by-hop, routing, destination options; in units of 8 bytes but the first.
            0 | 43 | 60 => data.get(at + 1).map(|length| 8 + usize::from(*length) * 8),
            // Fragment
            44 => {
                first &= be16(data, at + 2).is_some_and(|offset| offset >> 3 == 0);
                Some(8)
            }
            // Authentication; in units of 4 bytes but the first two (RFC 4302)
            51 => data.get(at + 1).map(|length| 8 + usize::from(*length) * 4),
            _ => break,
        };
        let (Some(length), Some(following)) = (length, data.get(at)) else {
            first = false;
            break;
        };
        next = *following;
        at += length;
    }
    ip.protocol = next;
    Some(transport(ip, data, total, at, first, errors))
}

/// Reads on at the transport header, `at` bytes into the packet, which is `total` bytes long. `first`: it is there, as
/// in all packets but later fragments.
fn transport(
    mut ip: IpPacket,
    data: &[u8],
    total: usize,
    at: usize,
    first: bool,
    errors: bool,
) -> Parsed<'_> {
    let rest = data.get(at..total.min(data.len())).unwrap_or_default();
    let mut header = 0;
    if first {
        match ip.protocol {
            TCP => {
                set_ports(&mut ip, rest);
                ip.tcp = tcp(rest);
                header = rest.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4);
            }
            UDP => {
                set_ports(&mut ip, rest);
                header = 8;
            }
            SCTP => {
                set_ports(&mut ip, rest);
                header = 12;
            }
            ICMP | ICMPV6 => {
                ip.icmp = icmp(rest, ip.protocol == ICMPV6, errors);
                header = 8;
            }
            _ => {}
        }
    }
    let payload = rest.get(header..).unwrap_or_default();
    ip.payload_length = u32::try_from(total.saturating_sub(at + header)).unwrap_or(u32::MAX);
    if ip.protocol == UDP && (ip.source_port == Some(53) || ip.destination_port == Some(53)) {
        ip.dns = dns::read(payload);
    }
    Parsed { ip, length: u32::try_from(total).unwrap_or(u32::MAX), payload, outer: None }
}

fn set_ports(ip: &mut IpPacket, rest: &[u8]) {
    ip.source_port = be16(rest, 0);
    ip.destination_port = be16(rest, 2);
}

/// RFC 9293 section 3.1.
fn tcp(rest: &[u8]) -> Option<Tcp> {
    let flags = *rest.get(13)?;
    Some(Tcp {
        sequence: be32(rest, 4)?,
        acknowledgment: be32(rest, 8)?,
        fin: flags & 1 != 0,
        syn: flags & 2 != 0,
        rst: flags & 4 != 0,
        ack: flags & 16 != 0,
    })
}

/// RFC 792, RFC 4443. Errors about errors are not looked into.
fn icmp(rest: &[u8], v6: bool, errors: bool) -> Option<Icmp> {
    let (kind, code) = (*rest.first()?, *rest.get(1)?);
    let mut icmp = Icmp { kind, code, ..Icmp::default() };
    if is_echo(kind, v6) {
        (icmp.id, icmp.sequence) = (be16(rest, 4), be16(rest, 6));
    }
    if is_error(kind, v6) && errors {
        icmp.about =
            rest.get(8..).and_then(|quoted| parse_ip(quoted, false)).map(|quoted| Box::new(quoted.ip));
    }
    icmp.mtu = match (v6, kind, code) {
        (false, 3, 4) => be16(rest, 6).map(u32::from),
        (true, 2, _) => be32(rest, 4),
        _ => None,
    };
    Some(icmp)
}

fn is_echo(kind: u8, v6: bool) -> bool {
    if v6 { matches!(kind, 128 | 129) } else { matches!(kind, 0 | 8) }
}

fn is_error(kind: u8, v6: bool) -> bool {
    if v6 { kind < 128 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet.
    pub(crate) fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4], body: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
        packet.extend(source);
        packet.extend(destination);
        packet.extend(body);
        packet
    }

    /// A UDP datagram.
    pub(crate) fn udp(source: u16, destination: u16, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + body.len()).unwrap();
        let mut bytes = [source, destination, length, 0].map(u16::to_be_bytes).concat();
        bytes.extend(body);
        bytes
    }

    /// A TCP segment with a window of 0 and no payload.
    pub(crate) fn tcp_segment(source: u16, destination: u16, sequence: u32, flags: u8) -> Vec<u8> {
        let mut bytes = [source, destination].map(u16::to_be_bytes).concat();
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    /// `packet` in a VXLAN packet of network 1.
    pub(crate) fn vxlan(packet: &[u8]) -> Vec<u8> {
        let mut body = vec![8, 0, 0, 0, 0, 0, 1, 0];
        body.extend([0; 12]);
        body.extend([8, 0]);
        body.extend(packet);
        v4(UDP, [172, 18, 0, 11], [172, 18, 0, 12], &udp(4000, 8472, &body))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn tcp_in_vxlan() {
        let packet =
            vxlan(&v4(TCP, [10, 244, 0, 2], [10, 244, 1, 3], &tcp_segment(4321, 80, 0xdead_beef, 2)));
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.ip.source, parsed.ip.destination), (ip("10.244.0.2"), ip("10.244.1.3")));
        assert_eq!((parsed.ip.source_port, parsed.ip.destination_port), (Some(4321), Some(80)));
        let seen = parsed.ip.tcp.unwrap();
        assert_eq!((seen.sequence, seen.syn, seen.ack), (0xdead_beef, true, false));
        assert_eq!(
            (parsed.length, parsed.ip.payload_length, parsed.ip.ip_id, parsed.ip.ttl),
            (40, 0, Some(7), 64)
        );
        let outer = parsed.outer.unwrap();
        assert_eq!((outer.source, outer.port, outer.vni), (ip("172.18.0.11"), 8472, 1));
    }

    #[test]
    fn an_icmp_error_tells_what_it_is_about() {
        let about = v4(UDP, [10, 0, 0, 1], [10, 0, 0, 2], &udp(1000, 2000, b"token"));
        let mut body = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78];
        body.extend(&about);
        let packet = v4(ICMP, [10, 0, 0, 9], [10, 0, 0, 1], &body);
        let parsed = parse(&packet).unwrap();
        assert_eq!(parsed.payload, about);
        let icmp = parsed.ip.icmp.unwrap();
        assert_eq!((icmp.kind, icmp.code, icmp.mtu), (3, 4, Some(1400)));
        assert_eq!(icmp.about.unwrap().destination_port, Some(2000));
    }

    #[test]
    fn ipv6_with_an_extension_header() {
        let body = udp(1000, 2000, b"hello");
        let mut packet = vec![0x60, 0, 0, 0, 0, 21, 60, 64];
        packet.extend([0; 15]);
        packet.push(1);
        packet.extend([0; 15]);
        packet.push(2);
        packet.extend([17, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(&body);
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.ip.protocol, parsed.ip.destination_port), (UDP, Some(2000)));
        assert_eq!((parsed.payload, parsed.ip.destination), (&b"hello"[..], ip("::2")));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut packet = v4(UDP, [10, 0, 0, 1], [10, 0, 0, 2], &udp(1000, 2000, b"x"));
        packet[7] = 1;
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.ip.protocol, parsed.ip.source_port), (UDP, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            if let Some(first) = bytes.first_mut() {
                match version { 0 => *first = 0x45, 1 => *first = 0x60, _ => {} }
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn anything_in_a_good_packet_is_read_without_panic(
            body in prop::collection::vec(any::<u8>(), 0..200),
            protocol in prop::sample::select(vec![ICMP, TCP, UDP, SCTP]),
            cut in 0usize..400,
        ) {
            let mut packet = vxlan(&v4(protocol, [1, 2, 3, 4], [5, 6, 7, 8], &body));
            packet.truncate(cut);
            let _ = parse(&packet);
            let dns = v4(UDP, [1, 2, 3, 4], [5, 6, 7, 8], &udp(53, 53, &body));
            let _ = parse(&dns);
        }
    }
}
