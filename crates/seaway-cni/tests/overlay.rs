//! The overlay on the real kernel: three nodes on one switch, a pod on each. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use common::{assert_ping, call, config, net, run};
use seaway_cni::overlay::{self, Change};
use seaway_cni::plugin::host_interface;
use seaway_cni::pods;
use seaway_model::{NetConf, Node, OverlayPlan};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::Rtnl;

struct Cluster {
    _switch: NetNs,
    nodes: Vec<(NetNs, NetNs)>,
    objects: BTreeMap<Arc<str>, Arc<Node>>,
    conf: NetConf,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn new(backend: &str) -> Self {
        let switch = NetNs::new().unwrap();
        let mut rtnl = Rtnl::open_in(&switch).unwrap();
        rtnl.add_bridge("br").unwrap();
        let bridge = rtnl.link_by_name("br").unwrap().unwrap().index;
        rtnl.set_up(bridge).unwrap();
        let mut cluster = Self {
            _switch: switch,
            nodes: Vec::new(),
            objects: BTreeMap::new(),
            conf: conf(backend),
            _dir: tempfile::tempdir().unwrap(),
        };
        for n in 1..=3 {
            let (node, pod) = (NetNs::new().unwrap(), NetNs::new().unwrap());
            common::plug(&cluster._switch, "br", &node, &format!("port{n}"), &format!("172.18.0.1{n}/16"));
            cluster.nodes.push((node, pod));
            let object = Node {
                pod_cidrs: vec![net(&format!("10.244.{n}.0/24"))],
                internal_ips: vec![cluster.address(n)],
                ..Node::default()
            };
            cluster.objects.insert(format!("node-{n}").into(), Arc::new(object));
        }
        cluster.publish();
        for n in 1..=3 {
            let (node, pod) = &cluster.nodes[n - 1];
            let dir = cluster._dir.path().join(n.to_string());
            let settings = config(&dir, &[&format!("10.244.{n}.0/24")], cluster.plan(n).mtu);
            call(node, "ADD", &format!("pod-{n}"), Some(pod), &settings).unwrap();
        }
        cluster
    }

    fn address(&self, n: usize) -> IpAddr {
        format!("172.18.0.1{n}").parse().unwrap()
    }

    fn plan(&self, n: usize) -> OverlayPlan {
        let underlay = self.nodes[n - 1].0.run(|| overlay::underlay(&[self.address(n)])).unwrap().unwrap();
        OverlayPlan::new(&self.objects, &format!("node-{n}"), &self.conf, &underlay)
    }

    /// Each node's object says what the node's agent would have it say.
    fn publish(&mut self) {
        for n in 1..=self.nodes.len() {
            let annotations = self.plan(n).annotations;
            let object = self.objects.get_mut(format!("node-{n}").as_str());
            Arc::make_mut(object.unwrap()).annotations = annotations;
        }
    }

    fn apply(&self, n: usize) -> Vec<Change> {
        let plan = self.plan(n);
        let applied = self.nodes[n - 1].0.run(|| overlay::apply(&plan)).unwrap().unwrap();
        assert!(applied.refused.is_empty(), "{:?}", applied.refused);
        applied.changes
    }

    fn apply_all(&self) {
        for n in 1..=3 {
            self.apply(n);
        }
    }

    /// All that `ip` lists, to compare.
    fn state(&self, n: usize) -> String {
        let node = &self.nodes[n - 1].0;
        let shown = ["ip -d link show", "ip address show", "ip route show table all", "bridge fdb show"];
        shown.map(|line| run(node, line).0).concat() + &run(node, "ip neigh show nud permanent").0
    }

    fn assert_pods_reach_each_other(&self, size: u32) {
        for from in 1..=3 {
            for to in (1..=3).filter(|to| *to != from) {
                assert_ping(&self.nodes[from - 1].1, &format!("10.244.{to}.2"), "");
                // The largest packet of the pods' MTU: IP header 20, ICMP header 8.
                let full = format!("-M do -s {} ", size - 28);
                assert_ping(&self.nodes[from - 1].1, &format!("10.244.{to}.2"), &full);
                assert_ping(&self.nodes[from - 1].0, &format!("10.244.{to}.2"), "");
            }
        }
    }
}

