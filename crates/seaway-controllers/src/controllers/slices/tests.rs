use super::*;
use crate::object::Object;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodCondition, PodIP, PodSpec, PodStatus, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

fn service() -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("svc".into()),
            labels: Some([("team".to_owned(), "a".to_owned())].into()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.7".into()),
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(IntOrString::String("web".into())),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod(number: usize, ready: bool) -> Pod {
    let port = ContainerPort { name: Some("web".into()), container_port: 8080, ..Default::default() };
    let ip = format!("10.244.{}.{}", number / 250, number % 250 + 2);
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("web-{number:04}")),
            namespace: Some("ns".into()),
            uid: Some(format!("uid-{number:04}")),
            ..Default::default()
        },
        spec: Some(PodSpec {
            node_name: Some("node-1".into()),
            containers: vec![Container { ports: Some(vec![port]), ..Default::default() }],
            ..Default::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some(ip.clone()),
            pod_ips: Some(vec![PodIP { ip }, PodIP { ip: "fd00::2".into() }]),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
    }
}

/// Decides, and applies the writes to the slices as an API server would.
fn round(service: &Service, pods: &[Pod], slices: &mut Vec<Arc<EndpointSlice>>) -> Vec<&'static str> {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    let zone = |node: &str| (node == "node-1").then(|| "zone-a".to_owned());
    let shares = || Some([("zone-a".to_owned(), 0.5), ("zone-b".to_owned(), 0.5)].into());
    let actions = decide(&Observed { service, pods: &pods, slices, zone: &zone, shares: &shares });
    let mut did = Vec::new();
    for action in actions {
        match action {
            Action::Create(Object::EndpointSlice(mut slice)) => {
                slice.metadata.uid = Some(format!("slice-{}", slices.len()));
                slice.metadata.name = slice.metadata.uid.clone();
                slices.push(Arc::new(*slice));
                did.push("create");
            }
            Action::Replace(Object::EndpointSlice(slice)) => {
                let i = slices.iter().position(|s| s.metadata.uid == slice.metadata.uid).unwrap();
                assert_eq!(slices[i].address_type, slice.address_type, "an address type can't change");
                slices[i] = Arc::new(*slice);
                did.push("replace");
            }
            Action::Delete(target, _) => {
                slices.retain(|s| s.metadata.uid != target.uid);
                did.push("delete");
            }
            other => panic!("{other:?}"),
        }
    }
    did
}

fn endpoints(slices: &[Arc<EndpointSlice>]) -> Vec<&Endpoint> {
    slices.iter().flat_map(|s| s.endpoints.iter().flatten()).collect()
}

#[test]
fn an_endpoint_says_all() {
    let mut slices = Vec::new();
    let mut pod = pod(0, true);
    pod.spec.as_mut().unwrap().hostname = Some("first".into());
    pod.spec.as_mut().unwrap().subdomain = Some("web".into());
    assert_eq!(round(&service(), &[pod.clone()], &mut slices), ["create"]);
    let slice = &slices[0];
    assert_eq!(slice.address_type, "IPv4");
    let labels = slice.metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(labels["team"], "a");
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.port, port.protocol.as_deref()),
        (Some("http"), Some(8080), Some("TCP"))
    );
    let endpoint = endpoints(&slices)[0];
    assert_eq!(endpoint.addresses, ["10.244.0.2"]);
    assert_eq!(endpoint.hostname.as_deref(), Some("first"));
    assert_eq!(endpoint.node_name.as_deref(), Some("node-1"));
    assert_eq!(endpoint.zone.as_deref(), Some("zone-a"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().name.as_deref(), Some("web-0000"));
    assert!(round(&service(), &[pod], &mut slices).is_empty(), "nothing to do twice");
}

#[test]
fn conditions() {
    let cases = [
        // ready, terminating, published anyway → ready, serving, terminating
        (true, false, false, (true, true, false)),
        (false, false, false, (false, false, false)),
        (true, true, false, (false, true, true)),
        (false, true, false, (false, false, true)),
        (false, false, true, (true, false, false)),
        (true, true, true, (true, true, true)),
    ];
    for (ready, terminating, published, expected) in cases {
        let mut pod = pod(0, ready);
        pod.metadata.deletion_timestamp = terminating.then(|| Time("2026-01-01T00:00:00Z".parse().unwrap()));
        let mut service = service();
        service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(published);
        let mut slices = Vec::new();
        round(&service, &[pod], &mut slices);
        let seen = endpoints(&slices)[0].conditions.clone().unwrap();
        let seen = (seen.ready.unwrap(), seen.serving.unwrap(), seen.terminating.unwrap());
        assert_eq!(seen, expected, "{ready} {terminating} {published}");
    }
}

