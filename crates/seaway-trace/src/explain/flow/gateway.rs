//! The cloud's router.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Packet, Walk};
use crate::explain::way::Way;
use crate::hop::{Expect, Hop, HopKind, Proto, Verdict};
use crate::world::NodeFacts;

impl Walk<'_> {
    pub(super) fn at_gateway(mut self, packet: Packet) -> Vec<Way> {
        let Some(cloud) = &self.world.cloud else {
            return self.end_unknown("the node", "unknown beyond the node", packet.sources);
        };
        let state = packet.state();
        let source = packet.sources.first().copied();
        let is_node = |ip: &IpAddr| {
            cloud.nodes.iter().any(|node| node.addresses.contains(ip)) || cloud.control_plane.contains(ip)
        };
        if !source.as_ref().is_some_and(is_node) {
            let note = "the source is not a node's address: dropped without an answer";
            self.push(
                Hop::new(HopKind::Gateway, "gateway", "rule “the source is not a node's address”", note)
                    .states(state, None)
                    .failing()
                    .expect(Expect::Drop),
            );
            return self.end(
                Verdict::Dropped,
                "the gateway drops what does not come from a node's address",
                BTreeSet::new(),
            );
        }
        let destination = packet.destination;
        if let Some(nat) =
            cloud.source_nat.iter().find(|nat| nat.inbound && nat.addresses.contains(&destination))
        {
            let Some(node) = nat.nodes.first().and_then(|ip| self.world.nodes.values().find(|n| n.has(*ip)))
            else {
                return self.end_unknown("gateway", "the node is not known", packet.sources);
            };
            return self.turn_back_into_the_cloud(node, packet);
        }
        if cloud.gateways.contains(&destination)
            || cloud.gateways_public.contains(&destination)
            || cloud.source_nat.iter().any(|nat| nat.addresses.contains(&destination))
        {
            let answer = if packet.proto == Proto::Icmp { Verdict::Delivered } else { Verdict::Refused };
            return self.arrive("gateway", "the gateway itself", Some(answer), packet, false);
        }
        let Some(host) = self.world.hosts.iter().find(|host| host.addresses.contains(&destination)) else {
            let note = format!("no host of the internet has {destination}");
            self.push(
                Hop::new(HopKind::Gateway, "gateway", "route", note)
                    .states(state, None)
                    .failing()
                    .expect(Expect::NoRoute),
            );
            return self.end(Verdict::Unreachable, "nobody has that address", BTreeSet::new());
        };
        let public = cloud.source_nat.iter().find(|nat| source.is_some_and(|ip| nat.nodes.contains(&ip)));
        let Some(public) = public else {
            let note = "no NAT gateway is for this node: it goes on with a private source, to which no answer finds back";
            self.push(
                Hop::new(HopKind::Gateway, "gateway", "no NAT gateway for this node", note)
                    .states(state.clone(), state)
                    .failing()
                    .expect(Expect::Source { addresses: BTreeSet::new() }),
            );
            return self.arrive_without_answer(
                &format!("internet/{}", host.name),
                &format!("host {}", host.name),
                "it knows no way to a private address",
                Verdict::Unreachable,
                "the node has no way out: no NAT gateway lists it",
                packet,
            );
        };
        let addresses: BTreeSet<IpAddr> = public.addresses.iter().copied().collect();
        let (object, note) = match (public.inbound, addresses.len()) {
            (true, _) => ("one-to-one address", "the node has a public address of its own".to_owned()),
            (false, 1) => ("NAT gateway", "the gateway's one public address becomes the source".to_owned()),
            (false, n) => (
                "NAT gateway",
                format!(
                    "one of the gateway's {n} public addresses becomes the source, at random for each connection"
                ),
            ),
        };
        let packet = Packet { sources: addresses.clone(), ..packet };
        self.push(
            Hop::new(HopKind::Gateway, "gateway", object, note)
                .states(state, packet.state())
                .expect(Expect::Source { addresses }),
        );
        self.arrive_at_host(host, packet)
    }

    /// From a node to the public address of a node: there is no source translation on that way.
    pub(super) fn turn_back_into_the_cloud(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let to = node.address_like(packet.destination).unwrap_or(packet.destination);
        let called = packet.destination;
        let note = format!(
            "{called} is the public address of {}: the destination becomes the node, back into the cloud; the source stays",
            node.name
        );
        let before = packet.state();
        let packet = Packet { destination: to, ..packet };
        let backends = BTreeSet::from([SocketAddr::new(to, packet.port)]);
        self.push(
            Hop::new(HopKind::Gateway, "gateway", "one-to-one address (inbound)", note)
                .states(before, packet.state())
                .expect(Expect::Translate { backends }),
        );
        if packet.sources.contains(&to) {
            let note = "the node meets itself as the source of what comes in, and drops that as forged (martian source)";
            self.push(
                Hop::new(HopKind::Route, format!("node/{}", node.name), "local table", note)
                    .states(packet.state(), None)
                    .failing()
                    .expect(Expect::NoAnswer),
            );
            return self.end(
                Verdict::Dropped,
                "a node does not reach its own public address",
                BTreeSet::new(),
            );
        }
        let wrong = format!(
            "its answer takes the short way to the caller and comes from {to}, which the caller never called"
        );
        self.arrive_without_answer(
            &format!("node/{}", node.name),
            &format!("Node {}", node.name),
            &wrong,
            Verdict::Dropped,
            "the way back is not the way there",
            packet,
        )
    }
}
