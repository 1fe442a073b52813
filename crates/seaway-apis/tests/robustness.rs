//! No object, however wrong, makes any function panic: right objects with a random part replaced by something else go
//! through the whole of a request, with and without the check of their form.

#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::prelude::*;
use seaway_apis::patch::strategic_merge;
use seaway_apis::strategy::{self, Creation};
use seaway_apis::tables::{Include, Options, table};
use seaway_apis::{Resource, admission, defaults, resources, scale, schema, validate};
use serde_json::{Value, json};

fn examples() -> Vec<(&'static str, &'static str, Value)> {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
        "containers": [{
            "name": "a", "image": "nginx", "ports": [{"containerPort": 80, "name": "http", "hostPort": 1, "protocol": "TCP"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}], "envFrom": [{"configMapRef": {"name": "c"}}],
            "readinessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }],
        "initContainers": [{"name": "i", "image": "b", "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
        "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots"}]},
        "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}], "tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"a": "b"},
        "readinessGates": [{"conditionType": "a"}],
    }});
    let status = json!({
        "phase": "Running", "podIPs": [{"ip": "1.1.1.1"}], "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}],
        "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
    });
    let meta = json!({
        "name": "a", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}, "annotations": {"a": "b"},
        "finalizers": ["a/b"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
    });
    let workload = json!({"metadata": meta, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        "template": template, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}, "status": {"replicas": 1}});
    vec![
        ("", "pods", json!({"metadata": meta, "spec": template["spec"], "status": status})),
        ("apps", "deployments", workload.clone()),
        ("apps", "replicasets", workload.clone()),
        ("apps", "daemonsets", workload.clone()),
        ("apps", "statefulsets", workload.clone()),
        ("batch", "jobs", workload.clone()),
        (
            "batch",
            "cronjobs",
            json!({"metadata": meta, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}}}),
        ),
        (
            "",
            "services",
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"}, "externalIPs": ["1.1.1.1"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}, "ports": [{"name": "a", "port": 80, "targetPort": "http", "nodePort": 30080, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        ),
        (
            "",
            "endpoints",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "1.1.1.1"}], "ports": [{"port": 80}]}]}),
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": ["1.1.1.1"], "nodeName": "n"}], "ports": [{"port": 80}]}),
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"metadata": meta, "spec": {"tls": [{"hosts": ["a"]}], "rules": [{"host": "a", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"metadata": meta, "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 1, "endPort": 2}]}]}}),
        ),
        (
            "",
            "nodes",
            json!({"metadata": meta, "spec": {"podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"addresses": [{"type": "InternalIP", "address": "1.1.1.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
        (
            "",
            "events",
            json!({"metadata": meta, "involvedObject": {"kind": "Pod", "name": "a", "namespace": "d"}, "series": {"count": 1}, "message": "m"}),
        ),
        ("", "secrets", json!({"metadata": meta, "data": {"a": "eA=="}, "stringData": {"b": "c"}})),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"metadata": meta, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
        ),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"metadata": meta, "spec": {"parentRef": {"resource": "services", "name": "a"}}}),
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"metadata": meta, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}}}),
        ),
    ]
}

/// Something that is seldom right.
fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([1])),
        Just(json!([{}])),
        Just(json!({"a": {"b": 1}})),
        Just(json!({"$patch": "delete"})),
    ]
}

/// Replaces the part that `path` leads to by `with`.
fn replace(value: &mut Value, path: &[prop::sample::Index], with: Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = with;
        return;
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let at = first.index(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(at) {
                replace(inner, rest, with);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = first.index(list.len());
            replace(&mut list[at], rest, with);
        }
        other => *other = with,
    }
}

fn request(resource: &Resource, object: &Value, old: &Value) {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut new = object.clone();
    defaults::set_defaults(resource, &mut new);
    let _ = strategy::prepare_create(
        resource,
        &mut new,
        &Creation { now, uid: "u", suffix: "abcde", namespace: "d" },
    );
    admission::service_account(&mut new, Some(object), "abcde");
    let _ = validate::create(resource, &new);
    let options = Options { include: Include::Metadata, no_headers: false, now, metadata: json!({}) };
    let _ = table(resource, [object, &new], &options);
    let mut update = object.clone();
    let _ = strategy::prepare_update(resource, None, old, &mut update);
    let _ = validate::update(resource, None, &update, old);
    let _ = strategy::prepare_update(resource, Some("status"), old, &mut update);
    let _ = strategic_merge(resource, old, object);
    let _ = strategic_merge(resource, object, old);
    let _ = strategy::bind(object, old, now);
    let _ = strategy::begin_deletion(resource, object, now, strategy::grace_period(resource, object, None));
    let _ = scale::apply(object, &scale::from_object(object));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_panic(kind in any::<prop::sample::Index>(), path in prop::collection::vec(any::<prop::sample::Index>(), 0..10), with in junk()) {
        let examples = examples();
        let (group, plural, old) = &examples[kind.index(examples.len())];
        let resource = resources().lookup(group, "v1", plural).unwrap();
        let mut object = old.clone();
        replace(&mut object, &path, with);
        request(resource, &object, old);
        let _ = schema::conform(resource, &mut object);
        request(resource, &object, old);
    }
}
