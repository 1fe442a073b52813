//! Which endpoints are used: their state, and topology.

use std::sync::Arc;

use crate::addresses::*;
use crate::objects::{At, Svc, node_object, service};
use crate::world::World;

const VIP: &str = "10.96.0.7:80";
const NODE_PORT: &str = "192.0.2.1:30080";

fn web(endpoints: impl IntoIterator<Item = At>) -> Svc {
    service("web").cluster_ip("10.96.0.7").port(80).node_port(30080).endpoints(endpoints)
}

#[test]
fn terminating_endpoints_are_used_where_none_is_ready() {
    let mut world = World::new();
    world.set(&web([A.ready(), B.terminating(), X.not_ready()]));
    world.expect([Client.calls(VIP).reaches([A]), Outside.calls(NODE_PORT).reaches([A]).masqueraded()]);
    world.set(&web([A.terminating(), X.terminating(), B.ended(), Y.not_ready()]));
    world.expect([Client.calls(VIP).reaches([A, X]), Outside.calls(NODE_PORT).reaches([A, X]).masqueraded()]);
    world.set(&web([A.terminating(), X.ready()]));
    world.expect([Client.calls(VIP).reaches([X]), Outside.calls(NODE_PORT).reaches([X]).masqueraded()]);
}

#[test]
fn whether_terminating_ones_are_used_is_decided_for_the_node_and_the_cluster_each() {
    let mut world = World::new();
    world.set(&web([A.terminating(), X.ready()]).external_local());
    world.expect([
        // Of this node's none is ready, of the cluster's one is.
        Outside.calls(NODE_PORT).reaches([A]),
        Client.calls(NODE_PORT).reaches([X]),
        Node.calls(NODE_PORT).reaches([X]).masqueraded(),
        Client.calls(VIP).reaches([X]),
    ]);
    world.set(&web([A.terminating(), B.ready(), X.ready()]).external_local());
    world.expect([Outside.calls(NODE_PORT).reaches([B]), Client.calls(NODE_PORT).reaches([B, X])]);
    world.set(&web([A.terminating(), X.terminating()]).external_local());
    world.expect([Outside.calls(NODE_PORT).reaches([A]), Client.calls(NODE_PORT).reaches([A, X])]);
    world.set(&web([A.ended(), X.ready()]).external_local());
    world.expect([Outside.calls(NODE_PORT).dropped(), Client.calls(NODE_PORT).reaches([X])]);
    world.set(&web([A.terminating(), X.ready()]).internal_local());
    world.expect([Client.calls(VIP).reaches([A]), Outside.calls(NODE_PORT).reaches([X]).masqueraded()]);
}

#[test]
fn endpoints_of_the_nodes_zone_are_preferred() {
    let mut world = World::new();
    world.set(&web([A.for_zone("east"), B.for_zone("west"), X.for_zone("east"), Y.for_zone("west")]));
    world.expect([
        Client.calls(VIP).reaches([A, X]),
        Node.calls(VIP).reaches([A, X]).masqueraded(),
        Outside.calls(NODE_PORT).reaches([A, X]).masqueraded(),
    ]);
    // A zone may have several, and endpoints that are not ready have no say.
    world.set(&web([
        A.for_zone("west").for_zone("east"),
        X.for_zone("west"),
        B.not_ready(),
        Y.terminating(),
    ]));
    world.expect([Client.calls(VIP).reaches([A])]);
    // The node moves.
    let mut moved = node_object(Node);
    moved.zone = Some("west".into());
    world.set_node(Node, moved);
    world.expect([Client.calls(VIP).reaches([A, X])]);
    world.set(&web([A.for_zone("east"), X.for_zone("west")]));
    world.expect([Client.calls(VIP).reaches([X])]);
}

