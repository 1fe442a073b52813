//! Real packets through the tables that the driver makes, in network namespaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::streams::{begin_to_connect, connected, half_open};
use common::{
    Cluster, DEAD, NODE_IP, OUTSIDE, Server, Topology, VIP, ask_tcp, ask_udp, assert_as_planned, at, driver,
    eventually, ip, output, udp_client, until_all_answer, vip,
};
use seaway_model::{Flow, Origin, PlanDiff, Protocol};
use seaway_net::conntrack::Conntrack;
use seaway_net::nft::{Kernel, Nft};
use seaway_net::sysctl;
use seaway_proxy::{FlowCleaner, ServiceDriver};

fn generation(topology: &Topology) -> u32 {
    topology.node.run(|| Kernel::open().unwrap().generation().unwrap()).unwrap()
}

#[test]
fn pods_and_node_reach_every_endpoint_and_each_sees_who_calls() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let pods: Vec<IpAddr> = ["10.244.1.5", "10.244.1.6"].map(|pod| topology.add_pod(pod)).into();
    let remote = topology.add_remote_pod("10.244.2.5");
    let all = [pods[0], pods[1], remote];
    let _tcp: Vec<Server> = all.iter().map(|pod| Server::tcp(topology.pod(*pod), at(*pod))).collect();
    let _udp: Vec<Server> = all.iter().map(|pod| Server::udp(topology.pod(*pod), at(*pod))).collect();
    let mut cluster = Cluster::new();
    cluster.set("web", VIP, Protocol::Tcp, &all);
    cluster.set("dns", "10.96.0.10", Protocol::Udp, &all);
    driver(&topology).sync(&cluster.plan).unwrap();

    // What the kernel does is what the plan says, for callers of every kind.
    for (ns, source) in
        [(topology.pod(client), client), (topology.pod(pods[0]), pods[0]), (&topology.node, ip(NODE_IP))]
    {
        let dns = SocketAddr::new(ip("10.96.0.10"), 80);
        let tcp = until_all_answer(&all, || ask_tcp(ns, vip()).unwrap());
        let udp = until_all_answer(&all, || ask_udp(&udp_client(ns, dns)).unwrap());
        for (protocol, destination, answers) in [(Protocol::Tcp, vip(), tcp), (Protocol::Udp, dns, udp)] {
            let flow =
                Flow { origin: Origin::Unknown, source, destination: destination.ip(), protocol, port: 80 };
            assert_as_planned(&cluster, &flow, answers);
        }
    }
}

#[test]
fn an_endpoint_in_the_hosts_network_is_reached_by_all_and_by_itself() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let _server = Server::tcp(&topology.node, at(ip(NODE_IP)));
    let mut cluster = Cluster::new();
    cluster.set("host", VIP, Protocol::Tcp, &[ip(NODE_IP)]);
    driver(&topology).sync(&cluster.plan).unwrap();
    assert_eq!(ask_tcp(topology.pod(client), vip()).unwrap().0, ip(NODE_IP));
    assert_eq!(ask_tcp(&topology.node, vip()).unwrap().0, ip(NODE_IP));
    assert_eq!(ask_tcp(&topology.outside, at(ip(NODE_IP))).unwrap().1, ip(OUTSIDE));
}

#[test]
fn what_leaves_the_pod_network_has_the_nodes_address() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    topology.add_remote_pod("10.244.2.5");
    let _outside = Server::tcp(&topology.outside, at(ip(OUTSIDE)));
    let _remote = Server::tcp(&topology.outside, at(ip("10.244.2.5")));
    let cluster = Cluster::new();
    driver(&topology).sync(&cluster.plan).unwrap();
    assert_eq!(ask_tcp(topology.pod(client), at(ip(OUTSIDE))).unwrap().1, ip(NODE_IP));
    assert_eq!(ask_tcp(topology.pod(client), at(ip("10.244.2.5"))).unwrap().1, client);
}

