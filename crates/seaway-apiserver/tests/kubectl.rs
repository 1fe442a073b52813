//! The real kubectl against the server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something fails")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{TestServer, kubectl};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: nginx, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
";

#[test]
fn apply_get_patch_delete() {
    let server = TestServer::start();
    assert_eq!(server.apply(DEPLOYMENT), "deployment.apps/web created\nservice/web created\n");
    assert_eq!(server.apply(DEPLOYMENT), "deployment.apps/web unchanged\nservice/web unchanged\n");
    let three = DEPLOYMENT.replace("replicas: 2", "replicas: 3");
    assert_eq!(server.apply(&three), "deployment.apps/web configured\nservice/web unchanged\n");
    assert_eq!(server.ok("get deploy web -o jsonpath={.spec.replicas}/{.metadata.generation}"), "3/2");

    let wide = server.ok("get deploy -o wide");
    let head: Vec<&str> = wide.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert!(wide.contains("0/3"), "{wide}");
    assert!(server.ok("get deploy web -o yaml").contains("progressDeadlineSeconds: 600"));
    assert!(server.ok("get all").contains("service/kubernetes"));

    server.ok("label deploy web tier=front");
    server.ok("annotate deploy web note=x");
    assert_eq!(server.ok("get deploy -l tier=front,tier!=back -o name"), "deployment.apps/web\n");
    assert_eq!(server.ok("get deploy -l tier -o name").lines().count(), 1);
    assert_eq!(server.ok("get deploy -l tier=back -o name"), "");

    for patch in [
        vec![
            "patch",
            "deploy",
            "web",
            "-p",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"nginx","image":"a"}]}}}}"#,
        ],
        vec!["patch", "deploy", "web", "--type=merge", "-p", r#"{"metadata":{"labels":{"tier":null}}}"#],
        vec![
            "patch",
            "deploy",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/replicas","value":5}]"#,
        ],
    ] {
        common::succeeded("patch", server.kubectl_with(&patch, ""));
    }
    let all = "get deploy web -o jsonpath={.spec.replicas},{.metadata.labels},{.spec.template.spec.containers[*].image},{.spec.template.spec.containers[*].ports[*].containerPort}";
    assert_eq!(server.ok(all), r#"5,{"app":"web"},a,80"#);

    server.ok("scale deploy web --replicas=1");
    assert_eq!(server.ok("get deploy web -o jsonpath={.spec.replicas}"), "1");
    assert_eq!(server.ok("delete deploy web"), "deployment.apps \"web\" deleted\n");
    assert!(server.fails("get deploy web").contains("deployments.apps \"web\" not found"));
    assert!(server.fails("apply --server-side -f /dev/null").contains("no objects"));
}

#[test]
fn lists_are_applied() {
    let server = TestServer::start();
    let list = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},
        {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":0,
            "selector":{"matchLabels":{"a":"b"}},
            "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}]}"#;
    assert_eq!(server.apply(list), "configmap/a created\ndeployment.apps/d created\n");
    assert_eq!(server.apply(list), "configmap/a unchanged\ndeployment.apps/d unchanged\n");
}

#[test]
fn creates_of_all_kinds() {
    let server = TestServer::start();
    for arguments in [
        "create deployment d --image=nginx --replicas=0",
        "create configmap c --from-literal=a=b",
        "create secret generic s --from-literal=p=q",
        "create serviceaccount bot",
        "create service clusterip x --tcp=80:8080",
        "create service nodeport n --tcp=80 --node-port=30080",
        "create job j --image=busybox -- true",
        "create cronjob cj --image=busybox --schedule=@daily",
        "create ingress i --rule=a.b/c=web:80",
        "create role r --verb=get --resource=pods",
        "create rolebinding rb --role=r --user=u",
        "create poddisruptionbudget p --selector=a=b --min-available=1",
        "create namespace ns",
        "run pod --image=nginx --labels=a=b",
    ] {
        server.ok(arguments);
    }
    // No replicas is not the default of one: protobuf bodies tell them apart.
    assert_eq!(server.ok("get deploy d -o jsonpath={.spec.replicas}"), "0");
    assert_eq!(server.ok("get secret s -o jsonpath={.data.p}"), "cQ==");
    assert_eq!(server.ok("get svc n -o jsonpath={.spec.ports[0].nodePort}"), "30080");
    assert_eq!(server.ok("get ingress i -o jsonpath={.spec.rules[0].http.paths[0].path}"), "/c");
    assert!(server.ok("get pods -o wide").contains("NOMINATED NODE"));
    assert!(server.ok("describe pod pod").contains("QoS Class:"));
    assert!(server.ok("describe svc n").contains("30080/TCP"));
    assert_eq!(server.ok("get pods --field-selector=status.phase=Pending -A -o name"), "pod/pod\n");
    assert_eq!(server.ok("get pods --field-selector=status.phase=Running -A -o name"), "");
    assert!(server.ok("create token bot").split('.').count() == 3);
    assert_eq!(server.ok("auth can-i create pods"), "yes\n");
    assert!(server.ok("auth whoami").contains("kubernetes-admin"));
    server.ok("create configmap dry --dry-run=server");
    assert!(server.fails("get configmap dry").contains("not found"));
    server.ok("delete configmap --all");
    assert_eq!(server.ok("get configmap -o name"), "");
}

