//! The data path in real labs: from pods and nodes to pods, Services and the internet, and back.
//!
//! One lab has VXLAN between the nodes and NAT gateways with several addresses, the other routes on one network, a public
//! address for each node, and networks of its own choice. Both have to do the same but for what their lab file says.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::load::{address, request};
use common::{Lab, ONE_TO_ONE, checked, eventually};
use seaway_net::netns::NetNs;
use seaway_net::nft::{Family, Kernel, Nft, TableId, Transaction};

/// A server and a client on each node, and Services: of all servers, of one that is its own client, of none.
fn manifests() -> String {
    let pods = (1..=3).map(|n| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: server-{n}, labels: {{app: server, single: 'no-{n}'}}}}
spec:
  nodeName: node-{n}
  containers:
  - name: c
    image: registry.k8s.io/e2e-test-images/agnhost:2.40
    args: [netexec, --http-port=8080, --udp-port=8081]
    readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client-{n}, labels: {{app: client}}}}
spec:
  nodeName: node-{n}
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: busybox, command: [sleep, infinity]}}]
---"
        )
    });
    let services = [("all", "{app: server}"), ("single", "{single: no-1}"), ("none", "{app: none}")];
    let services = services.map(|(name, selector)| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {selector}
  ports: [{{name: web, port: 80, targetPort: 8080}}, {{name: udp, port: 81, protocol: UDP, targetPort: 8081}}]
---"
        )
    });
    pods.chain(services).collect()
}

/// A pod, a node or a host: its network namespace and what its packets should come from.
struct Place {
    what: String,
    netns: NetNs,
    ip: IpAddr,
}

impl Place {
    fn get(&self, server: SocketAddr, path: &str) -> std::io::Result<String> {
        self.netns.run(|| request(server, path)).unwrap()
    }

    /// One UDP request from a socket of its own.
    fn ask(&self, server: SocketAddr, question: &str) -> std::io::Result<String> {
        self.netns.run(|| ask(&client_socket(), server, question)).unwrap()
    }
}

