//! Node ports, external IPs and load balancers' addresses.

use seaway_model::{NodePortAddresses, ProxySettings};

use crate::addresses::*;
use crate::objects::{Exposure, service};
use crate::plan::settings;
use crate::world::World;

#[test]
fn with_the_cluster_policy_everyone_reaches_every_endpoint_and_is_masqueraded() {
    for exposure in Exposure::ALL {
        let to = exposure.address();
        let mut world = World::new();
        world.set(&exposure.service().endpoints([A, B, X]));
        world.expect([
            Outside.calls(to).reaches([A, B, X]).masqueraded(),
            OtherNode.calls(to).reaches([A, B, X]).masqueraded(),
            Client.calls(to).reaches([A, B, X]).masqueraded(),
            A.calls(to).reaches([A, B, X]).masqueraded(),
            X.calls(to).reaches([A, B, X]).masqueraded(),
            Node.calls(to).reaches([A, B, X]).masqueraded(),
            Client.calls("10.96.0.7:80").reaches([A, B, X]),
        ]);
    }
}

#[test]
fn with_the_local_policy_outsiders_reach_this_nodes_endpoints_and_are_seen() {
    for exposure in Exposure::ALL {
        let to = exposure.address();
        let mut world = World::new();
        world.set(&exposure.service().external_local().endpoints([A, B, X]));
        world.expect([
            Outside.calls(to).reaches([A, B]),
            OtherNode.calls(to).reaches([A, B]),
            // For pods of the node and the node itself the Cluster policy holds.
            Client.calls(to).reaches([A, B, X]),
            A.calls(to).reaches([A, B, X]),
            Node.calls(to).reaches([A, B, X]).masqueraded(),
            Outside.calls("10.96.0.7:80").reaches([A, B, X]).masqueraded(),
        ]);
    }
}

#[test]
fn with_the_local_policy_and_none_here_outsiders_are_dropped() {
    for exposure in Exposure::ALL {
        let to = exposure.address();
        let mut world = World::new();
        let service = exposure.service().external_local();
        world.set(&service.clone().endpoints([X]));
        world.expect([
            Outside.calls(to).dropped(),
            OtherNode.calls(to).dropped(),
            Client.calls(to).reaches([X]),
            Node.calls(to).reaches([X]).masqueraded(),
        ]);
        world.set(&service.clone().endpoints([A, X]));
        world.expect([Outside.calls(to).reaches([A]), Client.calls(to).reaches([A, X])]);
        world.set(&service);
        let refused = |caller: Host| caller.calls(to).refused();
        world.expect([Outside, Client, Node].map(refused));
    }
}

#[test]
fn without_endpoints_callers_are_refused() {
    for exposure in Exposure::ALL {
        let mut world = World::new();
        world.set(&exposure.service());
        let refused = |caller: Host| caller.calls(exposure.address()).refused();
        world.expect([Outside, Client, Node].map(refused));
    }
}

#[test]
fn endpoints_in_the_hosts_network() {
    for exposure in Exposure::ALL {
        let to = exposure.address();
        let mut world = World::new();
        world.set(&exposure.service().external_local().endpoints([Node, OtherNode]));
        world.expect([
            Outside.calls(to).reaches([Node]),
            Node.calls(to).reaches([Node, OtherNode]).masqueraded(),
        ]);
        world.set(&exposure.service().endpoints([Node, OtherNode]));
        world.expect([
            Outside.calls(to).reaches([Node, OtherNode]).masqueraded(),
            Client.calls(to).reaches([Node, OtherNode]).masqueraded(),
        ]);
    }
}

#[test]
fn only_a_services_own_ports_are_taken_at_its_external_addresses() {
    let mut world = World::new();
    world.set(&Exposure::ExternalIp.service().load_balancer("198.18.0.2").endpoints([A]));
    world.expect([
        Outside.calls("198.18.0.1:81").passes(),
        Outside.calls("198.18.0.2:81").passes(),
        Client.calls("198.18.0.2:81").passes(),
        Outside.calls("198.18.0.2:80").reaches([A]).masqueraded(),
    ]);
}

#[test]
fn a_load_balancer_that_proxies_is_not_short_cut() {
    let mut world = World::new();
    let service = service("web").cluster_ip("10.96.0.7").port(80).node_port(30080);
    world.set(&service.proxying_load_balancer("198.18.0.2").load_balancer("198.18.0.3").endpoints([A]));
    world.expect([
        Outside.calls("198.18.0.2:80").passes(),
        Client.calls("198.18.0.2:80").passes(),
        Node.calls("198.18.0.2:80").passes(),
        Outside.calls("198.18.0.3:80").reaches([A]).masqueraded(),
        Outside.calls("192.0.2.1:30080").reaches([A]).masqueraded(),
    ]);
}

