//! Tests.

use proptest::prelude::*;
use rpds::RedBlackTreeMapSync;

use std::time::Duration;

use super::contribution::OTHER_PROXY_LABEL;
use super::*;
use crate::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerAddress, Protocol, Service, ServicePort, ServiceType,
    TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service(cluster_ip: &str) -> Service {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Service { cluster_ips: vec![ip(cluster_ip)], ports: vec![port], ..Service::default() }
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
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
    }
}

fn slice(service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    EndpointSlice { service: name(service), ports: vec![port], endpoints }
}

fn put_slice(snapshot: &mut Snapshot, slice_name: &str, slice: EndpointSlice) {
    let mut slices: RedBlackTreeMapSync<_, _> =
        snapshot.slices.get(&slice.service).cloned().unwrap_or_default();
    slices.insert_mut(slice_name.into(), Arc::new(slice.clone()));
    snapshot.slices.insert_mut(slice.service, slices);
}

fn cluster(endpoints: Vec<Endpoint>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.services.insert_mut(name("web"), Arc::new(service("10.96.0.7")));
    put_slice(&mut snapshot, "web-1", slice("web", endpoints));
    snapshot
}

fn only(plan: &ServicePlan) -> &PortPlan {
    assert_eq!(plan.len(), 1);
    plan.ports().next().unwrap()
}