fn client_socket() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn ask(socket: &UdpSocket, server: SocketAddr, question: &str) -> std::io::Result<String> {
    socket.send_to(question.as_bytes(), server)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A lab with the manifests running in it.
struct World {
    lab: Lab,
    servers: Vec<Place>,
    clients: Vec<Place>,
    nodes: Vec<Place>,
}

impl World {
    fn up(name: &str, lab_file: &str, arguments: &[&str]) -> Self {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        write!(file, "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec: {lab_file}\n").unwrap();
        let mut all = vec!["-f", file.path().to_str().unwrap()];
        all.extend(arguments);
        let lab = Lab::up(name, &all);
        lab.apply(&manifests());
        lab.kubectl(&["wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"]);
        let status = lab.status();
        let pid = |what: &str| {
            let processes = status["processes"].as_array().unwrap();
            let found = processes.iter().find(|p| p["what"] == what).unwrap_or_else(|| panic!("no {what}"));
            i32::try_from(found["pid"].as_i64().unwrap()).unwrap()
        };
        let place = |what: &str, ip: &str| Place {
            what: what.to_owned(),
            netns: NetNs::of_process(pid(what)).unwrap(),
            ip: ip.parse().unwrap(),
        };
        let pods = |kind: &str| {
            (1..=3)
                .map(|n| {
                    let name = format!("{kind}-{n}");
                    let ip = lab.kubectl(&["get", "pod", &name, "-o", "jsonpath={.status.podIP}"]);
                    place(&format!("pod/default/{name}/c"), &ip)
                })
                .collect()
        };
        let (servers, clients) = (pods("server"), pods("client"));
        let nodes = (1..=3).map(|n| place(&format!("node/node-{n}"), &format!("172.18.0.1{n}"))).collect();
        let world = Self { lab, servers, clients, nodes };
        for service in ["all", "single"] {
            let (web, udp) = (world.service(service, 80), world.service(service, 81));
            for place in world.clients.iter().chain(&world.nodes) {
                eventually("every node has the Services", || place.get(web, "/hostname").ok());
                eventually("every node has the UDP Services", || place.ask(udp, "hostname").ok());
            }
        }
        world
    }

    fn service(&self, name: &str, port: u16) -> SocketAddr {
        address(&self.lab.kubectl(&["get", "svc", name, "-o", "jsonpath={.spec.clusterIP}"]), port)
    }

    fn host(&self, name: &str) -> NetNs {
        NetNs::of_process(self.lab.pid(&format!("internet/{name}"))).unwrap()
    }
}

fn ip_of(client: &str) -> IpAddr {
    client.parse::<SocketAddr>().unwrap_or_else(|_| panic!("{client:?} is no address and port")).ip()
}

/// Pods see each other's own addresses, wherever they are.
fn pods_reach_pods(world: &World) {
    for client in &world.clients {
        for server in &world.servers {
            let seen = client.get(SocketAddr::new(server.ip, 8080), "/clientip").unwrap();
            assert_eq!(ip_of(&seen), client.ip, "{} at {}", client.what, server.what);
        }
    }
    for node in &world.nodes {
        for server in &world.servers {
            node.get(SocketAddr::new(server.ip, 8080), "/hostname").unwrap();
        }
    }
}

/// Services by TCP and UDP reach all their pods, from pods and nodes.
fn services_reach_all_pods(world: &World) {
    let (web, udp) = (world.service("all", 80), world.service("all", 81));
    let expected = BTreeSet::from(["server-1", "server-2", "server-3"].map(str::to_owned));
    for place in world.clients.iter().chain(&world.nodes) {
        // Three pods: that forty picks all miss one of them has a chance of one in ten million.
        let by_tcp: BTreeSet<_> = (0..40).map(|_| place.get(web, "/hostname").unwrap()).collect();
        assert_eq!(by_tcp, expected, "TCP from {}", place.what);
        let by_udp: BTreeSet<_> = (0..40).map(|_| place.ask(udp, "hostname").unwrap()).collect();
        assert_eq!(by_udp, expected, "UDP from {}", place.what);
    }
    for client in &world.clients {
        let seen = client.get(web, "/clientip").unwrap();
        assert_eq!(ip_of(&seen), client.ip, "{} through a Service", client.what);
    }
}

/// A pod that is its Service's only one reaches itself through it.
fn a_pod_reaches_itself(world: &World) {
    let itself = &world.servers[0];
    for _ in 0..3 {
        assert_eq!(itself.get(world.service("single", 80), "/hostname").unwrap(), "server-1");
    }
    assert_eq!(itself.ask(world.service("single", 81), "hostname").unwrap(), "server-1");
}

/// A Service without endpoints refuses instead of leaving callers to wait; so does a port that it does not have.
fn without_endpoints_refused(world: &World) {
    let refused = [world.service("none", 80), world.service("all", 82)];
    for place in world.clients.iter().chain(&world.nodes) {
        for server in refused {
            let error = place.get(server, "/").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{server} from {}: {error}", place.what);
        }
    }
}

/// Names over UDP and TCP.
fn names_resolve(world: &World) {
    let vip = world.service("all", 80).ip().to_string();
    for transport in ["+notcp", "+tcp"] {
        let name = "all.default.svc.cluster.local";
        let answer =
            world.lab.exec("default/client-1", &["dig", transport, "+short", "+time=2", "+tries=2", name]);
        assert_eq!(answer.trim(), vip, "{transport}");
    }
}

/// Packets of exactly the MTU pass between nodes undivided, no larger ones do, and long streams flow both ways.
fn large_packets_pass(world: &World, mtu: u16) {
    let far = &world.servers[1];
    // 20 bytes of IPv4 header and 8 of ICMP.
    let ping = |size: u16| {
        let (size, ip) = ((size - 28).to_string(), far.ip.to_string());
        world.lab.try_exec("default/client-1", &["ping", "-c1", "-W3", "-Mdo", "-s", &size, &ip])
    };
    assert!(ping(mtu).status.success(), "{:?}", ping(mtu));
    assert!(!ping(mtu + 1).status.success());

    const LENGTH: usize = 4 << 20;
    let listener = far.netns.run(|| TcpListener::bind((far.ip, 9000)).unwrap()).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        stream.write_all(&body).unwrap();
    });
    let body: Vec<u8> = (0..LENGTH).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let mut stream = world.clients[0].netns.run(|| TcpStream::connect((far.ip, 9000)).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&body).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == body, "{} of {LENGTH} bytes came back as they were sent", back.len());
    echo.join().unwrap();
}

