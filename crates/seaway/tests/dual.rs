//! Labs with IPv6: beside IPv4 over VXLAN and a NAT gateway, and alone over routes and a public address for each node.
//!
//! Everything that a lab does in IPv4 it has to do in each of its families: pods, Services, names, the way out.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::load::{address, request};
use common::{Lab, checked, eventually};
use seaway_net::netns::NetNs;
use seaway_net::nft::{Family, Kernel, Nft, TableId, Transaction};
use serde_json::Value;

/// A server and a client on each of two nodes, and Services with and without addresses.
const MANIFESTS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers:
      - name: c
        image: registry.k8s.io/e2e-test-images/agnhost:2.40
        args: [netexec, --http-port=8080, --udp-port=8081]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        env: [{name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec:
  ipFamilyPolicy: PreferDualStack
  trafficDistribution: PreferSameZone
  selector: {app: server}
  ports: [{name: web, port: 80, targetPort: 8080}, {name: udp, port: 81, protocol: UDP, targetPort: 8081}]
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: none}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{port: 8080}]
";

/// A pod or a node: its network namespace and its addresses.
struct Place {
    /// As `lab exec` calls it.
    target: String,
    netns: NetNs,
    ips: Vec<IpAddr>,
}

impl Place {
    fn ip(&self, v6: bool) -> IpAddr {
        self.ips.iter().copied().find(|ip| ip.is_ipv6() == v6).unwrap()
    }

    fn get(&self, server: SocketAddr, path: &str) -> std::io::Result<String> {
        self.netns.run(|| request(server, path)).unwrap()
    }

    /// One UDP request from a socket of its own.
    fn ask(&self, server: SocketAddr, question: &str) -> std::io::Result<String> {
        self.netns
            .run(|| {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                socket.send_to(question.as_bytes(), server)?;
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer)?;
                Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
            })
            .unwrap()
    }
}

struct World {
    lab: Lab,
    servers: Vec<Place>,
    clients: Vec<Place>,
    nodes: Vec<Place>,
}

fn ips(list: &Value, field: &str) -> Vec<IpAddr> {
    let text = |entry: &Value| entry.get(field).unwrap_or(entry).as_str().unwrap().parse().unwrap();
    list.as_array().unwrap().iter().map(text).collect()
}

impl World {
    fn up(name: &str, lab_file: &str, arguments: &[&str]) -> Self {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        write!(file, "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec: {lab_file}\n").unwrap();
        let mut all = vec!["--nodes", "2", "-f", file.path().to_str().unwrap()];
        all.extend(arguments);
        let lab = Lab::up(name, &all);
        lab.apply(MANIFESTS);
        for set in ["server", "client"] {
            lab.kubectl(&["rollout", "status", &format!("daemonset/{set}"), "--timeout=60s"]);
        }
        let pods = |set: &str| -> Vec<Place> {
            let list = json(&lab, &["get", "pods", "-l", &format!("app={set}")]);
            let mut items = list["items"].as_array().unwrap().clone();
            items.sort_by_key(|pod| pod["spec"]["nodeName"].to_string());
            let place = |pod: &Value| {
                let target = format!("default/{}", pod["metadata"]["name"].as_str().unwrap());
                let netns = NetNs::of_process(lab.pid(&format!("pod/{target}/c"))).unwrap();
                Place { target, netns, ips: ips(&pod["status"]["podIPs"], "ip") }
            };
            items.iter().map(place).collect()
        };
        let nodes = json(&lab, &["get", "nodes"]);
        let node = |node: &Value| {
            let target = format!("node/{}", node["metadata"]["name"].as_str().unwrap());
            let all = node["status"]["addresses"].as_array().unwrap();
            let internal: Vec<Value> = all.iter().filter(|a| a["type"] == "InternalIP").cloned().collect();
            let netns = NetNs::of_process(lab.pid(&target)).unwrap();
            Place { target, netns, ips: ips(&internal.into(), "address") }
        };
        let nodes = nodes["items"].as_array().unwrap().iter().map(node).collect();
        let (servers, clients) = (pods("server"), pods("client"));
        Self { lab, servers, clients, nodes }
    }