fn conf(backend: &str) -> NetConf {
    NetConf::parse(&format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#)).unwrap()
}

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

#[test]
fn a_node_that_the_kernel_refuses_keeps_nobody_from_the_others() {
    let mut cluster = Cluster::new(VXLAN);
    let bad = cluster.objects.get_mut("node-2").unwrap();
    // Multicast: no gateway can be in it.
    Arc::make_mut(bad).pod_cidrs = vec![net("224.9.9.0/24")];
    let plan = cluster.plan(1);
    let applied = cluster.nodes[0].0.run(|| overlay::apply(&plan)).unwrap().unwrap();
    let refused: Vec<String> = applied.refused.iter().map(ToString::to_string).collect();
    assert!(!refused.is_empty() && refused.iter().all(|error| error.contains("224.9.9.0")), "{refused:?}");
    let (routes, _) = run(&cluster.nodes[0].0, "ip route show proto 83");
    assert_eq!(routes.trim(), "10.244.3.0/24 via 10.244.3.0 dev seaway.1 onlink");
}

#[test]
fn vxlan_carries_pods_packets_and_a_second_run_is_silent() {
    let cluster = Cluster::new(VXLAN);
    let changes = cluster.apply(1);
    assert!(matches!(changes[0], Change::CreateDevice(_)), "{changes:?}");
    cluster.apply_all();
    cluster.assert_pods_reach_each_other(1450);
    let (text, _) = run(&cluster.nodes[0].0, "ip route show 10.244.2.0/24");
    assert_eq!(text.trim(), "10.244.2.0/24 via 10.244.2.0 dev seaway.1 proto 83 onlink");
    let (text, _) = run(&cluster.nodes[0].0, "ip address show seaway.1");
    assert!(text.contains("inet 10.244.1.0/32 ") && text.contains(" mtu 1450 "), "{text}");

    // An observer of all changes in the namespace hears nothing.
    let before = cluster.state(1);
    let mut monitor = cluster.nodes[0]
        .0
        .run(|| {
            let mut command = std::process::Command::new("ip");
            let monitor = command
                .args(["monitor", "link", "address", "route", "neigh"])
                .stdout(std::process::Stdio::piped())
                .spawn();
            monitor.unwrap()
        })
        .unwrap();
    // It listens once its netlink socket is bound, which the namespace's own list shows.
    let listens = || run(&cluster.nodes[0].0, "cat /proc/thread-self/net/netlink").0;
    let start = std::time::Instant::now();
    let pid = format!(" {} ", monitor.id());
    while !listens().contains(&pid) {
        assert!(start.elapsed().as_secs() < 10, "{}", listens());
    }
    assert_eq!(cluster.apply(1), []);
    assert_eq!(cluster.apply(1), []);
    // A change of our own ends the wait: whatever came before it would have been heard before it.
    run(&cluster.nodes[0].0, "ip route add blackhole 192.0.2.1");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(monitor.stdout.take().unwrap()), &mut line)
        .unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert_eq!(line.trim(), "blackhole 192.0.2.1");
    run(&cluster.nodes[0].0, "ip route del blackhole 192.0.2.1");
    assert_eq!(cluster.state(1), before);
}