fn shown(plan: &PortPlan) -> Vec<String> {
    plan.backends.iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_of_this_node_come_first() {
    let endpoints =
        vec![endpoint("10.244.2.9", "n2"), endpoint("10.244.1.5", "n1"), endpoint("10.244.0.3", "n0")];
    let plan = ServicePlan::from_snapshot("n1", &cluster(endpoints));
    let port = only(&plan);
    assert_eq!(shown(port), ["10.244.1.5:8080", "10.244.0.3:8080", "10.244.2.9:8080"]);
    assert_eq!(port.local_backends().len(), 1);
    assert_eq!(plan.local_endpoints().collect::<Vec<_>>(), [ip("10.244.1.5")]);
    assert_eq!(port.address.to_string(), "10.96.0.7:80/TCP");
}

#[test]
fn terminating_endpoints_serve_only_where_none_is_ready() {
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint("10.244.1.5", "n1") };
    let starting = Endpoint { ready: false, serving: false, ..endpoint("10.244.1.6", "n1") };
    let plan = ServicePlan::from_snapshot("n1", &cluster(vec![leaving.clone(), starting.clone()]));
    assert_eq!(shown(only(&plan)), ["10.244.1.5:8080"]);
    assert!(only(&plan).terminating);
    let plan =
        ServicePlan::from_snapshot("n1", &cluster(vec![leaving, starting, endpoint("10.244.1.7", "n1")]));
    assert_eq!(shown(only(&plan)), ["10.244.1.7:8080"]);
    assert!(!only(&plan).terminating);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_by_its_better_state() {
    let old = Endpoint { ready: false, serving: false, ..endpoint("10.244.1.5", "n1") };
    let mut snapshot = cluster(vec![old]);
    put_slice(&mut snapshot, "web-2", slice("web", vec![endpoint("10.244.1.5", "n1")]));
    assert_eq!(shown(only(&ServicePlan::from_snapshot("n2", &snapshot))), ["10.244.1.5:8080"]);
}

#[test]
fn local_policy_leaves_out_other_nodes() {
    let mut snapshot = cluster(vec![endpoint("10.244.2.9", "n2"), endpoint("10.244.1.5", "n1")]);
    let local = Service { internal_policy: TrafficPolicy::Local, ..service("10.96.0.7") };
    snapshot.services.insert_mut(name("web"), Arc::new(local));
    assert_eq!(shown(only(&ServicePlan::from_snapshot("n1", &snapshot))), ["10.244.1.5:8080"]);
}

#[test]
fn services_that_are_not_ours_are_left_out() {
    let headless = Service { headless: true, cluster_ips: Vec::new(), ..service("10.96.0.1") };
    let external = Service { kind: ServiceType::ExternalName, ..service("10.96.0.2") };
    let mut other = service("10.96.0.3");
    other.labels.insert(OTHER_PROXY_LABEL.into(), "other".into());
    let mut snapshot = Snapshot::default();
    for (i, service) in [headless, external, other].into_iter().enumerate() {
        snapshot.services.insert_mut(name(&format!("s{i}")), Arc::new(service));
    }
    assert_eq!(ServicePlan::from_snapshot("n1", &snapshot), ServicePlan::new("n1"));
}

#[test]
fn a_contested_address_belongs_to_the_first_name_and_passes_on() {
    let mut snapshot = Snapshot::default();
    snapshot.services.insert_mut(name("b"), Arc::new(service("10.96.0.1")));
    let mut plan = ServicePlan::from_snapshot("n1", &snapshot);
    assert_eq!(only(&plan).service, name("b"));
    snapshot.services.insert_mut(name("a"), Arc::new(service("10.96.0.1")));
    plan.update(&snapshot, &Changes { services: [name("a")].into(), ..Changes::default() });
    assert_eq!(only(&plan).service, name("a"));
    assert_eq!(plan.waiting().count(), 1);
    snapshot.services.remove_mut(&name("a"));
    let diff = plan.update(&snapshot, &Changes { services: [name("a")].into(), ..Changes::default() });
    assert_eq!(only(&plan).service, name("b"));
    assert_eq!(diff.ports.len(), 1);
    assert!(diff.cluster_ips.is_empty());
    assert_eq!(plan.waiting().count(), 0);
}

#[test]
fn an_unchanged_service_makes_no_difference() {
    let snapshot = cluster(vec![endpoint("10.244.1.5", "n1")]);
    let mut plan = ServicePlan::from_snapshot("n1", &snapshot);
    assert!(plan.update(&snapshot, &Changes::everything()).is_empty());
}

/// `web` at a node port, a load balancer's address, another that is a proxy's, and an external IP.
fn exposed(policy: TrafficPolicy) -> Service {
    let balancer = |address: &str, is_vip| LoadBalancerAddress { ip: ip(address), is_vip };
    let mut service = Service {
        kind: ServiceType::LoadBalancer,
        external_policy: policy,
        load_balancer: vec![balancer("192.0.2.80", true), balancer("192.0.2.81", false)],
        external_ips: vec![ip("198.51.100.7"), ip("2001:db8::7")],
        health_check_node_port: Some(32000),
        ..service("10.96.0.7")
    };
    service.ports[0].node_port = Some(30080);
    service
}

fn planned(snapshot: &Snapshot, node: &str, address: &str) -> Arc<PortPlan> {
    let plan = ServicePlan::from_snapshot(node, snapshot);
    let found = plan.ports().find(|port| port.address.to_string() == address).cloned();
    found.unwrap_or_else(|| panic!("{address} is not planned"))
}

#[test]
fn every_address_of_a_service_is_planned() {
    let mut snapshot = cluster(vec![endpoint("10.244.1.5", "n1")]);
    snapshot.services.insert_mut(name("web"), Arc::new(exposed(TrafficPolicy::Cluster)));
    let plan = ServicePlan::from_snapshot("n1", &snapshot);
    let mut addresses: Vec<_> = plan.ports().map(|port| format!("{} {}", port.kind, port.address)).collect();
    addresses.sort();
    let expected = [
        "cluster IP 10.96.0.7:80/TCP",
        "external IP 198.51.100.7:80/TCP",
        "load balancer's address 192.0.2.80:80/TCP",
        "node port node port 30080/TCP",
    ];
    assert_eq!(addresses, expected);
    // A health check is for the Local policy alone.
    assert_eq!(plan.health_checks().count(), 0);
    snapshot.services.insert_mut(name("web"), Arc::new(exposed(TrafficPolicy::Local)));
    let plan = ServicePlan::from_snapshot("n1", &snapshot);
    assert_eq!(plan.health_check(&name("web")), Some(&HealthCheck { port: 32000, local_endpoints: 1 }));
    let elsewhere = ServicePlan::from_snapshot("n2", &snapshot);
    assert_eq!(elsewhere.health_check(&name("web")), Some(&HealthCheck { port: 32000, local_endpoints: 0 }));
}

#[test]
fn the_local_policy_parts_callers() {
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint("10.244.1.5", "n1") };
    let mut snapshot = cluster(vec![leaving.clone(), endpoint("10.244.2.9", "n2")]);
    snapshot.services.insert_mut(name("web"), Arc::new(exposed(TrafficPolicy::Local)));
    let shown = |port: &PortPlan, caller| {
        port.candidates(caller).iter().map(|backend| backend.ip.to_string()).collect::<Vec<_>>()
    };
    let at = |node: &str| planned(&snapshot, node, "node port 30080/TCP");
    // On the node whose only endpoint terminates the two sets have nothing in common.
    let port = at("n1");
    assert_eq!(shown(&port, Caller::Outside), ["10.244.1.5"]);
    assert_eq!(shown(&port, Caller::Inside), ["10.244.2.9"]);
    assert!(port.is_terminating(Caller::Outside) && !port.is_terminating(Caller::Inside));
    let port = at("n2");
    assert_eq!(shown(&port, Caller::Outside), ["10.244.2.9"]);
    assert_eq!(port.inside_from, 0);
    let port = at("n3");
    assert!(port.candidates(Caller::Outside).is_empty() && port.refusal() == Refusal::Drop);
    assert_eq!(shown(&port, Caller::Inside), ["10.244.2.9"]);
    // The cluster IP goes by the other policy.
    assert_eq!(shown(&planned(&snapshot, "n1", "10.96.0.7:80/TCP"), Caller::Outside), ["10.244.2.9"]);
    // A Local cluster IP is the same for all callers.
    let local = Service { internal_policy: TrafficPolicy::Local, ..service("10.96.0.7") };
    snapshot.services.insert_mut(name("web"), Arc::new(local));
    for caller in [Caller::Inside, Caller::Outside] {
        let port = planned(&snapshot, "n1", "10.96.0.7:80/TCP");
        assert_eq!(shown(&port, caller), ["10.244.1.5"]);
        assert!(port.is_terminating(caller));
        let port = planned(&snapshot, "n3", "10.96.0.7:80/TCP");
        assert!(port.candidates(caller).is_empty() && port.refusal() == Refusal::Drop);
    }
    put_slice(&mut snapshot, "web-1", slice("web", Vec::new()));
    assert_eq!(planned(&snapshot, "n1", "10.96.0.7:80/TCP").refusal(), Refusal::Reject);
}

