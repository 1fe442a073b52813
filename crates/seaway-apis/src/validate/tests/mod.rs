mod network;
mod pods;

use serde_json::json;

use super::*;
use crate::resource::resources;

/// What is wrong with an object after its defaults, as one text each.
fn problems(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    let resource = resources().lookup(group, "v1", plural).unwrap();
    crate::defaults::set_defaults(resource, &mut object);
    create(resource, &object).iter().map(ToString::to_string).collect()
}

/// The same with metadata that is right.
fn of(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    object["metadata"] = json!({"name": "a", "namespace": "default"});
    problems(group, plural, object)
}

fn of_pod(spec: Value) -> Vec<String> {
    let mut whole = json!({"containers": [{"name": "a", "image": "nginx"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    of("", "pods", json!({ "spec": whole }))
}

fn of_container(fields: Value) -> Vec<String> {
    let mut container = json!({"name": "a", "image": "nginx"});
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    of_pod(json!({"containers": [container], "volumes": [{"name": "v"}]}))
}

fn of_service(spec: Value) -> Vec<String> {
    of("", "services", json!({ "spec": spec }))
}

/// Each object has exactly one error, whose text begins so; or none for the empty text.
fn check(cases: &[(Value, &str)], validate: fn(Value) -> Vec<String>) {
    for (object, expected) in cases {
        let found = validate(object.clone());
        if expected.is_empty() {
            assert_eq!(found, Vec::<String>::new(), "{object}");
        } else {
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{object}:\n{found:#?}\nexpected {expected}"
            );
        }
    }
}

#[test]
fn metadata() {
    let with = |metadata: Value| problems("", "configmaps", json!({ "metadata": metadata }));
    check(
        &[
            (
                json!({"name": "a.b", "namespace": "d", "labels": {"a/b": "c"}, "annotations": {"A": "any thing"}}),
                "",
            ),
            (json!({"namespace": "d"}), "metadata.name: Required value: name or generateName is required"),
            (
                json!({"name": "A", "namespace": "d"}),
                "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must",
            ),
            (
                json!({"name": "a", "namespace": "d", "labels": {"a b": "c"}}),
                "metadata.labels: Invalid value: \"a b\": name part must consist",
            ),
            (
                json!({"name": "a", "namespace": "d", "labels": {"a": "-"}}),
                "metadata.labels: Invalid value: \"-\": a valid label must be",
            ),
            (
                json!({"name": "a", "namespace": "d", "finalizers": ["x"]}),
                "metadata.finalizers: Invalid value: \"x\": name is neither",
            ),
            (
                json!({"name": "a", "namespace": "d", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
            ),
        ],
        with,
    );
    let big = "x".repeat(300 * 1024);
    assert_eq!(
        with(json!({"name": "a", "namespace": "d", "annotations": {"a": big}})),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
    assert!(
        problems(
            "",
            "services",
            json!({"metadata": {"name": "0a", "namespace": "d"}, "spec": {"ports": [{"port": 1}]}})
        )[0]
        .contains("DNS-1035 label")
    );
    assert_eq!(problems("", "namespaces", json!({"metadata": {"name": "a.b"}})).len(), 1);
}

#[test]
fn workloads() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx"}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    let other = json!({"matchLabels": {"app": "db"}});
    let never = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "nginx"}]}});
    check(
        &[
            (json!({"selector": selector, "template": template}), ""),
            (json!({"template": template}), "spec.selector: Required value"),
            (
                json!({"selector": {}, "template": template}),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                json!({"selector": other, "template": template}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (
                json!({"selector": selector, "template": never}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                json!({"selector": selector, "template": template, "replicas": -1}),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"selector": selector, "template": template, "strategy": {"type": "X"}}),
                "spec.strategy.type: Unsupported value: \"X\"",
            ),
            (
                json!({"selector": selector, "template": template, "strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                json!({"selector": selector, "template": template, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"selector": selector, "template": template, "strategy": {"rollingUpdate": {"maxSurge": "a"}}}),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"a\": a valid percent",
            ),
            (
                json!({"selector": selector, "template": template, "progressDeadlineSeconds": 0}),
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ),
        ],
        |spec| of("apps", "deployments", json!({ "spec": spec })),
    );
    check(
        &[
            (json!({"template": never}), ""),
            (
                json!({"template": template}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"Never\", \"OnFailure\"",
            ),
        ],
        |spec| of("batch", "jobs", json!({ "spec": spec })),
    );
    check(
        &[
            (json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": never}}}), ""),
            (
                json!({"schedule": "* *", "jobTemplate": {"spec": {"template": never}}}),
                "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields",
            ),
        ],
        |spec| of("batch", "cronjobs", json!({ "spec": spec })),
    );
}

#[test]
fn configuration() {
    check(
        &[
            (json!({"data": {"a.b": "c"}, "binaryData": {"c": "eA=="}}), ""),
            (
                json!({"data": {"a/b": "c"}}),
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist",
            ),
            (
                json!({"data": {"a": "c"}, "binaryData": {"a": ""}}),
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            ),
        ],
        |object| of("", "configmaps", object),
    );
    check(
        &[
            (json!({"data": {"a": "eA=="}}), ""),
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), "data[tls.key]: Required value"),
        ],
        |object| of("", "secrets", object),
    );
    check(
        &[
            (json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}), ""),
            (
                json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
        ],
        |object| of("rbac.authorization.k8s.io", "roles", object),
    );
    check(
        &[
            (
                json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
                "",
            ),
            (json!({"roleRef": {"kind": "X", "name": "r"}}), "roleRef.kind: Unsupported value: \"X\""),
        ],
        |object| of("rbac.authorization.k8s.io", "rolebindings", object),
    );
    check(
        &[
            (json!({"involvedObject": {"namespace": "default"}}), ""),
            (
                json!({"involvedObject": {"namespace": "x"}}),
                "involvedObject.namespace: Invalid value: \"x\": does not match event.namespace",
            ),
        ],
        |object| of("", "events", object),
    );
    check(
        &[
            (json!({"spec": {"leaseDurationSeconds": 40}}), ""),
            (
                json!({"spec": {"leaseDurationSeconds": 0}}),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
        ],
        |object| of("coordination.k8s.io", "leases", object),
    );
}

#[test]
fn changes() {
    let template = json!({"metadata": {"labels": {"app": "web", "tier": "x"}}, "spec": {"containers": [{"name": "a", "image": "nginx"}]}});
    let deployment =
        |selector: Value| json!({"spec": {"selector": {"matchLabels": selector}, "template": template}});
    let pod = |spec: Value| {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let service = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}});
    let cases = [
        (
            "apps",
            "deployments",
            deployment(json!({"app": "web"})),
            deployment(json!({"tier": "x"})),
            "spec.selector: Invalid value: {\"matchLabels\":{\"tier\":\"x\"}}: field is immutable",
        ),
        ("apps", "deployments", deployment(json!({"app": "web"})), deployment(json!({"app": "web"})), ""),
        (
            "",
            "pods",
            pod(json!({})),
            pod(json!({"containers": [{"name": "a", "image": "nginx:2", "imagePullPolicy": "Always"}]})),
            "",
        ),
        (
            "",
            "pods",
            pod(json!({})),
            pod(json!({"hostname": "x"})),
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`",
        ),
        ("", "pods", pod(json!({})), pod(json!({"tolerations": [{"key": "x", "operator": "Exists"}]})), ""),
        (
            "",
            "services",
            service("10.96.0.1"),
            service("10.96.0.2"),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set",
        ),
        (
            "",
            "configmaps",
            json!({"immutable": true, "data": {"a": "1"}}),
            json!({"immutable": true, "data": {"a": "2"}}),
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "",
            "secrets",
            json!({"type": "Opaque"}),
            json!({"type": "x"}),
            "type: Invalid value: \"x\": field is immutable",
        ),
        (
            "",
            "nodes",
            json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}}),
            json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR",
        ),
        (
            "",
            "configmaps",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"metadata": {"finalizers": ["a/b"]}}),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
        ),
    ];
    for (group, plural, mut old, mut new, expected) in cases {
        let resource = resources().lookup(group, "v1", plural).unwrap();
        crate::defaults::set_defaults(resource, &mut old);
        crate::defaults::set_defaults(resource, &mut new);
        let found: Vec<String> = update(resource, None, &new, &old).iter().map(ToString::to_string).collect();
        if expected.is_empty() {
            assert_eq!(found, Vec::<String>::new(), "{new}");
        } else {
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:#?}\nexpected {expected}");
        }
    }
}

#[test]
fn any_object_is_refused_not_a_panic() {
    for resource in resources().resources() {
        for object in [
            json!({}),
            json!(null),
            json!([]),
            json!("x"),
            json!({"metadata": [], "spec": "x", "data": 1, "subsets": {}, "rules": [1]}),
        ] {
            let mut defaulted = object.clone();
            crate::defaults::set_defaults(resource, &mut defaulted);
            let _ = create(resource, &defaulted);
            let _ = update(resource, None, &defaulted, &object);
        }
    }
}

#[test]
fn so_many_errors_are_told_and_no_more() {
    let labels: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("label{n}"), json!("not a value!"))).collect();
    let map = json!({"metadata": {"name": "m", "namespace": "n", "labels": labels}});
    assert_eq!(problems("", "configmaps", map).len(), crate::json::MAX_REPORTED);
    let ports: Vec<Value> = (0..10_000).map(|_| json!({"port": 0})).collect();
    assert_eq!(of_service(json!({"ports": ports})).len(), crate::json::MAX_REPORTED);
}