#[test]
fn without_endpoints_or_with_a_wrong_port_callers_are_refused_at_once() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let server = topology.add_pod("10.244.1.5");
    let _server = Server::tcp(topology.pod(server), at(server));
    let mut cluster = Cluster::new();
    cluster.set("idle", VIP, Protocol::Tcp, &[]);
    cluster.set("idle-udp", "10.96.0.10", Protocol::Udp, &[]);
    let mut driver = driver(&topology);
    driver.sync(&cluster.plan).unwrap();
    let refused = |result: io::Result<(IpAddr, IpAddr)>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    };
    let udp = SocketAddr::new(ip("10.96.0.10"), 80);
    for ns in [topology.pod(client), &topology.node] {
        refused(ask_tcp(ns, vip()));
        refused(ask_tcp(ns, SocketAddr::new(ip(VIP), 81)));
    }
    refused(ask_udp(&udp_client(topology.pod(client), udp)));
    // What a node's own output hook rejects fails in send already, with EPERM for UDP (kube-proxy's rules do the same).
    let error = ask_udp(&udp_client(&topology.node, udp)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // The first endpoint is used at once, and when the last goes callers are refused again.
    let diff = cluster.set("idle", VIP, Protocol::Tcp, &[server]);
    driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!(ask_tcp(topology.pod(client), vip()).unwrap(), (server, client));
    refused(ask_tcp(topology.pod(client), SocketAddr::new(ip(VIP), 81)));
    let diff = cluster.set("idle", VIP, Protocol::Tcp, &[]);
    driver.apply(&cluster.plan, &diff).unwrap();
    refused(ask_tcp(topology.pod(client), vip()));
    // Nothing is left of a Service that is gone: its address is nobody's.
    let diff = cluster.remove("idle");
    driver.apply(&cluster.plan, &diff).unwrap();
    assert!(!output(&topology.node, "nft", &["list", "table", "ip", "seaway"]).contains(VIP));
}

#[test]
fn sctp_is_programmed() {
    let topology = Topology::new();
    let mut cluster = Cluster::new();
    cluster.set("signal", VIP, Protocol::Sctp, &[ip("10.244.1.5")]);
    driver(&topology).sync(&cluster.plan).unwrap();
    let services = output(&topology.node, "nft", &["list", "map", "ip", "seaway", "services"]);
    assert!(services.contains("10.96.0.7 . sctp . 80 : goto pick_1"), "{services}");
    let endpoints = output(&topology.node, "nft", &["list", "map", "ip", "seaway", "endpoints"]);
    assert!(endpoints.contains("10.96.0.7 . sctp . 80 . 0 : 10.244.1.5 . 8080"), "{endpoints}");
}

#[test]
fn a_restart_changes_nothing_and_others_tables_stay() {
    let topology = Topology::new();
    topology
        .node
        .run(|| {
            let foreign = "table ip filter { chain input { type filter hook input priority 0; tcp dport 1 drop; }; }; \
                 table ip kube-proxy { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; }";
            assert!(std::process::Command::new("nft").arg(foreign).status().unwrap().success());
        })
        .unwrap();
    let foreign = |topology: &Topology| {
        ["filter", "kube-proxy"].map(|table| output(&topology.node, "nft", &["list", "table", "ip", table]))
    };
    let before = foreign(&topology);
    let pods: Vec<IpAddr> = (1..30).map(|host| ip(&format!("10.244.{}.{host}", host % 3))).collect();
    let mut cluster = Cluster::new();
    for service in 0..50_usize {
        let vip = format!("10.96.1.{service}");
        cluster.set(&format!("s{service}"), &vip, Protocol::Tcp, &pods[..service % pods.len()]);
    }
    let mut first = driver(&topology);
    first.sync(&cluster.plan).unwrap();
    // A history that leaves the endpoints in an order of its own.
    for gone in [3, 5, 1] {
        let mut left = pods[..20].to_vec();
        left.remove(gone);
        let diff = cluster.set("s40", "10.96.1.40", Protocol::Tcp, &left);
        assert!(first.apply(&cluster.plan, &diff).unwrap().operations > 0);
    }
    drop(first);
    let generation_before = generation(&topology);
    let mut second = driver(&topology);
    let report = second.apply(&cluster.plan, &PlanDiff::default()).unwrap();
    assert_eq!((report.full, report.operations), (true, 0), "{}", second.dry_run(&cluster.plan).unwrap());
    assert_eq!(generation(&topology), generation_before);
    assert_eq!(foreign(&topology), before);
    // What nft reads is what it would write: the table can be listed and checked.
    let listed = output(&topology.node, "nft", &["list", "table", "ip", "seaway"]);
    assert!(listed.contains("numgen random mod 4294967295"), "{listed}");
}

