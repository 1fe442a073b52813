//! `seaway proxy` alone: a node of its own, with a kube-proxy's configuration file and without an agent.
//!
//! The node is the network namespace of a pod, which reaches the lab's API server and its pods, as a Node that the test
//! makes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::load::{WEB, address, request};
use common::{Lab, SEAWAY, checked, eventually};
use seaway_net::netns::NetNs;
use seaway_net::sysctl;
use serde_json::{Value, json};

/// The Node that the proxy serves.
const NODE: &str = "standalone";
/// The node port of the Service `nodes`.
const NODE_PORT: u16 = 31080;
/// The port of the health check of the Service `checked`.
const HEALTH_PORT: u16 = 31081;

/// A node without an agent.
struct Node<'a> {
    lab: &'a Lab,
    netns: NetNs,
    ip: String,
    directory: tempfile::TempDir,
}

/// A running proxy; killed when dropped.
struct Proxy {
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log.lock().unwrap());
        }
    }
}

impl Node<'_> {
    fn new(lab: &Lab) -> Node<'_> {
        let netns = NetNs::of_process(lab.pid("pod/default/client/c")).unwrap();
        // A node forwards.
        netns.run(|| sysctl::set("net/ipv4/ip_forward", "1").unwrap()).unwrap();
        let ip = lab.kubectl(&["get", "pod", "client", "-o", "jsonpath={.status.podIP}"]);
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "spec": {"unschedulable": true},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        });
        lab.apply(&node.to_string());
        let directory = tempfile::tempdir().unwrap();
        let server =
            lab.kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let kubeconfig =
            lab.kubectl(&["config", "view", "--raw"]).replace(&server, "https://172.18.0.2:6443");
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        let node = Node { lab, netns, ip, directory };
        node.configure("mode: iptables\nipvs: {scheduler: rr}\n");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration file, with `more` at its end.
    fn configure(&self, more: &str) {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             clientConnection: {{kubeconfig: {}}}\nclusterCIDR: 10.244.0.0/16\nnodePortAddresses: [primary]\n{more}",
            self.path("kubeconfig").display()
        );
        std::fs::write(self.path("config.conf"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SEAWAY);
        command.arg("proxy").args(arguments).arg(format!("--run-dir={}", self.directory.path().display()));
        command
    }

    /// Starts the proxy as a DaemonSet's container is.
    fn proxy(&self) -> Proxy {
        let config = format!("--config={}", self.path("config.conf").display());
        let mut command = self.command(&[&config, &format!("--hostname-override={NODE}")]);
        command.stderr(Stdio::piped());
        let mut process = self.netns.run(|| command.spawn().unwrap()).unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let written = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                written.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Proxy { process, log }
    }

    /// The status code and the text that a server answers to a GET from the node; `None` where nobody answers.
    fn get(&self, server: SocketAddr, path: &str) -> Option<(u16, String)> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.netns.run(ask).unwrap().ok()?;
        Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
    }

    fn local(&self, port: u16, path: &str) -> Option<(u16, String)> {
        self.get(SocketAddr::from(([127, 0, 0, 1], port)), path)
    }

    /// The body of an answer as JSON.
    fn json(&self, server: SocketAddr, path: &str) -> (u16, Value) {
        let (code, answer) = self.get(server, path).unwrap_or_else(|| panic!("no answer at {server}{path}"));
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (code, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    fn metrics(&self) -> String {
        self.local(10249, "/metrics").unwrap().1
    }

    /// The value of a metric, by how its line begins.
    fn metric(&self, name: &str) -> Option<f64> {
        self.metrics().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    fn nft(&self, arguments: &[&str]) -> String {
        let output = self.netns.run(|| Command::new("nft").args(arguments).output().unwrap()).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Which pod answers at a socket, from the node.
    fn who_answers(&self, server: SocketAddr) -> std::io::Result<String> {
        self.netns.run(|| request(server, "/hostname")).unwrap()
    }
}

/// Services without selectors, so that the test says which endpoints they have and where.
fn services(web: &str) -> String {
    let slice = |service: &str, node: &str, ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [web], "nodeName": node, "conditions": {"ready": ready}}],
        })
    };
    let nodes = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "nodes"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]},
    });
    let checked = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "checked"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT,
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    let items = [nodes, checked, slice("nodes", "elsewhere", true), slice("checked", NODE, true)];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[test]
fn a_service_proxy_alone() {
    let lab = Lab::up("proxy", &["--nodes", "2"]);
    lab.apply(WEB);
    lab.kubectl(&["wait", "--for=condition=available", "deployment/web", "--timeout=60s"]);
    lab.kubectl(&["wait", "--for=condition=ready", "pod/client", "--timeout=60s"]);
    let web = lab.kubectl(&["get", "pod", &lab.pod("app=web"), "-o", "jsonpath={.status.podIP}"]);
    lab.apply(&services(&web));
    let cluster_ip = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let node = Node::new(&lab);

    mistakes_end_it(&node);
    let proxy = node.proxy();
    eventually("the proxy has programmed the Service", || {
        node.nft(&["list", "table", "ip", "seaway"]).contains(&cluster_ip).then_some(())
    });
    serves_services(&node, &web, &cluster_ip);
    answers_as_kube_proxy(&node);
    says_what_has_no_effect(&proxy);
    checks_health_for_load_balancers(&node);
    tells_who_waits_for_an_address(&node);
    ends_and_leaves_the_rules(&node, proxy, &cluster_ip);
    takes_over_a_port(&node);
    cleans_up(&node);
}

