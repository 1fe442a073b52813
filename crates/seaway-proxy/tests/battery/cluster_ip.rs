//! Cluster IPs: who is reached, who is seen, and what is refused.

use seaway_model::{DetectLocal, Protocol, ProxySettings};

use crate::addresses::*;
use crate::objects::{Svc, service};
use crate::plan::settings;
use crate::world::World;

const VIP: &str = "10.96.0.7:80";

fn web() -> Svc {
    service("web").cluster_ip("10.96.0.7").port(80)
}

#[test]
fn every_caller_reaches_every_endpoint() {
    let mut world = World::new();
    world.set(&web().endpoints([A, B, X]));
    world.expect([
        Client.calls(VIP).reaches([A, B, X]),
        // An endpoint that is sent to itself, too: hairpin.
        A.calls(VIP).reaches([A, B, X]),
        Node.calls(VIP).reaches([A, B, X]).masqueraded(),
        Outside.calls(VIP).reaches([A, B, X]).masqueraded(),
        OtherNode.calls(VIP).reaches([A, B, X]).masqueraded(),
    ]);
}

#[test]
fn an_endpoint_in_the_hosts_network_is_reached_by_all_and_by_itself() {
    let mut world = World::new();
    world.set(&web().endpoints([Node, OtherNode]));
    world.expect([
        // What leaves the pod network has the node's address.
        Client.calls(VIP).reaches([Node, OtherNode]).masqueraded(),
        Node.calls(VIP).reaches([Node, OtherNode]).masqueraded(),
        Outside.calls(VIP).reaches([Node, OtherNode]).masqueraded(),
    ]);
}

#[test]
fn each_port_leads_to_its_own() {
    let mut world = World::new();
    world.set(&web().port_to(443, 8081).endpoints([A, X]));
    world.expect([
        Client.calls(VIP).reaches([A, X]),
        Client.calls("10.96.0.7:443").reaches([A, X]).at_port(8081),
        Client.calls("10.96.0.7:8080").refused(),
    ]);
}

#[test]
fn each_protocol_leads_to_its_own() {
    let mut world = World::new();
    world.set(&web().protocol(Protocol::Tcp).external_ip("198.18.0.1").endpoints([A]));
    let dns = service("dns").cluster_ip("10.96.0.8").protocol(Protocol::Udp);
    world.set(&dns.port(80).external_ip("198.18.0.1").endpoints([B]));
    world.expect([
        Client.calls(VIP).over([Protocol::Tcp]).reaches([A]),
        Client.calls(VIP).over([Protocol::Udp]).refused(),
        Outside.calls("198.18.0.1:80").over([Protocol::Tcp]).reaches([A]).masqueraded(),
        Outside.calls("198.18.0.1:80").over([Protocol::Udp]).reaches([B]).masqueraded(),
    ]);
}

#[test]
fn services_of_one_family_have_nothing_in_the_other() {
    for family in Family::BOTH {
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let mut world = World::new();
        world.set(&service("web").only(family).cluster_ip("10.96.0.7").port(80).endpoints([A, X]));
        world.expect([
            Client.calls(VIP).in_family(family).reaches([A, X]),
            Outside.calls(VIP).in_family(family).reaches([A, X]).masqueraded(),
            Client.calls(VIP).in_family(other).dropped(),
        ]);
    }
}

#[test]
fn without_endpoints_or_with_a_wrong_port_callers_are_refused_at_once() {
    let mut world = World::new();
    let refused =
        |port: u16| [Client, Node, Outside].map(|caller| caller.calls(format!("10.96.0.7:{port}")).refused());
    world.set(&web());
    world.expect([refused(80), refused(81)].concat());
    // The first endpoint is used at once, and when the last goes callers are refused again.
    world.set(&web().endpoints([A]));
    world.expect([refused(81).as_slice(), &[Client.calls(VIP).reaches([A])]].concat());
    world.set(&web().endpoints([A.not_ready()]));
    world.expect(refused(80));
    // Nothing is left of a Service that is gone: its address is nobody's.
    world.delete("web");
    world.expect([Client, Node, Outside].map(|caller| caller.calls(VIP).dropped()));
}

#[test]
fn unallocated_addresses_are_dropped_where_service_networks_are_known() {
    let mut world = World::new();
    world.set(&web().endpoints([A]));
    world.expect([Client, Node, Outside].map(|caller| caller.calls("10.96.0.99:80").dropped()));
    world.set_service_networks(&[]);
    world.expect([Client, Node, Outside].map(|caller| caller.calls("10.96.0.99:80").passes()));
    // A network that comes later holds, too.
    world.set_service_networks(&[MORE_SERVICES, SERVICE_NETWORK]);
    world.expect([
        Client.calls("10.96.0.99:80").dropped(),
        Client.calls("10.97.0.99:80").dropped(),
        Client.calls(VIP).reaches([A]),
    ]);
}

