//! A packet within a node: its route, packet filters, its source, and on to the next place.

use std::collections::BTreeSet;

use seaway_model::{Backend, Masquerade, ObjectName, Origin, PortPlan, Translation};
use seaway_proxy::{Decision, element_for};

use super::next::Next;
use super::{Packet, Walk};
use crate::explain::facts::{link_address, link_of, own_pod_address, port_of, translation, underlay};
use crate::explain::way::Way;
use crate::hop::{Expect, Hop, HopKind, OuterHeader, State, Verdict};
use crate::world::{AppliedFacts, NodeFacts, Owner, PodFacts};

/// A packet that so many nodes looked up may go round in circles: an endpoint may have a Service's address.
const MOST_SERVICES: usize = 3;

impl Walk<'_> {
    /// A packet comes to `node`, to one of its own addresses, from a neighbour or the gateway: it may be for a Service.
    pub(super) fn come_to_node(self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let origin = Origin::Link(underlay(node).as_str().into());
        let packet = Packet { origin, from_afar: true, ..packet };
        if self.hops.iter().filter(|hop| hop.kind == HopKind::Service).count() >= MOST_SERVICES {
            let reason = "from Service to Service without an end";
            return self.end_unknown(&format!("node/{}", node.name), reason, packet.sources);
        }
        match &node.plan {
            Ok(facts) if translation(facts, &packet) == Translation::None => {
                self.arrive_at_node(node, packet)
            }
            _ => self.at_node(node, packet),
        }
    }

    /// From the route on; `original` is the packet before translation.
    pub(super) fn routed(
        mut self,
        node: &NodeFacts,
        facts: &AppliedFacts,
        packet: Packet,
        original: &Packet,
        chosen: Option<Backend>,
    ) -> Vec<Way> {
        let place = format!("node/{}", node.name);
        let next = self.next(node, packet.destination);
        self.push_route(node, &place, &packet, &next);
        self.push_policy(&place, &packet);
        let masquerade = original.flow().and_then(|flow| facts.node.masquerade(&flow, chosen));
        let made_here = packet.origin == Origin::Node;
        let mut packet = match (&next, made_here, masquerade) {
            // What came in and stays meets no postrouting hook.
            (Next::Here, false, _) | (Next::Here, true, None) => packet,
            _ => self.push_source(node, &place, packet, (masquerade, port_of(facts, original)), &next),
        };
        let leaves = !matches!(next, Next::Here | Next::Pod { .. });
        if packet.from_afar && chosen.is_some() && masquerade.is_none() && leaves {
            packet.one_way = Some(format!(
                "it goes straight back to the caller, not through {}, which alone could put the address back that was called",
                node.name
            ));
        }
        match next {
            Next::Here => self.arrive_at_node(node, packet),
            Next::Pod { pod, .. } => self.arrive_at_pod(node, pod, packet),
            Next::Node { name, link, tunnel, .. } => self.cross_to_node(node, &name, &link, tunnel, packet),
            Next::Neighbor => self.hand_to_neighbor(node, packet),
            Next::Gateway => self.at_gateway(packet),
            Next::Beyond => {
                let note = "nothing declares what is behind the node's default route";
                let state = packet.state();
                self.push(
                    Hop::new(HopKind::Gateway, "beyond the node", "not declared", note)
                        .states(state, None)
                        .expect(Expect::Unseen),
                );
                self.end_unknown(&place, "unknown beyond the node", packet.sources)
            }
        }
    }

    pub(super) fn push_route(&mut self, node: &NodeFacts, place: &str, packet: &Packet, next: &Next<'_>) {
        let destination = packet.destination;
        let link = underlay(node);
        let (object, note, expect) = match next {
            Next::Here => {
                ("local table".to_owned(), format!("{destination} is the node's own"), Expect::Local)
            }
            Next::Pod { pod, link } => (
                "host route of the pod".to_owned(),
                format!("{} is on this node: straight to its veth, no other node is involved", called(*pod)),
                Expect::ToPod { link: link.clone() },
            ),
            Next::Node { name, link, tunnel: Some((device, outer, mtu)), network } => (
                format!("route {network} dev {device}"),
                format!(
                    "the endpoint's network is {name}'s: into the tunnel {device} (VXLAN {}, MTU {mtu})",
                    outer.vni
                ),
                Expect::Tunnel {
                    device: device.clone(),
                    link: link_of(node, link),
                    outer: outer.clone(),
                    mtu: *mtu,
                },
            ),
            Next::Node { name, link, tunnel: None, network } => (
                format!("route {network} via {name}"),
                format!("host-gw: {name} is a neighbour, the packet goes there as it is, no overlay"),
                Expect::Link { link: link.clone(), mtu: self.mtu() },
            ),
            Next::Neighbor => (
                format!("the cloud's network on {link}"),
                format!("{} is a neighbour of the node: no overlay", self.world.name_of(destination)),
                match self.world.owner(destination) {
                    // Without an answer to ARP nothing leaves.
                    Owner::Nobody => Expect::Nothing,
                    _ => Expect::Link { link, mtu: self.mtu() },
                },
            ),
            Next::Gateway => (
                "default route".to_owned(),
                "not in the cluster: no overlay, on to the cloud's gateway".to_owned(),
                Expect::Link { link, mtu: self.mtu() },
            ),
            Next::Beyond => (
                "default route".to_owned(),
                "not in the cluster: no overlay, out of the node".to_owned(),
                Expect::Link { link, mtu: None },
            ),
        };
        let state = packet.state();
        let after = match next {
            Next::Node { tunnel: Some((_, outer, _)), .. } => {
                State { outer: Some(outer.clone()), ..state.clone() }
            }
            _ => state.clone(),
        };
        self.push(Hop::new(HopKind::Route, place, object, note).states(state, after).expect(expect));
    }

    pub(super) fn mtu(&self) -> Option<u32> {
        self.world.cloud.as_ref().map(|cloud| cloud.mtu)
    }

    pub(super) fn push_policy(&mut self, place: &str, packet: &Packet) {
        let state = packet.state();
        let note = "no NetworkPolicy is enforced on this node: everything passes";
        self.push(
            Hop::new(HopKind::Policy, place, "none", note).states(state.clone(), state).expect(Expect::Pass),
        );
    }

    pub(super) fn push_source(
        &mut self,
        node: &NodeFacts,
        place: &str,
        packet: Packet,
        (why, port): (Option<Masquerade>, Option<&PortPlan>),
        next: &Next<'_>,
    ) -> Packet {
        let before = packet.state();
        let Some(why) = why else {
            let note = "the source stays: the way back leads through here anyway";
            let hop = Hop::new(HopKind::Snat, place, "no masquerade", note).states(before.clone(), before);
            self.push(hop.expect(Expect::Source { addresses: BTreeSet::new() }));
            return packet;
        };
        let address = match next {
            Next::Node { link, .. } => link_address(node, link, packet.destination),
            Next::Pod { .. } => own_pod_address(node, packet.destination),
            _ => node.address_like(packet.destination),
        };
        let packet = Packet { sources: address.into_iter().collect(), ..packet };
        let (object, note) = match why {
            Masquerade::Hairpin => (
                "hairpin",
                "the pod is its own endpoint: with its own source it would answer itself, not the Service's address",
            ),
            Masquerade::ClusterIpFromOutside => (
                "cluster IP from outside the pod networks",
                "the caller is no pod: the answer must come back through this node, which undoes the translation",
            ),
            Masquerade::All => (
                "cluster IP, and all is to be masqueraded",
                "all callers of cluster IPs are masqueraded (--masquerade-all)",
            ),
            Masquerade::External => (
                "external address",
                "with the traffic policy Cluster the endpoint may be on another node: the answer must come back through this one",
            ),
            Masquerade::ExternalFromNode => (
                "external address from the node",
                "the node itself calls: the answer must come back to it, whichever of its addresses it called from",
            ),
            Masquerade::Egress => (
                "egress from a pod",
                "the destination is outside the pod networks, where nobody knows the way to a pod: the node puts its own address and a random port",
            ),
            Masquerade::Ingress => (
                "from outside to another node's pod",
                "the caller is no pod: only so does the answer come back this way",
            ),
        };
        let element = port
            .filter(|_| matches!(why, Masquerade::External | Masquerade::ExternalFromNode))
            .and_then(|port| element_for(port, Decision::Masquerade))
            .map(|element| format!(", {element}"))
            .unwrap_or_default();
        let hop = Hop::new(HopKind::Snat, place, format!("masquerade rule “{object}”{element}"), note)
            .states(before, packet.state());
        self.push(hop.expect(Expect::Source { addresses: packet.sources.clone() }));
        packet
    }

    pub(super) fn cross_to_node(
        mut self,
        from: &NodeFacts,
        name: &str,
        link: &str,
        tunnel: Option<(String, OuterHeader, u32)>,
        packet: Packet,
    ) -> Vec<Way> {
        if let Some((device, outer, _)) = &tunnel {
            let note = format!(
                "between the nodes: outer header {} → {} UDP {}, inside it the packet unchanged; no NAT",
                outer.source, outer.destination, outer.port
            );
            let state = State { outer: Some(outer.clone()), ..packet.state() };
            let hop = Hop::new(
                HopKind::Overlay,
                format!("node/{name}"),
                format!("VXLAN device {device}, forwarding entry to {}", outer.destination),
                note,
            );
            self.push(hop.states(state, packet.state()).expect(Expect::FromNetwork { link: device.clone() }));
        } else if link != underlay(from) {
            let note = format!("{name} has published no VXLAN address yet");
            self.push(
                Hop::new(HopKind::Overlay, format!("node/{}", from.name), link, note)
                    .states(packet.state(), None)
                    .failing(),
            );
            return self.end(
                Verdict::Unreachable,
                format!("the tunnel to {name} is not set up"),
                BTreeSet::new(),
            );
        }
        let Some(node) = self.world.nodes.get(name) else {
            return self.end_unknown(name, "nothing is known of the node", packet.sources);
        };
        self.enter_node(node, packet)
    }

    /// A packet from another node, or from outside: straight on to a pod or to the node itself.
    pub(super) fn enter_node(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let place = format!("node/{}", node.name);
        let next = self.next(node, packet.destination);
        let link = underlay(node);
        let state = packet.state();
        match next {
            Next::Here => self.arrive_at_node(node, packet),
            Next::Pod { pod, link } => {
                let note = format!("{} is on this node: out of its veth", called(pod));
                self.push(
                    Hop::new(HopKind::Route, &place, "host route of the pod", note)
                        .states(state.clone(), state)
                        .expect(Expect::ToPod { link }),
                );
                self.push_policy(&place, &packet);
                self.arrive_at_pod(node, pod, packet)
            }
            _ => {
                let note = format!("no pod of the node has {}", packet.destination);
                self.push(
                    Hop::new(HopKind::Route, &place, link, note)
                        .states(state, None)
                        .failing()
                        .expect(Expect::NoRoute),
                );
                self.end(
                    Verdict::Unreachable,
                    format!("{} is nobody's address", packet.destination),
                    BTreeSet::new(),
                )
            }
        }
    }
}

/// How hops call a pod that has its own address.
fn called(pod: Option<(&ObjectName, &PodFacts)>) -> String {
    pod.map_or("a pod that the API server does not know".to_owned(), |(name, _)| format!("pod {name}"))
}
