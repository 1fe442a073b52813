//! `loadBalancerSourceRanges`.

use seaway_model::RANGES_COVER_NODE_PORTS;
use seaway_net::rtnl::{Address, Rtnl, Scope};

use crate::addresses::*;
use crate::objects::{Svc, service};
use crate::world::World;

const VIP: &str = "198.18.0.2:80";
const NODE_PORT: &str = "192.0.2.1:30080";

fn web() -> Svc {
    let service = service("web").cluster_ip("10.96.0.7").port(80).node_port(30080);
    service.load_balancer("198.18.0.2").external_ip("198.18.0.1").endpoints([A, X])
}

#[test]
fn whoever_is_in_no_range_is_dropped_at_the_load_balancers_address() {
    let mut world = World::new();
    world.set(&web().source_range("203.0.113.2/32").source_range("198.51.0.0/16"));
    world.expect([
        Outside.calls(VIP).reaches([A, X]).masqueraded(),
        OtherNode.calls(VIP).reaches([A, X]).masqueraded(),
        Outside.calls(VIP).from("203.0.113.3").dropped(),
        Client.calls(VIP).dropped(),
        Node.calls(VIP).dropped(),
        // Other addresses know no ranges.
        Outside.calls(NODE_PORT).from("203.0.113.3").reaches([A, X]).masqueraded(),
        Outside.calls("198.18.0.1:80").from("203.0.113.3").reaches([A, X]).masqueraded(),
        Client.calls("10.96.0.7:80").reaches([A, X]),
    ]);
    world.set(&web().source_range("203.0.113.0/24").external_local());
    world.expect([Outside.calls(VIP).from("203.0.113.3").reaches([A]), OtherNode.calls(VIP).dropped()]);
    world.set(&web().source_range("10.244.1.0/24"));
    world.expect([Client.calls(VIP).reaches([A, X]).masqueraded(), Outside.calls(VIP).dropped()]);
    // Ranges that meet and that lie in each other.
    world.set(
        &web().source_range("203.0.113.0/24").source_range("203.0.113.2/32").source_range("203.0.0.0/16"),
    );
    world.expect([Outside.calls(VIP).reaches([A, X]).masqueraded(), Client.calls(VIP).dropped()]);
    world.set(&web().source_range("0.0.0.0/0"));
    world.expect([Client, Outside, Node].map(|caller| caller.calls(VIP).reaches([A, X]).masqueraded()));
    world.set(&web());
    world.expect([Client, Outside, Node].map(|caller| caller.calls(VIP).reaches([A, X]).masqueraded()));
}

#[test]
fn ranges_of_one_family_leave_the_other_open() {
    let mut world = World::new();
    world.set(&web().source_range_of(Family::V4, "203.0.113.3/32"));
    world.expect([
        Outside.calls(VIP).in_family(Family::V4).dropped(),
        Outside.calls(VIP).in_family(Family::V6).reaches([A, X]).masqueraded(),
    ]);
}

#[test]
fn ranges_hold_where_there_is_no_endpoint() {
    let mut world = World::new();
    world.set(&web().source_range("203.0.113.2/32").endpoints([A; 0]));
    world.expect([Outside.calls(VIP).from("203.0.113.3").dropped()]);
}

/// The node calls from the balancer's address where that is bound on it.
#[test]
fn the_balancers_address_may_call_where_the_node_may() {
    let mut world = World::new();
    let mut node = Rtnl::open_in(world.topology.node()).unwrap();
    let loopback = node.link_by_name("lo").unwrap().unwrap().index;
    let bound = Family::BOTH.map(|family| family.ip("198.18.0.2").into());
    for address in bound {
        // Of the host's scope, so that nothing that is masqueraded comes from it.
        node.add_scoped_address(Address { index: loopback, net: address, scope: Scope::Host }).unwrap();
    }
    world.set(&web().source_range("203.0.113.2/32"));
    world.expect([
        Node.calls(VIP).from("198.18.0.2").dropped(),
        Outside.calls(VIP).reaches([A, X]).masqueraded(),
    ]);
    world.set(&web().source_range("192.0.2.1/32"));
    world.expect([
        Node.calls(VIP).from("198.18.0.2").reaches([A, X]).masqueraded(),
        Node.calls(VIP).from("192.0.2.1").reaches([A, X]).masqueraded(),
        Outside.calls(VIP).dropped(),
    ]);
    // With the Local policy it is masqueraded as one of the node's own callers, and goes by the Cluster policy.
    world.set(&web().external_local());
    world.expect([Node.calls(VIP).from("198.18.0.2").reaches([A, X]).masqueraded()]);
    for address in bound {
        node.delete_address(loopback, address).unwrap();
    }
}

#[test]
fn ranges_cover_node_ports_where_that_is_asked_for() {
    let mut world = World::new();
    let covered = web().source_range("203.0.113.2/32").annotation(RANGES_COVER_NODE_PORTS, "true");
    for policy in [covered.clone(), covered.external_local()] {
        world.set(&policy);
        world.expect([
            Outside.calls(NODE_PORT).from("203.0.113.3").dropped(),
            Outside.calls(VIP).from("203.0.113.3").dropped(),
            Client.calls(NODE_PORT).dropped(),
        ]);
    }
    world.expect([Outside.calls(NODE_PORT).reaches([A])]);
    world.set(&web().source_range("203.0.113.2/32").annotation(RANGES_COVER_NODE_PORTS, "false"));
    world.expect([Outside.calls(NODE_PORT).from("203.0.113.3").reaches([A, X]).masqueraded()]);
}
