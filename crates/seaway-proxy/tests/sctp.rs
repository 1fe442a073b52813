//! Real SCTP associations through the tables that the driver makes. Many kernels have no SCTP sockets, so these are run by
//! `make test-vm`, on Debian's; that SCTP is programmed is tested everywhere (packets.rs).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

use common::streams::{ask_sctp, begin_to_connect, connected, half_open, listen_sctp};
use common::{
    Cluster, DEAD, NODE_IP, OUTSIDE, Server, Topology, VIP, assert_as_planned, at, driver, eventually, ip,
    until_all_answer, vip,
};
use rustix::io::Errno;
use seaway_model::{Flow, Origin, Protocol};
use seaway_net::conntrack::Conntrack;
use seaway_proxy::{FlowCleaner, ServiceDriver};

#[test]
#[ignore = "needs SCTP sockets: make test-vm"]
fn pods_and_node_reach_every_endpoint_and_each_sees_who_calls() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let pods = ["10.244.1.5", "10.244.1.6"].map(|pod| topology.add_pod(pod));
    let remote = topology.add_remote_pod("10.244.2.5");
    let all = [pods[0], pods[1], remote];
    let _servers = all.map(|pod| Server::sctp(topology.pod(pod), at(pod)));
    let mut cluster = Cluster::new();
    cluster.set("signal", VIP, Protocol::Sctp, &all);
    driver(&topology).sync(&cluster.plan).unwrap();
    // A pod, an endpoint (which meets itself, too: hairpin) and the node.
    for (ns, source) in
        [(topology.pod(client), client), (topology.pod(pods[0]), pods[0]), (&topology.node, ip(NODE_IP))]
    {
        let answers = until_all_answer(&all, || ask_sctp(ns, vip()).unwrap());
        let flow = Flow {
            origin: Origin::Unknown,
            source,
            destination: ip(VIP),
            protocol: Protocol::Sctp,
            port: 80,
        };
        assert_as_planned(&cluster, &flow, answers);
    }
}

#[test]
#[ignore = "needs SCTP sockets: make test-vm"]
fn what_leaves_the_pod_network_has_the_nodes_address() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let _outside = Server::sctp(&topology.outside, at(ip(OUTSIDE)));
    driver(&topology).sync(&Cluster::new().plan).unwrap();
    assert_eq!(ask_sctp(topology.pod(client), at(ip(OUTSIDE))).unwrap(), (ip(OUTSIDE), ip(NODE_IP)));
}

#[test]
#[ignore = "needs SCTP sockets: make test-vm"]
fn without_endpoints_or_with_a_wrong_port_callers_are_refused_at_once() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let server = topology.add_pod("10.244.1.5");
    let _server = Server::sctp(topology.pod(server), at(server));
    let mut cluster = Cluster::new();
    cluster.set("signal", VIP, Protocol::Sctp, &[]);
    let mut driver = driver(&topology);
    driver.sync(&cluster.plan).unwrap();
    let refused = |result: io::Result<(IpAddr, IpAddr)>| {
        // Linux's word for a protocol that is unreachable.
        assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::NOPROTOOPT.raw_os_error()));
    };
    for ns in [topology.pod(client), &topology.node] {
        refused(ask_sctp(ns, vip()));
        refused(ask_sctp(ns, SocketAddr::new(ip(VIP), 81)));
    }
    // The first endpoint is used at once, and when the last goes callers are refused again.
    let diff = cluster.set("signal", VIP, Protocol::Sctp, &[server]);
    driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!(ask_sctp(topology.pod(client), vip()).unwrap(), (server, client));
    let diff = cluster.set("signal", VIP, Protocol::Sctp, &[]);
    driver.apply(&cluster.plan, &diff).unwrap();
    refused(ask_sctp(topology.pod(client), vip()));
}

#[test]
#[ignore = "needs SCTP sockets: make test-vm"]
fn half_open_associations_move_when_their_endpoint_goes_and_established_ones_stay() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let [leaving, staying] = ["10.244.1.5", "10.244.1.6"].map(|pod| topology.add_pod(pod));
    let leaver = listen_sctp(topology.pod(leaving), at(leaving));
    leaver.set_nonblocking(false).unwrap();
    let _server = Server::sctp(topology.pod(staying), at(staying));
    let mut conntrack = topology.node.run(|| Conntrack::open().unwrap()).unwrap();
    let cleaner = topology.node.run(|| FlowCleaner::start(Conntrack::open().unwrap()).unwrap()).unwrap();
    let mut cluster = Cluster::new();
    let mut driver = driver(&topology);
    cluster.set("signal", VIP, Protocol::Sctp, &[leaving]);
    driver.sync(&cluster.plan).unwrap();
    let client = topology.pod(client);
    let mut established = connected(begin_to_connect(client, Protocol::Sctp, 4001, vip()));
    let (mut accepted, _) = leaver.accept().unwrap();

    // A client knocks at an endpoint that died; its next INIT goes to the endpoint that there is.
    let diff = cluster.set("signal", VIP, Protocol::Sctp, &[ip(DEAD)]);
    driver.apply(&cluster.plan, &diff).unwrap();
    let caught = begin_to_connect(client, Protocol::Sctp, 4002, vip());
    eventually("a half-open association", || half_open(&mut conntrack, Protocol::Sctp) == [ip(DEAD)]);
    let diff = cluster.set("signal", VIP, Protocol::Sctp, &[staying]);
    driver.apply(&cluster.plan, &diff).unwrap();
    cleaner.check(diff.ports.iter().map(|change| change.address), &cluster.plan);
    let mut answer = String::new();
    connected(caught).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("10.244.1.6 "), "{answer}");

    // An association that was answered goes on, although its endpoint is none any more.
    established.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    accepted.write_all(&heard).unwrap();
    established.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
}
