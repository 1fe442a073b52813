//! From kube-proxy to Seaway and back, on the real kernel: connections live on, new ones always find an endpoint, others'
//! rules stay.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

#[path = "../common/mod.rs"]
mod common;
mod ipvs;
mod layouts;
mod talk;

use std::net::{IpAddr, SocketAddr};

use common::{Cluster, NODE_IP, Topology, VIP, driver, eventually, ip, output, vip};
use layouts::{Mode, NODE_PORT, install_kube_proxy, install_others, saved};
use seaway_model::Protocol;
use seaway_net::netns::NetNs;
use seaway_net::xtables::{Family, Xtables};
use seaway_proxy::ServiceDriver;
use seaway_proxy::leftovers::{Leftovers, remove_own};
use talk::{Connection, Flood, Talker};

fn find(ns: &NetNs) -> Leftovers {
    let found = ns.run(Leftovers::find).unwrap();
    assert!(found.failed.is_empty(), "{found}");
    found
}

fn remove(ns: &NetNs) -> Leftovers {
    let removed = ns.run(Leftovers::remove).unwrap();
    assert!(removed.failed.is_empty(), "{removed}");
    removed
}

/// A node with a client and two endpoints, one of them on another node, and the plan for them.
struct Site {
    topology: Topology,
    client: IpAddr,
    endpoints: [IpAddr; 2],
    cluster: Cluster,
    _servers: Vec<Talker>,
}

impl Site {
    fn new() -> Self {
        let mut topology = Topology::new();
        let client = topology.add_pod("10.244.1.2");
        let endpoints = [topology.add_pod("10.244.1.5"), topology.add_remote_pod("10.244.2.5")];
        let servers = endpoints.map(|pod| Talker::start(topology.pod(pod), SocketAddr::new(pod, 8080)));
        let mut cluster = Cluster::new();
        cluster.set("web", VIP, Protocol::Tcp, &endpoints);
        cluster.expose("web", NODE_PORT);
        Self { topology, client, endpoints, cluster, _servers: servers.into() }
    }

    /// Who calls what: a pod and the node the cluster IP, a machine outside the node port.
    fn callers(&self) -> [(&NetNs, SocketAddr); 3] {
        let node_port = SocketAddr::new(ip(NODE_IP), NODE_PORT);
        let Topology { node, outside, .. } = &self.topology;
        [(self.topology.pod(self.client), vip()), (node, vip()), (outside, node_port)]
    }

    /// Connections from every caller, to both endpoints with all likelihood.
    fn connect(&self) -> Vec<Connection> {
        let twelve = |(caller, to)| (0..12).map(move |_| Connection::open(caller, to));
        self.callers().into_iter().flat_map(twelve).collect()
    }
}

fn all_talk(connections: &mut [Connection], when: &str) {
    for connection in connections {
        connection.talk(when);
    }
}

#[test]
fn over_and_back_no_connection_is_lost_and_none_fails() {
    for mode in Mode::ALL {
        let site = Site::new();
        let node = &site.topology.node;
        install_others(node, mode);
        let others = saved(node, mode, false);
        install_kube_proxy(node, mode, site.endpoints);
        let mut theirs = site.connect();
        all_talk(&mut theirs, "before");
        let floods = site.callers().map(|(caller, to)| Flood::start(caller, to));

        // Over.
        let mut driver = driver(&site.topology);
        driver.sync(&site.cluster.plan).unwrap();
        assert!(!find(node).is_empty());
        let removed = remove(node);
        assert!(!removed.is_empty(), "{mode:?}");
        assert!(find(node).is_empty(), "{mode:?}: {}", find(node));
        assert!(remove(node).is_empty());
        assert_eq!(saved(node, mode, false), others, "{mode:?}");
        let mut ours = site.connect();
        for flood in &floods {
            flood.goes_on();
        }
        all_talk(&mut theirs, "after kube-proxy's rules went");

        // And back.
        install_kube_proxy(node, mode, site.endpoints);
        let tables = node.run(remove_own).unwrap().unwrap();
        assert_eq!(tables.len(), 1, "{mode:?}: {tables:?}");
        assert!(node.run(remove_own).unwrap().unwrap().is_empty());
        assert!(!output(node, "nft", &["list", "tables"]).contains("seaway"));
        for flood in &floods {
            flood.goes_on();
        }
        all_talk(&mut theirs, "back at kube-proxy");
        all_talk(&mut ours, "after our rules went");
        for flood in floods {
            flood.end();
        }
    }
}