/// A file with a mistake is refused, with its place.
fn mistakes_end_it(node: &Node<'_>) {
    node.configure("nodeportAddresses: []\n");
    let config = format!("--config={}", node.path("config.conf").display());
    let output = node.netns.run(|| node.command(&[&config]).output().unwrap()).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("config.conf:6:1: "), "{told}");
    assert!(told.contains("did you mean \"nodePortAddresses\"?"), "{told}");
    node.configure("mode: iptables\nipvs: {scheduler: rr}\n");
}

fn serves_services(node: &Node<'_>, web: &str, cluster_ip: &str) {
    let answer = eventually("the cluster IP answers", || node.who_answers(address(cluster_ip, 80)).ok());
    assert!(answer.starts_with("web-"), "{answer}");
    // The API server says where cluster IPs come from.
    assert!(node.nft(&["list", "table", "ip", "seaway"]).contains("10.96.0.0/12"));
    // No one else programs a node port of this node.
    let server = address(&node.ip, NODE_PORT);
    let by_node_port = eventually("the node port answers", || node.who_answers(server).ok());
    assert_eq!(by_node_port, node.who_answers(address(web, 8080)).unwrap());
    // From another pod, by way of this node.
    let other =
        NetNs::of_process(node.lab.pid(&format!("pod/default/{}/web", node.lab.pod("app=web")))).unwrap();
    let from_elsewhere = other.run(|| request(server, "/hostname")).unwrap().unwrap();
    assert_eq!(from_elsewhere, by_node_port);
}

fn answers_as_kube_proxy(node: &Node<'_>) {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (code, health) = node.json(address(&node.ip, 10256), "/healthz");
    assert_eq!(code, 200, "{health}");
    assert_eq!((&health["healthy"], &health["nodeEligible"]), (&json!(true), &json!(true)));
    assert_eq!(health["status"]["IPv4"]["healthy"], json!(true), "{health}");
    let (code, live) = node.json(local(10256), "/livez");
    assert_eq!((code, &live["healthy"], live.get("nodeEligible")), (200, &json!(true), None));
    assert_eq!(node.json(local(10249), "/healthz").0, 200);
    let (code, mode) = node.local(10249, "/proxyMode").unwrap();
    assert!(code == 200 && mode.ends_with("\r\n\r\nnftables"), "{mode}");
    let (_, configz) = node.json(local(10249), "/configz");
    let configz = &configz["kubeproxy.config.k8s.io"];
    assert_eq!((&configz["mode"], &configz["clusterCIDR"]), (&json!("iptables"), &json!("10.244.0.0/16")));
    assert_eq!(configz["healthzBindAddress"], json!("0.0.0.0:10256"));
    // From the outside only health is to be had.
    assert_eq!(node.get(address(&node.ip, 10249), "/metrics"), None);

    let metrics = node.metrics();
    for sample in [
        "# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} ",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
        "kubeproxy_proxy_healthz_total{code=\"200\"} ",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 0",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
    // An EndpointSlice says when its change began.
    let programmed = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} ";
    assert_eq!(node.metric(programmed), None);
    let now = checked(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]));
    let slice = json!({
        "metadata": {"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now.trim()}},
        "ports": [{"name": "", "port": 8081, "protocol": "TCP"}],
    });
    node.lab.kubectl(&["patch", "endpointslice", "nodes-1", "--type=merge", "-p", &slice.to_string()]);
    eventually("the time to program is told", || (node.metric(programmed)? == 1.0).then_some(()));
    let took =
        node.metric("kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"} ").unwrap();
    assert!(took > 0.0, "{took}");
}

