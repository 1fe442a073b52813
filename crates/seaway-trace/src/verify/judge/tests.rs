//! The judge on evidence made by hand: a pod's request to a Service with one endpoint on another node.

use std::collections::BTreeMap;
use std::time::Duration;

use seaway_model::{Difference, PlanPart, Protocol, ServiceAddress};
use seaway_observe::api::{Connection, IpPacket, Link, Outer, Packets, RouteAnswer, Tcp, Tuple};

use super::super::deviations::{Deviation, NotCompared};
use super::super::evidence::{Files, Program};
use super::*;
use crate::hop::{Proto, State, Verdict};

const CLIENT: &str = "10.244.1.4";
const SERVICE: &str = "10.96.0.7";
const SERVER: &str = "10.244.2.3";
const NODES: (&str, &str) = ("node/node-1", "node/node-2");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn state(destination: &str) -> State {
    State {
        protocol: Some(Proto::Tcp),
        source: BTreeSet::from([ip(CLIENT)]),
        destination: BTreeSet::from([destination.to_owned()]),
        ..State::default()
    }
}

fn outer() -> OuterHeader {
    OuterHeader { source: ip("172.18.0.11"), destination: ip("172.18.0.12"), port: 8472, vni: 1 }
}

fn hops() -> Vec<Hop> {
    let (called, server) = (format!("{SERVICE}:80"), format!("{SERVER}:8080"));
    let backends = BTreeSet::from([server.parse().unwrap()]);
    let tunnel = Expect::Tunnel { device: "seaway.1".into(), link: "eth0".into(), outer: outer(), mtu: 1450 };
    let hop = |kind, place: &str, to: &str, expect| {
        Hop::new(kind, place, "", "").states(state(to), state(to)).expect(expect)
    };
    let arrive = Expect::Arrive { sources: BTreeSet::from([ip(CLIENT)]), answer: Some(Verdict::Delivered) };
    vec![
        hop(HopKind::Route, "pod/default/client", &called, Expect::Enter),
        hop(HopKind::Service, NODES.0, &called, Expect::Translate { backends }),
        hop(HopKind::Route, NODES.0, &server, tunnel),
        hop(HopKind::Policy, NODES.0, &server, Expect::Pass),
        hop(HopKind::Snat, NODES.0, &server, Expect::Source { addresses: BTreeSet::new() }),
        hop(HopKind::Overlay, NODES.1, &server, Expect::FromNetwork { link: "seaway.1".into() }),
        hop(HopKind::Route, NODES.1, &server, Expect::ToPod { link: None }),
        hop(HopKind::Destination, "pod/default/server", &server, arrive),
        hop(HopKind::Return, "pod/default/server", &server, Expect::Return),
    ]
}

fn packet(link: &str, out: bool, from: (&str, u16), to: (&str, u16)) -> Packet {
    let syn = from.0 == CLIENT;
    let ip = IpPacket {
        source: Some(ip(from.0)),
        destination: Some(ip(to.0)),
        protocol: 6,
        source_port: Some(from.1),
        destination_port: Some(to.1),
        tcp: Some(Tcp { syn, ack: !syn, ..Tcp::default() }),
        ..IpPacket::default()
    };
    Packet { link: link.to_owned(), out, ip, ..Packet::default() }
}

fn tuple(source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple {
        protocol: 6,
        source: ip(source.0),
        source_port: source.1,
        destination: ip(destination.0),
        destination_port: destination.1,
    }
}

const FROM: (&str, u16) = (CLIENT, 4000);
const CALLED: (&str, u16) = (SERVICE, 80);
const BEHIND: (&str, u16) = (SERVER, 8080);

fn connection(called: (&str, u16)) -> Connection {
    Connection {
        original: tuple(FROM, called),
        reply: tuple(BEHIND, FROM),
        status: Vec::new(),
        tcp_state: None,
        timeout: None,
        traffic: None,
    }
}

fn tunnelled(out: bool, from: (&str, u16), to: (&str, u16)) -> Packet {
    let header =
        Outer { source: Some(ip("172.18.0.11")), destination: Some(ip("172.18.0.12")), port: 8472, vni: 1 };
    Packet { outer: Some(header), ..packet("eth0", out, from, to) }
}