#[test]
fn discovery_and_explain() {
    let server = TestServer::start();
    let resources = server.ok("api-resources");
    assert!(resources.lines().any(|l| l.split_whitespace().eq([
        "deployments",
        "deploy",
        "apps/v1",
        "true",
        "Deployment"
    ])));
    assert!(server.ok("api-versions").contains("discovery.k8s.io/v1"));
    assert!(server.ok("explain pod.spec.nodeName").contains("FIELD: nodeName <string>"));
    assert!(server.ok("version").contains("Server Version: v1.36.0"));
    assert!(server.ok("get --raw /readyz?verbose").contains("readyz check passed"));
    assert!(server.ok("get --raw /metrics").contains("apiserver_request_total"));
    // The older form of discovery says the same.
    let classic = server.ok("get --raw /apis/apps/v1");
    assert!(classic.contains("\"name\":\"deployments/scale\""), "{classic}");
}

#[test]
fn refusals_in_the_apis_words() {
    let server = TestServer::start();
    server.apply(DEPLOYMENT);
    let cases = [
        ("get pods x", "Error from server (NotFound): pods \"x\" not found"),
        ("create configmap a -n nope", "namespaces \"nope\" not found"),
        ("create service clusterip web --tcp=80", "services \"web\" already exists"),
        ("create service clusterip 9A --tcp=80", "is invalid: metadata.name: Invalid value"),
        ("get pods --field-selector=a=b", "field label not supported: a"),
        (
            "delete namespace default",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        ("logs deploy/none", "deployments.apps \"none\" not found"),
    ];
    for (arguments, text) in cases {
        let error = server.fails(arguments);
        assert!(error.contains(text), "kubectl {arguments}: {error}");
    }
    let typo = DEPLOYMENT.replace("replicas: 2", "replicsa: 2");
    let output = server.kubectl_with(&["create", "-f", "-"], &typo.replace("name: web", "name: other"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("strict decoding error: unknown field \"spec.replicsa\""), "{error}");
    let output = server
        .kubectl_with(&["create", "--validate=warn", "-f", "-"], &typo.replace("name: web", "name: other"));
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("Warning: unknown field \"spec.replicsa\""), "{warning}");

    server.ok("create namespace gone");
    server.ok("delete namespace gone --wait=false");
    assert_eq!(server.ok("get namespace gone -o jsonpath={.status.phase}"), "Terminating");
    let error = server.fails("create configmap a -n gone");
    assert!(error.contains("because it is being terminated"), "{error}");
}

#[test]
fn waits_and_rollouts_follow_the_status() {
    let server = TestServer::start();
    server.apply(DEPLOYMENT);
    let rollout = kubectl(server.directory.path())
        .args(["rollout", "status", "deploy/web", "--timeout=60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let wait = kubectl(server.directory.path())
        .args(["wait", "--for=condition=Available", "deploy/web", "--timeout=60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = r#"{"status":{"observedGeneration":1,"replicas":2,"updatedReplicas":2,"readyReplicas":2,"availableReplicas":2,"conditions":[{"type":"Available","status":"True"}]}}"#;
    common::succeeded(
        "patch",
        server.kubectl_with(
            &["patch", "deploy", "web", "--subresource=status", "--type=merge", "-p", status],
            "",
        ),
    );
    let rolled = common::succeeded("rollout", rollout.wait_with_output().unwrap());
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    assert!(common::succeeded("wait", wait.wait_with_output().unwrap()).contains("condition met"));
    assert!(server.ok("get deploy web").contains("2/2"));
}

#[test]
fn get_watch_shows_changes_as_a_table() {
    let server = TestServer::start();
    server.ok("create configmap first");
    let mut child = kubectl(server.directory.path())
        .args(["get", "configmap", "-w", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("first"));
    server.ok("create configmap second --from-literal=a=b --from-literal=c=d");
    let line = lines.next().unwrap().unwrap();
    assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), ["second", "2"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn events_are_listed() {
    let server = TestServer::start();
    server.apply(
        "
apiVersion: v1
kind: Event
metadata: {name: web.1, namespace: default}
involvedObject: {kind: Pod, namespace: default, name: web, apiVersion: v1}
reason: Pulled
message: it is here
type: Normal
firstTimestamp: 2026-01-01T00:00:00Z
lastTimestamp: 2026-01-01T00:00:00Z
count: 1
source: {component: kubelet}
",
    );
    for arguments in ["events", "get events", "get events.events.k8s.io"] {
        let events = server.ok(arguments);
        assert!(events.contains("it is here") && events.contains("Pulled"), "{arguments}: {events}");
    }
}