fn says_what_has_no_effect(proxy: &Proxy) {
    let log = proxy.log.lock().unwrap().clone();
    for told in ["NF_TABLES is programmed instead", "ipvs.scheduler has no effect here"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

fn checks_health_for_load_balancers(node: &Node<'_>) {
    let server = address(&node.ip, HEALTH_PORT);
    let check = |wanted: u16| {
        eventually(&format!("the health check says {wanted}"), || {
            let (code, answer) = node.get(server, "/")?;
            (code == wanted).then_some(answer)
        })
    };
    let good = check(200);
    assert!(good.to_ascii_lowercase().contains("\r\nx-load-balancing-endpoint-weight: 1\r\n"), "{good}");
    let (_, body) = node.json(server, "/any/path");
    let service = json!({"namespace": "default", "name": "checked"});
    assert_eq!(body, json!({"service": service, "localEndpoints": 1, "serviceProxyHealthy": true}));
    // One that terminates does not count.
    let slice = json!([{"op": "add", "path": "/endpoints/0/conditions", "value":
        {"ready": false, "serving": true, "terminating": true}}]);
    node.lab.kubectl(&["patch", "endpointslice", "checked-1", "--type=json", "-p", &slice.to_string()]);
    let bad = check(503);
    assert!(bad.to_ascii_lowercase().contains("\r\nx-load-balancing-endpoint-weight: 0\r\n"), "{bad}");
    // Health checks and the metrics of Services without local endpoints tell the same.
    eventually("no local endpoints are counted", || {
        let policy = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} ";
        node.metric(policy)
    });

    // A port that someone else has: it is told of, and tried until it is free.
    let taken = node.netns.run(|| std::net::TcpListener::bind(("0.0.0.0", 31082)).unwrap()).unwrap();
    let late = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31082,
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    node.lab.apply(&late.to_string());
    eventually("the taken port is an event of the Service", || {
        let events = node.lab.kubectl(&["describe", "service", "late"]);
        (events.contains("FailedToStartServiceHealthcheck") && events.contains("31082")).then_some(())
    });
    drop(taken);
    eventually("the port is listened at when it is free", || {
        (node.get(address(&node.ip, 31082), "/")?.0 == 503).then_some(())
    });
    node.lab.kubectl(&["delete", "service", "late"]);
    eventually("the port is closed with its Service", || {
        node.get(address(&node.ip, 31082), "/").is_none().then_some(())
    });
}

/// Two Services that name one external address: the second is told.
fn tells_who_waits_for_an_address(node: &Node<'_>) {
    for name in ["first", "second"] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"externalIPs": ["203.0.113.77"], "ports": [{"port": 80}]},
        });
        node.lab.apply(&service.to_string());
    }
    eventually("the Service without the address is told", || {
        let events = node.lab.kubectl(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}",
        ]);
        let told = |line: &str| line.starts_with("AddressInUse 203.0.113.77:80") && line.contains("default/");
        events.lines().any(told).then_some(())
    });
    node.lab.kubectl(&["delete", "service", "first", "second"]);
}

fn ends_and_leaves_the_rules(node: &Node<'_>, mut proxy: Proxy, cluster_ip: &str) {
    let rules = node.nft(&["list", "table", "ip", "seaway"]);
    checked(Command::new("kill").arg(proxy.process.id().to_string()));
    let ended = proxy.process.wait().unwrap();
    assert!(ended.success(), "{ended}: {}", proxy.log.lock().unwrap());
    assert_eq!(node.nft(&["list", "table", "ip", "seaway"]), rules);
    node.who_answers(address(cluster_ip, 80)).unwrap();
}

/// A kube-proxy that still runs has the ports: its rules stay, and the ports are taken when it ends.
fn takes_over_a_port(node: &Node<'_>) {
    let bind = |port| node.netns.run(|| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap();
    let taken = [bind(10249), bind(10256)];
    node.nft(&["add", "table", "ip", "kube-proxy"]);
    let proxy = node.proxy();
    eventually("the proxy has met the taken ports", || {
        (proxy.log.lock().unwrap().matches("cannot listen; trying again").count() == 2).then_some(())
    });
    let left = || node.nft(&["list", "tables"]).contains("ip kube-proxy");
    assert!(left(), "what a running kube-proxy has is left alone");
    drop(taken);
    eventually("it listens when they are free", || (node.local(10256, "/healthz")?.0 == 200).then_some(()));

    eventually("what kube-proxy left is gone", || (!left()).then_some(()));
    // Without its Node object the node is none to send connections to.
    node.lab.kubectl(&["delete", "node", NODE]);
    eventually("a node that is deleted is not eligible", || {
        (node.local(10256, "/healthz")?.0 == 503).then_some(())
    });
    assert_eq!(node.local(10256, "/livez").unwrap().0, 200);

    node.configure("bindAddressHardFail: true\n");
    let config = format!("--config={}", node.path("config.conf").display());
    let output =
        node.netns.run(|| node.command(&[&config, "--hostname-override=x"]).output().unwrap()).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("bindAddressHardFail"), "{told}");
}

fn cleans_up(node: &Node<'_>) {
    node.nft(&["add", "table", "ip", "others"]);
    let output = node.netns.run(|| node.command(&["--cleanup"]).output().unwrap()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(node.nft(&["list", "tables"]), "table ip others\n");
}
