//! What a node's plan makes of a packet's destination.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_model::{Backend, Caller, ObjectName, PortPlan, TrafficPolicy, Translation};
use seaway_proxy::{Decision, element_for};

use super::{Packet, Walk, socket};
use crate::explain::facts::{ports_of, translation};
use crate::explain::way::Way;
use crate::hop::{Expect, Hop, HopKind, Proto, State, Verdict};
use crate::world::{AppliedFacts, NodeFacts, ServiceFacts};

impl Walk<'_> {
    /// A packet that a pod of `node` sent, or the node itself: Service, route, filters, source.
    pub(super) fn at_node(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let place = format!("node/{}", node.name);
        let facts = match &node.plan {
            Ok(facts) => facts,
            Err(reason) => {
                let note = format!("the node's agent cannot be asked: {reason}");
                self.push(
                    Hop::new(HopKind::Route, &place, "agent", note)
                        .states(packet.state(), None)
                        .expect(Expect::Unseen),
                );
                return self.end_unknown(
                    &place,
                    format!("the agent of {} cannot be asked", node.name),
                    packet.sources,
                );
            }
        };
        match translation(facts, &packet) {
            Translation::None => self.not_translated(node, facts, packet),
            Translation::Dnat { port, caller } => self.translated(node, facts, packet, &port, caller),
            Translation::RejectNoEndpoints { port } => self.without_endpoint(place, packet, &port),
            Translation::RejectNoSuchPort => self.without_port(place, packet),
            Translation::DropNoLocalEndpoints { port, caller } => {
                let what = "has endpoints, but none on this node, and its traffic policy is Local";
                let object = with_element(object_of(&port), &port, Decision::Choose(caller));
                self.dropped(place, packet, (object_of(&port), object), what)
            }
            Translation::DropSourceRange { port } => {
                let what = "does not admit this source (spec.loadBalancerSourceRanges)";
                let object = with_element(object_of(&port), &port, Decision::Admit);
                self.dropped(place, packet, (object_of(&port), object), what)
            }
            Translation::DropUnallocated => {
                let what = "holds the destination, which could be a cluster IP, but no Service has it";
                let object = "set service_networks".to_owned();
                self.dropped(place, packet, (object.clone(), object), what)
            }
        }
    }

    fn not_translated(mut self, node: &NodeFacts, facts: &AppliedFacts, packet: Packet) -> Vec<Way> {
        let note = format!(
            "{} is no Service's address: the destination stays",
            socket(packet.proto, packet.destination, packet.port)
        );
        let state = packet.state();
        let place = format!("node/{}", node.name);
        self.push(
            Hop::new(HopKind::Service, place, "map services of table seaway", note)
                .states(state.clone(), state)
                .expect(Expect::Translate { backends: BTreeSet::new() }),
        );
        self.routed(node, facts, packet.clone(), &packet, None)
    }

    fn translated(
        mut self,
        node: &NodeFacts,
        facts: &AppliedFacts,
        packet: Packet,
        port: &PortPlan,
        caller: Caller,
    ) -> Vec<Way> {
        let backends: BTreeSet<SocketAddr> =
            port.candidates(caller).iter().map(|b| SocketAddr::new(b.ip, b.port)).collect();
        let after =
            State { destination: backends.iter().map(ToString::to_string).collect(), ..packet.state() };
        self.push(
            Hop::new(
                HopKind::Service,
                format!("node/{}", node.name),
                with_element(object_of(port), port, Decision::Choose(caller)),
                format!("{}{}", kind_of(port, caller), choice_of(port, caller)),
            )
            .states(packet.state(), after)
            .expect(Expect::Translate { backends: backends.clone() }),
        );
        let mut all = Vec::new();
        for backend in backends {
            let mut walk = self.clone();
            walk.choice.backend = Some(backend);
            let to =
                Packet { destination: backend.ip(), port: backend.port(), serves: true, ..packet.clone() };
            let chosen = Backend { ip: backend.ip(), port: backend.port() };
            all.extend(walk.routed(node, facts, to, &packet, Some(chosen)));
        }
        all
    }

    fn without_endpoint(mut self, place: String, packet: Packet, port: &PortPlan) -> Vec<Way> {
        let object = format!("Service {}", port.service);
        let note = "the Service has no ready endpoint: the node answers with a reset or an ICMP error, which a program sees as “connection refused”";
        let responsible = with_element(object_of(port), port, Decision::Refuse);
        self.push(
            Hop::new(HopKind::Service, place, responsible, note)
                .states(packet.state(), None)
                .failing()
                .expect(Expect::Reject),
        );
        self.end(Verdict::Rejected, format!("{object} has no ready endpoint"), BTreeSet::new())
    }

    fn without_port(mut self, place: String, packet: Packet) -> Vec<Way> {
        let owner = self.service_with(packet.destination);
        let object = owner.as_ref().map_or("set cluster_ips".to_owned(), |name| format!("Service {name}"));
        let ports = owner.and_then(|name| self.world.services.get(&name)).map(ports_of).unwrap_or_default();
        let what = match packet.proto {
            Proto::Icmp => "a cluster IP answers no ICMP, only the Service's own ports exist".to_owned(),
            proto => format!("the Service has no port {} for {proto}", packet.port),
        };
        let note = format!("{what}{ports}: the node answers with a reset or an ICMP error");
        self.push(
            Hop::new(HopKind::Service, place, object.clone(), note)
                .states(packet.state(), None)
                .failing()
                .expect(Expect::Reject),
        );
        self.end(Verdict::Rejected, format!("{object}: {what}"), BTreeSet::new())
    }

    fn dropped(
        mut self,
        place: String,
        packet: Packet,
        (object, responsible): (String, String),
        what: &str,
    ) -> Vec<Way> {
        let note = format!("{object} {what}: the node drops the packet");
        self.push(
            Hop::new(HopKind::Service, place, responsible, note)
                .states(packet.state(), None)
                .failing()
                .expect(Expect::Drop),
        );
        self.end(Verdict::Dropped, format!("{object} {what}"), BTreeSet::new())
    }

    fn service_with(&self, address: IpAddr) -> Option<ObjectName> {
        let has = |(_, service): &(&ObjectName, &ServiceFacts)| service.cluster_ips.contains(&address);
        self.world.services.iter().find(has).map(|(name, _)| name.clone())
    }
}