    fn callers(&self) -> impl Iterator<Item = &Place> {
        self.clients.iter().chain(&self.nodes)
    }

    fn service(&self, name: &str, v6: bool, port: u16) -> SocketAddr {
        let service = json(&self.lab, &["get", "service", name]);
        let ip = ips(&service["spec"]["clusterIPs"], "").into_iter().find(|ip| ip.is_ipv6() == v6).unwrap();
        SocketAddr::new(ip, port)
    }

    /// What a resolver in the first client's pod answers to `question`, sorted.
    fn dig(&self, question: &[&str]) -> Vec<String> {
        let mut command = vec!["dig", "+short", "+time=2", "+tries=2"];
        command.extend(question);
        let answer = self.lab.exec(&self.clients[0].target, &command);
        let mut lines: Vec<String> = answer.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&lab.kubectl(&[arguments, &["-o", "json"]].concat())).unwrap()
}

/// Pods see each other's own addresses, wherever they are; nodes reach them; the largest packets pass.
fn pods_reach_pods(world: &World, v6: bool, mtu: u16) {
    for server in &world.servers {
        let to = SocketAddr::new(server.ip(v6), 8080);
        for client in &world.clients {
            let seen: SocketAddr = client.get(to, "/clientip").unwrap().parse().unwrap();
            assert_eq!(seen.ip(), client.ip(v6), "{} at {}", client.target, server.target);
        }
        for node in &world.nodes {
            node.get(to, "/hostname").unwrap();
        }
    }
    // The headers of IP and ICMP.
    let headers = if v6 { 48 } else { 28 };
    let far = world.servers[1].ip(v6).to_string();
    for (size, passes) in [(mtu, true), (mtu + 1, false)] {
        let size = (size - headers).to_string();
        let ping = ["ping", "-c1", "-W3", "-Mdo", "-s", &size, &far];
        assert_eq!(world.lab.try_exec(&world.clients[0].target, &ping).status.success(), passes, "{ping:?}");
    }
}

/// Services by TCP and UDP reach their pods from pods and nodes; one without endpoints refuses at once.
fn services_work(world: &World, v6: bool) {
    let (web, udp) = (world.service("all", v6, 80), world.service("all", v6, 81));
    let (none, undefined) = (world.service("none", v6, 80), world.service("all", v6, 82));
    for place in world.callers() {
        eventually("the Service is in the kernel", || place.get(web, "/hostname").ok());
        eventually("and by UDP", || place.ask(udp, "hostname").ok());
        for refused in [none, undefined] {
            let error = place.get(refused, "/").unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{refused} from {}",
                place.target
            );
        }
    }
    for client in &world.clients {
        let seen: SocketAddr = client.get(web, "/clientip").unwrap().parse().unwrap();
        assert_eq!(seen.ip(), client.ip(v6), "{} through a Service", client.target);
    }
}

/// Each node serves node ports at its address, and says so at its health check.
fn nodes_serve(world: &World, v6: bool) {
    for node in &world.nodes {
        for place in world.callers() {
            let port = SocketAddr::new(node.ip(v6), 30080);
            eventually("the node port is in the kernel", || place.get(port, "/hostname").ok());
        }
        world.clients[0].get(SocketAddr::new(node.ip(v6), 10256), "/healthz").unwrap();
    }
}

