//! The way of a flow's first packet, out of the plans of the places that it crosses. Pure.

mod arrive;
mod gateway;
mod leave;
mod next;
mod node;
mod service;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_model::{Flow, ObjectName, Origin, Protocol};

use super::way::{Choice, End, Way};
use crate::hop::{Hop, Proto, State, Verdict};
use crate::world::World;

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
    /// How it came to the node that it is on.
    origin: Origin,
    /// It came from outside of the node, be it from another node's pod.
    from_afar: bool,
    /// Why its answer does not find back, though it gets there.
    one_way: Option<String>,
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
        Some(Flow {
            origin: self.origin.clone(),
            source,
            destination: self.destination,
            protocol,
            port: self.port,
        })
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
        origin: Origin::Unknown,
        from_afar: false,
        one_way: None,
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
                let mut sources = host.addresses.iter().copied();
                // Whoever calls one of its own addresses calls from that address.
                let own = sources.clone().find(|source| *source == address);
                let source = own.or_else(|| sources.find(|source| source.is_ipv4() == address.is_ipv4()));
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

impl Walk<'_> {
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
}