/// google.com, as the lab files here have it.
const GOOGLE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), 80);

/// The internet sees each pod and node under the public addresses of its node: all of them over time, no other.
fn seen_outside_as(world: &World, expected: [&[&str]; 3]) {
    for (n, addresses) in expected.into_iter().enumerate() {
        let expected: BTreeSet<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        for place in [&world.clients[n], &world.nodes[n]] {
            let seen: BTreeSet<_> = (0..30).map(|_| place.get(GOOGLE.into(), "/").unwrap()).collect();
            assert_eq!(seen, expected, "{}", place.what);
        }
    }
}

/// `partner.example` lets those addresses in that it lists.
fn partner_admits(world: &World, admitted: [bool; 3]) {
    let partner = SocketAddr::from(([198, 51, 100, 40], 80));
    for (client, admitted) in world.clients.iter().zip(admitted) {
        match client.get(partner, "/") {
            Ok(_) => assert!(admitted, "{} was let in", client.what),
            Err(error) => {
                assert!(!admitted && error.to_string().contains(" 403 "), "{}: {error}", client.what);
            }
        }
    }
}

/// What the gateway has dropped because it came from no node.
fn dropped_at_the_gateway(world: &World) -> u64 {
    let table = world.lab.exec("gateway", &["nft", "list", "table", "ip", "seaway-gateway"]);
    let (_, counter) = table.split_once("counter packets ").expect("a counter");
    counter.split_whitespace().next().unwrap().parse().unwrap()
}

/// A pod gets out by its node's masquerade alone: the gateway drops what still has the pod's address.
fn nothing_leaves_without_masquerade(world: &World) {
    let agent = world.lab.pid("node/node-1/agent").to_string();
    let before = dropped_at_the_gateway(world);
    checked(std::process::Command::new("kill").args(["-STOP", &agent]));
    let table = TableId::new(Family::Ip, "seaway");
    let delete = || Kernel::open().unwrap().commit(&Transaction::remove(table)).unwrap();
    world.nodes[0].netns.run(delete).unwrap();
    let client = &world.clients[0];
    client.netns.run(|| client_socket().send_to(b"?", GOOGLE).unwrap()).unwrap();
    eventually("the gateway drops it", || (dropped_at_the_gateway(world) > before).then_some(()));
    checked(std::process::Command::new("kill").args(["-CONT", &agent]));
    eventually("the agent restores the masquerade", || client.get(GOOGLE.into(), "/").ok());
}

/// A UDP flow whose pod goes away goes on to another one.
fn a_udp_flow_moves_from_a_pod_that_goes(world: &World) {
    let server = world.service("all", 81);
    let socket = world.clients[1].netns.run(client_socket).unwrap();
    let first = ask(&socket, server, "hostname").unwrap();
    assert_eq!(ask(&socket, server, "hostname").unwrap(), first, "a flow stays where it is");
    world.lab.kubectl(&["delete", "pod", &first, "--wait=false"]);
    eventually("the flow moves", || ask(&socket, server, "hostname").ok().filter(|pod| *pod != first));
}

/// What a node has in its kernel about the others' pods.
fn ways(world: &World, node: &str) -> String {
    let script = "ip route show; ip neigh show nud permanent; bridge fdb show dev seaway.1 2>/dev/null; true";
    world.lab.exec(&format!("node/{node}"), &["sh", "-c", script])
}

