//! Services under a steady load of requests while endpoints, agents and nodes come and go.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::load::{Load, WEB, address, failures};
use common::{Lab, checked, eventually};
use seaway_net::netns::NetNs;
use seaway_net::nft::{Kernel, Nft};

/// Ten milliseconds between a thread's requests: some hundreds a second in all.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an agent may take, on a busy machine, to follow what the API server shows already.
const FOLLOWED: Duration = Duration::from_millis(500);

fn lab(name: &str) -> (Lab, Load) {
    let lab = Lab::up(name, &[]);
    lab.apply(WEB);
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    lab.kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"]);
    let vip = lab.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let pid = lab.pid("pod/default/client/c");
    let server = address(&vip, 80);
    // The first answer: the Service may be a moment younger than its pods are ready.
    let netns = NetNs::of_process(pid).unwrap();
    eventually("the service answers", || {
        netns.run(|| common::load::request(server, "/hostname").ok()).unwrap()
    });
    (lab, Load::start(pid, server, "/hostname", PAUSE))
}

/// Waits until the load has gone on for another `requests`.
fn go_on(load: &Load, requests: usize) {
    let until = load.count() + requests;
    eventually("the load goes on", || (load.count() >= until).then_some(()));
}

fn ready_endpoints(lab: &Lab) -> usize {
    let addresses = lab.kubectl(&["get", "endpoints", "web", "-o", "jsonpath={.subsets[*].addresses[*].ip}"]);
    addresses.split_whitespace().count()
}

#[test]
fn no_request_fails_while_endpoints_come_and_go() {
    let (lab, load) = lab("moving");
    go_on(&load, 100);
    for replicas in [6, 2, 5, 3] {
        lab.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        eventually("the endpoints follow", || (ready_endpoints(&lab) == replicas).then_some(()));
        go_on(&load, 100);
    }
    lab.kubectl(&["rollout", "restart", "deployment/web"]);
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    go_on(&load, 100);
    let pod = lab.pod("app=web");
    lab.kubectl(&["delete", "pod", &pod]);
    go_on(&load, 100);
    let requests = load.stop();
    assert_eq!(failures(&requests), Vec::<String>::new(), "of {} requests", requests.len());
}

#[test]
fn no_request_fails_while_all_agents_are_dead_and_they_adopt_what_they_find() {
    let (lab, load) = lab("agents");
    let nodes = ["node-1", "node-2", "node-3"];
    let generation = |node: &str| {
        let netns = NetNs::of_process(lab.pid(&format!("node/{node}"))).unwrap();
        netns.run(|| Kernel::open().unwrap().generation().unwrap()).unwrap()
    };
    go_on(&load, 50);
    let before: Vec<u32> = nodes.iter().map(|node| generation(node)).collect();
    let monitors: Vec<_> = nodes.iter().map(|node| Monitor::start(&lab, node)).collect();
    let old: Vec<i32> = nodes.iter().map(|node| lab.pid(&format!("node/{node}/agent"))).collect();
    for pid in &old {
        checked(Command::new("kill").args(["-9", &pid.to_string()]));
    }
    go_on(&load, 200);
    for (node, old) in nodes.iter().zip(&old) {
        let label = format!("node/{node}/agent");
        eventually("the agent runs again", || {
            let status = lab.status();
            let processes = status["processes"].as_array().unwrap().clone();
            processes.iter().find(|p| p["what"] == label.as_str() && p["pid"] != *old).map(|_| ())
        });
        eventually("it has applied its plan", || {
            let status =
                lab.try_exec(&format!("node/{node}"), &["curl", "-s", "http://127.0.0.1:10256/healthz"]);
            status.status.success().then_some(()).filter(|()| synced(&lab, node))
        });
    }
    go_on(&load, 100);
    let requests = load.stop();
    assert_eq!(failures(&requests), Vec::<String>::new(), "of {} requests", requests.len());
    let after: Vec<u32> = nodes.iter().map(|node| generation(node)).collect();
    assert_eq!(after, before, "nf_tables' generations");
    for (node, monitor) in nodes.iter().zip(monitors) {
        assert_eq!(monitor.stop(), "", "ip monitor on {node}");
    }
}

/// Whether every part of the agent on `node` has applied its plan.
fn synced(lab: &Lab, node: &str) -> bool {
    let answer = lab.try_exec(
        &format!("node/{node}"),
        &["curl", "-s", "--unix-socket", "/run/seaway/agent.sock", "http://agent/v1/status"],
    );
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(&answer.stdout) else { return false };
    let parts = status["parts"].as_object().unwrap();
    status["api"]["synced"] == true
        && parts.values().all(|part| part["pending"] == false && part["lastSync"].is_string())
}

/// `ip monitor` on a node, of what an agent could change.
struct Monitor {
    child: std::process::Child,
}

impl Monitor {
    fn start(lab: &Lab, node: &str) -> Self {
        let child = Command::new(common::SEAWAY)
            .args(["lab", "exec", "--name", &lab.name, &format!("node/{node}"), "--"])
            // Neighbours come and go by themselves; those that an agent makes are permanent.
            .args(["ip", "monitor", "link", "address", "route"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn stop(mut self) -> String {
        use std::io::Read;
        self.child.kill().unwrap();
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

#[test]
fn connections_move_from_a_node_that_dies() {
    let (lab, load) = lab("death");
    go_on(&load, 50);
    let client_node = lab.kubectl(&["get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"]);
    let victims = lab.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}",
    ]);
    let (_, victim) = victims
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, node)| *node != client_node)
        .expect("a pod on another node than the client's");
    let dead: Vec<&str> = victims
        .lines()
        .filter_map(|l| l.split_once(' '))
        .filter(|(_, node)| *node == victim)
        .map(|(pod, _)| pod)
        .collect();
    lab.seaway(&["node", "stop", victim]);
    let left = 3 - dead.len();
    eventually("the dead node's endpoints are gone", || (ready_endpoints(&lab) == left).then_some(()));
    let moved = std::time::Instant::now();
    go_on(&load, 800);
    let requests = load.stop();
    // Those between the death and the change of the endpoints are the exception that nobody can mend: counted, not forbidden.
    let lost = requests.iter().filter(|request| request.answer.is_err() && request.begun < moved).count();
    eprintln!(
        "{lost} of {} requests were lost to the dead node before its endpoints were gone",
        requests.len()
    );
    // The agents forget half-open connections to the dead node when they follow, so that no port leads there any more.
    let settled = moved + FOLLOWED;
    let after: Vec<_> = requests.iter().filter(|request| request.begun > settled).collect();
    let late: Vec<_> = after.iter().filter(|request| request.answer.is_err()).collect();
    assert!(after.len() > 50 && late.is_empty(), "{late:?} of {}", after.len());
}
