//! Connection tracking of real flows, each test in a network namespace of its own. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use seaway_net::conntrack::{Conntrack, Event, Events, Family, Filter, Flow, Transport, status};
use seaway_net::netns::NetNs;
use seaway_net::nft::{
    self, Chain, ChainKind, Field, Hook, ICMP, Kernel, NatKind, NatTarget, Nft, Rule, Statement, TCP, Table,
    Transaction, UDP,
};

const SERVICE: Ipv4Addr = Ipv4Addr::new(127, 96, 0, 1);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Runs a test in a namespace where connections to the service's address go to the endpoint's.
fn with_translation<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let namespace = NetNs::new().expect("making a network namespace needs root");
    namespace
        .run(|| {
            let to = NatTarget::Addresses {
                first: ENDPOINT.into(),
                last: ENDPOINT.into(),
                ports: Some((8080, 8080)),
            };
            let dnat =
                Rule::new().l4proto_in([TCP, UDP]).equal(Field::IpDaddr, SERVICE).statement(Statement::Nat {
                    kind: NatKind::Destination,
                    family: nft::Family::Ip,
                    to,
                    flags: nft::NatFlags::default(),
                });
            // A rule on the connection's state makes the kernel track.
            let track = Rule::new().any_bit(Field::CtState, nft::ct_state::NEW).counter();
            let table = Table::new(nft::Family::Inet, "test")
                .chain(Chain::base("out", ChainKind::Nat, Hook::Output, nft::priority::DSTNAT).rule(dnat))
                .chain(Chain::base("track", ChainKind::Filter, Hook::Output, 0).rule(track));
            Kernel::open().unwrap().commit(&Transaction::create(&table)).unwrap();
            test()
        })
        .unwrap()
}

/// Sends a datagram to the service and has the endpoint answer it.
fn udp_exchange(client: &UdpSocket, server: &UdpSocket) {
    client.send_to(b"ask", (SERVICE, 53)).unwrap();
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"answer", from).unwrap();
    let (_, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(from, SocketAddr::from((SERVICE, 53)));
}

fn udp_pair() -> (UdpSocket, UdpSocket) {
    (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), UdpSocket::bind((ENDPOINT, 8080)).unwrap())
}

fn to_service(flow: &Flow) -> bool {
    flow.original.destination == SERVICE
}

#[test]
fn a_translated_flow_is_listed_with_both_tuples_and_deleted() {
    with_translation(|| {
        let (client, server) = udp_pair();
        udp_exchange(&client, &server);
        let mut conntrack = Conntrack::open().unwrap();
        let flows = conntrack.list_where(&Filter::protocol(UDP), to_service).unwrap();
        let [flow] = flows.as_slice() else { panic!("{flows:#?}") };
        assert_eq!(flow.original.source_socket(), Some(client.local_addr().unwrap()));
        assert_eq!(flow.original.destination_socket(), Some((SERVICE, 53).into()));
        assert_eq!(flow.reply.source_socket(), Some((ENDPOINT, 8080).into()));
        assert_eq!(flow.reply.destination_socket(), Some(client.local_addr().unwrap()));
        assert!(flow.is_dnat() && !flow.is_snat());
        assert_ne!(flow.status & status::SEEN_REPLY, 0);
        assert!(flow.timeout.is_some() && flow.id.is_some());

        assert!(conntrack.delete(flow).unwrap());
        assert!(!conntrack.delete(flow).unwrap());
        assert_eq!(conntrack.list_where(&Filter::protocol(UDP), to_service).unwrap(), []);
    });
}

#[test]
fn flows_without_an_answer_are_told_from_others() {
    with_translation(|| {
        let (client, server) = udp_pair();
        udp_exchange(&client, &server);
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        silent.send_to(b"ask", (SERVICE, 53)).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let filter = Filter { unreplied: true, ..Filter::protocol(UDP) };
        let flows = conntrack.list_where(&filter, to_service).unwrap();
        let [flow] = flows.as_slice() else { panic!("{flows:#?}") };
        assert_eq!(flow.original.source_socket(), Some(silent.local_addr().unwrap()));
        assert_eq!(conntrack.list_where(&Filter::protocol(UDP), to_service).unwrap().len(), 2);
    });
}

