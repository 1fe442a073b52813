//! Which packets are meant. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::api::{IpPacket, PacketFilter, PacketMatch};
use crate::packet::Parsed;

/// A packet with the number of its link, in the order of their coming.
pub(crate) struct Seen<'a> {
    pub(crate) index: u32,
    pub(crate) parsed: Parsed<'a>,
}

/// Whether any filter wants the packet, or what it is an error about. A later fragment has no ports to tell by: its
/// addresses decide.
pub(crate) fn wanted(filters: &[PacketFilter], packet: &IpPacket) -> bool {
    let about = packet.icmp.as_ref().and_then(|icmp| icmp.about.as_deref());
    filters.iter().any(|filter| wants(filter, packet) || about.is_some_and(|about| wants(filter, about)))
}

fn wants(filter: &PacketFilter, packet: &IpPacket) -> bool {
    let addresses = [packet.source, packet.destination];
    let ports = [packet.source_port, packet.destination_port];
    let any = |port: &u16| ports.contains(&Some(*port));
    let pair = |one: &IpAddr, other: &IpAddr| {
        [(addresses[0], addresses[1]), (addresses[1], addresses[0])].contains(&(Some(*one), Some(*other)))
    };
    let between = filter.peers.is_empty()
        || filter.addresses.iter().any(|one| filter.peers.iter().any(|other| pair(one, other)));
    let opens = packet.tcp.as_ref().is_none_or(|tcp| tcp.syn || tcp.rst);
    let fragment = ports == [None, None] && matches!(packet.protocol, 6 | 17 | 132);
    filter.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && (filter.addresses.is_empty()
            || filter.addresses.iter().any(|address| addresses.contains(&Some(*address))))
        && (filter.addresses.is_empty() || between)
        && (!filter.opening || opens)
        && (filter.ports.is_empty() || filter.ports.iter().any(any) || fragment)
}

