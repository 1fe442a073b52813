//! Random labs and random questions: what `seaway trace` tells is what `--verify` sees, every time.
//!
//! `SEAWAY_TRACE_SEED` repeats a run, `SEAWAY_TRACE_LABS` and `SEAWAY_TRACE_QUESTIONS` make it longer.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;

use common::trace::{Answer, differences, trace};
use common::{Lab, eventually};

/// Numbers that look random (splitmix64; Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().ok().unwrap_or_else(|| panic!("{name}={text}")))
}

/// A pod: its ports are its own, so that any number of them may have their node's network.
struct Pod {
    name: String,
    node: usize,
    host_network: bool,
    serves: bool,
    port: usize,
    services: Vec<usize>,
}

/// A Service, by the number in its name.
struct Service {
    headless: bool,
    /// Both of its traffic policies.
    policies: [&'static str; 2],
    /// `ClientIP` or `None`.
    affinity: &'static str,
    /// Its port is a node port as well, and it has an external IP.
    external: bool,
}

impl Service {
    fn of(random: &mut Random) -> Self {
        let mut policy = || if random.chance(30) { "Local" } else { "Cluster" };
        Self {
            policies: [policy(), policy()],
            headless: random.chance(30),
            affinity: if random.chance(30) { "ClientIP" } else { "None" },
            external: random.chance(60),
        }
    }

    fn manifest(&self, n: usize) -> String {
        let [inside, outside] = self.policies;
        let (port, external) = (30_000 + 2 * n, self.external && !self.headless);
        let (web, udp) = (format!(", nodePort: {port}"), format!(", nodePort: {}", port + 1));
        let (web, udp) = if external { (web, udp) } else { (String::new(), String::new()) };
        let kind = if self.headless {
            "clusterIP: None, ".to_owned()
        } else if external {
            format!("type: NodePort, externalTrafficPolicy: {outside}, externalIPs: [192.0.2.{}], ", 200 + n)
        } else {
            String::new()
        };
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: service-{n}}}
spec: {{{kind}sessionAffinity: {}, internalTrafficPolicy: {inside}, selector: {{s{n}: 'yes'}}, ports: [
  {{name: web, port: 80, targetPort: web{web}}}, {{name: udp, port: 81, protocol: UDP, targetPort: udp{udp}}}]}}
---",
            self.affinity
        )
    }
}

/// A lab by its own numbers.
struct Design {
    nodes: usize,
    backend: &'static str,
    file: String,
    pods: Vec<Pod>,
    services: Vec<Service>,
}

impl Design {
    fn of(random: &mut Random) -> Self {
        let nodes = 1 + random.below(4);
        let services: Vec<Service> = (0..2 + random.below(3)).map(|_| Service::of(random)).collect();
        let pods = (0..3 + random.below(5)).map(|n| Pod {
            name: format!("pod-{n}"),
            node: 1 + random.below(nodes),
            host_network: random.chance(20),
            serves: random.chance(70),
            port: 20_000 + 2 * n,
            services: (0..services.len()).filter(|_| random.chance(45)).collect(),
        });
        let pods = pods.collect();
        let backend = *random.pick(&["vxlan", "host-gw"]);
        Self { nodes, backend, file: lab_file(random, nodes), pods, services }
    }

    fn manifests(&self) -> String {
        let mut text = String::new();
        for pod in &self.pods {
            let labels: String = pod.services.iter().map(|n| format!(", s{n}: 'yes'")).collect();
            let (name, node, host, web) = (&pod.name, pod.node, pod.host_network, pod.port);
            let udp = web + 1;
            let container = if pod.serves {
                format!(
                    "{{name: c, image: agnhost, args: [netexec, --http-port={web}, --udp-port={udp}],
     ports: [{{name: web, containerPort: {web}}}, {{name: udp, containerPort: {udp}, protocol: UDP}}],
     readinessProbe: {{httpGet: {{path: /healthz, port: {web}}}, periodSeconds: 1}}}}"
                )
            } else {
                "{name: c, image: busybox, command: [sleep, infinity]}".to_owned()
            };
            let labels = if pod.serves { labels } else { String::new() };
            write!(
                text,
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: random{labels}}}}}
spec:
  nodeName: node-{node}
  hostNetwork: {host}
  terminationGracePeriodSeconds: 0
  containers:
  - {container}
