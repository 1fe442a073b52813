//! Packets of real namespaces, and what is selected of them.

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;

use common::{Host, Served, cable, line, told};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use seaway_http::unix;
use seaway_net::rtnl::{VxlanSettings, VxlanSpec};
use seaway_observe::api::{Capture, Connection, Link, Observe, PacketFilter, PacketMatch, Streamed, Tuple};

fn filter(protocol: u8, ports: &[u16]) -> PacketFilter {
    PacketFilter { protocol: Some(protocol), ports: ports.to_vec(), ..PacketFilter::default() }
}

#[tokio::test]
async fn a_connection_through_nat_is_found_on_every_link() {
    let line = line();
    let (client, router, server) =
        (Served::new(&line.client), Served::new(&line.router), Served::new(&line.server));
    let everything = vec![filter(6, &[80, 8080])];
    let at_client = client.watch(everything.clone()).await;
    let at_router = router.watch(everything.clone()).await;
    let at_server = server.watch(everything).await;

    let listener = line.server.tcp_listener("10.2.0.2:8080");
    let mut stream = line.client.connect("10.96.0.1:80");
    let noise = line.client.connect("10.96.0.1:80");
    let (mut accepted, seen_source) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    let mut greeting = [0; 5];
    accepted.read_exact(&mut greeting).unwrap();

    let source = stream.local_addr().unwrap();
    let here = PacketMatch { endpoint: Some((source.ip(), source.port())), ..PacketMatch::default() };
    let sent = client.packets(&at_client, vec![here]).await;
    assert_eq!(sent.lost, 0);
    let first = &sent.packets[0];
    assert_eq!(told(first), format!("eth0> {source} 10.96.0.1:80"));
    assert_eq!((first.length, first.ip.ttl), (60, 64));
    let syn = first.ip.tcp.as_ref().unwrap();
    assert!(syn.syn && !syn.ack);
    assert!(sent.packets.iter().any(|packet| packet.ip.payload_length == 5));

    let by_isn = vec![PacketMatch { tcp_isn: Some(syn.sequence), ..PacketMatch::default() }];
    let crossed = router.packets(&at_router, by_isn.clone()).await;
    let crossed: Vec<String> = crossed.packets.iter().map(told).collect();
    let expected = [
        format!("c0< {source} 10.96.0.1:80"),
        format!("s0> {seen_source} 10.2.0.2:8080"),
        format!("s0< 10.2.0.2:8080 {seen_source}"),
        format!("c0> 10.96.0.1:80 {source}"),
    ];
    assert_eq!(crossed[..4], expected);
    let arrived = server.packets(&at_server, by_isn).await;
    assert_eq!(told(&arrived.packets[0]), format!("eth0< {seen_source} 10.2.0.2:8080"));
    let other = noise.local_addr().unwrap().port();
    assert!(crossed.iter().all(|line| !line.contains(&format!(":{other} "))), "{crossed:?}");
}

#[tokio::test]
async fn connections_by_their_original_tuple() {
    let line = line();
    let router = Served::new(&line.router);
    let listener = line.server.tcp_listener("10.2.0.2:8080");
    let stream = line.client.connect("10.96.0.1:80");
    let (_accepted, seen) = listener.accept().unwrap();
    let source = stream.local_addr().unwrap();
    let original = Tuple {
        protocol: 6,
        source: source.ip(),
        source_port: source.port(),
        destination: [10, 96, 0, 1].into(),
        destination_port: 80,
    };
    let absent = Tuple { source_port: 1, ..original };
    let found: Vec<Option<Connection>> =
        unix::post(router.path(), "/v1/connections", &[original, absent]).await.unwrap();
    let [Some(connection), None] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(connection.original, original);
    assert_eq!((connection.reply.source, connection.reply.source_port), ([10, 2, 0, 2].into(), 8080));
    assert_eq!((connection.reply.destination, connection.reply.destination_port), (seen.ip(), seen.port()));
    assert_eq!(connection.tcp_state.as_deref(), Some("ESTABLISHED"));
    for status in ["seen-reply", "assured", "confirmed", "src-nat", "dst-nat"] {
        assert!(connection.status.iter().any(|it| it == status), "{status}: {connection:?}");
    }
    let reply = Tuple {
        protocol: 6,
        source: connection.reply.source,
        source_port: connection.reply.source_port,
        destination: connection.reply.destination,
        destination_port: connection.reply.destination_port,
    };
    let found: Vec<Option<Connection>> =
        unix::post(router.path(), "/v1/connections", &[reply]).await.unwrap();
    assert_eq!(found, [None], "a tuple of answers is nobody's original");
    let all: Vec<Connection> = unix::get(router.path(), "/v1/connections?translated=true").await.unwrap();
    assert!(all.iter().any(|it| it.original == original), "{all:?}");
}

