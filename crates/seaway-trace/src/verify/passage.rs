//! How a place changed the request's addresses: by conntrack, or by the packets where a reset ended conntrack's entry. Pure.

use std::net::SocketAddr;

use seaway_observe::api::{IpPacket, Packet};

use super::evidence::{Seen, onward};

/// Source and destination as the request came and as it went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) came: (SocketAddr, SocketAddr),
    pub(super) left: (SocketAddr, SocketAddr),
    /// Who says so.
    pub(super) witness: &'static str,
}

/// What `seen` says; `None`: nothing, or not enough.
pub(super) fn passage(seen: &Seen) -> Option<Passage> {
    if let Some(connection) = &seen.connection {
        let (to, original) = (onward(connection), &connection.original);
        return Some(Passage {
            came: (
                SocketAddr::new(original.source, original.source_port),
                SocketAddr::new(original.destination, original.destination_port),
            ),
            left: (
                SocketAddr::new(to.source, to.source_port),
                SocketAddr::new(to.destination, to.destination_port),
            ),
            witness: "conntrack",
        });
    }
    // The kernel forgets a connection that is reset before it is established (nf_conntrack_proto_tcp.c).
    let is_reset = |packet: &&Packet| packet.ip.tcp.as_ref().is_some_and(|tcp| tcp.rst);
    let reset = seen.backward().find(is_reset)?;
    let came = seen.came_in().and_then(|packet| ends(&packet.ip)).or_else(|| {
        let tuple = seen.tuple?;
        Some((
            SocketAddr::new(tuple.source, tuple.source_port),
            SocketAddr::new(tuple.destination, tuple.destination_port),
        ))
    })?;
    let out = seen.forward().filter(|packet| packet.out && packet.link != "lo");
    // What stays here answers from the address that was called, where nothing was translated.
    let here = ends(&reset.ip).map(|(from, to)| (to, from)).filter(|ends| *ends == came);
    let left = out.filter_map(|packet| ends(&packet.ip)).last().or(here)?;
    Some(Passage { came, left, witness: "packets (the reset ended conntrack's entry)" })
}

fn ends(packet: &IpPacket) -> Option<(SocketAddr, SocketAddr)> {
    Some((
        SocketAddr::new(packet.source?, packet.source_port?),
        SocketAddr::new(packet.destination?, packet.destination_port?),
    ))
}
