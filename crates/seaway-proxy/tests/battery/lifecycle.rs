//! What changes do to flows that there are, and what becomes of the tables: restarts, strangers, flushes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use seaway_model::Protocol;
use seaway_net::conntrack::{Conntrack, Filter};
use seaway_net::nft::{Kernel, Nft};

use crate::addresses::*;
use crate::objects::{Exposure, service};
use crate::servers::PATIENCE;
use crate::sockets::{Calling, Outcome, PROTOCOLS};
use crate::world::World;

const VIP: &str = "10.96.0.7:80";

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One flow, which may go on for as long as one likes.
fn begin(world: &World, caller: Host, protocol: Protocol, to: SocketAddr) -> Calling {
    let local = SocketAddr::new(caller.ip(Family::of(to.ip())), world.topology.new_port());
    world.topology.of(caller).run(|| Calling::begin(protocol, local, to).unwrap()).unwrap()
}

/// Who answers a flow now.
fn answered_by(flow: &Calling, patience: Duration) -> Result<String, Outcome> {
    flow.ask_again()?;
    let line = flow.answer(patience)?;
    Ok(line.split_once(':').unwrap().0.to_owned())
}

fn generation(world: &World) -> u32 {
    world.topology.node().run(|| Kernel::open().unwrap().generation().unwrap()).unwrap()
}

/// Flows to service addresses of each family and kind, begun by a pod and from outside.
fn flows(world: &World, protocol: Protocol) -> Vec<(String, Calling)> {
    let mut flows = Vec::new();
    for family in Family::BOTH {
        for to in [VIP, "192.0.2.1:30080", "198.18.0.1:80", "198.18.0.2:80"] {
            for caller in [Client, Outside] {
                let flow = begin(world, caller, protocol, family.socket(to));
                flows.push((format!("{caller:?} → {to} {family:?} {protocol}"), flow));
            }
        }
    }
    flows
}

fn everywhere() -> crate::objects::Svc {
    let service = service("web").cluster_ip("10.96.0.7").port(80).node_port(30080);
    service.external_ip("198.18.0.1").load_balancer("198.18.0.2")
}

#[test]
fn udp_flows_move_at_once_when_their_endpoint_goes() {
    let mut world = World::new();
    world.set(&everywhere().endpoints([A])).apply();
    let flows = flows(&world, Protocol::Udp);
    for (name, flow) in &flows {
        assert_eq!(answered_by(flow, PATIENCE), Ok("A".into()), "{name}");
    }
    // An endpoint that terminates is none any more where there is another.
    world.set(&everywhere().endpoints([A.terminating(), X.ready()])).apply();
    for (name, flow) in &flows {
        eventually(name, || answered_by(flow, PATIENCE) == Ok("X".into()));
    }
}

#[test]
fn udp_flows_that_found_no_endpoint_find_the_first() {
    let mut world = World::new();
    world
        .set(&service("web").cluster_ip("10.96.0.7").port(80).external_ip("198.18.0.1").external_local())
        .apply();
    let flow = begin(&world, Client, Protocol::Udp, Family::V4.socket(VIP));
    assert_eq!(flow.answer(PATIENCE), Err(Outcome::Refused));
    let service = service("web").cluster_ip("10.96.0.7").port(80).external_ip("198.18.0.1").external_local();
    world.set(&service.clone().endpoints([X])).apply();
    eventually("an answer", || answered_by(&flow, Duration::from_millis(100)) == Ok("X".into()));
    // From outside it waits for an endpoint on this node.
    let local = begin(&world, Outside, Protocol::Udp, Family::V4.socket("198.18.0.1:80"));
    world.set(&service.endpoints([A, X])).apply();
    eventually("an answer", || answered_by(&local, Duration::from_millis(100)) == Ok("A".into()));
}

#[test]
fn established_connections_outlive_their_endpoint_and_the_driver() {
    let mut world = World::new();
    world.set(&everywhere().endpoints([A])).apply();
    let connections = PROTOCOLS.iter().filter(|protocol| **protocol != Protocol::Udp);
    let open: Vec<_> = connections.flat_map(|protocol| flows(&world, *protocol)).collect();
    for (name, connection) in &open {
        assert!(connection.answer(PATIENCE).unwrap().starts_with("A:8080 "), "{name}");
    }
    let go_on = |after: &str| {
        for (name, connection) in &open {
            assert_eq!(answered_by(connection, PATIENCE), Ok("A".into()), "{name} after {after}");
        }
    };
    world.set(&everywhere().endpoints([A.terminating(), B.ready()])).apply();
    go_on("its endpoint terminates");
    world.set(&everywhere().endpoints([B])).apply();
    world.expect([Client.calls(VIP).reaches([B])]);
    go_on("its endpoint is gone");
    world.restart();
    go_on("a restart");
    world.set(&everywhere()).apply();
    go_on("all endpoints are gone");
    world.delete("web").apply();
    go_on("its Service is gone");
}