#[test]
fn hints_choose_the_near_ones_where_all_have_them() {
    let zone = |address: &str, node: &str, zone: &str| Endpoint {
        zone_hints: vec![zone.into()],
        ..endpoint(address, node)
    };
    let on_node = |hint: &str, it: Endpoint| Endpoint { node_hints: vec![hint.into()], ..it };
    let (a, b) = (zone("10.244.1.5", "n1", "a"), zone("10.244.2.5", "n2", "b"));
    let cases = [
        ("zones", vec![a.clone(), b.clone()], "10.244.2.5"),
        ("one without a hint", vec![a.clone(), endpoint("10.244.2.5", "n2")], "both"),
        ("no hint for this zone", vec![a.clone(), zone("10.244.2.5", "n2", "c")], "both"),
        ("nodes go before zones", vec![on_node("n2", a.clone()), on_node("n1", b.clone())], "10.244.1.5"),
        ("no hint for this node", vec![on_node("n1", a.clone()), on_node("n3", b.clone())], "10.244.2.5"),
        ("one without a node hint", vec![on_node("n2", a), b], "10.244.2.5"),
    ];
    for (what, endpoints, expected) in cases {
        let mut snapshot = cluster(endpoints);
        let node = crate::Node { zone: Some("b".into()), ..crate::Node::default() };
        snapshot.nodes.insert_mut("n2".into(), Arc::new(node));
        let plan = ServicePlan::from_snapshot("n2", &snapshot);
        let chosen: Vec<_> = only(&plan).backends.iter().map(|it| it.ip.to_string()).collect();
        let expected = if expected == "both" { "10.244.2.5 10.244.1.5" } else { expected };
        assert_eq!(chosen.join(" "), expected, "{what}");
    }
}

#[test]
fn a_change_of_this_nodes_zone_is_followed() {
    let hinted =
        |address: &str, zone: &str| Endpoint { zone_hints: vec![zone.into()], ..endpoint(address, "n9") };
    let mut snapshot = cluster(vec![hinted("10.244.9.1", "a"), hinted("10.244.9.2", "b")]);
    let mut plan = ServicePlan::from_snapshot("n1", &snapshot);
    assert_eq!(only(&plan).backends.len(), 2);
    let node = crate::Node { zone: Some("a".into()), ..crate::Node::default() };
    snapshot.nodes.insert_mut("n1".into(), Arc::new(node));
    plan.update(&snapshot, &Changes { nodes: ["n1".into()].into(), ..Changes::default() });
    assert_eq!(shown(only(&plan)), ["10.244.9.1:8080"]);
}

