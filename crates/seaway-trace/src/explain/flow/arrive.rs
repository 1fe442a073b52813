//! A packet has come to where it was sent.

use std::collections::BTreeSet;

use seaway_model::ObjectName;

use super::{Packet, Walk, socket};
use crate::explain::facts::{answer_of, declared, way_back};
use crate::explain::way::Way;
use crate::hop::{Expect, Hop, HopKind, Proto, Verdict};
use crate::world::{HostFacts, NodeFacts, Owner, PodFacts};

/// Where the lab's API server listens (ARCHITECTURE.md, registry).
const API_SERVER_PORT: u16 = 6443;

impl Walk<'_> {
    pub(super) fn hand_to_neighbor(mut self, from: &NodeFacts, packet: Packet) -> Vec<Way> {
        match self.world.owner(packet.destination) {
            Owner::Node(node) => self.come_to_node(node, packet),
            Owner::ControlPlane => {
                let serves = match packet.proto {
                    Proto::Icmp => true,
                    Proto::Tcp => packet.serves || packet.port == API_SERVER_PORT,
                    Proto::Udp => packet.serves,
                };
                let answer = serves.then_some(Verdict::Delivered);
                self.arrive("control-plane", "API server", answer, packet, true)
            }
            _ => {
                let note = format!(
                    "nobody in the cloud's network has {}: the neighbour cannot be found",
                    packet.destination
                );
                let state = packet.state();
                self.push(
                    Hop::new(HopKind::Destination, format!("node/{}", from.name), "neighbour table", note)
                        .states(state, None)
                        .failing()
                        .expect(Expect::NoRoute),
                );
                self.end(Verdict::Unreachable, "nobody has that address", BTreeSet::new())
            }
        }
    }

    /// The packet is there, but no answer comes back, whatever the destination does.
    pub(super) fn arrive_without_answer(
        mut self,
        place: &str,
        object: &str,
        why: &str,
        verdict: Verdict,
        reason: &str,
        packet: Packet,
    ) -> Vec<Way> {
        let expect = Expect::Arrive { sources: packet.sources.clone(), answer: None };
        let hop = Hop::new(HopKind::Destination, place, object, "it gets the packet");
        self.push(hop.states(packet.state(), None).expect(expect));
        let note = format!("no answer comes back: {why}");
        self.push(Hop::new(HopKind::Return, place, "none", note).failing().expect(Expect::NoAnswer));
        self.end(verdict, reason, packet.sources)
    }

    /// At a pod of `node`, one that the API server knows or not.
    pub(super) fn arrive_at_pod(
        self,
        node: &NodeFacts,
        pod: Option<(&ObjectName, &PodFacts)>,
        packet: Packet,
    ) -> Vec<Way> {
        let Some((name, pod)) = pod else {
            let reason = format!("a pod of {} that the API server does not know", node.name);
            return self.end_unknown(&format!("node/{}", node.name), reason, packet.sources);
        };
        let answer = if packet.serves { Some(Verdict::Delivered) } else { declared(pod, &packet) };
        self.arrive(&format!("pod/{name}"), &format!("Pod {name}"), answer, packet, true)
    }

    pub(super) fn arrive_at_node(self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let serves = packet.serves || self.world.listens(node, packet.proto, packet.port);
        let answer = serves.then_some(Verdict::Delivered);
        self.arrive(&format!("node/{}", node.name), &format!("Node {}", node.name), answer, packet, true)
    }

    pub(super) fn arrive_at_host(self, host: &HostFacts, packet: Packet) -> Vec<Way> {
        let answer = answer_of(host, &packet);
        self.arrive(&format!("internet/{}", host.name), &format!("host {}", host.name), answer, packet, true)
    }

    /// The packet is there: what the destination does with it, and the way back.
    pub(super) fn arrive(
        mut self,
        place: &str,
        object: &str,
        answer: Option<Verdict>,
        packet: Packet,
        tells_source: bool,
    ) -> Vec<Way> {
        if let Some(why) = packet.one_way.clone() {
            let reason = "the way back is not the way there";
            return self.arrive_without_answer(place, object, &why, Verdict::Dropped, reason, packet);
        }
        let target = socket(packet.proto, packet.destination, packet.port);
        let does = match answer {
            Some(Verdict::Delivered) => "it serves".to_owned(),
            Some(Verdict::Forbidden) => {
                "it answers 403: none of the sources it may see is on its allow list".to_owned()
            }
            Some(Verdict::Refused) => {
                format!("nothing listens on port {}: the connection is refused", packet.port)
            }
            _ if place.starts_with("internet/") => {
                "it answers 403 where the source that is chosen is not on its allow list".to_owned()
            }
            _ => "whether something listens there is declared by nothing".to_owned(),
        };
        let mut hop = Hop::new(HopKind::Destination, place, object, does.clone())
            .states(packet.state(), None)
            .expect(Expect::Arrive { sources: packet.sources.clone(), answer });
        let good = matches!(answer, Some(Verdict::Delivered) | None);
        if !good {
            hop = hop.failing();
        }
        self.push(hop);
        let note = way_back(&self.hops);
        self.push(Hop::new(HopKind::Return, place, "conntrack", note).expect(Expect::Return));
        let sources = if tells_source { packet.sources } else { BTreeSet::new() };
        let verdict = answer.unwrap_or(Verdict::Unknown);
        let reason = match answer {
            Some(Verdict::Delivered) => format!("{object} gets it at {target}"),
            Some(Verdict::Forbidden | Verdict::Refused) => format!("{object}: {does}"),
            _ => format!("{object} gets it at {target}; {does}"),
        };
        self.end(verdict, reason, sources)
    }
}