#[test]
fn stale_entries_go_and_others_stay() {
    let mut cluster = Cluster::new(VXLAN);
    cluster.apply_all();
    let node = &cluster.nodes[0].0;
    for line in [
        // Someone else's.
        "ip route add 10.99.0.0/16 via 172.18.0.12",
        "ip route add 10.98.0.0/16 dev seaway.1 proto static",
        // As an earlier run may have left them.
        "ip route add 10.244.7.0/24 via 10.244.7.0 dev seaway.1 onlink proto 83",
        "ip route replace 10.244.2.0/24 via 172.18.0.12 proto 83",
        "ip neigh add 10.244.7.0 lladdr 02:00:00:00:00:07 dev seaway.1 nud permanent",
        "bridge fdb add 02:00:00:00:00:07 dev seaway.1 dst 172.18.0.17 self permanent",
        "ip address add 10.244.9.0/32 dev seaway.1",
        "ip link set seaway.1 mtu 1400",
    ] {
        let (text, ok) = run(node, line);
        assert!(ok, "{line}: {text}");
    }
    let changes: Vec<String> = cluster.apply(1).iter().map(Change::to_string).collect();
    assert_eq!(
        changes.iter().filter(|change| !change.starts_with("delete route")).collect::<Vec<_>>(),
        [
            "set seaway.1 mtu 1450",
            "set route 10.244.2.0/24 via 10.244.2.0 dev seaway.1",
            "delete address 10.244.9.0/32 dev seaway.1",
            "delete neighbour 10.244.7.0 dev seaway.1",
            "delete forward 02:00:00:00:00:07 dev seaway.1",
        ]
    );
    assert_eq!(cluster.apply(1), []);
    let state = cluster.state(1);
    assert!(state.contains("10.99.0.0/16 via 172.18.0.12") && state.contains("10.98.0.0/16 dev seaway.1"));
    assert!(!state.contains("10.244.7.0") && !state.contains("02:00:00:00:00:07"), "{state}");
    cluster.assert_pods_reach_each_other(1450);

    // A node leaves: all that led to it goes.
    cluster.objects.remove("node-3");
    let changes: Vec<String> = cluster.apply(1).iter().map(Change::to_string).collect();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(!cluster.state(1).contains("10.244.3.0"));
    // A node comes back with another address on the underlay.
    let mut moved = cluster.objects["node-2"].as_ref().clone();
    moved.annotations.insert("flannel.alpha.coreos.com/public-ip".to_owned(), "172.18.0.22".to_owned());
    cluster.objects.insert("node-2".into(), Arc::new(moved));
    let changes: Vec<String> = cluster.apply(1).iter().map(Change::to_string).collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].ends_with("dst 172.18.0.22 dev seaway.1"), "{changes:?}");
    assert_eq!(cluster.apply(1), []);
}

#[test]
fn differences_are_told() {
    let cluster = Cluster::new(VXLAN);
    cluster.apply_all();
    let node = &cluster.nodes[0].0;
    let plan = cluster.plan(1);
    let underlay = node.run(|| overlay::underlay(&[cluster.address(1)])).unwrap().unwrap();
    let look = || node.run(|| overlay::differences(&plan, &underlay)).unwrap().unwrap();
    assert_eq!(look(), (vec![], vec![]));
    let mac = plan.neighbors[0].mac;
    let cases = [
        ("ip route del 10.244.2.0/24", "node node-2", "route 10.244.2.0/24", None),
        ("ip route replace blackhole 10.244.2.0/24", "node node-2", "route 10.244.2.0/24", Some("blackhole")),
        (
            "ip route replace 10.244.3.0/24 via 172.18.0.12",
            "node node-3",
            "route 10.244.3.0/24",
            Some("via 172.18.0.12 dev eth0"),
        ),
        ("ip neigh del 10.244.2.0 dev seaway.1", "node node-2", "neighbour 10.244.2.0 dev seaway.1", None),
        (
            &format!("bridge fdb del {mac} dev seaway.1"),
            "node node-2",
            &format!("forwarding entry {mac} dev seaway.1"),
            None,
        ),
        (
            &format!("bridge fdb replace {mac} dev seaway.1 dst 172.18.0.99 self permanent"),
            "node node-2",
            &format!("forwarding entry {mac} dev seaway.1"),
            Some("dst 172.18.0.99"),
        ),
        ("ip link set seaway.1 mtu 1400", "device seaway.1", "link seaway.1", Some("mtu 1400")),
        (
            "sysctl -w net.ipv4.ip_forward=0",
            "sysctl net.ipv4.ip_forward",
            "sysctl net.ipv4.ip_forward",
            Some("0"),
        ),
    ];
    for (line, object, kernel, actual) in cases {
        let (text, ok) = run(node, line);
        assert!(ok, "{line}: {text}");
        let (told, _) = look();
        let [one] = told.as_slice() else { panic!("{line}: {told:?}") };
        assert_eq!(
            (one.object.as_str(), one.kernel.as_str(), one.actual.as_deref()),
            (object, kernel, actual),
            "{line}"
        );
        run(node, "ip route flush 10.244.2.0/24");
        run(node, "ip route flush 10.244.3.0/24");
        cluster.apply(1);
        assert_eq!(look(), (vec![], vec![]), "{line}");
    }
    run(node, "ip route add blackhole 10.244.2.2");
    let (told, foreign) = look();
    assert_eq!(told, []);
    assert_eq!(foreign[0].what, "packets to 10.244.2.2/32 go: blackhole");
    run(node, "ip link set eth0 mtu 1300");
    assert!(
        look().0.iter().any(|one| one.object == "link eth0" && one.actual.as_deref() == Some("mtu 1300"))
    );
    run(node, "ip link del seaway.1");
    let told = look().0;
    assert!(told.iter().any(|one| one.what.starts_with("the VXLAN device is missing")), "{told:?}");
    let of_nodes = told.iter().filter(|one| one.object.starts_with("node ")).count();
    assert_eq!(of_nodes, 2, "{told:?}");
}