#[test]
fn zones_are_ignored_where_they_do_not_say_it_all() {
    let mut world = World::new();
    let one_without = web([A.for_zone("east"), X.ready()]);
    let none_here = web([A.for_zone("west"), X.for_zone("north")]);
    for service in [&one_without, &none_here] {
        world.set(service);
        world.expect([Client.calls(VIP).reaches([A, X])]);
    }
    world.set(&web([A.for_zone("east"), X.for_zone("west")]));
    let mut nowhere = node_object(Node);
    nowhere.zone = None;
    world.set_node(Node, nowhere);
    world.expect([Client.calls(VIP).reaches([A, X])]);
}

#[test]
fn endpoints_for_the_node_itself_are_preferred_most() {
    let mut world = World::new();
    world.set(&web([A.for_node(NODE), B.for_node(NODE), X.for_node(OTHER_NODE)]));
    world.expect([Client.calls(VIP).reaches([A, B])]);
    // Before those of its zone.
    world.set(&web([A.for_node(NODE).for_zone("west"), X.for_node(OTHER_NODE).for_zone("east")]));
    world.expect([Client.calls(VIP).reaches([A])]);
    // None for the node: then those of its zone.
    world.set(&web([A.for_node("node-3").for_zone("west"), X.for_node(OTHER_NODE).for_zone("east")]));
    world.expect([Client.calls(VIP).reaches([X])]);
    // One without a hint for nodes: the same.
    world.set(&web([A.for_node(NODE).for_zone("west"), X.for_zone("east")]));
    world.expect([Client.calls(VIP).reaches([X])]);
    // Neither.
    world.set(&web([A.for_node("node-3"), X.for_node(OTHER_NODE)]));
    world.expect([Client.calls(VIP).reaches([A, X])]);
}

#[test]
fn the_local_policy_knows_no_topology() {
    let mut world = World::new();
    let hinted = || [A.for_zone("west"), B.for_zone("east"), X.for_zone("east")];
    world.set(&web(hinted()).external_local());
    world.expect([
        Outside.calls(NODE_PORT).reaches([A, B]),
        Client.calls(NODE_PORT).reaches([B, X]),
        Client.calls(VIP).reaches([B, X]),
    ]);
    world.set(&web(hinted()).internal_local());
    world.expect([Client.calls(VIP).reaches([A, B]), Outside.calls(NODE_PORT).reaches([B, X]).masqueraded()]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_by_its_better_state() {
    let mut world = World::new();
    world.set(&web([A.ready(), X.ready()]));
    let (name, slice) = web([A.not_ready(), B.terminating()]).slices().remove(0);
    let web = slice.service.clone();
    let mut slices = world.snapshot.slices.get(&web).unwrap().clone();
    slices.insert_mut(format!("{name}-more").into(), Arc::new(slice));
    world.snapshot.slices.insert_mut(web, slices);
    world.expect([Client.calls(VIP).reaches([A, X])]);
}

#[test]
fn health_checks_count_this_nodes_ready_endpoints() {
    let mut world = World::new();
    let balanced = |endpoints: &[At]| {
        web(endpoints.iter().cloned()).load_balancer("198.18.0.2").external_local().health_check(32000)
    };
    for (endpoints, count) in [
        (vec![A.ready(), B.ready(), X.ready()], 2),
        (vec![A.ready(), B.terminating(), X.ready()], 1),
        (vec![A.terminating(), B.not_ready(), X.ready()], 0),
        (vec![], 0),
    ] {
        world.set(&balanced(&endpoints));
        world.apply();
        let checks: Vec<_> = world
            .plan
            .services
            .health_checks()
            .map(|(_, check)| (check.port, check.local_endpoints))
            .collect();
        assert_eq!(checks, [(32000, count)], "{endpoints:?}");
    }
    // Only where outsiders are kept to the node's own.
    world.set(&web([A.ready()]).load_balancer("198.18.0.2").health_check(32000));
    world.apply();
    assert_eq!(world.plan.services.health_checks().count(), 0);
}