/// Names, addresses and back.
fn names_resolve(world: &World, v6: bool) {
    let kind = if v6 { "AAAA" } else { "A" };
    let service = world.service("all", v6, 80).ip().to_string();
    assert_eq!(world.dig(&[kind, "all.default.svc.cluster.local"]), [service.as_str()]);
    assert_eq!(world.dig(&["-x", &service]), ["all.default.svc.cluster.local."]);
    let mut pods: Vec<String> = world.servers.iter().map(|server| server.ip(v6).to_string()).collect();
    pods.sort();
    assert_eq!(world.dig(&[kind, "headless.default.svc.cluster.local"]), pods);
    let dashed = pods[0].replace(['.', ':'], "-");
    let names = ["all", "headless"].map(|service| format!("{dashed}.{service}.default.svc.cluster.local."));
    let found = world.dig(&["-x", &pods[0]]);
    assert!(names.iter().all(|name| found.contains(name)), "{found:?}");
    assert_eq!(world.dig(&[kind, &format!("{dashed}.default.pod.cluster.local")]), [pods[0].as_str()]);
    let google = google(v6).to_string();
    assert_eq!(world.dig(&[kind, "google.com"]), [google.as_str()]);
    assert_eq!(world.dig(&["-x", &google]), ["google.com."]);
    for client in &world.clients {
        let hosts = world.lab.exec(&client.target, &["cat", "/etc/hosts"]);
        assert!(hosts.lines().any(|line| line.starts_with(&format!("{}\t", client.ip(v6)))), "{hosts}");
    }
}

fn google(v6: bool) -> IpAddr {
    if v6 { "2001:db8:198:51::10" } else { "198.51.100.10" }.parse().unwrap()
}

/// The outside sees the public address of the caller's node; a partner lets those in that it lists.
fn seen_outside_as(world: &World, v6: bool, expected: [&str; 2], admitted: [bool; 2]) {
    let partner = address(if v6 { "2001:db8:198:51::40" } else { "198.51.100.40" }, 80);
    for n in 0..2 {
        for place in [&world.clients[n], &world.nodes[n]] {
            let seen = place.get(SocketAddr::new(google(v6), 80), "/").unwrap();
            assert_eq!(seen, expected[n], "{}", place.target);
            assert_eq!(place.get(partner, "/").is_ok(), admitted[n], "{}", place.target);
        }
    }
}

/// Without the node's masquerade the gateway drops what has a pod's address; the agent puts the table back.
fn nothing_leaves_without_masquerade(world: &World) {
    let dropped = || -> u64 {
        let table = world.lab.exec("gateway", &["nft", "list", "table", "ip6", "seaway-gateway"]);
        let (_, counter) = table.split_once("counter packets ").expect("a counter");
        counter.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(dropped(), 0, "the lab itself sends nothing that the gateway drops");
    let agent = world.lab.pid("node/node-1/agent").to_string();
    checked(std::process::Command::new("kill").args(["-STOP", &agent]));
    let table = TableId::new(Family::Ip6, "seaway");
    let delete = || Kernel::open().unwrap().commit(&Transaction::remove(table)).unwrap();
    world.nodes[0].netns.run(delete).unwrap();
    let (client, google) = (&world.clients[0], SocketAddr::new(google(true), 80));
    let _ = client.ask(google, "?");
    eventually("the gateway drops it", || (dropped() > 0).then_some(()));
    checked(std::process::Command::new("kill").args(["-CONT", &agent]));
    eventually("the agent restores the masquerade", || client.get(google, "/").ok());
}

/// `seaway trace --verify` agrees with what the packets do.
fn trace_agrees(world: &World, from: &Place, targets: &[String]) {
    for target in targets {
        let mut trace = std::process::Command::new(common::SEAWAY);
        let traced = trace
            .env("SEAWAY_LAB", &world.lab.name)
            .args(["trace", &from.target, target, "--verify"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&traced.stdout);
        assert!(
            traced.status.success() && text.contains("every hop was seen as it was told"),
            "{traced:?}\n{text}"
        );
    }
}

fn each_family(world: &World, families: &[bool], mtu: u16) {
    for v6 in families {
        pods_reach_pods(world, *v6, mtu);
        services_work(world, *v6);
        nodes_serve(world, *v6);
        names_resolve(world, *v6);
    }
}

/// What kubectl and the API tell of both families.
fn told_in_both_families(world: &World) {
    let node = json(&world.lab, &["get", "node", "node-1"]);
    assert_eq!(node["spec"]["podCIDRs"].as_array().unwrap().len(), 2);
    assert_eq!(node["spec"]["podCIDR"], node["spec"]["podCIDRs"][0]);
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "a");
    for place in world.nodes.iter().chain(&world.servers) {
        assert_eq!(
            place.ips.iter().map(IpAddr::is_ipv6).collect::<Vec<_>>(),
            [false, true],
            "{}",
            place.target
        );
    }
    let told = world.lab.exec(&world.servers[0].target, &["printenv", "POD_IPS"]);
    assert_eq!(
        told.trim(),
        world.servers[0].ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    );
    let slices = json(&world.lab, &["get", "endpointslices", "-l", "kubernetes.io/service-name=all"]);
    let slices = slices["items"].as_array().unwrap();
    let types: BTreeSet<&str> = slices.iter().map(|slice| slice["addressType"].as_str().unwrap()).collect();
    assert_eq!(types, BTreeSet::from(["IPv4", "IPv6"]));
    for endpoint in slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap()) {
        assert_eq!(endpoint["hints"]["forZones"][0]["name"], endpoint["zone"]);
    }
    let described = world.lab.kubectl(&["describe", "service", "all"]);
    assert!(described.contains("IPv4,IPv6"), "{described}");
    let own = ["get", "endpoints", "all", "-o", "jsonpath={.subsets[*].addresses[*].ip}"];
    assert!(!world.lab.kubectl(&own).contains(':'), "Endpoints have the primary family alone");
}

