//! ClientIP affinity.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use seaway_model::Protocol;

use crate::addresses::*;
use crate::calls::answers;
use crate::objects::{Exposure, Svc, service};
use crate::sockets::PROTOCOLS;
use crate::world::World;

const VIP: &str = "10.96.0.7:80";
const LONG: Duration = Duration::from_secs(10_800);

/// Addresses of callers outside.
fn clients() -> Vec<String> {
    (2..=OUTSIDERS).map(|n| format!("203.0.113.{n}")).collect()
}

fn kinds() -> impl Iterator<Item = (Family, Protocol)> {
    Family::BOTH.into_iter().flat_map(|family| PROTOCOLS.iter().map(move |protocol| (family, *protocol)))
}

fn web(timeout: Duration) -> Svc {
    service("web").cluster_ip("10.96.0.7").port(80).affinity(timeout)
}

fn distinct(answers: &[String]) -> BTreeSet<&String> {
    answers.iter().collect()
}

#[test]
fn a_client_stays_with_its_endpoint_and_clients_spread() {
    for exposure in Exposure::ALL {
        let mut world = World::new();
        world.set(&exposure.service().affinity(LONG).endpoints([A, X]));
        world.apply();
        for to in [VIP, exposure.address()] {
            for kind in kinds() {
                let ask = || answers(&world.topology, Outside, &clients(), to, kind);
                let first = ask();
                // That 24 clients draw the same of two happens once in eight million times.
                assert_eq!(distinct(&first).len(), 2, "{to} {kind:?}: {first:?}");
                assert_eq!(ask(), first, "{to} {kind:?}");
            }
        }
        for caller in [Client, Node, A] {
            for kind in kinds() {
                let ask = || answers(&world.topology, caller, &vec![caller.address().into(); 24], VIP, kind);
                assert_eq!(distinct(&ask()).len(), 1, "{caller:?} {kind:?}");
            }
        }
    }
}

#[test]
fn each_service_port_has_its_own() {
    let mut world = World::new();
    world.set(&web(LONG).port_to(443, 8081).endpoints([A, B, X]));
    world.apply();
    for kind in kinds() {
        let host = |answer: &String| answer.split_once(':').unwrap().0.to_owned();
        let ask = |to| answers(&world.topology, Outside, &clients(), to, kind).iter().map(host).collect();
        let [http, https]: [Vec<String>; 2] = ["10.96.0.7:80", "10.96.0.7:443"].map(ask);
        assert_ne!(http, https, "{kind:?}");
    }
}

#[test]
fn when_its_endpoint_goes_a_client_gets_another_and_the_others_stay() {
    let mut world = World::new();
    world.set(&web(LONG).endpoints([A, B, X])).apply();
    let ask = |world: &World, kind| answers(&world.topology, Outside, &clients(), VIP, kind);
    let before: Vec<_> = kinds().map(|kind| ask(&world, kind)).collect();
    world.set(&web(LONG).endpoints([A, X])).apply();
    for (kind, before) in kinds().zip(before) {
        let after = ask(&world, kind);
        for (before, after) in before.iter().zip(&after) {
            if before == "B:8080" {
                assert!(["A:8080", "X:8080"].contains(&after.as_str()), "{kind:?} {after}");
            } else {
                assert_eq!(before, after, "{kind:?}");
            }
        }
        assert_eq!(ask(&world, kind), after);
    }
    // An endpoint more moves nobody.
    let before: Vec<_> = kinds().map(|kind| ask(&world, kind)).collect();
    world.set(&web(LONG).endpoints([A, B, X, Y])).apply();
    for (kind, before) in kinds().zip(before) {
        assert_eq!(ask(&world, kind), before, "{kind:?}");
    }
    // None goes to where there is none.
    world.set(&web(LONG)).apply();
    world.expect([Outside.calls(VIP).refused()]);
}

#[test]
fn affinity_ends_when_a_client_was_silent_for_its_time() {
    let timeout = Duration::from_secs(1);
    let mut world = World::new();
    world.set(&web(timeout).endpoints([A, B, X, Y])).apply();
    let kind = (Family::V4, Protocol::Tcp);
    let ask = || answers(&world.topology, Outside, &clients(), VIP, kind);
    // It is counted from the last call. Where the machine is so slow that a client paused for as long, it says nothing.
    let begun = Instant::now();
    let (mut first, mut last) = (ask(), begun);
    while begun.elapsed() < 2 * timeout {
        thread::sleep(timeout / 4);
        let now = Instant::now();
        let again = ask();
        if last.elapsed() < timeout {
            assert_eq!(again, first);
        }
        (first, last) = (again, now);
    }
    // The kernel counts in ticks.
    thread::sleep(timeout + timeout / 4);
    // That all 24 draw the same endpoint again does not happen.
    assert_ne!(ask(), first);
}

/// What they are sent never leaves the node.
#[test]
fn endpoints_in_the_hosts_network_keep_their_clients() {
    let mut world = World::new();
    world.set(&web(LONG).node_port(30080).endpoints([Node, X])).apply();
    for kind in kinds() {
        for to in [VIP, "192.0.2.1:30080"] {
            let ask = || answers(&world.topology, Outside, &clients(), to, kind);
            let first = ask();
            assert_eq!(distinct(&first).len(), 2, "{to} {kind:?}: {first:?}");
            assert_eq!(ask(), first, "{to} {kind:?}");
        }
    }
}

#[test]
fn without_affinity_a_client_is_spread() {
    let mut world = World::new();
    world.set(&web(LONG).endpoints([A, B])).apply();
    let mut spread = web(LONG);
    spread.service.affinity = None;
    world.set(&spread.clone().endpoints([A, B]));
    world.expect([Client.calls(VIP).reaches([A, B]), Outside.calls(VIP).reaches([A, B]).masqueraded()]);
}

#[test]
fn with_the_local_policy_outsiders_stay_on_the_node() {
    for exposure in Exposure::ALL {
        let mut world = World::new();
        world.set(&exposure.service().affinity(LONG).external_local().endpoints([A, B, X])).apply();
        for kind in kinds() {
            let ask = || answers(&world.topology, Outside, &clients(), exposure.address(), kind);
            let first = ask();
            assert_eq!(distinct(&first), [&"A:8080".to_owned(), &"B:8080".to_owned()].into(), "{kind:?}");
            assert_eq!(ask(), first);
        }
    }
}

#[test]
fn a_restart_keeps_clients_where_they_are() {
    let mut world = World::new();
    world.set(&web(LONG).endpoints([A, B, X])).apply();
    let ask = |world: &World| answers(&world.topology, Outside, &clients(), VIP, (Family::V4, Protocol::Tcp));
    let before = ask(&world);
    world.restart();
    assert_eq!(ask(&world), before);
}
