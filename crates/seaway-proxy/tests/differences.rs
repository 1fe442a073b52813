//! What is changed behind the driver's back is told for what it is, on the real kernel. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use common::{Cluster, ip, output};
use seaway_model::{Difference, PlanPart, Protocol};
use seaway_net::netns::NetNs;
use seaway_net::nft::Kernel;
use seaway_proxy::{NftablesDriver, ServiceDriver};

struct Node {
    ns: NetNs,
    cluster: Cluster,
    driver: NftablesDriver<Kernel>,
}

impl Node {
    fn new() -> Self {
        let ns = NetNs::new().unwrap();
        let mut cluster = Cluster::new();
        let endpoints = ["10.244.1.5", "10.244.2.5", "10.244.2.6"].map(ip);
        cluster.set("web", "10.96.0.7", Protocol::Tcp, &endpoints);
        cluster.set("dns", "10.96.0.10", Protocol::Udp, &endpoints[..1]);
        let mut driver = NftablesDriver::new(ns.run(|| Kernel::open().unwrap()).unwrap());
        driver.sync(&cluster.plan).unwrap();
        Self { ns, cluster, driver }
    }

    fn nft(&self, line: &str) {
        output(&self.ns, "nft", &line.split_whitespace().collect::<Vec<_>>());
    }

    /// What another driver that knows nothing tells, as the agent asks it.
    fn differences(&self) -> Vec<Difference> {
        let mut driver = NftablesDriver::new(self.ns.run(|| Kernel::open().unwrap()).unwrap());
        driver.differences(&self.cluster.plan).unwrap()
    }

    /// What is told of a change, which the driver then undoes.
    fn after(&mut self, lines: &[&str]) -> Vec<Difference> {
        lines.iter().for_each(|line| self.nft(line));
        let told = self.differences();
        self.driver.mark_dirty();
        self.driver.sync(&self.cluster.plan).unwrap();
        assert_eq!(self.differences(), []);
        told
    }