/// A Service gives its second address up and gets one again; the first stays.
fn a_service_changes_its_families(world: &World) {
    let (four, six) = (world.service("all", false, 80), world.service("all", true, 80));
    let policy = |policy: &str| {
        let patch = format!("{{\"spec\": {{\"ipFamilyPolicy\": \"{policy}\"}}}}");
        world.lab.kubectl(&["patch", "service", "all", "-p", &patch]);
    };
    policy("SingleStack");
    eventually("the second address is nobody's", || world.clients[0].get(six, "/hostname").err());
    world.clients[0].get(four, "/hostname").unwrap();
    policy("RequireDualStack");
    assert_eq!(world.service("all", false, 80), four);
    let six = world.service("all", true, 80);
    eventually("the new address works", || world.clients[0].get(six, "/hostname").ok());
    let alone = json(&world.lab, &["get", "service", "six"]);
    assert_eq!(ips(&alone["spec"]["clusterIPs"], "").len(), 1);
    world.clients[0].get(world.service("six", true, 80), "/hostname").unwrap();
}

/// What a node has in its kernel about the others' pods in IPv6.
fn ways(world: &World) -> String {
    let script = "ip -6 route; ip -6 neigh show nud permanent; bridge fdb show dev seaway-v6.1";
    world.lab.exec("node/node-1", &["sh", "-c", script])
}

/// A node that is removed leaves no way to it behind, and is reached again when it is back.
fn ways_follow_the_nodes(world: &World) {
    let network = world.lab.kubectl(&["get", "node", "node-2", "-o", "jsonpath={.spec.podCIDRs[1]}"]);
    let own = network.split('/').next().unwrap();
    let left = || -> Vec<String> {
        let of_node = |line: &&str| {
            line.contains(&format!("{own} "))
                || line.contains(&network)
                || line.contains("fd00:172:18::12 self")
        };
        ways(world).lines().filter(of_node).map(str::to_owned).collect()
    };
    assert_eq!(left().len(), 3, "a route, a neighbour and a forwarding entry: {:?}", left());
    world.lab.seaway(&["node", "stop", "node-2"]);
    world.lab.kubectl(&["delete", "node", "node-2"]);
    eventually("no way to the node is left", || left().is_empty().then_some(()));
    world.lab.seaway(&["node", "start", "node-2"]);
    eventually("its new server is reached", || {
        let list =
            json(&world.lab, &["get", "pods", "-l", "app=server", "--field-selector=spec.nodeName=node-2"]);
        let mut pods =
            list["items"].as_array()?.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let ip = ips(&pods.next_back()?["status"].get("podIPs")?.clone(), "ip")
            .into_iter()
            .find(IpAddr::is_ipv6)?;
        world.clients[0].get(SocketAddr::new(ip, 8080), "/hostname").ok()
    });
}

