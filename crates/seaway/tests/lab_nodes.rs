//! What happens to a lab's machines and to the network between them: as a cloud shows it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use common::{Lab, eventually};
use serde_json::Value;

/// A web server on each of the nodes, and a Service for all of them.
fn serve_on(lab: &Lab, nodes: &[&str]) {
    let deployment = |node: &&str| {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{node}}}
spec:
  selector: {{matchLabels: {{app: web, place: {node}}}}}
  template:
    metadata: {{labels: {{app: web, place: {node}}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 1
      containers: [{{name: web, image: serve_hostname}}]
---
"
        )
    };
    let service = "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9376}]}
";
    lab.apply(&(nodes.iter().map(deployment).collect::<String>() + service));
    for node in nodes {
        lab.kubectl(&["rollout", "status", &format!("deployment/web-{node}"), "--timeout=60s"]);
    }
}

fn pod_on(lab: &Lab, node: &str) -> Value {
    let selector = format!("app=web,place={node}");
    let pods =
        lab.kubectl(&["get", "pods", "-l", &selector, "--field-selector=status.phase!=Failed", "-o", "json"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .unwrap()
        .clone()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `lab status` of one node.
fn machine(lab: &Lab, node: &str) -> Value {
    let status = lab.status();
    status["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|known| known["name"] == node)
        .cloned()
        .unwrap_or_default()
}

fn taints(lab: &Lab, node: &str) -> String {
    lab.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"])
}

/// The nodes with ready endpoints of the Service.
fn serving(lab: &Lab) -> String {
    let ready = "{range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName} {end}";
    let slices =
        ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", &format!("jsonpath={ready}")];
    let text = lab.kubectl(&slices);
    let mut nodes: Vec<&str> = text.split_whitespace().collect();
    nodes.sort_unstable();
    nodes.join(" ")
}

fn reaches(lab: &Lab, from: &Value, address: &str) -> bool {
    let pod = format!("default/{}", text(&from["metadata"]["name"]));
    lab.try_exec(&pod, &["curl", "-sf", "-m", "1", &format!("http://{address}")]).status.success()
}

#[test]
fn a_stopped_machine_is_seen_as_one_and_comes_back() {
    let lab = Lab::up("stop", &["--nodes", "2"]);
    serve_on(&lab, &["node-1", "node-2"]);
    assert_eq!(machine(&lab, "node-2")["state"], "running");
    eventually("both serve", || (serving(&lab) == "node-1 node-2").then_some(()));
    let (near, far) = (pod_on(&lab, "node-1"), pod_on(&lab, "node-2"));
    let service = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);

    lab.seaway(&["node", "stop", "node-2"]);
    assert_eq!(machine(&lab, "node-2")["state"], "stopped");
    assert!(
        !reaches(&lab, &near, &format!("{}:9376", text(&far["status"]["podIP"]))),
        "nobody answers there"
    );
    eventually("requests move", || (serving(&lab) == "node-1").then_some(()));
    assert_eq!(machine(&lab, "node-2")["ready"], false);
    eventually("the cloud says that it is off", || {
        taints(&lab, "node-2").contains("node.cloudprovider.kubernetes.io/shutdown").then_some(())
    });
    for _ in 0..10 {
        eventually("the rules follow", || reaches(&lab, &near, &service).then_some(()));
    }

    lab.seaway(&["node", "start", "node-2"]);
    eventually("it is back", || (serving(&lab) == "node-1 node-2").then_some(()));
    eventually("its taints go", || taints(&lab, "node-2").is_empty().then_some(()));
    let again = pod_on(&lab, "node-2");
    assert_eq!(again["metadata"]["uid"], far["metadata"]["uid"], "the same pod");
    assert_eq!(again["status"]["containerStatuses"][0]["restartCount"], 1);
    eventually("its pods answer", || {
        reaches(&lab, &near, &format!("{}:9376", text(&pod_on(&lab, "node-2")["status"]["podIP"])))
            .then_some(())
    });

    lab.seaway(&["node", "stop", "node-2", "--graceful"]);
    assert_eq!(machine(&lab, "node-2")["state"], "stopped");
    let pod = text(&far["metadata"]["name"]);
    let ended = lab.kubectl(&["get", "pod", &pod, "-o", "jsonpath={.status.phase} {.status.reason}"]);
    assert_eq!(ended, "Failed Terminated", "its pods ended before it did");
    assert_eq!(serving(&lab), "node-1");
}

#[test]
fn machines_join_and_leave() {
    let before = common::host::state();
    let lab = Lab::up("join", &["--nodes", "1"]);
    let added = lab.seaway(&["node", "add"]);
    assert_eq!(added.trim(), "node-2");
    lab.seaway(&["node", "add", "big"]);
    assert_eq!(machine(&lab, "big")["address"], "172.18.0.13");
    assert_eq!(machine(&lab, "big")["podCidr"], "10.244.2.0/24");
    serve_on(&lab, &["node-1", "node-2", "big"]);
    let (one, big) = (pod_on(&lab, "node-1"), pod_on(&lab, "big"));
    assert!(reaches(&lab, &one, &format!("{}:9376", text(&big["status"]["podIP"]))), "the overlay has it");
    let seen = lab
        .exec(&format!("default/{}", text(&big["metadata"]["name"])), &["curl", "-s", "http://google.com"]);
    assert_eq!(seen.trim(), "203.0.113.10", "the gateway knows it");

    let taken = lab.try_seaway(&["node", "add", "big"]);
    assert!(String::from_utf8_lossy(&taken.stderr).contains("there is a node big already"), "{taken:?}");
    let wrong = lab.try_seaway(&["node", "stop", "bgi"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no node \"bgi\""), "{wrong:?}");

    lab.seaway(&["node", "remove", "node-2"]);
    assert!(!lab.kubectl(&["get", "nodes", "-o", "name"]).contains("node-2"));
    assert!(machine(&lab, "node-2").is_null());
    assert!(!std::path::Path::new(&format!("/var/lib/seaway/labs/{}/nodes/node-2", lab.name)).exists());
    assert!(!lab.status()["processes"].to_string().contains("node-2"));

    lab.seaway(&["node", "remove", "big", "--now"]);
    eventually("the cloud's controller deletes the Node", || {
        (!lab.kubectl(&["get", "nodes", "-o", "name"]).contains("big")).then_some(())
    });
    eventually("its pods go with it", || {
        let on = ["get", "pods", "-A", "--field-selector=spec.nodeName=big", "-o", "name"];
        lab.kubectl(&on).trim().is_empty().then_some(())
    });
    assert_eq!(lab.seaway(&["node", "add"]).trim(), "node-2", "the first name that is free");
    assert_eq!(common::host::changed(&before), Vec::<String>::new(), "on the host");
}

#[test]
fn a_cut_loses_packets_between_two_and_no_others() {
    let lab = Lab::up("cut", &["--nodes", "3"]);
    serve_on(&lab, &["node-1", "node-2", "node-3"]);
    let pods = ["node-1", "node-2", "node-3"].map(|node| pod_on(&lab, node));
    let address = |n: usize| format!("{}:9376", text(&pods[n]["status"]["podIP"]));
    for (from, to) in [(0, 1), (1, 0), (0, 2), (1, 2)] {
        assert!(reaches(&lab, &pods[from], &address(to)), "{from} to {to}");
    }

    let said = lab.seaway(&["cut", "node-2", "node-1"]);
    assert_eq!(said.trim(), "packets between node-1 and node-2 are lost from now on");
    for (from, to, expected) in [(0, 1, false), (1, 0, false), (0, 2, true), (1, 2, true), (2, 0, true)] {
        assert_eq!(reaches(&lab, &pods[from], &address(to)), expected, "{from} to {to}");
    }
    assert_eq!(lab.status()["cuts"], serde_json::json!([{"a": "node-1", "b": "node-2"}]));
    assert_eq!(machine(&lab, "node-1")["ready"], true);

    lab.seaway(&["mend", "node-1", "node-2"]);
    eventually("it is mended", || reaches(&lab, &pods[0], &address(1)).then_some(()));
    assert_eq!(lab.status()["cuts"], serde_json::json!([]));

    lab.seaway(&["cut", "node-3", "control-plane"]);
    eventually("it is not heard of", || (machine(&lab, "node-3")["ready"] == false).then_some(()));
    assert_eq!(machine(&lab, "node-3")["state"], "running");
    assert!(reaches(&lab, &pods[0], &address(2)), "what runs there goes on");
    lab.seaway(&["cut", "node-1", "internet"]);
    assert!(!reaches(&lab, &pods[0], "198.51.100.10"));
    assert!(reaches(&lab, &pods[1], "198.51.100.10"));
    lab.seaway(&["mend", "--all"]);
    eventually("it is heard of", || (machine(&lab, "node-3")["ready"] == true).then_some(()));
    eventually("the way out is there", || reaches(&lab, &pods[0], "198.51.100.10").then_some(()));
}

#[test]
fn a_kept_lab_goes_on_where_it_was() {
    let before = common::host::state();
    let mut lab = Lab::up("keep", &["--nodes", "2"]);
    lab.seaway(&["node", "add", "third"]);
    serve_on(&lab, &["node-1", "third"]);
    lab.kubectl(&["create", "configmap", "mine", "--from-literal=a=b"]);
    lab.exec("node/node-1", &["sh", "-c", "echo kept > /var/lib/mine"]);
    lab.seaway(&["node", "stop", "node-2"]);
    let uids = ["get", "nodes,pods,services,configmaps", "-A", "-o", "jsonpath={.items[*].metadata.uid}"];
    let (objects, api) = (lab.kubectl(&uids), lab.status()["apiServer"].clone());

    let said = lab.seaway(&["down", "--keep"]);
    assert!(said.contains("kept"), "{said}");
    assert_eq!(common::host::changed(&before), Vec::<String>::new(), "on the host");
    assert!(!std::path::Path::new(&format!("/run/seaway/labs/{}", lab.name)).exists());
    let listed: Value = serde_json::from_str(&lab.seaway(&["list", "-o", "json"])).unwrap();
    let own = listed.as_array().unwrap().iter().find(|listed| listed["name"] == lab.name.as_str()).unwrap();
    assert_eq!((&own["running"], &own["kept"]), (&Value::Bool(false), &Value::Bool(true)));
    let other = lab.try_seaway(&["up", "--nodes", "5"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("--nodes (it has 3)"), "{other:?}");

    lab.start(&[]);
    assert_eq!(lab.status()["apiServer"], api, "the same port");
    assert_eq!(lab.kubectl(&uids), objects, "the same objects");
    assert_eq!(machine(&lab, "node-2")["state"], "stopped");
    assert_eq!(lab.exec("node/node-1", &["cat", "/var/lib/mine"]).trim(), "kept");
    let (one, third) = (pod_on(&lab, "node-1"), text(&pod_on(&lab, "third")["metadata"]["name"]));
    eventually("pods run again", || {
        let third: Value = serde_json::from_str(&lab.kubectl(&["get", "pod", &third, "-o", "json"])).unwrap();
        reaches(&lab, &one, &format!("{}:9376", text(&third["status"]["podIP"]))).then_some(())
    });
    lab.seaway(&["node", "start", "node-2"]);
    eventually("it runs", || (machine(&lab, "node-2")["ready"] == true).then_some(()));

    // Without --keep, and after a crash, a lab begins afresh.
    lab.seaway(&["down"]);
    lab.start(&["--nodes", "1"]);
    assert!(!lab.kubectl(&["get", "configmaps", "-o", "name"]).contains("mine"));
}