    /// The handle of the rule of `chain` whose line has `text` in it.
    fn handle(&self, chain: &str, text: &str) -> String {
        let list = output(&self.ns, "nft", &["-a", "list", "chain", "ip", "seaway", chain]);
        let line = list.lines().find(|line| line.contains(text)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

/// The element of `endpoints` that leads to `backend`, as nft writes it.
fn element_of(node: &Node, backend: &str) -> String {
    let list = output(&node.ns, "nft", &["list", "map", "ip", "seaway", "endpoints"]);
    let (address, port) = backend.split_once(':').unwrap();
    let data = format!(" : {address} . {port}");
    let elements = list.split("elements = {").nth(1).unwrap();
    let found = elements.split(',').find(|element| element.contains(&data) && element.contains("10.96.0.7"));
    found.unwrap().split(" : ").next().unwrap().trim().to_owned()
}

#[test]
fn elements() {
    let mut node = Node::new();
    assert_eq!(node.differences(), []);

    let element = element_of(&node, "10.244.2.5:8080");
    let told = node.after(&[&format!("delete element ip seaway endpoints {{ {element} }}")]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.part, PlanPart::Services);
    assert_eq!(one.object, "Service default/web port p");
    assert_eq!(one.what, "endpoint 10.244.2.5:8080 of 10.96.0.7:80/TCP is missing");
    assert_eq!((one.planned.as_deref(), one.actual.as_deref()), (Some("10.244.2.5:8080"), None));
    assert!(one.kernel.starts_with("element 10.96.0.7 . tcp . 80 . "), "{}", one.kernel);

    let element = element_of(&node, "10.244.2.5:8080");
    let told = node.after(&[
        &format!("delete element ip seaway endpoints {{ {element} }}"),
        &format!("add element ip seaway endpoints {{ {element} : 10.244.2.99 . 8080 }}"),
    ]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.what, "endpoint 10.244.2.5:8080 of 10.96.0.7:80/TCP points to 10.244.2.99:8080");
    assert_eq!(one.actual.as_deref(), Some("10.244.2.99:8080"));

    let told =
        node.after(&["add element ip seaway endpoints { 10.96.0.7 . tcp . 80 . 3 : 10.244.2.9 . 80 }"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.what, "10.96.0.7:80/TCP has endpoint 10.244.2.9:80, which it should not");

    let told = node.after(&["delete element ip seaway services { 10.96.0.10 . udp . 80 }"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.object, "Service default/dns port p");
    assert_eq!(one.what, "10.96.0.10:80/UDP is not translated");

    let told = node.after(&["delete element ip seaway cluster_ips { 10.96.0.10 }"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.object, "Service default/dns");

    let told = node.after(&["flush set ip seaway pod_networks"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((one.part, one.object.as_str()), (PlanPart::Egress, "network 10.244.0.0-10.244.255.255"));
}

#[test]
fn rules_chains_and_tables() {
    let mut node = Node::new();
    let handle = node.handle("masquerade_sources", "egress from a pod");
    let told = node.after(&[&format!("delete rule ip seaway masquerade_sources handle {handle}")]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((one.part, one.object.as_str()), (PlanPart::Egress, "masquerade"));
    assert_eq!(one.what, "a rule is missing (egress from a pod)");
    assert!(one.planned.as_ref().unwrap().contains("masquerade fully-random"), "{one:?}");

    let told = node.after(&["insert rule ip seaway prerouting counter drop"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.what, "a rule that is not Seaway's is in its chain");
    assert_eq!(one.kernel, "chain prerouting of table ip seaway");

    let handle = node.handle("prerouting", "vmap");
    let told = node.after(&[&format!("replace rule ip seaway prerouting handle {handle} accept")]);
    assert_eq!(told.len(), 2, "{told:?}");

    let told = node.after(&["add chain ip seaway mine", "add set ip seaway yours { type ipv4_addr; }"]);
    let names: Vec<_> = told.iter().map(|one| one.kernel.as_str()).collect();
    assert_eq!(names, ["set yours of table ip seaway", "chain mine of table ip seaway"]);

    let told = node.after(&["flush chain ip seaway output"]);
    assert_eq!(told.len(), 2, "{told:?}");

    let told = node.after(&["delete table ip seaway"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(one.object, "table ip seaway");
    assert!(one.what.starts_with("the table is missing"), "{one:?}");
    let told = node.after(&["add table ip seaway { flags dormant; }"]);
    let [one] = told.as_slice() else { panic!("{told:?}") };
    assert!(one.what.starts_with("the table is switched off"), "{one:?}");
    let told = node.after(&["add table ip6 seaway"]);
    assert!(told[0].what.starts_with("the table is left over"), "{told:?}");
}

#[test]
fn chains_of_others() {
    let node = Node::new();
    for line in [
        "add table ip nat",
        "add chain ip nat before { type nat hook prerouting priority -110; }",
        "add rule ip nat before ip daddr 10.96.0.7 tcp dport 80 counter dnat to 192.0.2.9 comment \"theirs\"",
        "add chain ip nat after { type nat hook postrouting priority 90; }",
        "add rule ip nat after masquerade",
        "add table inet guard",
        "add chain inet guard forward { type filter hook forward priority 0; policy drop; }",
        "add rule inet guard forward ct state established accept",
        "add rule inet guard forward tcp dport 22 reject",
    ] {
        node.nft(line);
    }
    let others = node.ns.run(|| Kernel::open().unwrap().others("seaway").unwrap()).unwrap();
    let shown: Vec<_> = others
        .iter()
        .map(|chain| {
            let actions: Vec<_> = chain.rules.iter().map(|rule| rule.actions.join(" ")).collect();
            let base = chain.base.unwrap();
            format!(
                "{} {} {} {}: {}",
                chain.table,
                chain.name,
                base.hook.name(),
                base.accept,
                actions.join(", ")
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "inet guard forward forward false: accept, reject",
            "ip nat after postrouting true: masquerade",
            "ip nat before prerouting true: dnat",
        ]
    );
    assert_eq!(others[2].rules[0].comment.as_deref(), Some("theirs"));
    assert_eq!(node.differences(), []);
}