/// New flows come without a break while the service shrinks and grows; none may pass with the service's address.
#[test]
fn shrinking_and_growing_under_a_flood_leaves_no_flow_untranslated() {
    const ROUNDS: u32 = 1000;
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let pods: Vec<IpAddr> =
        ["10.244.1.5", "10.244.1.6", "10.244.1.7"].map(|pod| topology.add_pod(pod)).into();
    // Nobody reads and nobody answers: the flood is one way.
    let bind = |pod: &IpAddr| topology.pod(*pod).run(|| UdpSocket::bind(at(*pod)).unwrap()).unwrap();
    let _sinks: Vec<UdpSocket> = pods.iter().map(bind).collect();
    topology
        .node
        .run(|| {
            // Before the rejects, so that what they would catch is counted too.
            let watch = "table ip watch { chain forward { type filter hook forward priority -10; \
                 ip daddr 10.96.0.0/12 counter comment untranslated; ip daddr 10.244.0.0/16 counter comment translated; }; }";
            assert!(std::process::Command::new("nft").arg(watch).status().unwrap().success());
        })
        .unwrap();
    let mut cluster = Cluster::new();
    cluster.set("dns", VIP, Protocol::Udp, &pods);
    let mut driver = driver(&topology);
    driver.sync(&cluster.plan).unwrap();
    // A flow is over as soon as it is seen, so that each packet begins a new one.
    topology.node.run(|| sysctl::set("net/netfilter/nf_conntrack_udp_timeout", "0").unwrap()).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let flooders: Vec<_> = (0..2)
        .map(|_| {
            let (stop, ns) = (stop.clone(), topology.pod(client).try_clone().unwrap());
            thread::spawn(move || {
                ns.run(|| {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                    socket.connect(vip()).unwrap();
                    let mut flows = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        flows += u64::from(socket.send(b"?").is_ok());
                    }
                    flows
                })
                .unwrap()
            })
        })
        .collect();
    for round in 0..ROUNDS {
        let size = [1, 3, 2][round as usize % 3];
        let from = round as usize % pods.len();
        let mut some: Vec<IpAddr> = pods.iter().cycle().skip(from).take(size).copied().collect();
        some.sort();
        let diff = cluster.set("dns", VIP, Protocol::Udp, &some);
        assert!(!driver.apply(&cluster.plan, &diff).unwrap().full);
    }
    stop.store(true, Ordering::Relaxed);
    let flows: u64 = flooders.into_iter().map(|flooder| flooder.join().unwrap()).sum();
    let watched = output(&topology.node, "nft", &["list", "table", "ip", "watch"]);
    let packets = |comment: &str| -> u64 {
        let line = watched.lines().find(|line| line.contains(comment)).unwrap();
        line.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap().parse().unwrap()
    };
    let translated = packets("\"translated\"");
    println!("{flows} flows sent, {translated} translated");
    assert!(translated > u64::from(ROUNDS), "{flows} flows were sent: {watched}");
    assert_eq!(packets("\"untranslated\""), 0, "of {flows} flows: {watched}");
}