/// For each packet whether any of the matches takes it; no matches take all.
pub(crate) fn select(packets: &[Seen<'_>], any: &[PacketMatch]) -> Vec<bool> {
    let mut taken = vec![any.is_empty(); packets.len()];
    for wanted in any {
        let connection = wanted.tcp_isn.map(|isn| connection(packets, isn));
        for (at, packet) in packets.iter().enumerate() {
            taken[at] |= connection.as_ref().is_none_or(|members| members.contains(&at))
                && matches(wanted, &packet.parsed);
        }
    }
    taken
}

/// All that is asked of a packet on its own.
fn matches(wanted: &PacketMatch, packet: &Parsed<'_>) -> bool {
    let about = packet.ip.icmp.as_ref().and_then(|icmp| icmp.about.as_deref());
    let either = |test: &dyn Fn(&IpPacket) -> bool| test(&packet.ip) || about.is_some_and(test);
    wanted.protocol.is_none_or(|protocol| either(&|ip| ip.protocol == protocol))
        && wanted.endpoint.is_none_or(|endpoint| either(&|ip| has_endpoint(ip, endpoint)))
        && wanted.payload.as_ref().is_none_or(|text| contains(packet.payload, text.as_bytes()))
        && wanted.dns_name.as_ref().is_none_or(|name| {
            packet.ip.dns.as_ref().is_some_and(|dns| {
                dns.name.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
            })
        })
}

fn has_endpoint(ip: &IpPacket, (address, port): (IpAddr, u16)) -> bool {
    [(ip.source, ip.source_port), (ip.destination, ip.destination_port)]
        .iter()
        .any(|end| end.0 == Some(address) && (port == 0 || end.1 == Some(port)))
}

fn contains(payload: &[u8], text: &[u8]) -> bool {
    text.is_empty() || payload.windows(text.len()).any(|window| window == text)
}

/// Both ends of a connection, the lower first.
type Ends = [(IpAddr, u16); 2];

fn ends(ip: &IpPacket) -> Option<Ends> {
    let mut ends = [(ip.source?, ip.source_port?), (ip.destination?, ip.destination_port?)];
    ends.sort_unstable();
    Some(ends)
}

/// The packets of the connections whose SYN had the sequence number `isn`, on each link by the addresses that it had
/// there, up to the next SYN of the same addresses.
fn connection(packets: &[Seen<'_>], isn: u32) -> BTreeSet<usize> {
    let mut open: BTreeMap<(u32, bool), BTreeSet<Ends>> = BTreeMap::new();
    let mut members = BTreeSet::new();
    for (at, packet) in packets.iter().enumerate() {
        let ip = &packet.parsed.ip;
        let link = open.entry((packet.index, packet.parsed.outer.is_some())).or_default();
        let about = ip.icmp.as_ref().and_then(|icmp| icmp.about.as_deref());
        let Some(ends) =
            about.filter(|about| about.protocol == 6).or(ip.tcp.is_some().then_some(ip)).and_then(ends)
        else {
            continue;
        };
        if let Some(tcp) = ip.tcp.as_ref().filter(|tcp| tcp.syn && !tcp.ack) {
            if tcp.sequence == isn {
                link.insert(ends);
            } else {
                link.remove(&ends);
            }
        }
        if link.contains(&ends) {
            members.insert(at);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;
    use crate::packet::tests::{tcp_segment, udp, v4, vxlan};

    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const CLIENT: [u8; 4] = [10, 0, 0, 1];
    const NODE: [u8; 4] = [172, 18, 0, 11];
    const SERVER: [u8; 4] = [10, 0, 0, 9];

    fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), sequence: u32, flags: u8) -> Vec<u8> {
        v4(6, from.0, to.0, &tcp_segment(from.1, to.1, sequence, flags))
    }

    fn selected(packets: &[(u32, Vec<u8>)], any: PacketMatch) -> Vec<usize> {
        let seen: Vec<Seen<'_>> = packets
            .iter()
            .map(|(index, bytes)| Seen { index: *index, parsed: parse(bytes).unwrap() })
            .collect();
        let taken = select(&seen, &[any]);
        taken.iter().enumerate().filter(|(_, taken)| **taken).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_connection_is_found_by_its_first_sequence_number() {
        let (client, node, server) = ((CLIENT, 4000), (NODE, 61000), (SERVER, 80));
        let mut unreachable = vec![3, 3, 0, 0, 0, 0, 0, 0];
        unreachable.extend(tcp(client, server, 77, SYN));
        let packets = [
            (1, tcp(client, server, 5, ACK)),         // before
            (1, tcp(client, server, 77, SYN)),        // as the client sends it
            (2, tcp(node, server, 77, SYN)),          // its source translated
            (2, tcp(server, node, 900, SYN | ACK)),   // the answer
            (2, tcp(server, client, 900, SYN | ACK)), // not on this link
            (1, tcp(server, client, 900, SYN | ACK)),
            (3, vxlan(&tcp(client, server, 77, SYN))),
            (1, v4(1, SERVER, CLIENT, &unreachable)),
            (1, tcp(client, server, 78, SYN)), // another connection of the same addresses
            (1, tcp(client, server, 79, ACK)),
            (1, v4(17, CLIENT, SERVER, &udp(4000, 80, b"x"))),
        ];
        let by = PacketMatch { tcp_isn: Some(77), ..PacketMatch::default() };
        assert_eq!(selected(&packets, by), [1, 2, 3, 5, 6, 7]);
    }

    #[test]
    fn by_payload_endpoint_and_protocol() {
        let mut unreachable = vec![3, 3, 0, 0, 0, 0, 0, 0];
        unreachable.extend(v4(17, CLIENT, SERVER, &udp(4000, 80, b"a token here")));
        let packets = [
            (1, v4(17, CLIENT, SERVER, &udp(4000, 80, b"a token here"))),
            (1, v4(17, CLIENT, SERVER, &udp(4000, 81, b"nothing"))),
            (1, v4(1, SERVER, CLIENT, &unreachable)),
        ];
        for (any, expected) in [
            (PacketMatch { payload: Some("token".into()), ..PacketMatch::default() }, vec![0, 2]),
            (PacketMatch { endpoint: Some((SERVER.into(), 80)), ..PacketMatch::default() }, vec![0, 2]),
            (PacketMatch { endpoint: Some((SERVER.into(), 0)), ..PacketMatch::default() }, vec![0, 1, 2]),
            (PacketMatch { protocol: Some(1), ..PacketMatch::default() }, vec![2]),
            (PacketMatch::default(), vec![0, 1, 2]),
        ] {
            assert_eq!(selected(&packets, any.clone()), expected, "{any:?}");
        }
    }

    #[test]
    fn filters_take_errors_about_what_they_take() {
        let mut unreachable = vec![3, 3, 0, 0, 0, 0, 0, 0];
        unreachable.extend(v4(17, CLIENT, SERVER, &udp(4000, 80, b"")));
        let error = v4(1, NODE, CLIENT, &unreachable);
        let filter = |protocol, address: [u8; 4], port| PacketFilter {
            protocol: Some(protocol),
            addresses: vec![address.into()],
            ports: vec![port],
            ..PacketFilter::default()
        };
        for (wanted_filter, expected) in
            [(filter(17, SERVER, 80), true), (filter(17, SERVER, 81), false), (filter(6, SERVER, 80), false)]
        {
            let ip = parse(&error).unwrap().ip;
            assert_eq!(wanted(std::slice::from_ref(&wanted_filter), &ip), expected, "{wanted_filter:?}");
        }
    }
}