---"
            )
            .unwrap();
        }
        for (n, service) in self.services.iter().enumerate() {
            text.push_str(&service.manifest(n));
        }
        text
    }

    /// How many endpoints a node uses for the Service's cluster IP.
    fn endpoints(&self, service: usize, node: usize) -> usize {
        let local = self.services[service].policies[0] == "Local";
        let serves =
            |pod: &&Pod| pod.serves && pod.services.contains(&service) && (!local || pod.node == node);
        self.pods.iter().filter(serves).count()
    }

    fn up(&self, name: &str) -> Lab {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        file.write_all(self.file.as_bytes()).unwrap();
        let nodes = self.nodes.to_string();
        let path = file.path().to_str().unwrap();
        let lab = Lab::up(name, &["-f", path, "--nodes", &nodes, "--backend", self.backend]);
        lab.apply(&self.manifests());
        lab.kubectl(&["wait", "pods", "--all", "-A", "--for=condition=Ready", "--timeout=60s"]);
        for (n, _) in self.services.iter().enumerate().filter(|(_, service)| !service.headless) {
            for node in 1..=self.nodes {
                let ask = [format!("node/node-{node}"), format!("svc/default/service-{n}:80")];
                let ask = ask.each_ref().map(String::as_str);
                eventually("every node has the Services", || {
                    let json = trace(&lab, &ask).json;
                    let hops = json["hops"].as_array()?;
                    let hop = hops.iter().find(|hop| hop["kind"] == "service")?;
                    let ready = hop["after"]["destination"].as_array().map_or(0, Vec::len);
                    (ready == self.endpoints(n, node)).then_some(())
                });
            }
        }
        lab
    }

    fn caller(&self, random: &mut Random) -> String {
        match random.below(10) {
            0 => format!("internet/{}", *random.pick::<&str>(&["google.com", "partner.example"])),
            1 | 2 => format!("node/node-{}", 1 + random.below(self.nodes)),
            _ => format!("default/{}", random.pick(&self.pods).name),
        }
    }

    /// TO and more arguments.
    fn target(&self, random: &mut Random) -> Vec<String> {
        let service = random.below(self.services.len());
        let pod = random.pick(&self.pods);
        let headless = self.services[service].headless;
        let own_port = self.pods.iter().find(|pod| pod.serves && pod.services.contains(&service));
        let port = if headless { own_port.map_or(80, |pod| pod.port) } else { 80 };
        let one = |text: String| vec![text];
        let by = |text: String, proto: &str| vec![text, "--proto".to_owned(), proto.to_owned()];
        let node = 1 + random.below(self.nodes);
        let node_port = 30_000 + 2 * service;
        let public = format!("203.0.113.{}", 10 + node);
        match random.below(22) {
            16 => one(format!("node/node-{node}:{node_port}")),
            17 => by(format!("node/node-{node}:{}", node_port + 1), "udp"),
            18 => one(format!("192.0.2.{}:80", 200 + service)),
            19 => by(format!("192.0.2.{}:81", 200 + service), "udp"),
            20 => one(format!("{public}:{node_port}")),
            21 => by(format!("{public}:{}", node_port + 1), "udp"),
            0 if !headless => one(format!("svc/default/service-{service}:80")),
            1 if !headless => by(format!("svc/default/service-{service}:81"), "udp"),
            2 if !headless => one(format!("svc/default/service-{service}:82")),
            3 if !headless => by(format!("svc/default/service-{service}"), "icmp"),
            0..=4 => one(format!("service-{service}:{port}")),
            5 => one(format!("service-{service}.default.svc.cluster.local.:{port}")),
            6 => one(format!("pod/default/{}:{}", pod.name, pod.port)),
            7 => by(format!("pod/default/{}:{}", pod.name, pod.port + 1), "udp"),
            8 => by(format!("pod/default/{}", pod.name), "icmp"),
            9 => by(format!("node/node-{}", 1 + random.below(self.nodes)), "icmp"),
            10 => one(format!("node/node-{}:10250", 1 + random.below(self.nodes))),
            11 => one("kubernetes.default.svc.cluster.local:443".to_owned()),
            12 => by("10.96.0.10:53".to_owned(), random.pick::<&str>(&["udp", "tcp"])),
            13 => one((*random.pick(&["partner.example", "198.51.100.40:80", "nobody.example"])).to_owned()),
            14 => by("198.51.100.10".to_owned(), "icmp"),
            _ => one((*random.pick(&["google.com", "http://google.com.", "198.51.100.10:81"])).to_owned()),
        }
    }
}