#[test]
fn internal_policy_local_keeps_to_this_nodes_endpoints() {
    let mut world = World::new();
    world.set(&web().internal_local().node_port(30080).endpoints([A, B, X]));
    world.expect([
        Client.calls(VIP).reaches([A, B]),
        A.calls(VIP).reaches([A, B]),
        Node.calls(VIP).reaches([A, B]).masqueraded(),
        Outside.calls(VIP).reaches([A, B]).masqueraded(),
        // It says nothing of other addresses.
        Outside.calls("192.0.2.1:30080").reaches([A, B, X]).masqueraded(),
    ]);
    world.set(&web().internal_local().node_port(30080).endpoints([X]));
    world.expect([
        Client.calls(VIP).dropped(),
        Node.calls(VIP).dropped(),
        Outside.calls(VIP).dropped(),
        Outside.calls("192.0.2.1:30080").reaches([X]).masqueraded(),
    ]);
    world.set(&web().internal_local());
    world.expect([Client, Outside].map(|caller| caller.calls(VIP).refused()));
}

fn world_with(detect_local: DetectLocal) -> World {
    let mut world = World::with(ProxySettings { detect_local, ..settings() });
    world.set(&web().endpoints([A, B]));
    world
}

#[test]
fn masquerade_by_the_clusters_networks() {
    let networks = Family::BOTH.map(|family| family.net(POD_NETWORK));
    world_with(DetectLocal::ClusterCidr(networks.into())).expect([
        Client.calls(VIP).reaches([A, B]),
        A.calls(VIP).reaches([A, B]),
        X.calls(VIP).reaches([A, B]),
        Node.calls(VIP).reaches([A, B]).masqueraded(),
        Outside.calls(VIP).reaches([A, B]).masqueraded(),
    ]);
}

#[test]
fn masquerade_by_the_nodes_networks() {
    world_with(DetectLocal::NodeCidr).expect([
        Client.calls(VIP).reaches([A, B]),
        A.calls(VIP).reaches([A, B]),
        X.calls(VIP).reaches([A, B]).masqueraded(),
        Node.calls(VIP).reaches([A, B]).masqueraded(),
        Outside.calls(VIP).reaches([A, B]).masqueraded(),
    ]);
}

#[test]
fn masquerade_by_one_interface() {
    world_with(DetectLocal::BridgeInterface(link_of(Client).into())).expect([
        Client.calls(VIP).reaches([A, B]),
        A.calls(VIP).reaches([A, B]).masqueraded(),
        X.calls(VIP).reaches([A, B]).masqueraded(),
        Node.calls(VIP).reaches([A, B]).masqueraded(),
        Outside.calls(VIP).reaches([A, B]).masqueraded(),
    ]);
}

#[test]
fn masquerade_by_the_names_of_interfaces() {
    world_with(DetectLocal::InterfaceNamePrefix("pod-".into())).expect([
        Client.calls(VIP).reaches([A, B]),
        A.calls(VIP).reaches([A, B]),
        X.calls(VIP).reaches([A, B]).masqueraded(),
        Node.calls(VIP).reaches([A, B]).masqueraded(),
        Outside.calls(VIP).reaches([A, B]).masqueraded(),
    ]);
}

#[test]
fn masquerade_all() {
    let mut world = World::with(ProxySettings { masquerade_all: true, ..settings() });
    world.set(&web().endpoints([A, B, X]));
    world.expect([
        Client.calls(VIP).reaches([A, B, X]).masqueraded(),
        A.calls(VIP).reaches([A, B, X]).masqueraded(),
        X.calls(VIP).reaches([A, B, X]).masqueraded(),
        Outside.calls(VIP).reaches([A, B, X]).masqueraded(),
        // What goes to no Service keeps its source.
        Client.calls("10.244.2.5:8080").reaches([X]),
    ]);
}

#[test]
fn what_leaves_the_pod_network_has_the_nodes_address() {
    World::new().expect([
        Client.calls("203.0.113.2:8080").reaches([Outside]).masqueraded(),
        Client.calls("198.51.100.1:8080").reaches([OtherNode]).masqueraded(),
        Client.calls("10.244.1.5:8080").reaches([A]),
        Client.calls("10.244.2.5:8080").reaches([X]),
        X.calls("10.244.1.5:8080").reaches([A]),
        Outside.calls("192.0.2.1:8080").reaches([Node]),
        Outside.calls("10.244.1.5:8080").reaches([A]),
    ]);
}

#[test]
fn services_of_other_proxies_and_headless_ones_are_left_alone() {
    let mut world = World::new();
    world.set_service_networks(&[]);
    let other = web().node_port(30080).external_ip("198.18.0.1").endpoints([A]);
    world.set(&other.clone().label("service.kubernetes.io/service-proxy-name", "other"));
    world.set(&service("headless").headless().port(80).external_ip("198.18.0.2").endpoints([A]));
    world.expect([
        Client.calls(VIP).passes(),
        Outside.calls("198.18.0.1:80").passes(),
        Outside.calls("198.18.0.2:80").passes(),
        Outside.calls("192.0.2.1:30080").refused(),
    ]);
    // The label goes, and comes back.
    world.set(&other);
    world.expect([Client.calls(VIP).reaches([A]), Outside.calls("198.18.0.1:80").reaches([A]).masqueraded()]);
    world.set(&other.label("service.kubernetes.io/service-proxy-name", ""));
    world.expect([Client.calls(VIP).passes(), Outside.calls("198.18.0.1:80").passes()]);
}