#[test]
fn source_ranges() {
    let mut service = exposed(TrafficPolicy::Cluster);
    service.source_ranges =
        ["192.0.2.0/25", "192.0.2.128/25", "198.51.100.1/32"].map(|it| it.parse().unwrap()).into();
    let mut snapshot = cluster(Vec::new());
    let ranges = |snapshot: &Snapshot, address: &str| {
        let ranges = planned(snapshot, "n1", address).source_ranges.clone();
        ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    snapshot.services.insert_mut(name("web"), Arc::new(service.clone()));
    let balancer = "192.0.2.80:80/TCP";
    assert_eq!(ranges(&snapshot, balancer).as_deref(), Some("192.0.2.0/24 198.51.100.1/32"));
    assert_eq!(ranges(&snapshot, "node port 30080/TCP"), None);
    assert_eq!(ranges(&snapshot, "198.51.100.7:80/TCP"), None);
    service.annotations.insert(RANGES_COVER_NODE_PORTS.into(), "true".into());
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    snapshot.services.insert_mut(name("web"), Arc::new(service.clone()));
    assert_eq!(ranges(&snapshot, "node port 30080/TCP").as_deref(), Some("198.51.100.0/24"));
    assert_eq!(ranges(&snapshot, balancer).as_deref(), Some("198.51.100.0/24"));
    // The node may call, so it may do so from the balancer's address.
    let node = crate::Node { internal_ips: vec![ip("198.51.100.11")], ..crate::Node::default() };
    snapshot.nodes.insert_mut("n1".into(), Arc::new(node));
    assert_eq!(ranges(&snapshot, balancer).as_deref(), Some("192.0.2.80/32 198.51.100.0/24"));
    // No range of the family: open.
    service.source_ranges = vec!["2001:db8::/32".parse().unwrap()];
    snapshot.services.insert_mut(name("web"), Arc::new(service));
    assert_eq!(ranges(&snapshot, balancer), None);
}

#[test]
fn a_cluster_ip_is_not_to_be_had_by_naming_it_an_external_ip() {
    let mut snapshot = Snapshot::default();
    let mut thief = Service { external_ips: vec![ip("10.96.0.10")], ..service("10.96.0.99") };
    snapshot.services.insert_mut(name("a-thief"), Arc::new(thief.clone()));
    let mut plan = ServicePlan::from_snapshot("n1", &snapshot);
    let address = ServiceAddress { ip: ip("10.96.0.10"), protocol: Protocol::Tcp, port: 80 };
    assert_eq!(plan.port(&address).unwrap().service, name("a-thief"));
    snapshot.services.insert_mut(name("dns"), Arc::new(service("10.96.0.10")));
    plan.update(&snapshot, &Changes { services: [name("dns")].into(), ..Changes::default() });
    assert_eq!(plan.port(&address).unwrap().service, name("dns"));
    // A load balancer's address goes before an external IP, too, whoever was there first.
    snapshot.services.remove_mut(&name("dns"));
    let balancer = LoadBalancerAddress { ip: ip("10.96.0.10"), is_vip: true };
    let other = Service {
        kind: ServiceType::LoadBalancer,
        load_balancer: vec![balancer.clone()],
        ..service("10.96.0.11")
    };
    snapshot.services.insert_mut(name("z"), Arc::new(other));
    let both = Changes { services: [name("dns"), name("z")].into(), ..Changes::default() };
    plan.update(&snapshot, &both);
    assert_eq!(plan.port(&address).unwrap().service, name("z"));
    // Now the first has it as a load balancer's address as well: of equals the first name wins, until it is none again.
    thief.kind = ServiceType::LoadBalancer;
    thief.load_balancer = vec![balancer];
    let changed = Changes { services: [name("a-thief")].into(), ..Changes::default() };
    snapshot.services.insert_mut(name("a-thief"), Arc::new(thief.clone()));
    plan.update(&snapshot, &changed);
    assert_eq!(plan.port(&address).unwrap().service, name("a-thief"));
    thief.load_balancer.clear();
    snapshot.services.insert_mut(name("a-thief"), Arc::new(thief));
    plan.update(&snapshot, &changed);
    assert_eq!(plan.port(&address).unwrap().service, name("z"));
    assert_eq!(plan.waiting().count(), 1);
    assert_eq!(plan, ServicePlan::from_snapshot("n1", &snapshot));
}

/// One step in the life of a small cluster, dense enough for collisions.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Service(u8, Option<(u8, u8)>),
    Slice(u8, u8, Vec<(u8, bool, bool)>),
    RemoveSlice(u8, u8),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, proptest::option::of((0..3_u8, 0..5_u8))).prop_map(|(s, to)| Step::Service(s, to)),
        (0..4_u8, 0..2_u8, proptest::collection::vec((0..5_u8, any::<bool>(), any::<bool>()), 0..4))
            .prop_map(|(s, slice, endpoints)| Step::Slice(s, slice, endpoints)),
        (0..4_u8, 0..2_u8).prop_map(|(s, slice)| Step::RemoveSlice(s, slice)),
    ]
}

