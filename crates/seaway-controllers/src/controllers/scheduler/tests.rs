use super::*;
use serde_json::{Value, json};

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut node, &change);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}]},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod["spec"], &spec);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

fn run(pod: &Pod, nodes: &[Arc<Node>], placed: &[(&str, Arc<Pod>)]) -> Verdict {
    let pods_of = |name: &str| placed.iter().filter(|(node, _)| *node == name).map(|(_, pod)| pod).collect();
    choose(pod, nodes, &pods_of)
}

#[test]
fn siblings_are_spread() {
    let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
    let other = |name: &str| {
        let mut pod = (*pod(name, json!({}))).clone();
        pod.metadata.owner_references = None;
        Arc::new(pod)
    };
    let placed = [("a", pod("1", json!({}))), ("b", other("x")), ("b", other("y")), ("c", other("z"))];
    assert_eq!(run(&pod("2", json!({})), &nodes, &placed), Verdict::Fits("c".into()));
    assert_eq!(run(&pod("2", json!({})), &nodes, &[]), Verdict::Fits("a".into()));
}

#[test]
fn reasons() {
    let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}}});
    let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let hungry = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]});
    let small = json!({"status": {"allocatable": {"cpu": "1", "pods": "10"}}});
    let full = json!({"status": {"allocatable": {"pods": "1"}}});
    let tainted = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let sick = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let cases = [
        (json!({}), json!({}), None, None),
        (json!({}), tainted.clone(), None, Some("1 node(s) had untolerated taint {gpu: yes}")),
        (json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]}), tainted, None, None),
        (
            json!({}),
            sick.clone(),
            None,
            Some("1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        ),
        (json!({}), lost, None, Some("1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }")),
        (json!({"tolerations": [{"operator": "Exists"}]}), sick, None, None),
        (json!({}), json!({"spec": {"unschedulable": true}}), None, Some("1 node(s) were unschedulable")),
        (
            json!({"nodeSelector": {"disk": "ssd"}}),
            json!({}),
            None,
            Some("1 node(s) didn't match Pod's node affinity/selector"),
        ),
        (affinity.clone(), json!({}), None, Some("1 node(s) didn't match Pod's node affinity/selector")),
        (affinity, json!({"metadata": {"labels": {"disk": "ssd"}}}), None, None),
        (
            port.clone(),
            json!({}),
            Some(port),
            Some("1 node(s) didn't have free ports for the requested pod ports"),
        ),
        (hungry.clone(), small.clone(), None, None),
        (hungry.clone(), small, Some(hungry), Some("1 Insufficient cpu")),
        (json!({}), full, Some(json!({})), Some("1 Too many pods")),
        (anti.clone(), json!({}), Some(json!({})), Some("1 node(s) didn't match pod anti-affinity rules")),
        (
            json!({}),
            json!({}),
            Some(anti),
            Some("1 node(s) didn't satisfy existing pods anti-affinity rules"),
        ),
    ];
    for (spec, change, there, expected) in cases {
        let placed: Vec<_> = there.iter().map(|spec| ("a", pod("there", spec.clone()))).collect();
        let verdict = run(&pod("new", spec.clone()), &[node("a", change.clone())], &placed);
        match expected {
            None => assert_eq!(verdict, Verdict::Fits("a".into()), "{spec} {change}"),
            Some(reason) => {
                let sentence = format!("0/1 nodes are available: {reason}.");
                assert_eq!(verdict, Verdict::Nowhere(sentence), "{spec} {change}");
            }
        }
    }
    assert!(matches!(run(&pod("new", json!({})), &[], &[]), Verdict::Nowhere(_)));
}

#[test]
fn who_waits() {
    let cases = [
        (json!({}), true),
        (json!({"schedulerName": "default-scheduler"}), true),
        (json!({"schedulerName": "mine"}), false),
        (json!({"nodeName": "a"}), false),
        (json!({"schedulingGates": [{"name": "g"}]}), false),
    ];
    for (spec, expected) in cases {
        assert_eq!(is_waiting(&pod("p", spec.clone())), expected, "{spec}");
    }
}
