//! The way of a flow's first packet, out of the plans of the places that it crosses. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use seaway_model::{Backend, Flow, Masquerade, ObjectName, Protocol, Translation};

use super::facts::{answer_of, declared, link_address, link_of, ports_of, translation, underlay, way_back};
use super::way::{Choice, End, Way};
use crate::hop::{Expect, Hop, HopKind, OuterHeader, Proto, State, Verdict};
use crate::world::{AppliedFacts, HostFacts, NodeFacts, Owner, PodFacts, World};

/// Where the lab's API server listens (ARCHITECTURE.md, registry).
const API_SERVER_PORT: u16 = 6443;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A pod.
    Pod(ObjectName),
    /// A node.
    Node(String),
    /// A host outside.
    Host(String),
}

impl Caller {
    /// Where it is, as hops call it.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Pod(name) => format!("pod/{name}"),
            Self::Node(name) => format!("node/{name}"),
            Self::Host(name) => format!("internet/{name}"),
        }
    }
}

/// A packet under way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) proto: Proto,
    pub(super) sources: BTreeSet<IpAddr>,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
    /// The destination came out of a Service with ready endpoints.
    serves: bool,
    /// It was made on the node that it is on.
    local: bool,
}

impl Packet {
    fn state(&self) -> State {
        State {
            protocol: Some(self.proto),
            source: self.sources.clone(),
            destination: BTreeSet::from([socket(self.proto, self.destination, self.port)]),
            ..State::default()
        }
    }

    pub(super) fn flow(&self) -> Option<Flow> {
        let protocol = match self.proto {
            Proto::Udp => Protocol::Udp,
            // Masquerade looks at addresses alone.
            Proto::Tcp | Proto::Icmp => Protocol::Tcp,
        };
        let source = *self.sources.first()?;
        Some(Flow { source, destination: self.destination, protocol, port: self.port })
    }
}

/// `address:port`, or the address where the protocol has no ports.
pub(crate) fn socket(proto: Proto, address: IpAddr, port: u16) -> String {
    match proto {
        Proto::Icmp => address.to_string(),
        Proto::Tcp | Proto::Udp => SocketAddr::new(address, port).to_string(),
    }
}

/// All ways that a call of `address` may take.
pub(crate) fn ways(world: &World, caller: &Caller, proto: Proto, address: IpAddr, port: u16) -> Vec<Way> {
    let walk = Walk { world, hops: Vec::new(), choice: Choice { address: Some(address), backend: None } };
    let packet = |source: Option<IpAddr>| Packet {
        proto,
        sources: source.into_iter().collect(),
        destination: address,
        port,
        serves: false,
        local: false,
    };
    match caller {
        Caller::Pod(name) => match world.pods.get(name) {
            Some(pod) if pod.host_network => walk.leave_node(&pod.node, &caller.place(), packet(None)),
            Some(pod) => {
                let source = pod.addresses.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4());
                walk.leave_pod(name, pod, packet(source))
            }
            None => Vec::new(),
        },
        Caller::Node(name) => walk.leave_node(name, &caller.place(), packet(None)),
        Caller::Host(name) => match world.hosts.iter().find(|host| host.name == *name) {
            Some(host) => {
                let mut sources = host.addresses.iter().copied().map(IpAddr::V4);
                // Whoever calls one of its own addresses calls from that address.
                let own = sources.clone().find(|source| *source == address);
                let source = own.or_else(|| sources.next().filter(|_| address.is_ipv4()));
                walk.leave_host(host, packet(source))
            }
            None => Vec::new(),
        },
    }
}

/// A way as far as it has been followed.
#[derive(Clone)]
struct Walk<'a> {
    world: &'a World,
    hops: Vec<Hop>,
    choice: Choice,
}

/// Where a packet goes from a node.
enum Next<'a> {
    Here,
    Pod(&'a ObjectName, &'a PodFacts),
    /// Through the tunnel or directly: to the node with this name.
    Node {
        name: String,
        link: String,
        tunnel: Option<(String, OuterHeader, u32)>,
        network: IpNet,
    },
    /// A neighbour of the node in the cloud's network.
    Neighbor,
    /// The cloud's router.
    Gateway,
    /// The default route, and what is behind it is not declared.
    Beyond,
}

impl<'a> Walk<'a> {
    fn push(&mut self, hop: Hop) {
        self.hops.push(hop);
    }

    fn end(self, verdict: Verdict, reason: impl Into<String>, sources: BTreeSet<IpAddr>) -> Vec<Way> {
        let end = End { verdict, reason: reason.into(), sources, unknown_beyond: None };
        vec![Way { choice: self.choice, hops: self.hops, end }]
    }