/// All as it should be.
fn evidence() -> Evidence {
    let first = Seen {
        packets: vec![
            packet("swaaa", false, FROM, CALLED),
            packet("seaway.1", true, FROM, BEHIND),
            tunnelled(true, FROM, BEHIND),
            packet("seaway.1", false, BEHIND, FROM),
            packet("swaaa", true, CALLED, FROM),
        ],
        tuple: Some(tuple(FROM, CALLED)),
        connection: Some(connection(CALLED)),
        rules: vec![rule("ip seaway", "pick_1", "accept", BEHIND)],
        ..Seen::default()
    };
    let second = Seen {
        packets: vec![
            tunnelled(false, FROM, BEHIND),
            packet("seaway.1", false, FROM, BEHIND),
            packet("swbbb", true, FROM, BEHIND),
            packet("swbbb", false, BEHIND, FROM),
            packet("seaway.1", true, BEHIND, FROM),
        ],
        tuple: Some(tuple(FROM, BEHIND)),
        connection: Some(connection(BEHIND)),
        ..Seen::default()
    };
    Evidence {
        places: BTreeMap::from([(NODES.0.to_owned(), first), (NODES.1.to_owned(), second)]),
        program: Program { connected: true, status: Some(200), ..Program::default() },
        files: Ok(Files::default()),
        dns: Ok(Packets::default()),
    }
}

fn rule(table: &str, chain: &str, verdict: &str, to: (&str, u16)) -> RuleHit {
    RuleHit {
        table: table.to_owned(),
        chain: chain.to_owned(),
        handle: Some(2),
        verdict: verdict.to_owned(),
        destination: Some(ip(to.0)),
        destination_port: Some(to.1),
        ..RuleHit::default()
    }
}

fn failed(evidence: &mut Evidence) {
    evidence.program = Program {
        failure: Some(("connecting".into(), "ETIMEDOUT (none within 4000 ms)".into())),
        ..Program::default()
    };
}

/// The packet came to `place` and was thrown away there, before conntrack kept it.
fn swallowed(evidence: &mut Evidence, place: &str) {
    failed(evidence);
    if place == NODES.0 {
        evidence.places.insert(NODES.1.to_owned(), Seen::default());
    }
    let seen = evidence.places.get_mut(place).unwrap();
    seen.connection = None;
    seen.packets.retain(|packet| !packet.out && packet.ip.source == Some(ip(CLIENT)));
    for seen in evidence.places.values_mut() {
        seen.packets.retain(|packet| packet.ip.source == Some(ip(CLIENT)));
    }
}

fn deviation(object: &str, part: PlanPart, address: Option<(&str, u16)>, mended: Option<u64>) -> Deviation {
    let address = address.map(|(to, port)| ServiceAddress { ip: ip(to), protocol: Protocol::Tcp, port });
    let difference = Difference {
        part,
        object: object.to_owned(),
        address,
        what: "it is gone".to_owned(),
        kernel: "that".to_owned(),
        planned: Some("something".to_owned()),
        actual: None,
    };
    Deviation { difference, mended: mended.map(Duration::from_secs) }
}

fn at<'a>(evidence: &'a mut Evidence, place: &str) -> &'a mut Seen {
    evidence.places.get_mut(place).unwrap()
}

/// The first hop that differs, and the verdict on the whole.
fn judged(evidence: &Evidence) -> (Option<(HopKind, String, String)>, Outcome) {
    let mut hops = hops();
    let verified = judge(&mut hops, evidence, NODES.0);
    let first = hops.into_iter().find(|hop| hop.result == Some(Outcome::Differs));
    (first.map(|hop| (hop.kind, hop.place, hop.observed.unwrap_or_default())), verified.0)
}

#[test]
fn all_is_as_told() {
    assert_eq!(judged(&evidence()), (None, Outcome::Ok));
}

type Change = fn(&mut Evidence);

