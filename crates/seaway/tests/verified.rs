//! With nothing wrong `seaway trace --verify` says so, every time, while others load the same Service.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::time::Duration;

use common::load::{Load, WEB, address, failures};
use common::tracing::{AS_TOLD, trace};
use common::{Lab, eventually};

/// One trace of each way under load, so many times.
fn verified_under_load(name: &str, times: usize) {
    let lab = Lab::up(name, &[]);
    lab.apply(WEB);
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    // Another pod of the same node, so that rules and links are the same for both.
    let node = lab.kubectl(&["get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"]);
    lab.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: traced}}
spec:
  nodeName: {node}
  containers: [{{name: c, image: busybox, command: [sleep, infinity]}}]
"
    ));
    lab.kubectl(&["wait", "pods", "client", "traced", "--for=condition=Ready", "--timeout=60s"]);
    let service = lab.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let pods = lab.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]);
    let on_node = format!("node/{node}");
    let mut ways = vec![
        ["default/traced", "svc/default/web:80"].map(str::to_owned),
        ["default/traced", "google.com"].map(str::to_owned),
        [on_node.as_str(), "svc/default/web:80"].map(str::to_owned),
    ];
    // Pods of all nodes, some on another one.
    ways.extend(pods.split(' ').map(|pod| ["default/traced".to_owned(), format!("pod/default/{pod}:8080")]));
    for way in &ways {
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        eventually("every node has the plan", || (trace(&lab, &way).code == AS_TOLD).then_some(()));
    }

    let client = lab.pid("pod/default/client/c");
    let load = Load::start(client, address(&service, 80), "/hostname", Duration::from_millis(10));
    let mut wrong = Vec::new();
    for n in 0..times {
        let way: Vec<&str> = ways[n % ways.len()].iter().map(String::as_str).collect();
        let traced = trace(&lab, &way);
        if traced.code != AS_TOLD {
            wrong.push(format!("{n}: {way:?}: exit {}\n{}", traced.code, traced.not_ok()));
        }
    }
    let requests = load.stop();
    eprintln!("{} traces, {} requests meanwhile", times, requests.len());
    assert!(wrong.is_empty(), "{} of {times} traces:\n{}", wrong.len(), wrong.join("\n"));
    assert!(failures(&requests).is_empty(), "{:?}", failures(&requests));
}

#[test]
fn forty_times() {
    verified_under_load("verified", 42);
}

/// Run by `make soak`.
#[test]
#[ignore = "takes minutes"]
fn hundreds_of_times() {
    verified_under_load("verified-long", 600);
}
