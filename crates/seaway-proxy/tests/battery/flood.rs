//! New flows come without a break while a Service shrinks and grows: none may pass with the Service's address.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use seaway_model::Protocol;
use seaway_net::sysctl;

use crate::addresses::*;
use crate::objects::service;
use crate::topology::run;
use crate::world::World;

const ROUNDS: usize = 500;
/// Nobody reads there and nobody answers: the flood is one way.
const SINK: u16 = 9999;
/// How long the node remembers a UDP flow that has seen no answer, in seconds.
const MEMORY: &str = "net/netfilter/nf_conntrack_udp_timeout";

#[test]
fn shrinking_and_growing_under_a_flood_leaves_no_flow_untranslated() {
    for family in Family::BOTH {
        flood(family);
    }
}

fn flood(family: Family) {
    let mut world = World::new();
    let pods = [A, B, X];
    let sink = |pod: &Host| {
        let at = SocketAddr::new(pod.ip(family), SINK);
        world.topology.of(*pod).run(|| UdpSocket::bind(at).unwrap()).unwrap()
    };
    let _sinks = pods.each_ref().map(sink);
    // Before the driver's own chains, so that what they would refuse is counted too.
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let [services, pods_of] = [SERVICE_NETWORK, POD_NETWORK].map(|net| family.net(net));
    let watch = format!(
        "table inet watch {{ chain forward {{ type filter hook forward priority -10; \
         {ip} daddr {services} counter comment untranslated; {ip} daddr {pods_of} counter comment translated; }}; }}"
    );
    run(world.topology.node(), "nft", [watch]);
    let sinking = |pods: &[Host]| {
        let dns = service("dns").protocol(Protocol::Udp).cluster_ip("10.96.0.7").port_to(80, SINK);
        dns.endpoints(pods.iter().copied())
    };
    world.set(&sinking(&pods)).apply();
    // A flow is over as soon as it is seen, so that each packet begins a new one.
    let remember = |seconds: String| world.topology.node().run(|| sysctl::set(MEMORY, &seconds).unwrap());
    let before = world.topology.node().run(|| sysctl::get(MEMORY).unwrap()).unwrap();
    remember("0".to_owned()).unwrap();

    let stop = AtomicBool::new(false);
    let client = world.topology.of(Client).try_clone().unwrap();
    let flooding = || {
        let socket = UdpSocket::bind((family.ip("0.0.0.0"), 0)).unwrap();
        socket.connect(family.socket("10.96.0.7:80")).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let _ = socket.send(b"?");
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| client.run(flooding).unwrap());
        }
        for round in 0..ROUNDS {
            let some: Vec<Host> =
                pods.into_iter().cycle().skip(round % 3).take([1, 3, 2][round % 3]).collect();
            assert!(!world.set(&sinking(&some)).apply().full);
        }
        stop.store(true, Ordering::Relaxed);
    });
    world.topology.node().run(|| sysctl::set(MEMORY, &before).unwrap()).unwrap();

    let watched = world.topology.run("nft", "list table inet watch");
    let packets = |comment: &str| -> usize {
        let line = watched.lines().find(|line| line.contains(comment)).unwrap();
        line.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
    };
    println!("{family:?}: {} flows translated", packets("\"translated\""));
    assert!(packets("\"translated\"") > ROUNDS, "{watched}");
    assert_eq!(packets("\"untranslated\""), 0, "{watched}");
}