#[tokio::test]
async fn datagrams_by_token_and_dns_by_name() {
    let line = line();
    let client = Served::new(&line.client);
    let id = client.watch(vec![filter(17, &[]), filter(1, &[])]).await;
    let socket = line.client.udp("10.1.0.2:0");
    let to: SocketAddr = "10.2.0.2:9".parse().unwrap();
    socket.send_to(b"x seaway-token-1 x", to).unwrap();
    // Nobody listens: the answer is an ICMP error, which ends the wait.
    socket.connect(to).unwrap();
    socket.send(b"again").unwrap();
    assert!(socket.recv(&mut [0; 9]).is_err());
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("Google.com.").unwrap(), RecordType::A));
    let asking = line.client.udp("10.1.0.2:0");
    asking.send_to(&question.to_vec().unwrap(), "10.2.0.2:53").unwrap();

    let by = |any: PacketMatch| client.packets(&id, vec![any]);
    let tokens = by(PacketMatch { payload: Some("seaway-token-1".into()), ..PacketMatch::default() }).await;
    let told_of: Vec<String> = tokens.packets.iter().map(told).collect();
    assert_eq!(told_of[0], format!("eth0> {} {to}", socket.local_addr().unwrap()));
    assert_eq!(told_of[1], "eth0< 10.2.0.2 10.1.0.2");
    let icmp = tokens.packets[1].ip.icmp.as_ref().unwrap();
    assert_eq!((icmp.kind, icmp.code), (3, 3));
    assert_eq!(icmp.about.as_ref().unwrap().destination_port, Some(9));
    let names = by(PacketMatch { dns_name: Some("google.COM".into()), ..PacketMatch::default() }).await;
    let dns = names.packets[0].ip.dns.as_ref().unwrap();
    assert_eq!((dns.name.as_str(), dns.kind.as_str(), dns.response), ("google.com.", "A", false));
}

#[tokio::test]
async fn what_is_in_a_tunnel_is_seen_on_both_links() {
    let (mut a, mut b) = (Host::new(), Host::new());
    cable((&mut a, "eth0", "172.18.0.1/24"), (&mut b, "eth0", "172.18.0.2/24"));
    for (host, this, other) in [(&mut a, 1, 2), (&mut b, 2, 1)] {
        let mac = |number| [2, 0, 0, 0, 0, number];
        let local = Some([172, 18, 0, this].into());
        let settings = VxlanSettings { vni: 7, local, dev: None, port: 8472, learning: false };
        let spec = VxlanSpec { name: "vx".into(), settings, mac: Some(mac(this)), mtu: Some(1450) };
        host.rtnl.add_vxlan(&spec).unwrap();
        host.address("vx", &format!("10.9.0.{this}/24"));
        let index = host.index("vx");
        host.rtnl.replace_fdb(index, mac(other), [172, 18, 0, other].into()).unwrap();
        host.rtnl.replace_neighbor(index, [10, 9, 0, other].into(), mac(other)).unwrap();
    }
    let observer = Served::new(&b);
    let id = observer.watch(vec![filter(17, &[5000])]).await;
    let receiver = b.udp("10.9.0.2:5000");
    let sender = a.udp("10.9.0.1:0");
    sender.send_to(b"inside", "10.9.0.2:5000").unwrap();
    sender.send_to(b"not for us", "10.9.0.2:5001").unwrap();
    receiver.recv(&mut [0; 9]).unwrap();
    let seen = observer.packets(&id, Vec::new()).await;
    let from = sender.local_addr().unwrap();
    let told_of: Vec<String> = seen.packets.iter().map(told).collect();
    assert_eq!(told_of, [format!("eth0< {from} 10.9.0.2:5000"), format!("vx< {from} 10.9.0.2:5000")]);
    let outer = seen.packets[0].outer.as_ref().unwrap();
    assert_eq!((outer.vni, outer.port, outer.source), (7, 8472, Some([172, 18, 0, 1].into())));
    assert_eq!((seen.packets[0].length, seen.packets[1].outer.is_none()), (34, true));
}

