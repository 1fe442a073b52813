//! One flow on all links, whatever it is translated to. Pure.
//!
//! A TCP connection keeps its first sequence number, and a datagram or echo its payload: by these a packet with other
//! addresses is known to be of the flow, and from then on its addresses are.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use seaway_observe::api::IpPacket;

/// How long the same payload means the same packet: a second.
const SAME: u64 = 1_000_000_000;
/// Flows and payloads that are remembered; all are forgotten together when there are more.
const MOST: usize = 100_000;

/// Protocol and both ends, the lower first; of an echo, its identifier stands for both ports.
type Ends = (u8, [(IpAddr, u16); 2]);

/// Knows which packets are of the flows that began with what was asked for.
#[derive(Default)]
pub(crate) struct Follower {
    flows: HashSet<Ends>,
    sequences: HashSet<u32>,
    payloads: HashMap<u64, u64>,
}

impl Follower {
    /// Whether the packet is of a flow; `asked`: it is one of those that were asked for. Packets come in the order of
    /// their time.
    pub(crate) fn follows(&mut self, packet: &IpPacket, payload: &[u8], time: u64, asked: bool) -> bool {
        let of = packet.icmp.as_ref().and_then(|icmp| icmp.about.as_deref()).unwrap_or(packet);
        let Some(ends) = ends(of) else { return asked };
        if self.flows.len() + self.payloads.len() > MOST {
            *self = Self::default();
        }
        let syn = packet.tcp.as_ref().filter(|tcp| tcp.syn && !tcp.ack).map(|tcp| tcp.sequence);
        let print = fingerprint(packet, payload);
        let same = syn.is_some_and(|sequence| self.sequences.contains(&sequence))
            || print
                .and_then(|print| self.payloads.get(&print))
                .is_some_and(|seen| time.abs_diff(*seen) < SAME);
        if !asked && !same && !self.flows.contains(&ends) {
            return false;
        }
        self.flows.insert(ends);
        self.sequences.extend(syn);
        self.payloads.extend(print.map(|print| (print, time)));
        true
    }
}

fn ends(packet: &IpPacket) -> Option<Ends> {
    let id = packet.icmp.as_ref().and_then(|icmp| icmp.id);
    let mut ends = [
        (packet.source?, packet.source_port.or(id)?),
        (packet.destination?, packet.destination_port.or(id)?),
    ];
    ends.sort_unstable();
    Some((packet.protocol, ends))
}

/// Of a datagram or an echo with a payload that is not too short to be its own.
fn fingerprint(packet: &IpPacket, payload: &[u8]) -> Option<u64> {
    let echo = packet.icmp.as_ref().is_some_and(|icmp| icmp.id.is_some());
    if payload.len() < 8 || !(packet.protocol == 17 || echo) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (packet.protocol, packet.payload_length, payload).hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use seaway_observe::api::Tcp;

    use super::*;

    fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> IpPacket {
        IpPacket {
            protocol: 17,
            source: Some(source.0.into()),
            source_port: Some(source.1),
            destination: Some(destination.0.into()),
            destination_port: Some(destination.1),
            ..IpPacket::default()
        }
    }

    fn syn(packet: IpPacket, sequence: u32) -> IpPacket {
        IpPacket { protocol: 6, tcp: Some(Tcp { sequence, syn: true, ..Tcp::default() }), ..packet }
    }

    const POD: ([u8; 4], u16) = ([10, 244, 0, 2], 4000);
    const NODE: ([u8; 4], u16) = ([172, 18, 0, 11], 61000);
    const HOST: ([u8; 4], u16) = ([198, 51, 100, 1], 80);
    const OTHER: ([u8; 4], u16) = ([172, 18, 0, 12], 61000);

    #[test]
    fn translated_connections_and_datagrams_are_followed() {
        let mut follower = Follower::default();
        let mut follows =
            |packet: IpPacket, payload: &[u8], asked| follower.follows(&packet, payload, 5, asked);
        assert!(follows(syn(udp(POD, HOST), 7), b"", true));
        assert!(follows(syn(udp(NODE, HOST), 7), b"", false), "the same first sequence number");
        assert!(follows(IpPacket { protocol: 6, ..udp(HOST, NODE) }, b"", false), "its answer");
        assert!(!follows(syn(udp(OTHER, HOST), 8), b"", false));
        assert!(follows(udp(POD, HOST), b"a question", true));
        assert!(follows(udp(NODE, HOST), b"a question", false), "the same payload");
        assert!(follows(udp(HOST, NODE), b"an answer", false));
        assert!(!follows(udp(OTHER, HOST), b"something else", false));
    }
}
