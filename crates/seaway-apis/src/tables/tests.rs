use super::*;
use crate::resource::resources;

const NOW: &str = "2026-01-01T01:00:00Z";

/// The table as kubectl prints it with `-o wide`: headers in capitals, cells in columns.
fn print(group: &str, plural: &str, objects: &[Value]) -> String {
    let resource = resources().lookup(group, "v1", plural).unwrap();
    let options =
        Options { include: Include::None, no_headers: false, now: NOW.parse().unwrap(), metadata: json!({}) };
    let table = table(resource, objects, &options);
    let header = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_uppercase())
        .collect();
    let mut lines: Vec<Vec<String>> = vec![header];
    for row in table["rows"].as_array().unwrap() {
        let cells: Vec<String> = row["cells"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
            .collect();
        assert_eq!(cells.len(), lines[0].len());
        lines.push(cells);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|at| lines.iter().map(|l| l[at].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &Vec<String>| {
        cells
            .iter()
            .zip(&widths)
            .map(|(c, w)| format!("{c:w$}"))
            .collect::<Vec<_>>()
            .join("   ")
            .trim_end()
            .to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:57:00Z"})
}

fn pod(name: &str, spec: Value, status: Value) -> Value {
    let mut pod = json!({"metadata": meta(name), "spec": {"containers": [{"name": "a"}]}, "status": status});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[test]
fn pods() {
    let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let mut deleted = pod("deleted", json!({}), json!({"phase": "Running", "containerStatuses": [running]}));
    deleted["metadata"]["deletionTimestamp"] = NOW.into();
    let mut done_deleted = pod(
        "done-deleted",
        json!({}),
        json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
    );
    done_deleted["metadata"]["deletionTimestamp"] = NOW.into();
    let init = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    let objects = [
        pod("pending", json!({}), json!({"phase": "Pending"})),
        pod(
            "gated",
            json!({}),
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        ),
        pod(
            "creating",
            json!({"nodeName": "node-1"}),
            json!({"phase": "Pending", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
        ),
        pod(
            "running",
            json!({"nodeName": "node-1"}),
            json!({"phase": "Running", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}], "containerStatuses": [running]}),
        ),
        pod(
            "crashing",
            json!({}),
            json!({"phase": "Running", "containerStatuses": [{
                "name": "a", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:55Z", "exitCode": 1}},
            }]}),
        ),
        pod(
            "error",
            json!({}),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
        ),
        pod(
            "exit-code",
            json!({}),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 7}}}]}),
        ),
        pod(
            "signal",
            json!({}),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
        ),
        pod(
            "completed",
            json!({}),
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        ),
        pod(
            "half-done",
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running]}),
        ),
        pod("evicted", json!({}), json!({"phase": "Failed", "reason": "Evicted"})),
        pod(
            "init",
            init.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
        ),
        pod(
            "init-wait",
            init.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        ),
        pod(
            "init-error",
            init,
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}),
        ),
        pod(
            "sidecar",
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]}),
            json!({"phase": "Running", "initContainerStatuses": [{"name": "s", "ready": true, "started": true, "state": {"running": {}}}], "containerStatuses": [running]}),
        ),
        pod(
            "gates",
            json!({"readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]}),
            json!({"phase": "Running", "conditions": [{"type": "x", "status": "True"}], "containerStatuses": [running]}),
        ),
        deleted,
        done_deleted,
    ];
    insta::assert_snapshot!(print("", "pods", &objects));
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "nginx"}, {"name": "b", "image": "busybox:1"}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    let object = |spec: Value, status: Value| {
        let mut object = json!({"metadata": meta("web"), "spec": {"template": template, "selector": selector}, "status": status});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        object
    };
    let out = [
        print(
            "apps",
            "deployments",
            &[object(
                json!({"replicas": 3}),
                json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}),
            )],
        ),
        print(
            "apps",
            "replicasets",
            &[object(json!({"replicas": 3}), json!({"replicas": 3, "readyReplicas": 2}))],
        ),
        print(
            "apps",
            "daemonsets",
            &[object(json!({}), json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2}))],
        ),
        print("apps", "statefulsets", &[object(json!({"replicas": 2}), json!({"replicas": 2}))]),
        print(
            "batch",
            "jobs",
            &[
                object(
                    json!({"completions": 1}),
                    json!({"startTime": "2026-01-01T00:57:00Z", "succeeded": 1, "completionTime": "2026-01-01T00:57:30Z", "conditions": [{"type": "Complete", "status": "True"}]}),
                ),
                object(json!({"parallelism": 3}), json!({"startTime": "2026-01-01T00:57:00Z"})),
            ],
        ),
        print(
            "batch",
            "cronjobs",
            &[
                json!({"metadata": meta("c"), "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}}}),
            ],
        ),
        print(
            "policy",
            "poddisruptionbudgets",
            &[
                json!({"metadata": meta("p"), "spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
            ],
        ),
        print(
            "apps",
            "controllerrevisions",
            &[
                json!({"metadata": {"name": "r", "creationTimestamp": NOW, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}, "revision": 2}),
            ],
        ),
    ];
    insta::assert_snapshot!(out.join("\n\n"));
}

#[test]
fn network() {
    let service = |name: &str, spec: Value, status: Value| json!({"metadata": meta(name), "spec": spec, "status": status});
    let out = [
        print(
            "",
            "services",
            &[
                service(
                    "a",
                    json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 443, "protocol": "TCP"}]}),
                    json!({}),
                ),
                service(
                    "b",
                    json!({"type": "NodePort", "clusterIP": "10.96.0.2", "selector": {"b": "2", "a": "1"}, "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                    json!({}),
                ),
                service("c", json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}), json!({})),
                service(
                    "d",
                    json!({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}),
                    json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}),
                ),
                service("e", json!({"type": "ExternalName", "externalName": "example.com"}), json!({})),
                service(
                    "f",
                    json!({"type": "ClusterIP", "clusterIP": "None", "externalIPs": ["192.0.2.1"]}),
                    json!({}),
                ),
            ],
        ),
        print(
            "",
            "endpoints",
            &[
                json!({"metadata": meta("none")}),
                json!({"metadata": meta("few"), "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]}),
                json!({"metadata": meta("many"), "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}], "ports": [{"port": 80}, {"port": 443}]}]}),
            ],
        ),
        print(
            "discovery.k8s.io",
            "endpointslices",
            &[
                json!({"metadata": meta("none"), "addressType": "IPv4"}),
                json!({"metadata": meta("some"), "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}),
            ],
        ),
        print(
            "networking.k8s.io",
            "ingresses",
            &[
                json!({"metadata": meta("i"), "spec": {"ingressClassName": "nginx", "tls": [{}], "rules": [{"host": "a.example"}, {"host": "b.example"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
            ],
        ),
        print(
            "networking.k8s.io",
            "ingressclasses",
            &[json!({"metadata": meta("nginx"), "spec": {"controller": "k8s.io/ingress-nginx"}})],
        ),
        print(
            "networking.k8s.io",
            "networkpolicies",
            &[
                json!({"metadata": meta("all"), "spec": {"podSelector": {}}}),
                json!({"metadata": meta("web"), "spec": {"podSelector": {"matchLabels": {"app": "web"}}}}),
            ],
        ),
        print(
            "networking.k8s.io",
            "servicecidrs",
            &[json!({"metadata": meta("kubernetes"), "spec": {"cidrs": ["10.96.0.0/12"]}})],
        ),
        print(
            "networking.k8s.io",
            "ipaddresses",
            &[
                json!({"metadata": meta("10.96.0.1"), "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}}),
            ],
        ),
    ];
    insta::assert_snapshot!(out.join("\n\n"));
}

#[test]
fn cluster() {
    let mut old = meta("old");
    old["creationTimestamp"] = "2024-01-01T00:00:00Z".into();
    let out = [
        print(
            "",
            "nodes",
            &[
                json!({"metadata": {"name": "node-1", "creationTimestamp": "2025-12-01T00:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": true}, "status": {
                    "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "172.18.0.11"}],
                    "nodeInfo": {"kubeletVersion": "v1.32.0", "osImage": "Debian", "kernelVersion": "6.18", "containerRuntimeVersion": "seaway://0.1.0"}}}),
                json!({"metadata": meta("node-2"), "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
                json!({"metadata": meta("node-3")}),
            ],
        ),
        print("", "namespaces", &[json!({"metadata": old, "status": {"phase": "Active"}})]),
        print(
            "",
            "configmaps",
            &[json!({"metadata": meta("c"), "data": {"a": "1"}, "binaryData": {"b": ""}})],
        ),
        print("", "secrets", &[json!({"metadata": meta("s"), "type": "Opaque", "data": {"a": ""}})]),
        print("", "serviceaccounts", &[json!({"metadata": meta("default")})]),
        print(
            "",
            "events",
            &[
                json!({"metadata": meta("e.1"), "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"}, "type": "Warning", "reason": "BackOff",
                "message": "Back-off \n", "source": {"component": "kubelet", "host": "node-1"}, "firstTimestamp": "2026-01-01T00:50:00Z", "lastTimestamp": "2026-01-01T00:59:30Z", "count": 4}),
                json!({"metadata": meta("e.2"), "involvedObject": {"kind": "Pod", "name": "web"}, "type": "Normal", "reason": "Scheduled", "message": "m",
                "reportingComponent": "default-scheduler", "eventTime": "2026-01-01T00:59:58.123456Z", "firstTimestamp": null}),
            ],
        ),
        print(
            "events.k8s.io",
            "events",
            &[
                json!({"metadata": meta("e.2"), "regarding": {"kind": "Pod", "name": "web"}, "type": "Normal", "reason": "Scheduled", "note": "m",
                "reportingController": "default-scheduler", "eventTime": "2026-01-01T00:59:58.123456Z"}),
            ],
        ),
        print(
            "coordination.k8s.io",
            "leases",
            &[json!({"metadata": meta("node-1"), "spec": {"holderIdentity": "node-1"}})],
        ),
        print("rbac.authorization.k8s.io", "roles", &[json!({"metadata": meta("r")})]),
        print(
            "rbac.authorization.k8s.io",
            "rolebindings",
            &[json!({"metadata": meta("r"), "roleRef": {"kind": "Role", "name": "x"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]})],
        ),
    ];
    insta::assert_snapshot!(out.join("\n\n"));
}

#[test]
fn rows_carry_what_is_asked_for() {
    let pods = resources().lookup("", "v1", "pods").unwrap();
    let object = pod("a", json!({}), json!({}));
    let options = |include, no_headers| Options {
        include,
        no_headers,
        now: NOW.parse().unwrap(),
        metadata: json!({"resourceVersion": "5"}),
    };
    let made = table(pods, [&object], &options(Include::Metadata, false));
    assert_eq!(made["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(made["rows"][0]["object"]["metadata"]["name"], "a");
    assert_eq!(
        made["columnDefinitions"][0],
        json!({"name": "Name", "type": "string", "format": "name", "description": NAME.description, "priority": 0})
    );
    assert_eq!(made["columnDefinitions"][5]["priority"], 1);
    assert_eq!(made["metadata"]["resourceVersion"], "5");
    assert_eq!(table(pods, [&object], &options(Include::Object, true))["rows"][0]["object"], object);
    assert_eq!(table(pods, [&object], &options(Include::None, true))["columnDefinitions"], json!([]));
}