    fn end_unknown(self, beyond: &str, reason: impl Into<String>, sources: BTreeSet<IpAddr>) -> Vec<Way> {
        let end = End {
            verdict: Verdict::Unknown,
            reason: reason.into(),
            sources,
            unknown_beyond: Some(beyond.to_owned()),
        };
        vec![Way { choice: self.choice, hops: self.hops, end }]
    }

    fn leave_pod(mut self, name: &ObjectName, pod: &PodFacts, packet: Packet) -> Vec<Way> {
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
        let note = "the pod has one route, to its node's end of the veth (gateway 169.254.1.1)";
        let state = packet.state();
        self.push(
            Hop::new(HopKind::Route, place, "default route of the pod, eth0", note)
                .states(state.clone(), state)
                .expect(Expect::Enter),
        );
        let Some(node) = self.world.nodes.get(&pod.node) else {
            return self.end_unknown(&pod.node, "nothing is known of the pod's node", packet.sources);
        };
        self.at_node(node, packet)
    }

    fn stay_in_pod(mut self, place: String, pod: &PodFacts, packet: Packet) -> Vec<Way> {
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

    fn leave_node(mut self, name: &str, place: &str, mut packet: Packet) -> Vec<Way> {
        let Some(node) = self.world.nodes.get(name) else {
            return self.end_unknown(place, "nothing is known of the node", BTreeSet::new());
        };
        // The kernel chooses the source by the way to the address that is called, before any translation.
        packet.sources = self.source_towards(node, packet.destination).into_iter().collect();
        if node.has(packet.destination) || packet.destination.is_loopback() {
            packet.sources = BTreeSet::from([packet.destination]);
        }
        packet.local = true;
        self.hops.retain(|hop| hop.place != place);
        self.at_node(node, packet)
    }

    /// The address that a packet made on `node` gets on its way to `destination`.
    fn source_towards(&self, node: &NodeFacts, destination: IpAddr) -> Option<IpAddr> {
        match self.next(node, destination) {
            Next::Node { link, .. } => link_address(node, &link, destination),
            _ => node.address_like(destination),
        }
    }

    /// A packet that a pod of `node` sent, or the node itself: Service, route, filters, source.
    fn at_node(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
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
            Translation::RejectNoEndpoints { port } => {
                let object = format!("Service {}", port.service);
                let note = "the Service has no ready endpoint: the node answers with ICMP port unreachable, which a program sees as “connection refused”";
                self.push(
                    Hop::new(HopKind::Service, place, object.clone(), note)
                        .states(packet.state(), None)
                        .failing()
                        .expect(Expect::Reject),
                );
                self.end(Verdict::Rejected, format!("{object} has no ready endpoint"), BTreeSet::new())
            }
            Translation::RejectNoSuchPort => {
                let owner = self.service_with(packet.destination);
                let object =
                    owner.as_ref().map_or("set cluster_ips".to_owned(), |name| format!("Service {name}"));
                let ports =
                    owner.and_then(|name| self.world.services.get(&name)).map(ports_of).unwrap_or_default();
                let what = match packet.proto {
                    Proto::Icmp => {
                        "a cluster IP answers no ICMP, only the Service's own ports exist".to_owned()
                    }
                    proto => format!("the Service has no port {} for {proto}", packet.port),
                };
                let note = format!("{what}{ports}: the node answers with ICMP port unreachable");
                self.push(
                    Hop::new(HopKind::Service, place, object.clone(), note)
                        .states(packet.state(), None)
                        .failing()
                        .expect(Expect::Reject),
                );
                self.end(Verdict::Rejected, format!("{object}: {what}"), BTreeSet::new())
            }
            Translation::None => {
                let note = format!(
                    "{} is no Service's address: the destination stays",
                    socket(packet.proto, packet.destination, packet.port)
                );
                let state = packet.state();
                self.push(
                    Hop::new(HopKind::Service, &place, "map services of table seaway", note)
                        .states(state.clone(), state)
                        .expect(Expect::Translate { backends: BTreeSet::new() }),
                );
                self.routed(node, facts, packet.clone(), &packet, None)
            }
            Translation::Dnat { port } => {
                let backends: BTreeSet<SocketAddr> =
                    port.backends.iter().map(|b| SocketAddr::new(b.ip, b.port)).collect();
                let name =
                    if port.port_name.is_empty() { String::new() } else { format!(" ({})", port.port_name) };
                let object = format!("Service {}{name}", port.service);
                let mut note = match backends.len() {
                    1 => "one endpoint: the destination becomes it".to_owned(),
                    n => format!(
                        "{n} endpoints, each chosen with probability 1/{n}; conntrack remembers the choice for the connection"
                    ),
                };
                if port.terminating {
                    note.push_str("; none is ready: these terminate, but still serve");
                }
                if let Some(timeout) = port.affinity {
                    note.push_str(&format!(
                        "; a client stays with its endpoint for {} s (ClientIP)",
                        timeout.as_secs()
                    ));
                }
                let after = State {
                    destination: backends.iter().map(ToString::to_string).collect(),
                    ..packet.state()
                };
                self.push(
                    Hop::new(HopKind::Service, &place, object, note)
                        .states(packet.state(), after)
                        .expect(Expect::Translate { backends: backends.clone() }),
                );
                let mut all = Vec::new();
                for backend in backends {
                    let mut walk = self.clone();
                    walk.choice.backend = Some(backend);
                    let to = Packet {
                        destination: backend.ip(),
                        port: backend.port(),
                        serves: true,
                        ..packet.clone()
                    };
                    let chosen = Backend { ip: backend.ip(), port: backend.port() };
                    all.extend(walk.routed(node, facts, to, &packet, Some(chosen)));
                }
                all
            }
        }
    }

