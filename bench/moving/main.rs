//! How soon new connections leave an endpoint that is taken out of a Service, and how many fail meanwhile.
//!
//! A client in a lab asks a Service of three pods several hundred times a second, each time on a new connection. The time
//! is from the EndpointSlice's change, as a watch sees it, to the last request begun that still went to the removed pod.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on shall end")]

#[path = "../../crates/seaway/tests/common/mod.rs"]
mod common;
mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::load::{Load, Request, WEB, address, failures, request};
use common::{Lab, eventually};
use seaway_net::netns::NetNs;
use watch::{Removed, Watch};

/// Between a thread's requests; the load has four threads.
const PAUSE: Duration = Duration::from_millis(3);
/// Requests after the last change, to see those that come too late.
const AFTERWARDS: usize = 150;

struct Bench {
    lab: Lab,
    watch: Watch,
    client: i32,
    server: SocketAddr,
}

/// What an event did to the load.
#[derive(Default)]
struct Measured {
    requests: usize,
    failed: Vec<String>,
    /// For each endpoint that was taken out.
    moved: Vec<Duration>,
}

impl Bench {
    fn start() -> Self {
        let lab = Lab::up("bench-moving", &[]);
        lab.apply(WEB);
        lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        lab.kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"]);
        let server = address(&lab.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]), 80);
        let client = lab.pid("pod/default/client/c");
        let netns = NetNs::of_process(client).unwrap();
        eventually("the service answers", || netns.run(|| request(server, "/hostname").ok()).unwrap());
        let watch = Watch::start(&lab);
        watch.wait(3, &BTreeSet::new());
        Self { lab, watch, client, server }
    }

    /// Does `event` under load; it returns when the endpoints have followed.
    fn measure(&self, into: &mut Measured, event: impl FnOnce(&Self)) {
        let load = Load::start(self.client, self.server, "/hostname", PAUSE);
        go_on(&load);
        let begun = Instant::now();
        event(self);
        go_on(&load);
        let requests = load.stop();
        into.requests += requests.len();
        into.failed.extend(failures(&requests));
        let removed = self.watch.removed(begun);
        into.moved.extend(removed.iter().map(|removed| after(&requests, removed)));
    }

    fn scale(&self, replicas: usize) {
        self.lab.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        self.watch.wait(replicas, &BTreeSet::new());
    }

    fn roll(&self) {
        let old = self.watch.now();
        self.lab.kubectl(&["rollout", "restart", "deployment/web"]);
        self.watch.wait(3, &old);
    }

    /// A ready pod, on another node than the client's where `far`.
    fn pod(&self, far: bool) -> (String, String) {
        let of = |selector: &str| {
            let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
            self.lab.kubectl(&["get", "pods", selector, "-o", columns])
        };
        let client = of("--field-selector=metadata.name=client");
        let home = client.split_whitespace().nth(1).unwrap().to_owned();
        let ready = self.watch.now();
        let pods = of("--selector=app=web");
        let mut pods = pods.lines().filter_map(|line| line.split_once(' '));
        let (pod, node) = pods.find(|(pod, node)| ready.contains(*pod) && (!far || *node != home)).unwrap();
        (pod.to_owned(), node.to_owned())
    }

    fn delete(&self) {
        let (pod, _) = self.pod(false);
        self.lab.kubectl(&["delete", "pod", &pod, "--wait=false"]);
        self.watch.wait(3, &BTreeSet::from([pod]));
    }

    fn fail_readiness(&self) {
        let (pod, _) = self.pod(false);
        self.lab.kubectl(&["exec", &pod, "--", "rm", "/tmp/ready"]);
        self.watch.wait(2, &BTreeSet::from([pod.clone()]));
        self.lab.kubectl(&["exec", &pod, "--", "touch", "/tmp/ready"]);
        self.watch.wait(3, &BTreeSet::new());
    }

    fn kill_node(&self) {
        let (pod, node) = self.pod(true);
        self.lab.seaway(&["node", "stop", &node]);
        eventually("the node's endpoints are gone", || (!self.watch.now().contains(&pod)).then_some(()));
    }
}

fn go_on(load: &Load) {
    let until = load.count() + AFTERWARDS;
    eventually("the load goes on", || (load.count() >= until).then_some(()));
}

/// How long after its removal the last request was begun that the pod answered, or that failed.
fn after(requests: &[Request], removed: &Removed) -> Duration {
    let went_there =
        |request: &&Request| request.answer.as_ref().map_or(true, |answerer| *answerer == removed.pod);
    let begun = requests.iter().filter(went_there).map(|request| request.begun);
    let until_back = begun.filter(|begun| removed.back.is_none_or(|back| *begun < back));
    until_back.map(|begun| begun.saturating_duration_since(removed.at)).max().unwrap_or_default()
}

fn show(event: &str, measured: &mut Measured) {
    measured.moved.sort_unstable();
    let milliseconds = |at: Option<&Duration>| match at {
        Some(at) => format!("{:.1}", at.as_secs_f64() * 1000.0),
        None => "-".to_owned(),
    };
    let (count, moved) = (measured.moved.len(), &measured.moved);
    println!(
        "{event:<20} {:>9} {:>7} {count:>14} {:>10} {:>10}",
        measured.requests,
        measured.failed.len(),
        milliseconds(moved.get(count / 2)),
        milliseconds(moved.last()),
    );
}

/// What takes an endpoint out of the Service.
type Event = fn(&Bench);

fn main() -> ExitCode {
    // Cargo adds an argument of its own.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let bench = Bench::start();
    println!(
        "{:<20} {:>9} {:>7} {:>14} {:>10} {:>10}",
        "event", "requests", "failed", "endpoints gone", "median ms", "most ms"
    );
    let events: [(&str, Event); 4] = [
        ("scaling", |bench| [6, 2, 5, 3].into_iter().for_each(|replicas| bench.scale(replicas))),
        ("rolling update", Bench::roll),
        ("pod deleted", Bench::delete),
        ("readiness fails", Bench::fail_readiness),
    ];
    let mut failed = Vec::new();
    for (name, event) in events {
        let mut measured = Measured::default();
        for _ in 0..rounds {
            bench.measure(&mut measured, event);
        }
        show(name, &mut measured);
        failed.append(&mut measured.failed);
    }
    let mut measured = Measured::default();
    bench.measure(&mut measured, Bench::kill_node);
    show("node dies", &mut measured);
    println!("Requests to a dead node fail until its endpoints are taken out; of the others none may.");
    failed.iter().for_each(|failure| eprintln!("failed: {failure}"));
    ExitCode::from(u8::from(!failed.is_empty()))
}