#[test]
fn half_open_connections_move_when_their_endpoint_goes() {
    let mut world = World::new();
    world.set(&everywhere().endpoints([Gone])).apply();
    let connections = PROTOCOLS.iter().filter(|protocol| **protocol != Protocol::Udp);
    let open: Vec<_> = connections.flat_map(|protocol| flows(&world, *protocol)).collect();
    let mut conntrack = world.topology.node().run(|| Conntrack::open().unwrap()).unwrap();
    let gone = Family::BOTH.map(|family| Gone.ip(family));
    let filter = Filter { unreplied: true, ..Filter::default() };
    eventually("half-open connections", || {
        let knocking = conntrack.list_where(&filter, |flow| gone.contains(&flow.reply.source)).unwrap();
        knocking.len() == open.len()
    });
    world.set(&everywhere().endpoints([B])).apply();
    for (name, connection) in &open {
        let line = connection.answer(PATIENCE).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(line.starts_with("B:8080 "), "{name}: {line}");
    }
}

/// Others' tables, one of which has the name that another proxy gives its own.
const OTHERS: &str = "table ip filter { chain input { type filter hook input priority 0; tcp dport 1 drop; }; }; \
     table ip kube-proxy { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; }; table inet seaway { }";

#[test]
fn others_tables_are_never_touched() {
    let mut world = World::new();
    crate::topology::run(world.topology.node(), "nft", [OTHERS]);
    let others = |world: &World| {
        ["ip filter", "ip kube-proxy", "inet seaway"]
            .map(|table| world.topology.run("nft", &format!("list table {table}")))
    };
    let before = others(&world);
    world.set(&everywhere().endpoints([A, X]));
    world.expect([Client.calls(VIP).reaches([A, X])]);
    world.delete("web").apply();
    world.restart();
    assert_eq!(others(&world), before);
}

#[test]
fn what_others_did_to_the_tables_is_undone_by_the_next_sync() {
    let mut world = World::new();
    world.set(&everywhere().endpoints([A, X])).apply();
    for damage in ["delete table", "flush table"] {
        for family in ["ip", "ip6"] {
            world.topology.run("nft", &format!("{damage} {family} seaway"));
        }
        let plan = world.plan.clone();
        assert!(!world.driver().differences(&plan).unwrap().is_empty(), "{damage}");
        world.driver().mark_dirty();
        world.apply();
        world.expect([
            Client.calls(VIP).reaches([A, X]),
            Outside.calls(VIP).reaches([A, X]).masqueraded(),
            Outside.calls("192.0.2.1:30080").reaches([A, X]).masqueraded(),
            Client.calls("203.0.113.2:8080").reaches([Outside]).masqueraded(),
        ]);
    }
}

#[test]
fn a_restart_changes_nothing() {
    let mut world = World::new();
    let hosts = [Client, A, B, X, Y, Node];
    for n in 0..24_usize {
        let exposure = Exposure::ALL[n % 3];
        let mut service = service(&format!("s{n}")).cluster_ip(&format!("10.96.1.{n}")).port(80).port(443);
        service = match exposure {
            Exposure::NodePort => service.node_port(30_000 + u16::try_from(n).unwrap()),
            Exposure::ExternalIp => service.external_ip(&format!("198.18.1.{n}")),
            Exposure::LoadBalancer => {
                service.load_balancer(&format!("198.18.2.{n}")).source_range("203.0.113.0/24")
            }
        };
        if n % 4 == 0 {
            service = service.external_local();
        }
        if n % 5 == 0 {
            service = service.affinity(Duration::from_secs(100));
        }
        world.set(&service.endpoints(hosts[..n % 7].iter().copied()));
    }
    world.apply();
    // A history that leaves the endpoints in an order of its own.
    for gone in [3, 1, 4] {
        let mut left = hosts.to_vec();
        left.remove(gone);
        world.set(&service("s20").cluster_ip("10.96.1.20").port(80).endpoints(left));
        assert!(world.apply().operations > 0);
    }
    let before = generation(&world);
    let report = world.restart();
    let plan = world.plan.clone();
    assert_eq!((report.full, report.operations), (true, 0), "{}", world.driver().dry_run(&plan).unwrap());
    assert_eq!(generation(&world), before);
}