pub(super) fn take(snapshot: &mut Snapshot, step: &Step) -> ObjectName {
    snapshot.generation += 1;
    match step {
        Step::Service(s, None) => {
            snapshot.services.remove_mut(&name(&format!("s{s}")));
            name(&format!("s{s}"))
        }
        Step::Service(s, Some((address, kind))) => {
            let mut service = service(&format!("10.96.0.{address}"));
            service.headless = *kind == 1;
            match kind {
                2 => service.internal_policy = TrafficPolicy::Local,
                3 => {
                    service.kind = ServiceType::NodePort;
                    service.ports[0].node_port = Some(30080 + u16::from(*address));
                    service.external_policy = TrafficPolicy::Local;
                    service.external_ips = vec![ip("10.96.0.1"), ip("10.96.0.50")];
                }
                4 => {
                    service.kind = ServiceType::LoadBalancer;
                    service.external_policy = TrafficPolicy::Local;
                    service.health_check_node_port = Some(32000);
                    service.affinity = Some(Duration::from_secs(10));
                    service.load_balancer = vec![LoadBalancerAddress { ip: ip("10.96.0.50"), is_vip: true }];
                    service.source_ranges = vec!["10.244.0.0/16".parse().unwrap()];
                }
                _ => {}
            }
            snapshot.services.insert_mut(name(&format!("s{s}")), Arc::new(service));
            name(&format!("s{s}"))
        }
        Step::Slice(s, slice_name, endpoints) => {
            let endpoints = endpoints.iter().map(|(host, ready, terminating)| Endpoint {
                ready: *ready,
                terminating: *terminating,
                ..endpoint(&format!("10.244.{}.{host}", host % 2), &format!("n{}", host % 2))
            });
            put_slice(snapshot, &format!("x{slice_name}"), slice(&format!("s{s}"), endpoints.collect()));
            name(&format!("s{s}"))
        }
        Step::RemoveSlice(s, slice_name) => {
            let service = name(&format!("s{s}"));
            let mut slices = snapshot.slices.get(&service).cloned().unwrap_or_default();
            slices.remove_mut(format!("x{slice_name}").as_str());
            snapshot.slices.insert_mut(service.clone(), slices);
            service
        }
    }
}

proptest! {
    #[test]
    fn incremental_equals_from_scratch(steps in proptest::collection::vec(step(), 1..40), batch in 1..4_usize) {
        let mut snapshot = Snapshot::default();
        let mut plan = ServicePlan::new("n1");
        let mut followed: BTreeMap<ServiceAddress, Arc<PortPlan>> = BTreeMap::new();
        for steps in steps.chunks(batch) {
            let services = steps.iter().map(|step| take(&mut snapshot, step)).collect();
            let before = plan.clone();
            let diff = plan.update(&snapshot, &Changes { services, ..Changes::default() });
            prop_assert_eq!(&plan, &ServicePlan::from_snapshot("n1", &snapshot));
            // Who follows the diffs has the same as who reads the plan.
            for change in &diff.ports {
                let previous = match &change.after {
                    Some(after) => followed.insert(change.address, after.clone()),
                    None => followed.remove(&change.address),
                };
                prop_assert_eq!(&previous, &change.before);
            }
            let planned: BTreeMap<_, _> = plan.ports().map(|port| (port.address, port.clone())).collect();
            prop_assert_eq!(&followed, &planned);
            for ip in &diff.cluster_ips.added {
                prop_assert!(!before.has_cluster_ip(ip) && plan.has_cluster_ip(ip));
            }
            for ip in &diff.local_endpoints.removed {
                prop_assert!(before.has_local_endpoint(ip) && !plan.has_local_endpoint(ip));
            }
        }
    }
}