#[test]
fn pods_that_are_no_endpoints() {
    let mut finished = pod(0, true);
    finished.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut without_address = pod(1, true);
    without_address.status.as_mut().unwrap().pod_ip = None;
    without_address.status.as_mut().unwrap().pod_ips = None;
    let mut slices = Vec::new();
    assert_eq!(round(&service(), &[finished, without_address], &mut slices), ["create"]);
    assert!(endpoints(&slices).is_empty(), "a placeholder");
    assert_eq!(round(&service(), &[pod(2, true)], &mut slices), ["replace"], "the placeholder is filled");
    assert_eq!(round(&service(), &[], &mut slices), ["replace"]);
    assert_eq!(slices.len(), 1);
}

#[test]
fn few_writes() {
    let mut pods: Vec<Pod> = (0..250).map(|i| pod(i, true)).collect();
    let mut slices = Vec::new();
    assert_eq!(round(&service(), &pods, &mut slices), ["create"; 3]);
    assert!(slices.iter().all(|s| s.endpoints.as_ref().unwrap().len() <= 100));
    // One pod changes: one slice is written, the others stay.
    pods[120] = pod(120, false);
    assert_eq!(round(&service(), &pods, &mut slices), ["replace"]);
    // A pod goes and another comes: the newcomer takes its place.
    pods[40] = pod(300, true);
    assert_eq!(round(&service(), &pods, &mut slices), ["replace"]);
    assert_eq!(endpoints(&slices).len(), 250);
    // A new one goes where there is room.
    pods.push(pod(301, true));
    assert_eq!(round(&service(), &pods, &mut slices), ["replace"]);
    // Most go: what is empty is deleted.
    pods.truncate(30);
    let did = round(&service(), &pods, &mut slices);
    assert_eq!(did.iter().filter(|d| **d == "delete").count(), 2, "{did:?}");
    assert_eq!(endpoints(&slices).len(), 30);
    assert!(round(&service(), &pods, &mut slices).is_empty());
}

#[test]
fn ports_by_name_differ_between_pods() {
    let mut other = pod(1, true);
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let mut slices = Vec::new();
    assert_eq!(round(&service(), &[pod(0, true), other], &mut slices), ["create", "create"]);
    let mut ports: Vec<_> = slices.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn two_families() {
    let mut service = service();
    service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    let mut slices = Vec::new();
    assert_eq!(round(&service, &[pod(0, true)], &mut slices), ["create", "create"]);
    assert_eq!(endpoints(&slices)[1].addresses, ["fd00::2"]);
}

#[test]
fn headless_and_not_ours() {
    let mut headless = service();
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    headless.spec.as_mut().unwrap().ports = None;
    let mut slices = Vec::new();
    round(&headless, &[pod(0, true)], &mut slices);
    assert!(slices[0].metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
    assert_eq!(endpoints(&slices).len(), 1, "no ports are no reason for no endpoints");

    let mut foreign = (*slices[0]).clone();
    foreign.metadata.labels.as_mut().unwrap().insert(MANAGED_BY.into(), "someone".into());
    let mut slices = vec![Arc::new(foreign)];
    assert_eq!(round(&headless, &[], &mut slices), ["create"], "another's slice is left alone");

    for change in [
        |s: &mut ServiceSpec| s.selector = None,
        |s: &mut ServiceSpec| {
            s.type_ = Some("ExternalName".into());
        },
    ] {
        let mut service = service();
        change(service.spec.as_mut().unwrap());
        assert!(round(&service, &[pod(0, true)], &mut Vec::new()).is_empty());
    }
}

#[test]
fn hints() {
    let zones = |slices: &[Arc<EndpointSlice>]| -> Vec<String> {
        let hints = endpoints(slices).into_iter().filter_map(|e| e.hints.clone()?.for_zones);
        hints.flatten().map(|zone| zone.name).collect()
    };
    let pods: Vec<Pod> = (0..4).map(|n| pod(n, true)).collect();
    let mut slices = Vec::new();
    let mut near = service();
    near.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameZone".into());
    round(&near, &pods, &mut slices);
    assert_eq!(zones(&slices), ["zone-a"; 4]);
    near.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".into());
    round(&near, &pods, &mut slices);
    let nodes = endpoints(&slices)[0].hints.clone().unwrap().for_nodes.unwrap();
    assert_eq!(nodes[0].name, "node-1");
    // The annotation goes first, and shares out.
    let auto = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
    near.metadata.annotations = Some([auto].into());
    round(&near, &pods, &mut slices);
    let mut seen = zones(&slices);
    seen.sort_unstable();
    assert_eq!(seen, ["zone-a", "zone-a", "zone-b", "zone-b"]);
    assert!(round(&near, &pods, &mut slices).is_empty(), "nothing to do twice");
}
