//! `seaway trace` in real labs: what is told, to whom the destination thinks it talks, and that the packets agree.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;

use common::trace::{problems, trace};
use common::{Lab, ONE_TO_ONE, eventually};

/// A lab with what traces are asked about; `lab_file` is its `spec`.
fn lab(name: &str, lab_file: &str, arguments: &[&str]) -> Lab {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    write!(file, "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec: {lab_file}\n").unwrap();
    let lab = Lab::up(name, &[&["-f", file.path().to_str().unwrap()], arguments].concat());
    settle(&lab);
    lab
}

/// Applies the manifests, and waits until all pods are ready and every node has all Services.
fn settle(lab: &Lab) {
    lab.apply(include_str!("common/asked.yaml"));
    lab.kubectl(&["wait", "pods", "--all", "-A", "--for=condition=Ready", "--timeout=60s"]);
    for node in ["node/node-1", "node/node-2", "node/node-3"] {
        for (service, endpoints) in [("all", 2), ("single", 1), ("own", 1)] {
            let ask = [node, &format!("svc/default/{service}:80")];
            eventually("every node has the Services", || {
                let json = trace(lab, &ask).json;
                let hop = json["hops"].as_array()?.iter().find(|hop| hop["kind"] == "service")?.clone();
                (hop["after"]["destination"].as_array()?.len() == endpoints).then_some(())
            });
        }
    }
}

/// Addresses of pods, by name.
struct Addresses<'a>(&'a Lab);

impl Addresses<'_> {
    fn pod(&self, name: &str) -> String {
        self.0.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"])
    }

    fn vip(&self, name: &str) -> String {
        self.0.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// The first address of a node's tunnel: its pod network's own.
    fn tunnel(&self, node: &str) -> String {
        let network = self.0.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.podCIDR}"]);
        network.split('/').next().unwrap().to_owned()
    }
}

/// As what the DNS pods see node-1, sorted: as its own address on itself, through the tunnel elsewhere.
fn to_dns(lab: &Lab, own: &str, tunnel: &str) -> BTreeSet<String> {
    let path = "jsonpath={.items[*].spec.nodeName}";
    let nodes = lab.kubectl(&["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", path]);
    let seen_as = |node| if node == "node-1" { own } else { tunnel };
    nodes.split_whitespace().map(|node| seen_as(node).to_owned()).collect()
}

/// FROM, TO and more arguments; the verdict; `sourceSeenByDestination`.
type Case<'a> = (&'a [&'a str], &'a str, &'a [&'a str]);