/// A node that is removed leaves no way to it behind on the others, and has its ways again when it is back.
fn ways_follow_the_nodes(world: &World) {
    let field = |path: &str| world.lab.kubectl(&["get", "node", "node-3", "-o", &format!("jsonpath={path}")]);
    let network = field("{.spec.podCIDR}");
    // Routes name the whole network, a neighbour and the forwarding entry have the VXLAN interface's own address.
    let own = network.split('/').next().unwrap().to_owned();
    let left = |node: &str| {
        let ways = ways(world, node);
        let of_node = |line: &&str| line.contains(&own) || line.contains("172.18.0.13");
        ways.lines().filter(of_node).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!left("node-1").is_empty());
    world.lab.seaway(&["node", "stop", "node-3"]);
    world.lab.kubectl(&["delete", "node", "node-3"]);
    for node in ["node-1", "node-2"] {
        eventually("no way to the node is left", || left(node).is_empty().then_some(()));
    }
    world.lab.seaway(&["node", "start", "node-3"]);
    eventually("the node is back", || {
        let ready =
            ["get", "node", "node-3", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"];
        let output = world.lab.kubectl_command().args(ready).output().unwrap();
        (output.stdout == b"True").then_some(())
    });
    let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  nodeName: node-3
  containers: [{name: c, image: agnhost, args: [netexec]}]
";
    world.lab.apply(manifest);
    world.lab.kubectl(&["wait", "pod/again", "--for=condition=Ready", "--timeout=60s"]);
    let ip = world.lab.kubectl(&["get", "pod", "again", "-o", "jsonpath={.status.podIP}"]);
    let client = &world.clients[0];
    let seen = eventually("its pods are reached", || client.get(address(&ip, 8080), "/clientip").ok());
    assert_eq!(ip_of(&seen), client.ip);
}

fn everything_inside(world: &World, mtu: u16) {
    pods_reach_pods(world);
    services_reach_all_pods(world);
    a_pod_reaches_itself(world);
    without_endpoints_refused(world);
    names_resolve(world);
    large_packets_pass(world, mtu);
}

#[test]
fn vxlan_and_nat_gateways() {
    let lab_file = "
  cloud:
    egress:
      type: nat-gateway
      gateways:
      - {nodes: [node-1, node-2], addresses: [203.0.113.10, 203.0.113.11]}
      - {nodes: [node-3], addresses: [203.0.113.30]}
  internet:
    hosts:
    - {name: google.com, addresses: [198.51.100.10]}
    - {name: partner.example, addresses: [198.51.100.40], allow: [203.0.113.10/31]}";
    let world = World::up("vxlan", lab_file, &[]);
    everything_inside(&world, 1450);
    let shared = ["203.0.113.10", "203.0.113.11"].as_slice();
    seen_outside_as(&world, [shared, shared, &["203.0.113.30"]]);
    partner_admits(&world, [true, true, false]);
    nothing_leaves_without_masquerade(&world);
    a_udp_flow_moves_from_a_pod_that_goes(&world);
    ways_follow_the_nodes(&world);
}

#[test]
fn routes_and_a_public_address_for_each_node() {
    let networks = ["--backend", "host-gw", "--pod-cidr", "10.64.0.0/18", "--service-cidr", "10.80.0.0/20"];
    let world = World::up("hostgw", ONE_TO_ONE, &networks);
    let inside = |ip: IpAddr, net: [u8; 4], length: u32| match ip {
        IpAddr::V4(ip) => u32::from(ip) >> (32 - length) == u32::from(Ipv4Addr::from(net)) >> (32 - length),
        IpAddr::V6(_) => false,
    };
    assert!(world.servers.iter().all(|server| inside(server.ip, [10, 64, 0, 0], 18)));
    assert!(inside(world.service("all", 80).ip(), [10, 80, 0, 0], 20));
    everything_inside(&world, 1500);
    seen_outside_as(&world, [&["203.0.113.11"], &["203.0.113.77"], &["203.0.113.12"]]);
    partner_admits(&world, [false, true, false]);
    // And the other way: the outside reaches a node under its public address, and sees nothing of what is behind.
    let node = &world.nodes[1];
    let listener = node.netns.run(|| TcpListener::bind((node.ip, 9000)).unwrap()).unwrap();
    let outside = world.host("google.com");
    let public = SocketAddr::from(([203, 0, 113, 77], 9000));
    let _inbound = outside.run(|| TcpStream::connect(public).unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), GOOGLE.0);
    let pod = world.servers[1].ip;
    let timeout = Duration::from_millis(300);
    let direct = outside.run(|| TcpStream::connect_timeout(&SocketAddr::new(pod, 8080), timeout)).unwrap();
    assert!(direct.is_err(), "a pod's own address is reached from outside");
    nothing_leaves_without_masquerade(&world);
    a_udp_flow_moves_from_a_pod_that_goes(&world);
    ways_follow_the_nodes(&world);
}
