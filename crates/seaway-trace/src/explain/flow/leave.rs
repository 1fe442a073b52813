//! A packet leaves whoever made it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_model::{ObjectName, Origin};

use super::next::Next;
use super::{Packet, Walk};
use crate::explain::facts::{answer_of, declared, link_address, own_pod_address};
use crate::explain::way::Way;
use crate::hop::{Expect, Hop, HopKind, Proto, Verdict};
use crate::world::{HostFacts, NodeFacts, PodFacts};

impl Walk<'_> {
    pub(super) fn leave_pod(mut self, name: &ObjectName, pod: &PodFacts, packet: Packet) -> Vec<Way> {
        let place = format!("pod/{name}");
        if pod.addresses.contains(&packet.destination) || packet.destination.is_loopback() {
            return self.stay_in_pod(place, pod, packet);
        }
        if packet.sources.is_empty() {
            let note = format!("the pod has no address of the family of {}", packet.destination);
            self.push(
                Hop::new(HopKind::Route, &place, "no address", note).states(packet.state(), None).failing(),
            );
            return self.end(Verdict::Unreachable, "the pod has no address of that family", BTreeSet::new());
        }
        let gateway = if packet.destination.is_ipv4() { "169.254.1.1" } else { "fe80::1" };
        let note = format!("the pod has one route, to its node's end of the veth (gateway {gateway})");
        let state = packet.state();
        self.push(
            Hop::new(HopKind::Route, place, "default route of the pod, eth0", note)
                .states(state.clone(), state)
                .expect(Expect::Enter),
        );
        let Some(node) = self.world.nodes.get(&pod.node) else {
            return self.end_unknown(&pod.node, "nothing is known of the pod's node", packet.sources);
        };
        let source = packet.sources.first();
        let link = source.and_then(|source| node.pod_links()?.get(source));
        let origin = link.map_or(Origin::Unknown, |link| Origin::Link(link.as_str().into()));
        self.at_node(node, Packet { origin, ..packet })
    }

    pub(super) fn stay_in_pod(mut self, place: String, pod: &PodFacts, packet: Packet) -> Vec<Way> {
        let note = "the pod calls itself: the packet never leaves its network namespace";
        // Whoever calls one of its own addresses calls from that address.
        let packet = Packet { sources: BTreeSet::from([packet.destination]), ..packet };
        let state = packet.state();
        self.push(
            Hop::new(HopKind::Route, &place, "local table", note)
                .states(state.clone(), state)
                .expect(Expect::Within),
        );
        let verdict = declared(pod, &packet).unwrap_or(Verdict::Unknown);
        self.end(verdict, "it stays within the pod", packet.sources)
    }

    pub(super) fn leave_node(mut self, name: &str, place: &str, mut packet: Packet) -> Vec<Way> {
        let Some(node) = self.world.nodes.get(name) else {
            return self.end_unknown(place, "nothing is known of the node", BTreeSet::new());
        };
        // The kernel chooses the source by the way to the address that is called, before any translation.
        packet.sources = self.source_towards(node, packet.destination).into_iter().collect();
        if node.has(packet.destination) || packet.destination.is_loopback() {
            packet.sources = BTreeSet::from([packet.destination]);
        }
        packet.origin = Origin::Node;
        self.hops.retain(|hop| hop.place != place);
        self.at_node(node, packet)
    }

    /// The address that a packet made on `node` gets on its way to `destination`.
    pub(super) fn source_towards(&self, node: &NodeFacts, destination: IpAddr) -> Option<IpAddr> {
        match self.next(node, destination) {
            Next::Node { link, .. } => link_address(node, &link, destination),
            Next::Pod { .. } => own_pod_address(node, destination),
            _ => node.address_like(destination),
        }
    }

    pub(super) fn leave_host(mut self, host: &HostFacts, packet: Packet) -> Vec<Way> {
        let place = format!("internet/{}", host.name);
        let destination = packet.destination;
        let state = packet.state();
        if host.addresses.contains(&destination) {
            let hop = Hop::new(HopKind::Route, place, "local table", "the host calls itself");
            self.push(hop.states(state.clone(), state).expect(Expect::Within));
            let verdict = answer_of(host, &packet).unwrap_or(Verdict::Unknown);
            return self.end(verdict, "it stays within the host", packet.sources);
        }
        if let Some(other) = self.world.hosts.iter().find(|host| host.addresses.contains(&destination)) {
            let note = "both are hosts of the internet";
            self.push(
                Hop::new(HopKind::Route, &place, "route of the host", note)
                    .states(state.clone(), state)
                    .expect(Expect::Link { link: "eth0".into(), mtu: None }),
            );
            return self.arrive_at_host(other, packet);
        }
        let Some(cloud) = &self.world.cloud else {
            return self.end_unknown(&place, "nothing declares the cloud", packet.sources);
        };
        let nat = cloud.source_nat.iter().find(|nat| nat.addresses.contains(&destination));
        if nat.is_none() && !cloud.gateways_public.contains(&destination) {
            let note = format!("{destination} is no public address: the internet has no way there");
            self.push(
                Hop::new(HopKind::Route, place, "route of the host", note)
                    .states(state, None)
                    .failing()
                    .expect(Expect::NoRoute),
            );
            return self.end(Verdict::Unreachable, "not a public address", BTreeSet::new());
        }
        self.push(
            Hop::new(HopKind::Route, &place, "route of the host", "to the cloud's router")
                .states(state.clone(), state.clone())
                .expect(Expect::Link { link: "eth0".into(), mtu: None }),
        );
        let node = nat.filter(|nat| nat.inbound).and_then(|nat| nat.nodes.first());
        let node = node.and_then(|ip| self.world.nodes.values().find(|node| node.has(*ip)));
        let Some(node) = node else {
            let answer = if packet.proto == Proto::Icmp { Verdict::Delivered } else { Verdict::Refused };
            return self.arrive(
                "gateway",
                "no inbound translation: the gateway itself",
                Some(answer),
                packet,
                false,
            );
        };
        let to = node.address_like(packet.destination).unwrap_or(packet.destination);
        let packet = Packet { destination: to, ..packet };
        let note = format!("the public address is {}'s own: the destination becomes the node", node.name);
        let backends = BTreeSet::from([SocketAddr::new(to, packet.port)]);
        self.push(
            Hop::new(HopKind::Gateway, "gateway", "one-to-one address (inbound)", note)
                .states(state, packet.state())
                .expect(Expect::Translate { backends }),
        );
        self.come_to_node(node, packet)
    }
}