#[test]
fn filters_leave_out_what_is_of_another_protocol_or_family() {
    with_translation(|| {
        let (client, server) = udp_pair();
        udp_exchange(&client, &server);
        let listener = TcpListener::bind((ENDPOINT, 8080)).unwrap();
        let mut stream = TcpStream::connect((SERVICE, 80)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        stream.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        let mut v6 = Vec::new();
        for _ in 0..2 {
            v6.push(UdpSocket::bind("[::1]:0").unwrap());
        }
        v6[0].send_to(b"x", v6[1].local_addr().unwrap()).unwrap();

        let mut conntrack = Conntrack::open().unwrap();
        let tcp = conntrack.list(&Filter::protocol(TCP)).unwrap();
        assert_eq!(tcp.len(), 1, "{tcp:#?}");
        assert_eq!(tcp[0].tcp_state, Some(3));
        let only6 = Filter { family: Some(Family::V6), ..Filter::default() };
        let v6_flows = conntrack.list(&only6).unwrap();
        assert!(!v6_flows.is_empty() && v6_flows.iter().all(|flow| flow.original.source.is_ipv6()));
        let all = conntrack.list(&Filter::default()).unwrap();
        let udp = conntrack.list(&Filter::protocol(UDP)).unwrap();
        assert!(udp.iter().all(|flow| flow.original.protocol == UDP));
        assert!(all.len() > udp.len() && all.len() > v6_flows.len());
        let elsewhere = Filter { zone: Some(7), ..Filter::default() };
        assert_eq!(conntrack.list(&elsewhere).unwrap(), []);
    });
}

#[test]
fn many_flows_are_deleted_by_a_condition_and_others_stay() {
    with_translation(|| {
        let server = UdpSocket::bind((ENDPOINT, 8080)).unwrap();
        let clients: Vec<_> = (0..600).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        for client in &clients {
            udp_exchange(client, &server);
        }
        clients[0].send_to(b"x", (ENDPOINT, 8080)).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let endpoint = SocketAddr::from((ENDPOINT, 8080));
        let stale = |flow: &Flow| flow.is_dnat() && flow.reply.source_socket() == Some(endpoint);
        assert_eq!(conntrack.delete_where(&Filter::protocol(UDP), stale).unwrap(), 600);
        assert_eq!(conntrack.delete_where(&Filter::protocol(UDP), stale).unwrap(), 0);
        let left = conntrack.list(&Filter::protocol(UDP)).unwrap();
        assert!(left.iter().any(|flow| flow.original.destination == ENDPOINT), "{left:#?}");
    });
}

#[test]
fn events_tell_of_new_and_destroyed_flows() {
    with_translation(|| {
        let mut events = Events::open().unwrap();
        let (client, server) = udp_pair();
        udp_exchange(&client, &server);
        let mut conntrack = Conntrack::open().unwrap();
        conntrack.delete_where(&Filter::protocol(UDP), to_service).unwrap();
        let mut seen = Vec::new();
        while !seen.iter().any(|event| matches!(event, Event::Destroy(flow) if to_service(flow))) {
            seen.extend(events.next_events().unwrap());
        }
        let new = seen.iter().find_map(|event| match event {
            Event::New(flow) if to_service(flow) => Some(flow),
            _ => None,
        });
        let transport = Transport::Ports { source: 8080, destination: client.local_addr().unwrap().port() };
        assert_eq!(new.unwrap().reply.transport, transport);
        let updated = seen.iter().any(|event| matches!(event, Event::Update(flow) if to_service(flow)));
        assert!(updated, "{seen:#?}");

        events.set_nonblocking(true).unwrap();
        while let Ok(more) = events.next_events() {
            seen.extend(more);
        }
        assert!(events.next_events().unwrap_err().retry());
    });
}

#[test]
fn a_tuple_prints_as_people_write_it() {
    with_translation(|| {
        let (client, server) = udp_pair();
        udp_exchange(&client, &server);
        let flows = Conntrack::open().unwrap().list_where(&Filter::protocol(UDP), to_service).unwrap();
        let port = client.local_addr().unwrap().port();
        assert_eq!(flows[0].original.to_string(), format!("udp 127.0.0.1:{port} > 127.96.0.1:53"));
    });
}

#[test]
fn an_icmp_flow_is_listed_and_deleted() {
    with_translation(|| {
        let ping = std::process::Command::new("ping").args(["-c", "1", "127.0.0.3"]).output().unwrap();
        assert!(ping.status.success(), "{ping:?}");
        let mut conntrack = Conntrack::open().unwrap();
        let flows = conntrack.list(&Filter::protocol(ICMP)).unwrap();
        assert!(matches!(flows[0].original.transport, Transport::Icmp { kind: 8, .. }), "{flows:#?}");
        assert_eq!(conntrack.delete_all(&flows).unwrap(), flows.len());
        assert_eq!(conntrack.list(&Filter::protocol(ICMP)).unwrap(), []);
    });
}

#[test]
fn lost_events_are_told() {
    with_translation(|| {
        let mut events = Events::with_buffer(4096).unwrap();
        let server = UdpSocket::bind((ENDPOINT, 8080)).unwrap();
        for _ in 0..200 {
            udp_exchange(&UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), &server);
        }
        events.set_nonblocking(true).unwrap();
        let mut seen = Vec::new();
        while let Ok(more) = events.next_events() {
            seen.extend(more);
        }
        assert!(seen.contains(&Event::Lost), "{} events", seen.len());
    });
}