#[test]
fn the_hop_at_fault() {
    let cases: [(&str, Change, (HopKind, &str, &str)); 12] = [
        (
            "another endpoint",
            |it| at(it, NODES.0).connection.as_mut().unwrap().reply.source = ip("10.244.9.9"),
            (HopKind::Service, NODES.0, "an earlier one"),
        ),
        (
            "somebody else's DNAT",
            |it| {
                let seen = at(it, NODES.0);
                seen.connection.as_mut().unwrap().reply.source = ip("10.244.9.9");
                seen.rules.push(rule("ip evil", "c", "accept", CALLED));
            },
            (HopKind::Service, NODES.0, "table ip evil, chain c handle 2"),
        ),
        (
            "no endpoint in the map",
            |it| {
                swallowed(it, NODES.0);
                at(it, NODES.0).rules = vec![rule("ip seaway", "pick_1", "drop", CALLED)];
            },
            (HopKind::Service, NODES.0, "no endpoint was found"),
        ),
        (
            "blackhole",
            |it| {
                swallowed(it, NODES.0);
                let route = RouteAnswer { kind: "blackhole".into(), ..RouteAnswer::default() };
                at(it, NODES.0).routes = vec![(ip(SERVER), route)];
            },
            (HopKind::Route, NODES.0, "the kernel's route for 10.244.2.3 is blackhole"),
        ),
        (
            "dropped by another table",
            |it| {
                swallowed(it, NODES.0);
                at(it, NODES.0).rules.push(rule("ip evil", "c", "drop", BEHIND));
            },
            (HopKind::Policy, NODES.0, "table ip evil"),
        ),
        (
            "no forwarding entry",
            |it| {
                failed(it);
                at(it, NODES.0)
                    .packets
                    .retain(|packet| packet.outer.is_none() && packet.ip.source == Some(ip(CLIENT)));
                it.places.insert(NODES.1.to_owned(), Seen::default());
            },
            (HopKind::Route, NODES.0, "the forwarding entry or the neighbour for 172.18.0.12"),
        ),
        (
            "strict rp_filter",
            |it| {
                swallowed(it, NODES.1);
                let seen = at(it, NODES.1);
                seen.links = vec![Link { name: "seaway.1".into(), rp_filter: 1, ..Link::default() }];
                seen.way_back = Some(RouteAnswer { oif: Some("eth0".into()), ..RouteAnswer::default() });
            },
            (HopKind::Route, NODES.1, "rp_filter is strict on seaway.1"),
        ),
        (
            "too small a device",
            |it| {
                let link = Link { name: "seaway.1".into(), mtu: 1000, ..Link::default() };
                at(it, NODES.0).links = vec![link];
            },
            (HopKind::Route, NODES.0, "the MTU of seaway.1 is 1000"),
        ),
        (
            "a server that says nothing",
            |it| it.program.failure = Some(("waiting for the answer".into(), "ETIMEDOUT".into())),
            (HopKind::Destination, "pod/default/server", "then waiting for the answer"),
        ),
        (
            "the answer is lost",
            |it| {
                failed(it);
                at(it, NODES.0).packets.retain(|packet| packet.ip.source == Some(ip(CLIENT)));
            },
            (HopKind::Return, "pod/default/server", "last seen at node/node-2: left by seaway.1"),
        ),
        (
            "another way back",
            |it| {
                at(it, NODES.0).packets.retain(|packet| packet.ip.source == Some(ip(CLIENT)));
                at(it, NODES.0).packets.push(packet("eth0", false, BEHIND, FROM));
            },
            (HopKind::Return, "pod/default/server", "by eth0, not out of seaway.1"),
        ),
        (
            "mended a moment ago",
            |it| {
                let gone = deviation("Service default/web", PlanPart::Services, Some(CALLED), Some(2));
                at(it, NODES.0).deviations.push(gone);
            },
            (HopKind::Service, NODES.0, "the agent put it right 2.0 s ago"),
        ),
    ];
    for (what, change, (kind, place, words)) in cases {
        let mut evidence = evidence();
        change(&mut evidence);
        let (found, outcome) = judged(&evidence);
        let (its, at, text) = found.unwrap_or_else(|| panic!("{what}: nothing differs"));
        assert_eq!((its, at.as_str(), outcome), (kind, place, Outcome::Differs), "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
    }
}

#[test]
fn what_cannot_be_told_is_unknown() {
    let cases: [(&str, Change); 4] = [
        ("an agent that hangs", |it| {
            let blind = Some("no answer within 3 s".to_owned());
            it.places.insert(NODES.1.to_owned(), Seen { blind, ..Seen::default() });
        }),
        ("the caller's agent hangs", |it| {
            let blind = Some("no answer within 3 s".to_owned());
            it.places.insert(NODES.0.to_owned(), Seen { blind, ..Seen::default() });
        }),
        ("packets are lost", |it| {
            let seen = at(it, NODES.1);
            seen.packets.retain(|packet| packet.link != "seaway.1");
            seen.lost = true;
        }),
        ("no tunnel packet, but some are lost", |it| {
            let seen = at(it, NODES.0);
            seen.packets.retain(|packet| packet.outer.is_none());
            seen.lost = true;
        }),
    ];
    for (what, change) in cases {
        let mut evidence = evidence();
        change(&mut evidence);
        assert_eq!(judged(&evidence), (None, Outcome::Unknown), "{what}");
    }
}

#[test]
fn deviations_concern_those_who_meet_them() {
    let cases = [
        (
            "another Service's element",
            deviation("Service x/y", PlanPart::Services, Some(("10.96.0.9", 80)), None),
        ),
        ("mended long ago", deviation("Service default/web", PlanPart::Services, Some(CALLED), Some(11))),
        ("the way to a node that is not crossed", deviation("node node-3", PlanPart::Overlay, None, None)),
        ("another pod's link", deviation("pod 10.244.1.9", PlanPart::Pods, None, None)),
        ("chains of other sizes", deviation("all Services with 3 endpoints", PlanPart::Services, None, None)),
    ];
    for (what, deviation) in cases {
        let mut evidence = evidence();
        at(&mut evidence, NODES.0).deviations.push(deviation);
        assert_eq!(judged(&evidence), (None, Outcome::Ok), "{what}");
    }
    let cases = [
        (
            deviation("all Services with 1 endpoint", PlanPart::Services, None, None),
            NODES.0,
            HopKind::Service,
        ),
        (deviation("table ip seaway", PlanPart::Services, None, Some(3)), NODES.0, HopKind::Service),
        (deviation("masquerade", PlanPart::Egress, None, None), NODES.0, HopKind::Snat),
        (deviation("node node-2", PlanPart::Overlay, None, None), NODES.0, HopKind::Route),
        (deviation("node node-1", PlanPart::Overlay, None, None), NODES.1, HopKind::Return),
        (deviation("pod 10.244.2.3", PlanPart::Pods, None, None), NODES.1, HopKind::Route),
        (deviation("pod 10.244.1.4", PlanPart::Pods, None, None), NODES.0, HopKind::Route),
    ];
    for (deviation, place, kind) in cases {
        let mut evidence = evidence();
        at(&mut evidence, place).deviations.push(deviation.clone());
        let (found, outcome) = judged(&evidence);
        assert_eq!((found.map(|it| it.0), outcome), (Some(kind), Outcome::Differs), "{deviation:?}");
    }
}

#[test]
fn what_cannot_be_compared_is_unknown() {
    use HopKind::{Overlay, Policy, Route, Service, Snat};
    let cases: [(_, _, &[HopKind]); 5] = [
        (Some(PlanPart::Services), NODES.0, &[Service, Snat]),
        (Some(PlanPart::Overlay), NODES.0, &[Route]),
        (Some(PlanPart::Overlay), NODES.1, &[Overlay]),
        (Some(PlanPart::Pods), NODES.1, &[Route]),
        (None, NODES.0, &[Route, Service, Route, Snat]),
    ];
    for (part, place, expected) in cases {
        let mut evidence = evidence();
        at(&mut evidence, place).not_compared.push(NotCompared { part, reason: "it is broken".into() });
        let mut hops = hops();
        assert_eq!(judge(&mut hops, &evidence, NODES.0), Verified(Outcome::Unknown));
        let of = |outcome| hops.iter().filter(move |hop| hop.result == Some(outcome)).map(|hop| hop.kind);
        assert_eq!(of(Outcome::Unknown).collect::<Vec<_>>(), expected, "{part:?} at {place}");
        assert!(of(Outcome::Ok).any(|kind| kind == Policy) && of(Outcome::Differs).next().is_none());
        // What was seen otherwise still is.
        at(&mut evidence, place).connection = None;
        at(&mut evidence, place).packets.clear();
        assert_eq!(judge(&mut hops, &evidence, NODES.0), Verified(Outcome::Differs));
    }
}