#[test]
fn a_pods_link_is_compared() {
    let cluster = Cluster::new(VXLAN);
    let (node, dir) = (&cluster.nodes[0].0, cluster._dir.path().join("1"));
    let look = |mtu| node.run(|| pods::differences(&dir, mtu)).unwrap().unwrap();
    assert_eq!(look(1450), []);
    assert_eq!(look(1400)[0].actual.as_deref(), Some("mtu 1450"));
    let link = host_interface("pod-1", "eth0");
    for (line, kernel) in [
        ("ip neigh del 10.244.1.2 dev LINK", "neighbour 10.244.1.2 dev LINK"),
        ("sysctl -w net.ipv4.conf.LINK.rp_filter=0", "sysctl net.ipv4.conf.LINK.rp_filter"),
        ("ip route del 10.244.1.2", "route 10.244.1.2"),
    ] {
        let (text, ok) = run(node, &line.replace("LINK", &link));
        assert!(ok, "{line}: {text}");
        let told = look(1450);
        assert!(told.iter().any(|one| one.kernel == kernel.replace("LINK", &link)), "{line}: {told:?}");
        assert!(told.iter().all(|one| one.object == "pod 10.244.1.2"), "{told:?}");
    }
    run(node, &format!("ip link del {link}"));
    let told = look(1450);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].what, "the pod's link is missing");
}

#[test]
fn host_gw_routes_and_backends_change_over() {
    let mut cluster = Cluster::new(HOST_GW);
    cluster.apply_all();
    cluster.assert_pods_reach_each_other(1500);
    assert_eq!(cluster.apply(2), []);
    let (text, _) = run(&cluster.nodes[1].0, "ip route show 10.244.1.0/24");
    assert_eq!(text.trim(), "10.244.1.0/24 via 172.18.0.11 dev eth0 proto 83");

    cluster.conf = conf(VXLAN);
    cluster.publish();
    cluster.apply_all();
    assert_eq!(cluster.apply(2), []);
    // The pods still have the underlay's MTU; packets that fit the tunnel get through.
    cluster.assert_pods_reach_each_other(1450);

    // The device is kept over a restart, address and all; another port needs another device.
    let mac = cluster.plan(1).devices[0].mac;
    cluster.conf = conf(r#"{"Type":"vxlan","Port":4789}"#);
    let changes: Vec<String> = cluster.apply(1).iter().map(Change::to_string).collect();
    assert_eq!(changes[0], "delete seaway.1: it was made with port 8472");
    assert_eq!(cluster.plan(1).devices[0].mac, mac);
    cluster.apply_all();
    assert_eq!(cluster.apply(1), []);
    cluster.assert_pods_reach_each_other(1450);

    cluster.conf = conf(HOST_GW);
    cluster.publish();
    cluster.apply_all();
    assert_eq!(cluster.apply(1), []);
    assert!(!cluster.state(1).contains("seaway.1"), "{}", cluster.state(1));
    cluster.assert_pods_reach_each_other(1500);
}