#[test]
fn node_ports_are_at_the_nodes_primary_addresses() {
    let mut world = World::new();
    world.set(&Exposure::NodePort.service().port_to(443, 8081).node_port(30443).endpoints([A, X]));
    world.expect([
        Outside.calls("192.0.2.1:30080").reaches([A, X]).masqueraded(),
        Outside.calls("192.0.2.1:30443").reaches([A, X]).at_port(8081).masqueraded(),
        Outside.calls("172.20.0.1:30080").refused(),
        Node.calls("172.20.0.1:30080").refused(),
        Node.calls("127.0.0.1:30080").refused(),
        // Other nodes' ports are theirs.
        Client.calls("198.51.100.1:30080").refused(),
        // The Service's own port is none of the node's.
        Outside.calls("192.0.2.1:80").refused(),
        Outside.calls("192.0.2.1:8080").reaches([Node]),
    ]);
}

#[test]
fn node_ports_are_at_the_addresses_that_are_asked_for() {
    let at = |networks: &[&str]| {
        let networks = networks.iter().flat_map(|net| Family::BOTH.map(|family| family.net(net)));
        let node_port_addresses = NodePortAddresses::Networks(networks.collect());
        let mut world = World::with(ProxySettings { node_port_addresses, ..settings() });
        world.set(&Exposure::NodePort.service().endpoints([A, X]));
        world
    };
    at(&["172.20.0.0/16"]).expect([
        Outside.calls("172.20.0.1:30080").reaches([A, X]).masqueraded(),
        Node.calls("172.20.0.1:30080").reaches([A, X]).masqueraded(),
        Outside.calls("192.0.2.1:30080").refused(),
        Client.calls("192.0.2.1:30080").refused(),
    ]);
    at(&["0.0.0.0/0"]).expect([
        Outside.calls("192.0.2.1:30080").reaches([A, X]).masqueraded(),
        Client.calls("172.20.0.1:30080").reaches([A, X]).masqueraded(),
        Node.calls("192.0.2.1:30080").reaches([A, X]).masqueraded(),
        Node.calls("127.0.0.1:30080").refused(),
        // Not at what is another's.
        Client.calls("198.51.100.1:30080").refused(),
        Client.calls("203.0.113.2:30080").refused(),
    ]);
}

#[test]
fn who_comes_first_has_the_address_and_the_next_gets_it_when_it_goes() {
    let first = service("a").cluster_ip("10.96.0.1").port(80).external_ip("198.18.0.1").endpoints([A]);
    let second = service("b").cluster_ip("10.96.0.2").port(80).external_ip("198.18.0.1").endpoints([B]);
    for order in [[&first, &second], [&second, &first]] {
        let mut world = World::new();
        for service in order {
            world.set(service).apply();
        }
        world.expect([
            Outside.calls("198.18.0.1:80").reaches([A]).masqueraded(),
            Client.calls("10.96.0.1:80").reaches([A]),
            Client.calls("10.96.0.2:80").reaches([B]),
        ]);
        world.delete("a");
        world.expect([Outside.calls("198.18.0.1:80").reaches([B]).masqueraded()]);
        world.set(&first);
        world.expect([Outside.calls("198.18.0.1:80").reaches([A]).masqueraded()]);
        world.delete("b");
        world.expect([Outside.calls("198.18.0.1:80").reaches([A]).masqueraded()]);
    }
}

/// Whoever may write a Service may name any external IP (CVE-2020-8554).
#[test]
fn no_external_ip_takes_another_services_cluster_ip() {
    let mut world = World::new();
    let thief =
        service("a").cluster_ip("10.96.0.1").port(80).port(81).external_ip("10.96.0.7").endpoints([A]);
    world.set(&thief).apply();
    world.set(&service("web").cluster_ip("10.96.0.7").port(80).endpoints([B]));
    world.expect([
        Client.calls("10.96.0.7:80").reaches([B]),
        Outside.calls("10.96.0.7:80").reaches([B]).masqueraded(),
    ]);
}

#[test]
fn addresses_come_and_go_with_their_service() {
    let mut world = World::new();
    let plain = service("web").cluster_ip("10.96.0.7").port(80).endpoints([A, X]);
    world.set(&plain);
    world.expect([Outside.calls("198.18.0.1:80").passes(), Outside.calls("192.0.2.1:30080").refused()]);
    let all = plain.clone().node_port(30080).external_ip("198.18.0.1").load_balancer("198.18.0.2");
    world.set(&all);
    let everywhere =
        Exposure::ALL.map(|exposure| Outside.calls(exposure.address()).reaches([A, X]).masqueraded());
    world.expect(everywhere);
    world.set(&all.external_local());
    world.expect(Exposure::ALL.map(|exposure| Outside.calls(exposure.address()).reaches([A])));
    world.set(&plain);
    world.expect([
        Outside.calls("198.18.0.1:80").passes(),
        Outside.calls("198.18.0.2:80").passes(),
        Outside.calls("192.0.2.1:30080").refused(),
        Client.calls("10.96.0.7:80").reaches([A, X]),
    ]);
}