fn lab_file(random: &mut Random, nodes: usize) -> String {
    let egress = if random.chance(40) {
        "{type: one-to-one}".to_owned()
    } else {
        // Some nodes have no way out: their DNS pods have no resolver.
        let owners: Vec<usize> = (0..nodes).map(|_| random.below(3)).collect();
        let gateways = (0..2).filter_map(|gateway| {
            let listed = owners.iter().enumerate().filter(|(_, owner)| **owner == gateway);
            let listed: Vec<String> = listed.map(|(n, _)| format!("node-{}", n + 1)).collect();
            let addresses = (0..=random.below(3)).map(|n| format!("203.0.113.{}", 20 + 10 * gateway + n));
            let addresses: Vec<String> = addresses.collect();
            (!listed.is_empty())
                .then(|| format!("{{nodes: [{}], addresses: [{}]}}", listed.join(", "), addresses.join(", ")))
        });
        let gateways: Vec<String> = gateways.collect();
        format!("{{type: nat-gateway, gateways: [{}]}}", gateways.join(", "))
    };
    let allow = random.pick(&["203.0.113.20/32", "203.0.113.11/32", "203.0.113.0/24"]);
    format!(
        "apiVersion: lab.seaway.dev/v1alpha1
kind: Lab
spec:
  cloud: {{egress: {egress}}}
  internet:
    hosts:
    - {{name: google.com, addresses: [198.51.100.10]}}
    - {{name: partner.example, addresses: [198.51.100.40], allow: [{allow}]}}
"
    )
}

/// It is told that DNS pods differ, so that nobody knows beforehand what a name is; nothing was seen otherwise.
fn is_left_open(answer: &Answer) -> bool {
    let hops = || answer.json["hops"].as_array().into_iter().flatten();
    let says_why = |hop: &serde_json::Value| {
        hop["kind"] == "dns" && hop["object"].as_str().is_some_and(|text| text.contains("answer differently"))
    };
    answer.json["verdict"] == "unknown"
        && hops().any(says_why)
        && hops().all(|hop| hop["result"] != "differs")
}

#[test]
fn what_is_told_is_what_is_seen() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = setting("SEAWAY_TRACE_SEED", u64::from(now.subsec_nanos()));
    let (labs, questions) = (setting("SEAWAY_TRACE_LABS", 2), setting("SEAWAY_TRACE_QUESTIONS", 20));
    let mut wrong = Vec::new();
    for seed in first..first + labs {
        let mut random = Random(seed);
        let design = Design::of(&mut random);
        let lab = design.up(&format!("random-{seed}"));
        for _ in 0..questions {
            let mut ask = vec![design.caller(&mut random)];
            ask.extend(design.target(&mut random));
            ask.push("--verify".to_owned());
            let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
            let answer = trace(&lab, &ask);
            let problems = if is_left_open(&answer) { Vec::new() } else { differences(&answer) };
            if !problems.is_empty() {
                wrong.push(format!(
                    "SEAWAY_TRACE_SEED={seed} SEAWAY_TRACE_LABS=1: {}\n  {}",
                    ask.join(" "),
                    problems.join("\n  ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
