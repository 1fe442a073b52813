//! What a packet meets, where one place or one hop is enough to say so. Pure.

use std::net::IpAddr;

use seaway_model::{PortPlan, Protocol, Translation};

use super::flow::Packet;
use crate::hop::{Hop, HopKind, Proto, Verdict};
use crate::world::{AppliedFacts, HostFacts, NodeFacts, PodFacts, ServiceFacts};

/// What a host of the internet does with a packet; `None`: that depends on which of its sources the packet has.
pub(super) fn answer_of(host: &HostFacts, packet: &Packet) -> Option<Verdict> {
    let allowed =
        |ip: &IpAddr| host.allow.as_ref().is_none_or(|list| list.iter().any(|net| net.contains(ip)));
    match (packet.proto, packet.port) {
        (Proto::Icmp, _) => Some(Verdict::Delivered),
        (_, 53) if host.resolver => Some(Verdict::Delivered),
        (Proto::Tcp, 80) if packet.sources.iter().all(allowed) => Some(Verdict::Delivered),
        (Proto::Tcp, 80) if packet.sources.iter().any(allowed) => None,
        (Proto::Tcp, 80) => Some(Verdict::Forbidden),
        _ => Some(Verdict::Refused),
    }
}

/// What the answer meets, out of the hops of the way there.
pub(super) fn way_back(hops: &[Hop]) -> String {
    let mut steps = Vec::new();
    for hop in hops.iter().rev() {
        let (Some(before), Some(after)) = (&hop.before, &hop.after) else { continue };
        match hop.kind {
            HopKind::Gateway | HopKind::Snat if before.source != after.source => {
                let back = before.source.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
                steps.push(format!("{} puts {back} back as the destination", hop.place));
            }
            HopKind::Service | HopKind::Gateway if before.destination != after.destination => {
                let back = before.destination.iter().cloned().collect::<Vec<_>>().join(" or ");
                steps.push(format!("{} puts {back} back as the source", hop.place));
            }
            HopKind::Overlay => steps.push("through the tunnel again".to_owned()),
            _ => {}
        }
    }
    if steps.is_empty() {
        "the answer takes the same way; nothing was translated, nothing is put back".to_owned()
    } else {
        format!("the answer takes the same way: {}", steps.join("; "))
    }
}

/// What the pod's declarations say about the packet's port.
pub(super) fn declared(pod: &PodFacts, packet: &Packet) -> Option<Verdict> {
    let protocol = match packet.proto {
        Proto::Icmp => return Some(Verdict::Delivered),
        Proto::Tcp => Protocol::Tcp,
        Proto::Udp => Protocol::Udp,
    };
    (pod.ready && pod.ports.contains(&(protocol, packet.port))).then_some(Verdict::Delivered)
}

pub(super) fn translation(facts: &AppliedFacts, packet: &Packet) -> Translation {
    if packet.proto == Proto::Icmp {
        return match packet.destination {
            ip if facts.node.services.has_cluster_ip(&ip) => Translation::RejectNoSuchPort,
            ip if facts.node.proxy.is_service_network(&ip) => Translation::DropUnallocated,
            _ => Translation::None,
        };
    }
    packet.flow().map_or(Translation::None, |flow| facts.node.translate(&flow))
}

/// The service address that the packet is for.
pub(super) fn port_of<'a>(facts: &'a AppliedFacts, packet: &Packet) -> Option<&'a PortPlan> {
    let flow = packet.flow().filter(|_| packet.proto != Proto::Icmp)?;
    facts.node.port_of(&flow).map(|port| &**port)
}

pub(super) fn ports_of(service: &ServiceFacts) -> String {
    let ports: Vec<String> =
        service.ports.iter().map(|(protocol, port, _)| format!("{port}/{protocol}")).collect();
    if ports.is_empty() { String::new() } else { format!(" (it has {})", ports.join(", ")) }
}

/// The link to other nodes.
pub(super) fn underlay(node: &NodeFacts) -> String {
    let device = node.overlay().and_then(|overlay| overlay.devices.first());
    device.map_or("eth0".to_owned(), |device| device.link.clone())
}

pub(super) fn link_of(node: &NodeFacts, device: &str) -> String {
    let found = node.overlay().and_then(|overlay| overlay.devices.iter().find(|it| it.name == device));
    found.map_or_else(|| underlay(node), |device| device.link.clone())
}

/// The node's address towards one of its own pods, by whose link it has no address. IPv6 then takes the one with the longest
/// common prefix (RFC 6724, section 5, rule 8): the tunnel's, which is in the pod network.
pub(super) fn own_pod_address(node: &NodeFacts, pod: IpAddr) -> Option<IpAddr> {
    let tunnels = node.overlay().into_iter().flat_map(|overlay| &overlay.devices);
    let mut tunnels = tunnels.map(|device| device.address.addr());
    tunnels.find(|ip| pod.is_ipv6() && ip.is_ipv6()).or_else(|| node.address_like(pod))
}

/// The address that masquerade and local programs take on `link`: its own, or the node's.
pub(super) fn link_address(node: &NodeFacts, link: &str, other: IpAddr) -> Option<IpAddr> {
    let device = node.overlay().and_then(|overlay| overlay.devices.iter().find(|device| device.name == link));
    match device {
        Some(device) => Some(device.address.addr()).filter(|ip| ip.is_ipv4() == other.is_ipv4()),
        None => node.address_like(other),
    }
}
