//! What was seen of a request. Plain data, and questions about it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use seaway_observe::api::{Connection, IpPacket, Link, Packet, Packets, RouteAnswer, RuleHit, Tuple};

use super::deviations::{Deviation, NotCompared};
use crate::hop::Proto;

/// Everything that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// What the places saw of the request, by their names.
    pub(crate) places: BTreeMap<String, Seen>,
    /// What the calling program met.
    pub(crate) program: Program,
    /// `/etc/hosts`, `/etc/nsswitch.conf` and `/etc/resolv.conf` of the caller.
    pub(crate) files: Result<Files, String>,
    /// DNS messages of the caller, as its node sees them, or why they cannot be told.
    pub(crate) dns: Result<Packets, String>,
}

/// Files of name service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hosts: String,
    pub(crate) nsswitch: String,
    pub(crate) resolv_conf: String,
}

/// What the calling program met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// The addresses that getaddrinfo gave.
    pub(crate) addresses: Vec<IpAddr>,
    /// getaddrinfo's error.
    pub(crate) lookup_error: Option<String>,
    /// The socket's own address, and whom it called.
    pub(crate) socket: Option<(SocketAddr, SocketAddr)>,
    /// The connection was made, or the datagram answered.
    pub(crate) connected: bool,
    /// HTTP's status.
    pub(crate) status: Option<u16>,
    /// What came back, as text.
    pub(crate) body: Option<String>,
    /// What failed: at which stage, the error's name and text.
    pub(crate) failure: Option<(String, String)>,
}

/// What a place saw of the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Why the place could not be asked.
    pub(crate) blind: Option<String>,
    /// Packets of the connection, both directions, in order.
    pub(crate) packets: Vec<Packet>,
    /// Some packets or rules were lost: what is missing may be among them.
    pub(crate) lost: bool,
    /// As the request came here.
    pub(crate) tuple: Option<Tuple>,
    /// Sources that it had anywhere: it may pass one place twice.
    pub(crate) elsewhere: Vec<(IpAddr, u16)>,
    /// conntrack's entry.
    pub(crate) connection: Option<Connection>,
    /// Rules that its first packet met.
    pub(crate) rules: Vec<RuleHit>,
    /// The place's links.
    pub(crate) links: Vec<Link>,
    /// What the kernel would do with the packet for each destination that it may have, where it went no further.
    pub(crate) routes: Vec<(IpAddr, RouteAnswer)>,
    /// By which link an answer would leave, where the packet went no further.
    pub(crate) way_back: Option<RouteAnswer>,
    /// Where the kernel differs from the plan, or did a moment ago.
    pub(crate) deviations: Vec<Deviation>,
    /// What of the plan could not be compared with the kernel.
    pub(crate) not_compared: Vec<NotCompared>,
}

impl Seen {
    /// Source addresses and ports that the request has here, before and after translation.
    fn senders(&self) -> Vec<(IpAddr, u16)> {
        let after = self.connection.as_ref().map(onward).map(|it| (it.source, it.source_port));
        let before = self.tuple.map(|it| (it.source, it.source_port));
        before.into_iter().chain(after).chain(self.elsewhere.iter().copied()).collect()
    }

    /// The packet is of the request, not of its answer.
    pub(crate) fn is_forward(&self, packet: &IpPacket) -> bool {
        if let Some(tcp) = &packet.tcp
            && tcp.syn
        {
            return !tcp.ack;
        }
        match &packet.icmp {
            Some(icmp) => icmp.about.is_none() && matches!(icmp.kind, ECHO_REQUEST | ECHO_REQUEST_V6),
            None => self
                .senders()
                .iter()
                .any(|(ip, port)| packet.source == Some(*ip) && packet.source_port == Some(*port)),
        }
    }

    /// Packets of the request.
    pub(crate) fn forward(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(|packet| self.is_forward(&packet.ip))
    }

    /// Packets of the answer.
    pub(crate) fn backward(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(|packet| !self.is_forward(&packet.ip))
    }

    /// The first packet of the request that came in, out of a tunnel where it was in one.
    pub(crate) fn came_in(&self) -> Option<&Packet> {
        self.forward().find(|packet| !packet.out && packet.outer.is_none())
    }

    /// The rule that dropped the request's first packet.
    pub(crate) fn dropped_by(&self) -> Option<&RuleHit> {
        self.rules.iter().find(|hit| hit.verdict == "drop" || hit.verdict.starts_with("reject"))
    }
}

/// ICMP echo request (RFC 792) and ICMPv6's (RFC 4443, section 4.1).
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// A rule in words.
pub(crate) fn rule_text(hit: &RuleHit) -> String {
    let handle = hit.handle.map(|handle| format!(" handle {handle}")).unwrap_or_default();
    let comment = hit.comment.as_ref().map(|comment| format!(" “{comment}”")).unwrap_or_default();
    format!("table {}, chain {}{handle}{comment}: {}", hit.table, hit.chain, hit.verdict)
}

/// Where translation sends the request on to.
pub(crate) fn translated_to(connection: &Connection) -> SocketAddr {
    let onward = onward(connection);
    SocketAddr::new(onward.destination, onward.destination_port)
}

/// The tuple of a request, as conntrack has it.
pub(crate) fn tuple(proto: Proto, source: SocketAddr, destination: SocketAddr) -> Tuple {
    Tuple {
        protocol: proto.number(source.ip()),
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: if proto == Proto::Icmp { 0 } else { destination.port() },
    }
}

/// The request as it leaves a place where conntrack has `connection` of it.
pub(crate) fn onward(connection: &Connection) -> Tuple {
    let Connection { original, reply, .. } = connection;
    // An echo has one identifier for both directions, which a tuple has as its source port.
    let (source_port, destination_port) =
        if is_icmp(original) { (reply.source_port, 0) } else { (reply.destination_port, reply.source_port) };
    Tuple {
        protocol: original.protocol,
        source: reply.destination,
        source_port,
        destination: reply.source,
        destination_port,
    }
}

/// The tuple is of ICMP or ICMPv6.
pub(crate) fn is_icmp(tuple: &Tuple) -> bool {
    matches!(tuple.protocol, 1 | 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tuple out of `10.0.0.1:1 10.0.0.2:2`.
    fn parsed(protocol: u8, text: &str) -> Tuple {
        let (source, destination) = text.split_once(' ').unwrap();
        let (source, destination): (SocketAddr, SocketAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        Tuple {
            protocol,
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
        }
    }

    #[test]
    fn what_leaves_after_translation() {
        for (protocol, original, reply, expected) in [
            (6, "10.0.0.1:1000 10.96.0.1:80", "10.0.0.9:8080 10.0.0.1:1000", "10.0.0.1:1000 10.0.0.9:8080"),
            (
                17,
                "10.0.0.1:1000 192.0.2.1:53",
                "192.0.2.1:53 172.18.0.2:2000",
                "172.18.0.2:2000 192.0.2.1:53",
            ),
            (1, "10.0.0.1:77 192.0.2.1:0", "192.0.2.1:78 172.18.0.2:0", "172.18.0.2:78 192.0.2.1:0"),
            (58, "[fd00::1]:77 [fd00::2]:0", "[fd00::2]:77 [fd00::1]:0", "[fd00::1]:77 [fd00::2]:0"),
        ] {
            let connection = Connection {
                original: parsed(protocol, original),
                reply: parsed(protocol, reply),
                status: vec![],
                tcp_state: None,
                timeout: None,
                traffic: None,
            };
            assert_eq!(onward(&connection), parsed(protocol, expected), "{original}");
        }
    }
}