#[test]
fn a_udp_flow_moves_when_its_endpoint_goes() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let pods: Vec<IpAddr> = ["10.244.1.5", "10.244.1.6"].map(|pod| topology.add_pod(pod)).into();
    let _servers: Vec<Server> = pods.iter().map(|pod| Server::udp(topology.pod(*pod), at(*pod))).collect();
    let cleaner = topology.node.run(|| FlowCleaner::start(Conntrack::open().unwrap()).unwrap()).unwrap();
    let mut cluster = Cluster::new();
    cluster.set("dns", VIP, Protocol::Udp, &pods[..1]);
    let mut driver = driver(&topology);
    driver.sync(&cluster.plan).unwrap();
    let socket = udp_client(topology.pod(client), vip());
    assert_eq!(ask_udp(&socket).unwrap().0, pods[0]);
    let diff = cluster.set("dns", VIP, Protocol::Udp, &pods[1..]);
    driver.apply(&cluster.plan, &diff).unwrap();
    // The flow stays where it was until the cleaner has been by.
    cleaner.check(diff.ports.iter().map(|change| change.address), &cluster.plan);
    let moved = || ask_udp(&socket).is_ok_and(|(server, _)| server == pods[1]);
    let patience = Instant::now() + Duration::from_secs(30);
    while !moved() {
        assert!(Instant::now() < patience, "still answered by {:?}", ask_udp(&socket));
    }
}

#[test]
fn half_open_connections_move_when_their_endpoint_goes_and_established_ones_stay() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let pods = ["10.244.1.5", "10.244.1.6"].map(|pod| topology.add_pod(pod));
    let [leaving, staying] = pods;
    let leaver = topology.pod(leaving).run(|| TcpListener::bind(at(leaving)).unwrap()).unwrap();
    let _server = Server::tcp(topology.pod(staying), at(staying));
    topology
        .node
        .run(|| {
            let watch = "table ip watch { chain forward { type filter hook forward priority -10; \
                 ip daddr 10.244.2.9 tcp flags syn counter comment dead; }; }";
            assert!(std::process::Command::new("nft").arg(watch).status().unwrap().success());
        })
        .unwrap();
    let knocks_at_the_dead = || {
        let watched = output(&topology.node, "nft", &["list", "table", "ip", "watch"]);
        let mut words = watched.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse::<u64>().unwrap()
    };
    let mut conntrack = topology.node.run(|| Conntrack::open().unwrap()).unwrap();
    let cleaner = topology.node.run(|| FlowCleaner::start(Conntrack::open().unwrap()).unwrap()).unwrap();
    let mut cluster = Cluster::new();
    let mut driver = driver(&topology);
    cluster.set("web", VIP, Protocol::Tcp, &[leaving]);
    driver.sync(&cluster.plan).unwrap();
    let client = topology.pod(client);
    let mut established = connected(begin_to_connect(client, Protocol::Tcp, 4001, vip()));
    let (mut accepted, _) = leaver.accept().unwrap();

    // A client knocks at an endpoint that died, and gives up.
    let diff = cluster.set("web", VIP, Protocol::Tcp, &[ip(DEAD)]);
    driver.apply(&cluster.plan, &diff).unwrap();
    let given_up = begin_to_connect(client, Protocol::Tcp, 4002, vip());
    eventually("a half-open connection", || half_open(&mut conntrack, Protocol::Tcp) == [ip(DEAD)]);
    drop(given_up);
    let diff = cluster.set("web", VIP, Protocol::Tcp, &[staying]);
    driver.apply(&cluster.plan, &diff).unwrap();

    // The cause: what comes from the same port is taken for the old connection and goes to the dead.
    let before = knocks_at_the_dead();
    let caught = begin_to_connect(client, Protocol::Tcp, 4002, vip());
    eventually("a new connection at the dead endpoint", || knocks_at_the_dead() > before);
    assert_eq!(half_open(&mut conntrack, Protocol::Tcp), [ip(DEAD)]);

    // The mend: its next SYN goes to the endpoint that there is.
    cleaner.check(diff.ports.iter().map(|change| change.address), &cluster.plan);
    eventually("the flow forgotten", || !half_open(&mut conntrack, Protocol::Tcp).contains(&ip(DEAD)));
    let mut answer = String::new();
    connected(caught).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("10.244.1.6 "), "{answer}");

    // A connection that was answered goes on, although its endpoint is none any more.
    established.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    accepted.write_all(&heard).unwrap();
    established.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
}