/// All are told and verified so.
fn check(lab: &Lab, cases: &[Case<'_>]) {
    let wrong = cases.iter().flat_map(|(ask, verdict, seen_as)| problems(lab, ask, verdict, seen_as));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn in_the_lab_of_the_examples() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let lab = Lab::up("trace", &["-f", examples]);
    settle(&lab);
    let of = Addresses(&lab);
    let (client, server, server_2) = (of.pod("client-1"), of.pod("server-1"), of.pod("server-2"));
    let all = of.vip("all");
    let (tunnel, tunnel_2) = (of.tunnel("node-1"), of.tunnel("node-2"));
    let to_dns = to_dns(&lab, "172.18.0.11", &tunnel);
    let to_dns: Vec<&str> = to_dns.iter().map(String::as_str).collect();
    let public = ["203.0.113.10"].as_slice();
    let me = [client.as_str()];
    let me = me.as_slice();
    let from = "default/client-1";
    let (direct, all_80) = (format!("{server_2}:8080"), format!("{all}:80"));
    let dashed = format!("{}.default.pod.cluster.local:8080", server_2.replace('.', "-"));
    let nobody = "172.18.9.9:80";
    let names: &[Case<'_>] = &[
        (&[from, "google.com"], "delivered", public),
        (&[from, "google.com", "--libc", "musl"], "delivered", public),
        (&[from, "http://google.com./x"], "delivered", public),
        (&[from, "www.baidu.com"], "delivered", public),
        (&[from, "partner.example"], "delivered", public),
        (&[from, "https://google.com"], "refused", public),
        (&[from, "search.example"], "delivered", public),
        (&["default/client-2", "search.example"], "no-such-name", &[]),
        (&[from, "no.such.name.example"], "no-such-name", &[]),
        (&[from, "nobody"], "no-such-name", &[]),
        (&[from, "all"], "delivered", me),
        (&[from, "all.default.svc.cluster.local."], "delivered", me),
        (&[from, "all.default.svc:80", "--libc", "musl"], "delivered", me),
        (&[from, "headless:8080"], "delivered", me),
        (&[from, "headless:8080", "--libc", "musl"], "delivered", me),
        (&[from, &dashed], "delivered", me),
        (&[from, "none"], "rejected", &[]),
        (&[from, "kubernetes:443"], "delivered", &["172.18.0.11"]),
        (&[from, "prometheus-k8s.monitoring:9090"], "delivered", me),
        (&["node/node-1", "google.com"], "delivered", public),
        (&["default/own-1", "google.com"], "delivered", public),
        (&["internet/google.com", "partner.example"], "forbidden", &["198.51.100.10"]),
        (&["internet/partner.example", "google.com"], "delivered", &["198.51.100.40"]),
    ];
    let inside: &[Case<'_>] = &[
        (&[from, "svc/default/all:80"], "delivered", me),
        (&[from, "svc/default/all:81", "--proto", "udp"], "delivered", me),
        (&[from, "svc/default/all:82"], "rejected", &[]),
        (&[from, "svc/default/all:80", "--proto", "udp"], "rejected", &[]),
        (&[from, &all, "--proto", "icmp"], "rejected", &[]),
        (&[from, "svc/default/none:80"], "rejected", &[]),
        (&[from, "svc/default/own:80"], "delivered", me),
        (&["default/client-2", "svc/default/own:80"], "delivered", &["172.18.0.12"]),
        (&[from, "10.96.0.1:443"], "delivered", &["172.18.0.11"]),
        (&[from, "10.96.0.10:53", "--proto", "udp"], "delivered", me),
        (&[from, "10.96.0.10:53"], "delivered", me),
        (&["default/server-1", "svc/default/single:80"], "delivered", &["172.18.0.11"]),
        (&["default/server-1", "svc/default/single:81", "--proto", "udp"], "delivered", &["172.18.0.11"]),
        (&["default/server-1", "pod/default/server-1:8080"], "delivered", &[&server]),
        (&[from, "pod/default/server-1:8080"], "delivered", me),
        (&[from, "pod/default/server-2:8080"], "delivered", me),
        (&[from, &direct], "delivered", me),
        (&[from, "pod/default/server-2:8081", "--proto", "udp"], "delivered", me),
        (&[from, "pod/default/server-2", "--proto", "icmp"], "delivered", me),
        (&[from, "pod/default/server-1", "--proto", "icmp"], "delivered", me),
        (&["default/client-2", "pod/default/own-1:18080"], "delivered", &["172.18.0.12"]),
        (&[from, "pod/default/own-1:18080"], "delivered", me),
        (&["default/own-1", "pod/default/server-1:8080"], "delivered", &["172.18.0.11"]),
        (&["default/own-1", "pod/default/server-2:8080"], "delivered", &[&tunnel]),
        (&["default/own-1", "svc/default/own:80"], "delivered", &["172.18.0.11"]),
        (&[from, "node/node-1", "--proto", "icmp"], "delivered", me),
        (&[from, "node/node-2", "--proto", "icmp"], "delivered", &["172.18.0.11"]),
        (&[from, "node/node-2:10250"], "delivered", &["172.18.0.11"]),
        (&[from, "172.18.0.2:6443"], "delivered", &["172.18.0.11"]),
        (&[from, "172.18.0.1", "--proto", "icmp"], "delivered", &[]),
    ];
    let others: &[Case<'_>] = &[
        (&["node/node-1", "svc/default/single:80"], "delivered", &["172.18.0.11"]),
        (&["node/node-2", "svc/default/single:80"], "delivered", &[&tunnel_2]),
        (&["node/node-1", "10.96.0.10:53", "--proto", "udp"], "delivered", &to_dns),
        (&["node/node-1", "pod/default/server-2:8080"], "delivered", &[&tunnel]),
        (&["node/node-1", "pod/default/server-2", "--proto", "icmp"], "delivered", &[&tunnel]),
        (&["node/node-1", "pod/default/server-1:8080"], "delivered", &["172.18.0.11"]),
        (&["node/node-1", "node/node-2", "--proto", "icmp"], "delivered", &["172.18.0.11"]),
        (&["node/node-1", "10.96.0.1:443"], "delivered", &["172.18.0.11"]),
        (&["node/node-3", "198.51.100.10:80"], "delivered", public),
        (&[from, "198.51.100.10", "--proto", "icmp"], "delivered", public),
        (&[from, "192.0.2.53:53", "--proto", "udp"], "delivered", public),
        (&[from, "198.51.100.10:81", "--proto", "udp"], "refused", public),
        (&[from, "198.51.100.10:8080"], "refused", public),
        (&[from, "198.51.100.99:80"], "unreachable", &[]),
        (&[from, nobody], "unreachable", &[]),
        (&["internet/google.com", "203.0.113.10:80"], "refused", &[]),
        (&["internet/google.com", "203.0.113.10", "--proto", "icmp"], "delivered", &[]),
        (&["internet/google.com", &all_80], "unreachable", &[]),
        (&["internet/google.com", "198.51.100.40:80"], "forbidden", &["198.51.100.10"]),
        (&[from, "203.0.113.10:80"], "refused", &[]),
    ];
    check(&lab, names);
    check(&lab, inside);
    check(&lab, others);
}

#[test]
fn with_routes_and_a_public_address_for_each_node() {
    let lab = lab("trace-routes", ONE_TO_ONE, &["--backend", "host-gw"]);
    let of = Addresses(&lab);
    let (client, server) = (of.pod("client-1"), of.pod("server-1"));
    let me = [client.as_str()];
    let me = me.as_slice();
    let from = "default/client-1";
    check(
        &lab,
        &[
            (&[from, "google.com"], "delivered", &["203.0.113.11"]),
            (&["default/client-2", "google.com"], "delivered", &["203.0.113.77"]),
            (&["default/client-2", "partner.example"], "delivered", &["203.0.113.77"]),
            (&[from, "partner.example"], "forbidden", &["203.0.113.11"]),
            (&["node/node-2", "partner.example"], "delivered", &["203.0.113.77"]),
            (&[from, "pod/default/server-2:8080"], "delivered", me),
            (&[from, "svc/default/all:81", "--proto", "udp"], "delivered", me),
            (&["node/node-1", "pod/default/server-2:8080"], "delivered", &["172.18.0.11"]),
            (&["node/node-2", "svc/default/single:80"], "delivered", &["172.18.0.12"]),
            (&["default/server-1", "svc/default/single:80"], "delivered", &["172.18.0.11"]),
            (&["default/client-2", "svc/default/own:80"], "delivered", &["172.18.0.12"]),
            (&["internet/google.com", "203.0.113.11:18080"], "delivered", &["198.51.100.10"]),
            (&["internet/google.com", "203.0.113.77", "--proto", "icmp"], "delivered", &["198.51.100.10"]),
            (&["internet/google.com", "203.0.113.99:80"], "unreachable", &[]),
            (&["internet/google.com", &format!("{server}:8080")], "unreachable", &[]),
            (&["internet/google.com", "203.0.113.1", "--proto", "icmp"], "delivered", &[]),
            (&[from, "203.0.113.77", "--proto", "icmp"], "dropped", &["172.18.0.11"]),
            (&[from, "203.0.113.11", "--proto", "icmp"], "dropped", &[]),
        ],
    );
    external_addresses(&lab, false, "203.0.113.12");
}

/// What is asked of external.yaml's Services in a lab with a public address for each node; `tunnel`: nodes have another one
/// between them, `third` is node-3 outside.
fn external_addresses(lab: &Lab, tunnel: bool, third: &str) {
    lab.apply(include_str!("common/external.yaml"));
    let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.201"}]}}}"#;
    lab.kubectl(&["patch", "service", "balanced", "--subresource=status", "--type=merge", "-p", status]);
    for node in ["node/node-1", "node/node-2", "node/node-3"] {
        for address in ["172.18.0.11:30080", "192.0.2.200:80", "192.0.2.201:80", "svc/default/inner:80"] {
            eventually("every node has the Services", || {
                let json = trace(lab, &[node, address]).json;
                let told = json["hops"].as_array()?.iter().find(|hop| hop["kind"] == "service")?.clone();
                let known = told["object"].as_str()?.starts_with("Service") || address.starts_with("172");
                known.then_some(())
            });
        }
    }
    let of = Addresses(lab);
    let client = of.pod("client-1");
    let me = [client.as_str()];
    let me = me.as_slice();
    let tunnels = ["node-1", "node-3"].map(|node| of.tunnel(node));
    // Through the tunnel a node has the tunnel's address.
    let seen = |node: usize, own: &str, near: bool| -> Vec<String> {
        let far = if tunnel { tunnels[node].clone() } else { own.to_owned() };
        let mut all: Vec<String> = if near { vec![own.to_owned(), far] } else { vec![far] };
        all.sort_by_key(|ip| ip.parse::<std::net::IpAddr>().unwrap());
        all.dedup();
        all
    };
    let (as_1, as_3) = (seen(0, "172.18.0.11", true), seen(1, "172.18.0.13", false));
    let (as_1, as_3): (Vec<&str>, Vec<&str>) =
        (as_1.iter().map(String::as_str).collect(), as_3.iter().map(String::as_str).collect());
    let (as_1, as_3) = (as_1.as_slice(), as_3.as_slice());
    let (from, google) = ("default/client-1", "internet/google.com");
    let (any_port, local_port) = (format!("{third}:30080"), format!("{third}:30090"));
    check(
        lab,
        &[
            (&[google, &any_port], "delivered", as_3),
            (&[google, "203.0.113.11:30080"], "delivered", as_1),
            (&[google, "203.0.113.11:30081", "--proto", "udp"], "delivered", as_1),
            (&[from, "node/node-1:30080"], "delivered", as_1),
            (&[from, "node/node-3:30080"], "delivered", as_3),
            (&[from, "172.18.0.13:30081", "--proto", "udp"], "delivered", as_3),
            (&["node/node-1", "node/node-1:30080"], "delivered", as_1),
            (&["node/node-1", "node/node-3:30080"], "delivered", as_3),
            (&["default/own-1", "node/node-3:30081", "--proto", "udp"], "delivered", as_3),
            (&["default/server-1", "node/node-3:30080"], "delivered", as_3),
            (&["default/server-1", "node/node-3:30081", "--proto", "udp"], "delivered", as_3),
            // externalTrafficPolicy Local: the endpoint is on node-1.
            (&[google, "203.0.113.11:30090"], "delivered", &["198.51.100.10"]),
            (&[google, &local_port], "dropped", &[]),
            (&[from, "node/node-1:30090"], "delivered", me),
            (&["default/client-2", "node/node-1:30090"], "delivered", &["172.18.0.12"]),
            (&[from, "node/node-3:30090"], "dropped", &[]),
            (&["node/node-3", "node/node-3:30090"], "delivered", as_3),
            (&["node/node-3", "node/node-1:30090"], "delivered", &["172.18.0.13"]),
            (&[google, "203.0.113.11:30099"], "rejected", &[]),
            (&[from, "node/node-1:30099"], "rejected", &[]),
            (&[from, "node/node-3:30099"], "rejected", &[]),
            (&["node/node-1", "node/node-1:30099"], "rejected", &[]),
            (&[from, "node/node-1:30100"], "delivered", as_1),
            (&[from, "node/node-1:30100"], "delivered", as_1),
            (&[from, "192.0.2.200:80"], "delivered", as_1),
            (&["node/node-3", "192.0.2.200:80"], "delivered", as_3),
            (&[from, "192.0.2.201:80"], "delivered", as_1),
            (&["node/node-3", "192.0.2.201:80"], "dropped", &[]),
            (&["default/own-1", "192.0.2.201:80"], "dropped", &[]),
            (&[from, "svc/default/inner:80"], "delivered", me),
            (&["default/client-3", "svc/default/inner:80"], "dropped", &[]),
            (&["node/node-3", "svc/default/inner:80"], "dropped", &[]),
        ],
    );
    // A client with affinity goes where it went before.
    let chosen = || {
        let proved = trace(lab, &["default/client-2", "node/node-2:30100", "--verify"]);
        let hops = proved.json["hops"].as_array().unwrap();
        let service = hops.iter().find(|hop| hop["kind"] == "service").unwrap();
        (proved.code, service["observed"].as_str().unwrap().to_owned())
    };
    let first = chosen();
    assert!(first.0 == Some(0) && first.1.contains(" → "), "{first:?}");
    for _ in 0..4 {
        assert_eq!(chosen(), first);
    }
    // The element that decides is named.
    for (ask, element) in [
        ([google, &any_port], "tcp . 30080 of node_ports in table ip seaway: goto pick_node_2"),
        ([google, &local_port], "tcp . 30090 of node_ports_outside in table ip seaway: drop"),
        ([google, "203.0.113.11:30099"], "tcp . 30099 of refused_node_ports in table ip seaway: goto refuse"),
        (
            [from, "192.0.2.200:80"],
            "192.0.2.200 . tcp . 80 of external in table ip seaway: goto masquerade_external",
        ),
        (["node/node-3", "192.0.2.201:80"], "192.0.2.201 . tcp . 80 of ranged in table ip seaway"),
    ] {
        let told = trace(lab, &ask).json;
        let mut objects = told["hops"].as_array().unwrap().iter().map(|hop| hop["object"].as_str().unwrap());
        assert!(objects.any(|object| object.ends_with(element)), "{ask:?}: {told:#}");
    }
}

#[test]
fn external_addresses_through_the_tunnel() {
    let lab = lab("trace-external", "{cloud: {egress: {type: one-to-one}}}", &[]);
    external_addresses(&lab, true, "203.0.113.13");
}

#[test]
fn with_nat_gateways_of_several_addresses() {
    let lab_file = "
  cloud:
    egress:
      type: nat-gateway
      gateways:
      - {nodes: [node-1], addresses: [203.0.113.10, 203.0.113.11]}
      - {nodes: [node-2], addresses: [203.0.113.30, 203.0.113.31, 203.0.113.32]}
  internet:
    hosts:
    - {name: google.com, addresses: [198.51.100.10]}
    - {name: partner.example, addresses: [198.51.100.40], allow: [203.0.113.10/31]}
    - {name: half.example, addresses: [198.51.100.41], allow: [203.0.113.30/32]}";
    let lab = lab("trace-gateways", lab_file, &["--backend", "host-gw"]);
    let two = ["203.0.113.10", "203.0.113.11"].as_slice();
    let three = ["203.0.113.30", "203.0.113.31", "203.0.113.32"].as_slice();
    check(
        &lab,
        &[
            (&["default/client-1", "google.com"], "delivered", two),
            (&["default/client-1", "google.com", "--proto", "icmp"], "delivered", two),
            (&["default/client-2", "google.com"], "delivered", three),
            (&["default/client-1", "partner.example"], "delivered", two),
            (&["default/client-2", "partner.example"], "forbidden", three),
            (&["default/client-2", "half.example"], "unknown", three),
            (&["default/client-3", "198.51.100.10:80"], "unreachable", &["172.18.0.13"]),
            (&["default/client-3", "google.com"], "unreachable", &["172.18.0.13"]),
            (&["node/node-3", "198.51.100.10:80"], "unreachable", &["172.18.0.13"]),
            (&["internet/google.com", "203.0.113.11:80"], "refused", &[]),
        ],
    );
}
