//! Tests.

use serde_json::{Value, json};

use super::*;

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service_json() -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web", "labels": {"app": "web"}},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
            "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": [" 192.0.2.9/24 "],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.5"}, {"ip": "203.0.113.6", "ipMode": "Proxy"}, {"hostname": "lb.example"},
        ]}},
    })
}

#[test]
fn a_service() {
    let service = convert_service(&from(service_json())).unwrap();
    assert_eq!(service.kind, ServiceType::NodePort);
    assert_eq!(service.cluster_ips, [ip("10.96.0.7"), ip("fd00::7")]);
    assert_eq!(service.ports[0].node_port, Some(30080));
    assert_eq!((service.ports[1].protocol, service.ports[1].port), (Protocol::Udp, 53));
    assert_eq!(service.affinity, Some(DEFAULT_AFFINITY));
    assert_eq!(service.internal_policy, TrafficPolicy::Local);
    assert_eq!(service.source_ranges, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(service.load_balancer.iter().map(|lb| lb.is_vip).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn services_without_addresses() {
    let headless =
        from(json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let headless = convert_service(&headless).unwrap();
    assert!(headless.headless && headless.cluster_ips.is_empty());
    let external =
        json!({"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = convert_service(&from(external)).unwrap();
    assert_eq!(external.external_name.as_deref(), Some("example.com"));
}

#[test]
fn what_is_wrong_with_a_service() {
    let cases = [
        ("/spec/type", json!("Cluster"), "spec.type"),
        ("/spec/clusterIPs/1", json!("fd00::x"), "spec.clusterIPs[1]"),
        ("/spec/clusterIPs/0", json!("010.96.0.7"), "spec.clusterIPs[0]"),
        ("/spec/ports/0/port", json!(0), "spec.ports[0].port"),
        ("/spec/ports/0/port", json!(65536), "spec.ports[0].port"),
        ("/spec/ports/0/nodePort", json!(-1), "spec.ports[0].nodePort"),
        ("/spec/ports/1/protocol", json!("udp"), "spec.ports[1].protocol"),
        ("/spec/internalTrafficPolicy", json!("Node"), "spec.internalTrafficPolicy"),
        ("/spec/sessionAffinity", json!("Cookie"), "spec.sessionAffinity"),
        ("/spec/loadBalancerSourceRanges/0", json!("192.0.2.0"), "spec.loadBalancerSourceRanges[0]"),
        ("/status/loadBalancer/ingress/1/ip", json!("x"), "status.loadBalancer.ingress[1].ip"),
    ];
    for (pointer, value, field) in cases {
        let mut object = service_json();
        *object.pointer_mut(pointer).unwrap() = value.clone();
        let problem = convert_service(&from(object)).unwrap_err();
        assert_eq!(problem.field, field, "{problem}");
        assert_eq!(problem.object.to_string(), "Service default/web");
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(problem.value, shown);
    }
}

#[test]
fn a_slice() {
    let slice = json!({
        "metadata": {"namespace": "default", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "all"}],
        "endpoints": [
            {"addresses": ["10.244.1.5"], "nodeName": "n1", "conditions": {"ready": false},
             "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1"}},
            {"addresses": ["10.244.1.6"]},
            {"addresses": ["10.244.1.7"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ],
    });
    let slice = convert_endpoint_slice(&from(slice)).unwrap().unwrap();
    assert_eq!(slice.service, ObjectName::new("default", "web"));
    assert_eq!(slice.ports.len(), 1);
    let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(states, [(false, false, false), (true, true, false), (false, true, true)]);
    assert_eq!(slice.endpoints[0].target.as_ref().unwrap().name, ObjectName::new("default", "web-1"));
}

#[test]
fn slices_of_no_concern_and_bad_ones() {
    let slice = |labels: Value, kind: &str, address: &str| {
        convert_endpoint_slice(&from(json!({
            "metadata": {"namespace": "default", "name": "x", "labels": labels},
            "addressType": kind, "endpoints": [{"addresses": [address]}],
        })))
    };
    let labels = json!({"kubernetes.io/service-name": "web"});
    assert_eq!(slice(json!({}), "IPv4", "10.0.0.1"), Ok(None));
    assert_eq!(slice(labels.clone(), "FQDN", "x.example"), Ok(None));
    assert_eq!(slice(labels.clone(), "IPv5", "10.0.0.1").unwrap_err().field, "addressType");
    assert_eq!(slice(labels.clone(), "IPv4", "fd00::1").unwrap_err().field, "endpoints[0].addresses[0]");
    assert_eq!(slice(labels, "IPv4", "pod").unwrap_err().value, "pod");
}

#[test]
fn a_node_and_a_pod() {
    let node = json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}, "annotations": {"k": "v"}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"], "taints": [{"key": "t", "effect": "NoSchedule"}]},
        "status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "172.18.0.11"}],
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
        },
    });
    let node = convert_node(&from(node)).unwrap();
    assert_eq!(node.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(node.internal_ips, [ip("172.18.0.11")]);
    assert!(node.ready && !node.deleting);
    assert_eq!(node.zone.as_deref(), Some("a"));
    let pod = json!({
        "metadata": {"namespace": "default", "name": "p"},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}]},
    });
    let pod = convert_pod(&from(pod)).unwrap();
    assert_eq!((pod.ips, pod.finished, pod.ready), (vec![ip("10.244.1.5")], false, false));
}
