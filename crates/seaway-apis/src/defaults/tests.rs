use serde_json::json;

use super::*;
use crate::resource::resources;

/// The object with defaults, which setting them again does not change.
fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
    let resource = resources().lookup(group, "v1", plural).unwrap();
    set_defaults(resource, &mut object);
    let once = object.clone();
    set_defaults(resource, &mut object);
    assert_eq!(object, once);
    let mut typed = object.clone();
    assert_eq!(crate::schema::conform(resource, &mut typed), crate::schema::Report::default());
    object
}

#[test]
fn pod() {
    insta::assert_json_snapshot!(defaulted(
        "",
        "pods",
        json!({"spec": {
            "hostNetwork": true,
            "containers": [{
                "name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "readinessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "1"}},
            }],
            "initContainers": [{"name": "i", "image": "busybox:1.36"}],
            "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "c"}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        }})
    ));
}

#[test]
fn deployment() {
    insta::assert_json_snapshot!(defaulted(
        "apps",
        "deployments",
        json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}},
        }})
    ));
}

#[test]
fn other_workloads() {
    let template = json!({"spec": {"containers": []}});
    insta::assert_json_snapshot!([
        defaulted("apps", "daemonsets", json!({"spec": {"template": template}})),
        defaulted("apps", "statefulsets", json!({"spec": {"template": template}})),
        defaulted("batch", "jobs", json!({"spec": {"template": template}})),
        defaulted("batch", "cronjobs", json!({"spec": {"jobTemplate": {"spec": {"template": template}}}})),
    ]);
}

#[test]
fn services() {
    insta::assert_json_snapshot!([
        defaulted(
            "",
            "services",
            json!({"spec": {"ports": [{"port": 80}, {"port": 53, "targetPort": "dns", "protocol": "UDP"}]}})
        ),
        defaulted(
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}})
        ),
        defaulted("", "services", json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})),
        defaulted("", "endpoints", json!({"subsets": [{"ports": [{"port": 80}]}]})),
        defaulted(
            "discovery.k8s.io",
            "endpointslices",
            json!({"ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]})
        ),
        defaulted(
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"egress": [{"ports": [{"port": 80}]}]}})
        ),
        defaulted(
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]})
        ),
    ]);
}
