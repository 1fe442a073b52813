//! What is tested.

use std::net::{IpAddr, SocketAddr};

use seaway_probe::api::{Event, Http, Libc, Protocol, Request, Stage};

use crate::servers::{ECHO, HTTP, NO_HTTP, SILENT};
use crate::world::{CLIENT, SERVER, World, request};

type Case = fn(&World);

pub(crate) const CASES: &[(&str, Case)] = &[
    ("http_by_name", http_by_name),
    ("tcp_from_a_given_port", tcp_from_a_given_port),
    ("answers_that_are_none", answers_that_are_none),
    ("tcp_failures", tcp_failures),
    ("names_that_are_not_found", names_that_are_not_found),
    ("musl_resolves", musl_resolves),
    ("the_next_address", the_next_address),
    ("udp", udp),
    ("udp_failures", udp_failures),
    ("icmp_by_raw_socket", icmp_by_raw_socket),
    ("icmp_by_ping_socket", icmp_by_ping_socket),
    ("icmp_failures", icmp_failures),
    ("a_probe_ends_with_its_driver", a_probe_ends_with_its_driver),
];

/// Where the first packet of this `bound` goes from and to.
fn ends(event: &Event) -> (SocketAddr, SocketAddr) {
    let Event::Bound { source, source_port, destination, destination_port } = event else {
        panic!("not bound: {event:?}")
    };
    (SocketAddr::new(*source, *source_port), SocketAddr::new(*destination, *destination_port))
}

fn body(event: &Event) -> &str {
    let Event::Response { body, .. } = event else { panic!("no response: {event:?}") };
    body
}

/// The last event's stage and error.
fn failure(events: &[Event]) -> (Stage, &str) {
    let Some(Event::Failed { stage, error, .. }) = events.last() else { panic!("no failure: {events:?}") };
    (*stage, error)
}

fn resolved(event: &Event) -> Vec<String> {
    let Event::Resolved { addresses, error: None, .. } = event else { panic!("not resolved: {event:?}") };
    addresses.iter().map(IpAddr::to_string).collect()
}

fn resolve_error(event: &Event) -> (&str, &str) {
    let Event::Resolved { addresses, error: Some(error), .. } = event else { panic!("no error: {event:?}") };
    assert!(addresses.is_empty());
    (&error.code, &error.text)
}

/// With an HTTP request.
fn with_http(mut request: Request, padding: usize) -> Request {
    request.http = Some(Http { host: "web.test".to_owned(), path: "/x?y".to_owned(), padding });
    request
}

fn within(mut request: Request, timeout_ms: u64) -> Request {
    request.timeout_ms = timeout_ms;
    request
}

fn http_by_name(world: &World) {
    let mut events = world.events(&with_http(request(Protocol::Tcp, "web 80"), 3000));
    let mut addresses = resolved(&events[0]);
    let (from, to) = ends(&events[1]);
    assert_eq!(to, SocketAddr::new(addresses[0].parse().unwrap(), HTTP));
    assert!(CLIENT.contains(&from.ip().to_string().as_str()), "{from}");
    assert!(matches!(events[2], Event::Connected { .. }), "{events:?}");
    let expected = format!(
        "{from}\nGET /x?y HTTP/1.1\nHost: web.test\nUser-Agent: seaway-trace\nX-Seaway-Trace: token-1\npadding 3000\nConnection: close"
    );
    assert_eq!(body(&events[3]), expected);
    let Some(Event::Response { status, server, bytes, .. }) = events.pop() else { panic!("{events:?}") };
    assert_eq!((status, server.as_deref(), bytes), (Some(200), Some("test"), expected.len()));
    assert_eq!(events.len(), 3);
    addresses.sort();
    assert_eq!(addresses, SERVER);
}

fn tcp_from_a_given_port(world: &World) {
    for (server, client) in SERVER.into_iter().zip(CLIENT) {
        // Twice, as what is left of the first connection must not keep the second from the port.
        for _ in 0..2 {
            let mut request = request(Protocol::Tcp, &format!("{server} 80"));
            request.source_port = Some(4321);
            let events = world.events(&request);
            assert_eq!(resolved(&events[0]), [server]);
            assert_eq!(ends(&events[1]).0, SocketAddr::new(client.parse().unwrap(), 4321));
            assert!(matches!(events[2..], [Event::Connected { .. }]), "{events:?}");
        }
    }
}

fn answers_that_are_none(world: &World) {
    let ask = |port| with_http(request(Protocol::Tcp, &format!("10.9.0.1 {port}")), 0);
    assert_eq!(failure(&world.events(&ask(NO_HTTP))), (Stage::Response, "EPROTO"));
    assert_eq!(failure(&world.events(&within(ask(SILENT), 200))), (Stage::Response, "ETIMEDOUT"));
}

fn tcp_failures(world: &World) {
    for (target, timeout_ms, expected) in [
        ("10.9.0.1 81", 5000, (Stage::Connect, "ECONNREFUSED")),
        ("2001:db8:9::1 81", 5000, (Stage::Connect, "ECONNREFUSED")),
        ("10.98.0.1 80", 5000, (Stage::Connect, "EHOSTUNREACH")),
        ("10.99.0.1 80", 200, (Stage::Connect, "ETIMEDOUT")),
        ("192.0.2.1 80", 5000, (Stage::Bind, "ENETUNREACH")),
    ] {
        let events = world.events(&within(request(Protocol::Tcp, target), timeout_ms));
        assert_eq!(failure(&events), expected, "{target}");
    }
}