#[test]
fn what_there_is_is_told() {
    for (mode, expected) in [
        (Mode::Nftables, "nf_tables: table ip kube-proxy\nnf_tables: table ip6 kube-proxy\n"),
        (
            Mode::IptablesNft,
            "iptables (nf_tables), table ip nat: 9 chains (KUBE-EXT-WEB2WEB2WEB2WEB2, KUBE-MARK-MASQ, KUBE-NODEPORTS, …), \
             3 jumps to them\n\
             iptables (nf_tables), table ip filter: 6 chains (KUBE-EXTERNAL-SERVICES, KUBE-FORWARD, KUBE-NODEPORTS, …), \
             6 jumps to them\n\
             iptables (nf_tables), table ip mangle: 1 chains (KUBE-PROXY-CANARY), 0 jumps to them\n\
             iptables (nf_tables), table ip6 nat: 3 chains (KUBE-POSTROUTING, KUBE-SERVICES, KUBE-SVL-7777777777777777), \
             3 jumps to them\n",
        ),
    ] {
        let ns = NetNs::new().unwrap();
        install_others(&ns, mode);
        assert_eq!(find(&ns).to_string(), "");
        let endpoints = [ip("10.244.1.5"), ip("10.244.2.5")];
        install_kube_proxy(&ns, mode, endpoints);
        assert_eq!(find(&ns).to_string(), expected);
        // Legacy tables have the same in them.
        if mode == Mode::IptablesNft {
            install_kube_proxy(&ns, Mode::IptablesLegacy, endpoints);
            let legacy = expected.replace("(nf_tables)", "(legacy)");
            assert_eq!(find(&ns).to_string(), format!("{expected}{legacy}"));
        }
        assert_eq!(remove(&ns).to_string().lines().next(), expected.lines().next());
        assert_eq!(find(&ns).to_string(), "");
    }
}

#[test]
fn counters_of_others_legacy_rules_go_on() {
    let ns = NetNs::new().unwrap();
    let mode = Mode::IptablesLegacy;
    install_others(&ns, mode);
    let before = saved(&ns, mode, true);
    assert_eq!(before.matches("[5:300] -A INPUT -p tcp -m tcp --dport 4444").count(), 2, "{before}");
    install_kube_proxy(&ns, mode, [ip("10.244.1.5"), ip("10.244.2.5")]);
    assert_ne!(saved(&ns, mode, true), before);
    remove(&ns);
    assert_eq!(saved(&ns, mode, true), before);
}

#[test]
fn where_nothing_is_nothing_is_made() {
    let ns = NetNs::new().unwrap();
    assert_eq!(remove(&ns).to_string(), "");
    assert_eq!(output(&ns, "nft", &["list", "ruleset"]), "");
    // Asking for a legacy table makes it, with its hooks.
    assert!(ns.run(|| Xtables::open(Family::V4).unwrap().is_none()).unwrap());
}

#[test]
fn what_others_rely_on_stays() {
    for mode in [Mode::IptablesNft, Mode::IptablesLegacy] {
        let ns = NetNs::new().unwrap();
        install_others(&ns, mode);
        install_kube_proxy(&ns, mode, [ip("10.244.1.5"), ip("10.244.2.5")]);
        let program = if mode == Mode::IptablesNft { "iptables-nft" } else { "iptables-legacy" };
        for line in
            ["-t nat -A CNI-HOSTPORT-DNAT -p tcp --dport 8080 -j KUBE-MARK-MASQ", "-t filter -P FORWARD DROP"]
        {
            output(&ns, program, &line.split(' ').collect::<Vec<_>>());
        }
        let told = remove(&ns).to_string();
        for line in ["chain KUBE-MARK-MASQ of", "chain KUBE-POSTROUTING of", "chain KUBE-FORWARD of"] {
            assert!(told.contains(&format!("stays: {line}")), "{told}");
        }
        let rules = saved(&ns, mode, false);
        let left: Vec<&str> = rules.lines().filter(|line| line.contains("-j KUBE-")).collect();
        assert_eq!(left.iter().filter(|line| !line.contains("KUBE-FIREWALL")).count(), 3, "{left:#?}");
        assert!(find(&ns).is_empty());
    }
}

#[test]
fn a_large_cluster_is_removed_in_one_go() {
    // 1,000 Services of two endpoints: 3,000 chains.
    for mode in [Mode::IptablesNft, Mode::IptablesLegacy] {
        let ns = NetNs::new().unwrap();
        install_others(&ns, mode);
        let before = saved(&ns, mode, true);
        layouts::install_many(&ns, mode, 1000);
        let removed = remove(&ns);
        let chains: usize = removed.rules.iter().map(|rules| rules.chains.len()).sum();
        assert_eq!(chains, 3001);
        assert_eq!(saved(&ns, mode, true), before);
    }
}

#[test]
fn another_program_that_has_the_lock_is_waited_for() {
    let ns = NetNs::new().unwrap();
    install_kube_proxy(&ns, Mode::IptablesLegacy, [ip("10.244.1.5"), ip("10.244.2.5")]);
    let file = std::fs::File::options().append(true).open("/run/xtables.lock").unwrap();
    file.lock().unwrap();
    let waiting = std::thread::spawn({
        let ns = ns.try_clone().unwrap();
        move || remove(&ns)
    });
    assert!(!find(&ns).is_empty());
    drop(file);
    assert!(!waiting.join().unwrap().is_empty());
    eventually("the rules' end", || find(&ns).is_empty());
}