/// A UDP flow whose pod goes away goes on to another one.
fn a_udp_flow_moves_from_a_pod_that_goes(world: &World) {
    let server = world.service("all", true, 81);
    let client = &world.clients[0].netns;
    let socket = client.run(|| UdpSocket::bind("[::]:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let ask = || -> Option<String> {
        socket.send_to(b"hostname", server).ok()?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let first = eventually("an answer", ask);
    assert_eq!(ask().unwrap(), first, "a flow stays where it is");
    world.lab.kubectl(&["delete", "pod", &first, "--wait=false"]);
    eventually("the flow moves", || ask().filter(|pod| *pod != first));
}

#[test]
fn both_families_over_vxlan() {
    let world = World::up("dual", "{ipFamily: dual, cloud: {zones: [a, b]}}", &[]);
    told_in_both_families(&world);
    // VXLAN over IPv6 takes 70 bytes, and a pod's interface has one MTU.
    each_family(&world, &[false, true], 1430);
    seen_outside_as(&world, false, ["203.0.113.10"; 2], [true; 2]);
    seen_outside_as(&world, true, ["2001:db8:203:113::10"; 2], [true; 2]);
    let six = world.service("all", true, 80);
    let client = &world.clients[0];
    trace_agrees(&world, client, &["http://all".into(), format!("http://{six}"), "http://google.com".into()]);
    // A node that calls its own pod and another one's: by which of its addresses?
    let own = |server: &Place| format!("http://{}", SocketAddr::new(server.ip(true), 8080));
    trace_agrees(&world, &world.nodes[0], &[own(&world.servers[0]), own(&world.servers[1])]);
    a_service_changes_its_families(&world);
    nothing_leaves_without_masquerade(&world);
    a_udp_flow_moves_from_a_pod_that_goes(&world);
    ways_follow_the_nodes(&world);
}

#[test]
fn ipv6_alone_over_routes() {
    let lab_file = "
  cloud:
    egress: {type: one-to-one, addresses: {node-1: '2001:db8:203:113::77'}}
  internet:
    hosts:
    - {name: google.com, addresses: ['2001:db8:198:51::10']}
    - {name: partner.example, addresses: ['2001:db8:198:51::40'], allow: ['2001:db8:203:113::77/128']}";
    let arguments = ["--ip-family", "ipv6", "--backend", "host-gw", "--pod-cidr", "fd00:64::/56"];
    let world = World::up("six", lab_file, &arguments);
    assert!(world.servers.iter().all(|server| server.ips.len() == 1));
    each_family(&world, &[true], 1500);
    seen_outside_as(&world, true, ["2001:db8:203:113::77", "2001:db8:203:113::11"], [true, false]);
    trace_agrees(&world, &world.clients[0], &["http://all".into(), "http://google.com".into()]);
    // The outside reaches a node under its public address.
    let node = &world.nodes[0];
    let listener = node.netns.run(|| TcpListener::bind((node.ip(true), 9000)).unwrap()).unwrap();
    let outside = NetNs::of_process(world.lab.pid("internet/google.com")).unwrap();
    let _inbound =
        outside.run(|| TcpStream::connect(address("2001:db8:203:113::77", 9000)).unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), google(true));
    let port = address("2001:db8:203:113::77", 30080);
    assert!(outside.run(|| request(port, "/hostname")).unwrap().is_ok(), "a node port from outside");
    nothing_leaves_without_masquerade(&world);
}