fn names_that_are_not_found(world: &World) {
    for (libc, text) in [(Libc::Glibc, "Name or service not known"), (Libc::Musl, "Name does not resolve")] {
        let mut absent = request(Protocol::Tcp, "absent 80");
        absent.libc = libc;
        let events = world.events(&absent);
        assert_eq!((resolve_error(&events[0]), events.len()), (("EAI_NONAME", text), 1));
        let mut slow = request(Protocol::Udp, "slow.test 80");
        slow.lookup_timeout_ms = Some(200);
        slow.libc = libc;
        let events = world.events(&slow);
        assert_eq!((resolve_error(&events[0]).0, events.len()), ("TIMEOUT", 1));
    }
}

fn musl_resolves(world: &World) {
    for protocol in [Protocol::Tcp, Protocol::Icmp] {
        let mut by_musl = request(protocol, "web 80");
        by_musl.libc = Libc::Musl;
        let events = world.events(&by_musl);
        let mut addresses = resolved(&events[0]);
        assert_eq!(ends(&events[1]).1.ip().to_string(), addresses[0]);
        assert!(!matches!(events[2], Event::Failed { .. }), "{events:?}");
        addresses.sort();
        assert_eq!(addresses, SERVER);
    }
}

fn the_next_address(world: &World) {
    let events = world.events(&request(Protocol::Tcp, "next.test 80"));
    assert_eq!(resolved(&events[0]), ["2001:db8:98::1", "10.9.0.1"]);
    assert_eq!(ends(&events[1]).1.ip().to_string(), "2001:db8:98::1");
    assert_eq!(failure(&events[..3]).0, Stage::Connect);
    assert_eq!(ends(&events[3]).1.ip().to_string(), "10.9.0.1");
    assert!(matches!(events[4..], [Event::Connected { .. }]), "{events:?}");
}

fn udp(world: &World) {
    for server in SERVER {
        let mut echo = request(Protocol::Udp, &format!("{server} {ECHO}"));
        echo.source_port = Some(1234);
        echo.token = "token-2".to_owned();
        let events = world.events(&echo);
        let from = ends(&events[1]).0;
        assert_eq!(from.port(), 1234);
        // It was sent again, for the first one gets no answer.
        assert_eq!(body(&events[2]), format!("{from} token-2"));
        assert_eq!(events.len(), 3);
    }
    let events = world.events(&request(Protocol::Udp, "10.9.0.1 53"));
    assert_eq!(body(&events[2]), "NXDOMAIN, 0 answers");
}

fn udp_failures(world: &World) {
    for (target, timeout_ms, expected) in [
        ("10.9.0.1 81", 5000, (Stage::Answer, "ECONNREFUSED")),
        ("2001:db8:9::1 81", 5000, (Stage::Answer, "ECONNREFUSED")),
        ("10.98.0.1 80", 5000, (Stage::Answer, "EHOSTUNREACH")),
        ("10.99.0.1 80", 200, (Stage::Answer, "ETIMEDOUT")),
        ("192.0.2.1 80", 5000, (Stage::Bind, "ENETUNREACH")),
    ] {
        let events = world.events(&within(request(Protocol::Udp, target), timeout_ms));
        assert_eq!(failure(&events), expected, "{target}");
    }
}

fn icmp_by_raw_socket(world: &World) {
    // No group.
    world.set("net/ipv4/ping_group_range", "1 0");
    icmp(world);
}

fn icmp_by_ping_socket(world: &World) {
    world.set("net/ipv4/ping_group_range", "0 0");
    icmp(world);
}

fn icmp(world: &World) {
    for server in SERVER {
        for id in [None, Some(777)] {
            let mut ping = request(Protocol::Icmp, server);
            ping.source_port = id;
            let events = world.events(&ping);
            let (from, to) = ends(&events[1]);
            assert!(from.port() == id.unwrap_or(from.port()) && from.port() != 0, "{from}");
            assert_eq!(to, SocketAddr::new(server.parse().unwrap(), 0));
            assert_eq!((body(&events[2]), events.len()), ("token-1", 3));
        }
    }
}

fn icmp_failures(world: &World) {
    for groups in ["1 0", "0 0"] {
        world.set("net/ipv4/ping_group_range", groups);
        for (target, timeout_ms, expected) in [
            ("10.98.0.1", 5000, (Stage::Answer, "EHOSTUNREACH")),
            ("10.99.0.1", 200, (Stage::Answer, "ETIMEDOUT")),
            ("192.0.2.1", 5000, (Stage::Bind, "ENETUNREACH")),
        ] {
            let events = world.events(&within(request(Protocol::Icmp, target), timeout_ms));
            assert_eq!(failure(&events), expected, "{target} {groups}");
        }
    }
}

fn a_probe_ends_with_its_driver(world: &World) {
    let mut probe = world.start(&request(Protocol::Tcp, "10.9.0.1 80"));
    assert!(matches!(probe.next_event().unwrap(), Event::Resolved { .. }));
    assert_eq!(world.probes(), 1);
    drop(probe);
    assert_eq!(world.probes(), 0);
}