    fn service_with(&self, address: IpAddr) -> Option<ObjectName> {
        let has = |(_, service): &(&ObjectName, &crate::world::ServiceFacts)| {
            service.cluster_ips.contains(&address)
        };
        self.world.services.iter().find(has).map(|(name, _)| name.clone())
    }

    /// From the route on; `original` is the packet before translation.
    fn routed(
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
        let packet = match (&next, packet.local, masquerade) {
            // What came in and stays meets no postrouting hook.
            (Next::Here, false, _) | (Next::Here, true, None) => packet,
            _ => self.push_source(node, &place, packet, masquerade, &next),
        };
        match next {
            Next::Here => self.arrive_at_node(node, packet),
            Next::Pod(name, pod) => self.arrive_at_pod(name, pod, packet),
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

    fn push_route(&mut self, node: &NodeFacts, place: &str, packet: &Packet, next: &Next<'_>) {
        let destination = packet.destination;
        let link = underlay(node);
        let (object, note, expect) = match next {
            Next::Here => {
                ("local table".to_owned(), format!("{destination} is the node's own"), Expect::Local)
            }
            Next::Pod(name, _) => (
                "host route of the pod".to_owned(),
                format!("pod {name} is on this node: straight to its veth, no other node is involved"),
                Expect::ToPod,
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

    fn mtu(&self) -> Option<u32> {
        self.world.cloud.as_ref().map(|cloud| cloud.mtu)
    }

    fn push_policy(&mut self, place: &str, packet: &Packet) {
        let state = packet.state();
        let note = "no NetworkPolicy is enforced on this node: everything passes";
        self.push(
            Hop::new(HopKind::Policy, place, "none", note).states(state.clone(), state).expect(Expect::Pass),
        );
    }

    fn push_source(
        &mut self,
        node: &NodeFacts,
        place: &str,
        packet: Packet,
        why: Option<Masquerade>,
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
            Masquerade::Egress => (
                "egress from a pod",
                "the destination is outside the pod networks, where nobody knows the way to a pod: the node puts its own address and a random port",
            ),
            Masquerade::Ingress => (
                "from outside to another node's pod",
                "the caller is no pod: only so does the answer come back this way",
            ),
        };
        let hop = Hop::new(HopKind::Snat, place, format!("masquerade rule “{object}”"), note)
            .states(before, packet.state());
        self.push(hop.expect(Expect::Source { addresses: packet.sources.clone() }));
        packet
    }

    /// Where `node` sends what is for `destination`.
    fn next(&self, node: &NodeFacts, destination: IpAddr) -> Next<'a> {
        if node.has(destination) || destination.is_loopback() {
            return Next::Here;
        }
        if let Owner::Pod(name, pod) = self.world.owner(destination)
            && pod.node == node.name
        {
            return Next::Pod(name, pod);
        }
        if let Some(overlay) = node.overlay()
            && let Some(route) = overlay.routes.iter().find(|route| route.dst.contains(&destination))
        {
            let device = overlay.devices.iter().find(|device| device.name == route.link);
            let tunnel = device.and_then(|device| {
                let neighbor =
                    overlay.neighbors.iter().find(|it| it.device == device.name && it.ip == route.via)?;
                let forward =
                    overlay.forwards.iter().find(|it| it.device == device.name && it.mac == neighbor.mac)?;
                let outer = OuterHeader {
                    source: device.local,
                    destination: forward.dst,
                    port: device.port,
                    vni: device.vni,
                };
                Some((device.name.clone(), outer, device.mtu))
            });
            return Next::Node {
                name: route.node.to_string(),
                link: route.link.clone(),
                tunnel,
                network: route.dst,
            };
        }
        match (&self.world.cloud, destination) {
            (None, _) => Next::Beyond,
            (Some(cloud), IpAddr::V4(v4)) if cloud.network.contains(&v4) && v4 != cloud.gateway => {
                Next::Neighbor
            }
            (Some(_), _) => Next::Gateway,
        }
    }

    fn cross_to_node(
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
    fn enter_node(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let place = format!("node/{}", node.name);
        let next = self.next(node, packet.destination);
        let link = underlay(node);
        let state = packet.state();
        match next {
            Next::Here => self.arrive_at_node(node, packet),
            Next::Pod(name, pod) => {
                let note = format!("pod {name} is on this node: out of its veth");
                self.push(
                    Hop::new(HopKind::Route, &place, "host route of the pod", note)
                        .states(state.clone(), state)
                        .expect(Expect::ToPod),
                );
                self.push_policy(&place, &packet);
                self.arrive_at_pod(name, pod, packet)
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

    fn hand_to_neighbor(mut self, from: &NodeFacts, packet: Packet) -> Vec<Way> {
        match self.world.owner(packet.destination) {
            Owner::Node(node) => self.arrive_at_node(node, packet),
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

    fn at_gateway(mut self, packet: Packet) -> Vec<Way> {
        let Some(cloud) = &self.world.cloud else {
            return self.end_unknown("the node", "unknown beyond the node", packet.sources);
        };
        let state = packet.state();
        let source = packet.sources.first().copied();
        let is_node = |ip: &IpAddr| {
            cloud.nodes.iter().any(|node| IpAddr::V4(node.address) == *ip)
                || IpAddr::V4(cloud.control_plane) == *ip
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
        let IpAddr::V4(destination) = packet.destination else {
            return self.end_unknown("gateway", "the cloud has no IPv6", packet.sources);
        };
        if let Some(nat) =
            cloud.source_nat.iter().find(|nat| nat.inbound && nat.addresses.contains(&destination))
        {
            let Some(node) =
                nat.nodes.first().and_then(|ip| self.world.nodes.values().find(|n| n.has(IpAddr::V4(*ip))))
            else {
                return self.end_unknown("gateway", "the node is not known", packet.sources);
            };
            return self.turn_back_into_the_cloud(node, packet);
        }
        if destination == cloud.gateway
            || destination == cloud.gateway_public
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
        let public = cloud
            .source_nat
            .iter()
            .find(|nat| source.is_some_and(|ip| nat.nodes.iter().any(|node| IpAddr::V4(*node) == ip)));
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
        let addresses: BTreeSet<IpAddr> = public.addresses.iter().copied().map(IpAddr::V4).collect();
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
    fn turn_back_into_the_cloud(mut self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
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

    /// The packet is there, but no answer comes back, whatever the destination does.
    fn arrive_without_answer(
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

    fn leave_host(mut self, host: &HostFacts, packet: Packet) -> Vec<Way> {
        let place = format!("internet/{}", host.name);
        let IpAddr::V4(destination) = packet.destination else {
            return self.end_unknown(&place, "the internet has no IPv6", packet.sources);
        };
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
        if nat.is_none() && destination != cloud.gateway_public {
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
        let node = node.and_then(|ip| self.world.nodes.values().find(|node| node.has(IpAddr::V4(*ip))));
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
        self.at_node(node, packet)
    }

    fn arrive_at_pod(self, name: &ObjectName, pod: &PodFacts, packet: Packet) -> Vec<Way> {
        let answer = if packet.serves { Some(Verdict::Delivered) } else { declared(pod, &packet) };
        self.arrive(&format!("pod/{name}"), &format!("Pod {name}"), answer, packet, true)
    }

    fn arrive_at_node(self, node: &NodeFacts, packet: Packet) -> Vec<Way> {
        let serves = packet.serves || self.world.listens(node, packet.proto, packet.port);
        let answer = serves.then_some(Verdict::Delivered);
        self.arrive(&format!("node/{}", node.name), &format!("Node {}", node.name), answer, packet, true)
    }

    fn arrive_at_host(self, host: &HostFacts, packet: Packet) -> Vec<Way> {
        let answer = answer_of(host, &packet);
        self.arrive(&format!("internet/{}", host.name), &format!("host {}", host.name), answer, packet, true)
    }

    /// The packet is there: what the destination does with it, and the way back.
    fn arrive(
        mut self,
        place: &str,
        object: &str,
        answer: Option<Verdict>,
        packet: Packet,
        tells_source: bool,
    ) -> Vec<Way> {
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
