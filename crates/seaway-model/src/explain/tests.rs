//! Tests.

use super::*;
use crate::{EndpointPort, EndpointSlice, LocalSources, ObjectName, Service, ServicePort, Snapshot};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `web` has an endpoint on n1 and one on n2; `idle` has none.
fn plan() -> NodePlan {
    let mut snapshot = Snapshot::default();
    for (name, address) in [("web", "10.96.0.7"), ("idle", "10.96.0.8")] {
        let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let service = Service { cluster_ips: vec![ip(address)], ports: vec![port], ..Service::default() };
        snapshot.services.insert_mut(ObjectName::new("default", name), Arc::new(service));
    }
    let endpoint = |address: &str, node: &str| crate::Endpoint {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: Some(node.into()),
        zone: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        target: None,
    };
    let service = ObjectName::new("default", "web");
    let slice = EndpointSlice {
        service: service.clone(),
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![endpoint("10.244.1.5", "n1"), endpoint("10.244.2.5", "n2")],
    };
    let slices = rpds::RedBlackTreeMapSync::default().insert("web-1".into(), Arc::new(slice));
    snapshot.slices.insert_mut(service, slices);
    let nets = |text: &str| vec![text.parse().unwrap()];
    NodePlan {
        services: ServicePlan::from_snapshot("n1", &snapshot),
        egress: EgressPlan::new(&nets("10.244.0.0/16"), &nets("10.244.1.0/24"), &nets("172.18.0.0/16")),
        proxy: ProxyPlan {
            local_sources: LocalSources::Networks(nets("10.244.0.0/16")),
            service_networks: nets("10.96.0.0/12"),
            ..ProxyPlan::default()
        },
    }
}

fn flow(source: &str, destination: &str, port: u16) -> Flow {
    Flow {
        origin: Origin::Unknown,
        source: ip(source),
        destination: ip(destination),
        protocol: Protocol::Tcp,
        port,
    }
}

#[test]
fn destinations() {
    let plan = plan();
    let verdict = |destination, port| plan.translate(&flow("10.244.1.9", destination, port));
    assert!(matches!(verdict("10.96.0.7", 80), Translation::Dnat { port, .. } if port.backends.len() == 2));
    assert!(matches!(verdict("10.96.0.8", 80), Translation::RejectNoEndpoints { .. }));
    assert_eq!(verdict("10.96.0.7", 81), Translation::RejectNoSuchPort);
    assert_eq!(verdict("10.96.0.9", 80), Translation::DropUnallocated);
    assert_eq!(verdict("192.0.2.1", 80), Translation::None);
    let udp = Flow { protocol: Protocol::Udp, ..flow("10.244.1.9", "10.96.0.7", 80) };
    assert_eq!(plan.translate(&udp), Translation::RejectNoSuchPort);
}

#[test]
fn sources() {
    let plan = plan();
    let cases = [
        // From where, to where, by which backend; why masqueraded.
        ("10.244.1.9", "10.96.0.7", Some("10.244.1.5"), None),
        ("10.244.1.5", "10.96.0.7", Some("10.244.1.5"), Some(Masquerade::Hairpin)),
        ("10.244.1.5", "10.96.0.7", Some("10.244.2.5"), None),
        ("172.18.0.11", "10.96.0.7", Some("10.244.2.5"), Some(Masquerade::ClusterIpFromOutside)),
        ("172.18.0.11", "10.96.0.7", Some("10.244.1.5"), Some(Masquerade::ClusterIpFromOutside)),
        ("10.244.1.9", "192.0.2.1", None, Some(Masquerade::Egress)),
        ("10.244.1.9", "10.96.0.7", Some("192.0.2.1"), Some(Masquerade::Egress)),
        ("10.244.1.9", "172.18.0.12", None, None),
        ("10.244.1.9", "224.0.0.251", None, None),
        ("10.244.1.9", "10.244.2.5", None, None),
        ("172.18.0.11", "10.244.2.5", None, Some(Masquerade::Ingress)),
        ("172.18.0.11", "10.244.1.5", None, None),
        ("172.18.0.11", "192.0.2.1", None, None),
    ];
    for (source, destination, backend, expected) in cases {
        let backend = backend.map(|address| Backend { ip: ip(address), port: 8080 });
        let why = plan.masquerade(&flow(source, destination, 80), backend);
        assert_eq!(why, expected, "{source} to {destination} by {backend:?}");
    }
}

#[test]
fn who_cannot_tell_pods_from_others_leaves_sources_alone() {
    let mut plan = plan();
    let backend = Some(Backend { ip: ip("10.244.2.5"), port: 8080 });
    let why = |plan: &NodePlan| plan.masquerade(&flow("172.18.0.11", "10.96.0.7", 80), backend);
    plan.egress = EgressPlan::default();
    assert_eq!(why(&plan), Some(Masquerade::ClusterIpFromOutside));
    plan.proxy.local_sources = LocalSources::Networks(Vec::new());
    assert_eq!(why(&plan), None);
    plan.proxy.masquerade_all = true;
    assert_eq!(why(&plan), Some(Masquerade::All));
    plan.proxy = ProxyPlan { local_sources: LocalSources::Interface("cni0".into()), ..ProxyPlan::default() };
    assert_eq!(why(&plan), Some(Masquerade::ClusterIpFromOutside));
}
