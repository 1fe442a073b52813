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
fn pods() {
    check(
        &[
            (json!({}), ""),
            (json!({"containers": []}), "spec.containers: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (json!({"dnsPolicy": "X"}), "spec.dnsPolicy: Unsupported value: \"X\""),
            (
                json!({"dnsPolicy": "None"}),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {}}),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": [".", "a.b."], "options": [{"name": "ndots"}]}}),
                "",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\"",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["x"]}}),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"dnsConfig": {"searches": ["A_b"]}}),
                "spec.dnsConfig.searches[0]: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
            ),
            (json!({"dnsConfig": {"searches": vec!["a"; 33]}}), "spec.dnsConfig.searches: Invalid value: "),
            (
                json!({"dnsConfig": {"options": [{}]}}),
                "spec.dnsConfig.options[0]: Required value: must not be empty",
            ),
            (
                json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
                "spec.hostAliases[0].ip: Invalid value: \"x\"",
            ),
            (
                json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["A"]}]}),
                "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\"",
            ),
            (
                json!({"volumes": [{"name": "v"}, {"name": "v"}]}),
                "spec.volumes[1].name: Duplicate value: \"v\"",
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"volumes": [{"name": "v", "configMap": {}}]}),
                "spec.volumes[0].configMap.name: Required value",
            ),
            (
                json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]}),
                "spec.volumes[0].secret.defaultMode: Invalid value: 512",
            ),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "../t"}}]}}]}),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.path: Invalid value: \"../t\": must not contain '..'",
            ),
            (
                json!({"tolerations": [{"operator": "Equal", "value": "x"}]}),
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists",
            ),
            (json!({"hostname": "a.b"}), "spec.hostname: Invalid value: \"a.b\""),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (json!({"nodeSelector": {"a": "b c"}}), "spec.nodeSelector: Invalid value: \"b c\""),
            (json!({"initContainers": [{"name": "i"}]}), "spec.initContainers[0].image: Required value"),
        ],
        of_pod,
    );
}

#[test]
fn containers() {
    check(
        &[
            (json!({"name": ""}), "spec.containers[0].name: Required value"),
            (
                json!({"name": "A"}),
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist",
            ),
            (json!({"image": ""}), "spec.containers[0].image: Required value"),
            (
                json!({"image": " x"}),
                "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
            ),
            (
                json!({"imagePullPolicy": "No"}),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"No\"",
            ),
            (
                json!({"ports": [{"containerPort": 0}]}),
                "spec.containers[0].ports[0].containerPort: Required value",
            ),
            (
                json!({"ports": [{"containerPort": 65536}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
                "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"ports": [{"containerPort": 1, "name": "1"}]}),
                "spec.containers[0].ports[0].name: Invalid value: \"1\": must contain at least one letter",
            ),
            (
                json!({"ports": [{"containerPort": 1, "protocol": "X"}]}),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\"",
            ),
            (json!({"env": [{"name": ""}]}), "spec.containers[0].env[0].name: Required value"),
            (json!({"env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name: Invalid value: \"a=b\""),
            (
                json!({"env": [{"name": "A", "valueFrom": {}}]}),
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value",
            ),
            (
                json!({"envFrom": [{}]}),
                "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of",
            ),
            (json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}), ""),
            (
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/x"}]}),
                "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
            ),
            (
                json!({"readinessProbe": {}}),
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"readinessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
                "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 0}}}),
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": "http"}, "successThreshold": 2}}),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"resources": {"limits": {"memory": "x"}, "requests": {"memory": "1"}}}),
                "spec.containers[0].resources.limits[memory]: Invalid value: \"x\": quantities must match",
            ),
        ],
        of_container,
    );
}

#[test]
fn services() {
    check(
        &[
            (json!({"ports": [{"port": 80}]}), ""),
            (json!({}), "spec.ports: Required value"),
            (json!({"clusterIP": "None"}), ""),
            (
                json!({"type": "X", "ports": [{"port": 80}]}),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
                "spec.ports[1].name: Required value",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
                "spec.ports[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: ",
            ),
            (json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}]}), ""),
            (
                json!({"ports": [{"port": 0, "targetPort": 1}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": 70000}]}),
                "spec.ports[0].targetPort: Invalid value: 70000",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30080}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (json!({"type": "ExternalName", "externalName": "example.com."}), ""),
            (
                json!({"type": "ExternalName", "externalName": "a b"}),
                "spec.externalName: Invalid value: \"a b\"",
            ),
            (
                json!({"ports": [{"port": 80}], "sessionAffinity": "X"}),
                "spec.sessionAffinity: Unsupported value: \"X\"",
            ),
            (
                json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "x", "clusterIPs": ["x"]}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                json!({"ports": [{"port": 80}], "selector": {"a": "b c"}}),
                "spec.selector: Invalid value: \"b c\"",
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible",
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0"]}),
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR",
            ),
        ],
        of_service,
    );
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
fn network() {
    check(
        &[
            (json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}), ""),
            (
                json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"subsets": [{"ports": [{"port": 80}]}]}),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
        ],
        |object| of("", "endpoints", object),
    );
    check(
        &[
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
                "",
            ),
            (json!({"endpoints": []}), "addressType: Required value"),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
                "endpoints: Too many: 1001: must have at most 1000 items",
            ),
        ],
        |object| of("discovery.k8s.io", "endpointslices", object),
    );
    let path = |kind: &str, path: &str| json!({"rules": [{"http": {"paths": [{"path": path, "pathType": kind, "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]});
    check(
        &[
            (path("Prefix", "/"), ""),
            (json!({}), "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
            (
                path("", "/"),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                path("Exact", "a"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                json!({"defaultBackend": {"service": {"name": "s", "port": {}}}}),
                "spec.defaultBackend.service.port: Required value: port name or number is required",
            ),
            (
                json!({"rules": [{"host": "1.2.3.4"}]}),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ),
        ],
        |spec| of("networking.k8s.io", "ingresses", json!({ "spec": spec })),
    );
    let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
    check(
        &[
            (json!({"podSelector": {}}), ""),
            (from(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (json!({"policyTypes": ["X"]}), "spec.policyTypes[0]: Unsupported value: \"X\""),
            (
                json!({"egress": [{"ports": [{"port": 80, "endPort": 70}]}]}),
                "spec.egress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
            ),
        ],
        |spec| of("networking.k8s.io", "networkpolicies", json!({ "spec": spec })),
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