#[tokio::test]
async fn filters_of_ipv6_addresses_and_many_ports() {
    let (mut a, mut b) = (Host::new(), Host::new());
    cable((&mut a, "eth0", "fd00::1/64"), (&mut b, "eth0", "fd00::2/64"));
    let observer = Served::new(&a);
    let exact = PacketFilter {
        protocol: Some(17),
        addresses: vec!["fd00::2".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        ports: (6000..6200).collect(),
        ..PacketFilter::default()
    };
    let mut long = vec![PacketFilter { ports: (1000..1250).collect(), ..PacketFilter::default() }; 20];
    long.push(exact.clone());
    let short = observer.watch(vec![exact]).await;
    // Too long for the kernel, which then lets everything through.
    let long = observer.watch(long).await;
    let (sender, receiver) = (a.udp("[fd00::1]:0"), b.udp("[fd00::2]:6100"));
    sender.send_to(b"a", "[fd00::2]:6100").unwrap();
    sender.send_to(b"b", "[fd00::2]:6300").unwrap();
    receiver.recv(&mut [0; 9]).unwrap();
    for id in [short, long] {
        let seen = observer.packets(&id, Vec::new()).await;
        let ports: Vec<_> =
            seen.packets.iter().filter(|it| it.ip.protocol == 17).map(|it| it.ip.destination_port).collect();
        assert_eq!(ports, [Some(6100)]);
    }
}

#[tokio::test]
async fn loopback_packets_are_seen_once() {
    let host = Host::new();
    let observer = Served::new(&host);
    let id = observer.watch(vec![filter(17, &[])]).await;
    let (sender, receiver) = (host.udp("127.0.0.1:0"), host.udp("127.0.0.1:7000"));
    sender.send_to(b"a", "127.0.0.1:7000").unwrap();
    receiver.recv(&mut [0; 9]).unwrap();
    assert_eq!(observer.packets(&id, Vec::new()).await.packets.len(), 1);
}

#[tokio::test]
async fn what_has_no_room_is_counted() {
    let host = Host::new();
    let observer = Served::new(&host);
    let id = observer.watch(vec![filter(17, &[7000])]).await;
    let (sender, _receiver) = (host.udp("127.0.0.1:0"), host.udp("127.0.0.1:7000"));
    let body = [0; 1400];
    let sent = 100_000_u64;
    tokio::task::spawn_blocking(move || {
        for _ in 0..sent {
            sender.send_to(&body, "127.0.0.1:7000").unwrap();
        }
    })
    .await
    .unwrap();
    let seen =
        observer.packets(&id, vec![PacketMatch { protocol: Some(17), ..PacketMatch::default() }]).await;
    assert!(seen.lost > 0);
    assert_eq!(seen.packets.len() as u64 + seen.lost, sent);
}

#[tokio::test]
async fn links_tell_their_settings() {
    let line = line();
    line.router.run(|| seaway_net::sysctl::set("net/ipv4/conf/c0/rp_filter", "2").unwrap());
    let router = Served::new(&line.router);
    let links: Vec<Link> = unix::get(router.path(), "/v1/links").await.unwrap();
    let link = links.iter().find(|link| link.name == "c0").unwrap();
    assert_eq!((link.kind.as_str(), link.mtu, link.up, link.rp_filter), ("veth", 1500, true, 2));
    assert!(link.addresses.contains(&"10.1.0.1/24".to_owned()), "{link:?}");
}

#[tokio::test]
async fn limits_and_ends() {
    let host = Host::new();
    let observer = Served::new(&host);
    let mut request = Observe { packets: vec![filter(17, &[])], rules: Vec::new(), seconds: 61 };
    let refused = unix::post::<()>(observer.path(), "/v1/observations", &request).await.unwrap_err();
    assert!(
        refused.to_string().contains("400 Bad Request: seconds: 61 is not between 1 and 60"),
        "{refused}"
    );
    request.seconds = 1;
    let short = observer.start(&request).await;
    request.seconds = 60;
    let mut ids = Vec::new();
    for _ in 0..15 {
        ids.push(observer.start(&request).await);
    }
    let refused = unix::post::<()>(observer.path(), "/v1/observations", &request).await.unwrap_err();
    assert!(refused.to_string().contains("429"), "{refused}");
    // The first ends by itself, which makes room.
    while unix::post::<()>(observer.path(), "/v1/observations", &request)
        .await
        .is_err_and(|error| error.to_string().contains("429"))
    {
        tokio::task::yield_now().await;
    }
    let gone =
        unix::get::<()>(observer.path(), &format!("/v1/observations/{short}/rules")).await.unwrap_err();
    assert!(gone.to_string().contains("404"), "{gone}");
    for id in ids {
        observer.end(&id).await;
        assert!(unix::delete(observer.path(), &format!("/v1/observations/{id}")).await.is_err());
    }
}

#[tokio::test]
async fn packets_come_as_a_stream() {
    let host = Host::new();
    let observer = Served::new(&host);
    let request = Capture { packets: vec![filter(17, &[7000])], snap: 2000 };
    let mut lines = unix::post_for_lines(observer.path(), "/v1/capture", &request).await.unwrap();
    let (sender, _receiver) = (host.udp("127.0.0.1:0"), host.udp("127.0.0.1:7000"));
    sender.send_to(&[7; 1200], "127.0.0.1:7000").unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        for line in lines.next().await.unwrap().unwrap() {
            told.push(serde_json::from_slice::<Streamed>(&line).unwrap());
        }
    }
    let [Streamed::Lost(0), Streamed::Packet(packet)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((packet.link.as_str(), packet.length, packet.data.len()), ("lo", 1228, 1640));
}

#[tokio::test]
async fn what_is_wanted_changes_and_is_as_little_as_that() {
    let line = line();
    let router = Served::new(&line.router);
    let listener = line.server.tcp_listener("10.2.0.2:8080");
    let id = router.watch(Vec::new()).await;
    let connected = |hello: &[u8]| {
        let mut stream = line.client.connect("10.96.0.1:80");
        let (mut accepted, seen_source) = listener.accept().unwrap();
        stream.write_all(hello).unwrap();
        accepted.read_exact(&mut vec![0; hello.len()]).unwrap();
        (stream, accepted, seen_source)
    };
    let _nobody_asked = connected(b"x");
    assert_eq!(router.packets(&id, Vec::new()).await.packets, []);

    let opening = PacketFilter { opening: true, ..filter(6, &[80, 8080]) };
    router.want(&id, &[opening]).await;
    let (first, ..) = connected(b"x");
    let seen = router.packets(&id, Vec::new()).await.packets;
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|packet| packet.ip.tcp.as_ref().unwrap().syn));

    // What was kept stays; from now on it is what goes between these two.
    let (client, server, other) = ("10.1.0.2", "10.2.0.2", "10.9.9.9");
    let between = |one: &str, peer: &str| PacketFilter {
        addresses: vec![one.parse().unwrap()],
        peers: vec![peer.parse().unwrap()],
        ..filter(6, &[])
    };
    let source = first.local_addr().unwrap().ip().to_string();
    assert_eq!(source, client);
    router.want(&id, &[between(server, other), between(other, client)]).await;
    let _neither = connected(b"x");
    assert_eq!(router.packets(&id, Vec::new()).await.packets.len(), 4);
    router.want(&id, &[between("10.96.0.1", client)]).await;
    let _between = connected(b"x");
    let seen = router.packets(&id, Vec::new()).await.packets;
    assert!(seen.len() > 8 && seen[4..].iter().all(|packet| packet.link == "c0"), "{seen:?}");
}