/// The Service and its port, as hops call it.
fn object_of(port: &PortPlan) -> String {
    let name = if port.port_name.is_empty() { String::new() } else { format!(" ({})", port.port_name) };
    format!("Service {}{name}", port.service)
}

/// The object and the element of the node's tables that decides.
fn with_element(object: String, port: &PortPlan, decision: Decision) -> String {
    element_for(port, decision).map_or(object.clone(), |element| format!("{object}, {element}"))
}

/// What the address is, where it is no cluster IP, and what that means for this caller.
fn kind_of(port: &PortPlan, caller: Caller) -> String {
    if !port.kind.is_external() {
        return match port.policy {
            TrafficPolicy::Cluster => String::new(),
            TrafficPolicy::Local => "internalTrafficPolicy Local: this node's endpoints alone; ".to_owned(),
        };
    }
    let what = match port.policy {
        TrafficPolicy::Cluster => "any endpoint",
        TrafficPolicy::Local if caller == Caller::Inside => {
            "any endpoint, as the caller is a pod or the node itself"
        }
        TrafficPolicy::Local => "this node's endpoints alone, which see the caller's own address",
    };
    format!("{} (externalTrafficPolicy {:?}): {what}; ", port.kind, port.policy)
}

/// How an endpoint is chosen.
fn choice_of(port: &PortPlan, caller: Caller) -> String {
    let mut note = match port.candidates(caller).len() {
        1 => "one endpoint: the destination becomes it".to_owned(),
        n => format!(
            "{n} endpoints, each chosen with probability 1/{n}; conntrack remembers the choice for the connection"
        ),
    };
    if port.is_terminating(caller) {
        note.push_str("; none is ready: these terminate, but still serve");
    }
    if let Some(timeout) = port.affinity {
        let seconds = timeout.as_secs();
        note.push_str(&format!("; a client stays with its endpoint for {seconds} s (ClientIP)"));
        let learns =
            element_for(port, Decision::Remember).map(|element| format!(", remembered by {element}"));
        note.push_str(&learns.unwrap_or_default());
    }
    note
}
