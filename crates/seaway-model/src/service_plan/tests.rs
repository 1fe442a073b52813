//! Tests.

use proptest::prelude::*;
use rpds::RedBlackTreeMapSync;

use super::*;
use crate::{EndpointPort, EndpointSlice};

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

/// One step in the life of a small cluster, dense enough for collisions.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Service(u8, Option<(u8, u8)>),
    Slice(u8, u8, Vec<(u8, bool, bool)>),
    RemoveSlice(u8, u8),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, proptest::option::of((0..3_u8, 0..3_u8))).prop_map(|(s, to)| Step::Service(s, to)),
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
            if *kind == 2 {
                service.internal_policy = TrafficPolicy::Local;
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
