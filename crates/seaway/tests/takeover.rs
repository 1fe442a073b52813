//! The agent takes the place of a kube-proxy on a node of a lab: what that left goes, and no request notices.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::load::{Load, WEB, address, failures};
use common::{Lab, checked, eventually};

const NODE: &str = "node/node-1";
const AGENT: &str = "node/node-1/agent";

/// What kube-proxy's iptables mode has for the Service `web`.
fn rules(cluster_ip: &str, endpoints: &[String]) -> String {
    let (services, endpoint) =
        ("KUBE-SVC-WEB2WEB2WEB2WEB2", |index: usize| format!("KUBE-SEP-{index}222222222222222"));
    let mut chains = format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:{services} - [0:0]\n"
    );
    let mut rules = format!(
        "-I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n-I POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -d {cluster_ip}/32 -p tcp -m tcp --dport 80 -j {services}\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MASQUERADE\n"
    );
    for (index, ip) in endpoints.iter().enumerate() {
        let chain = endpoint(index + 2);
        chains += &format!(":{chain} - [0:0]\n");
        let left = endpoints.len() - index;
        rules += &match left {
            1 => format!("-A {services} -j {chain}\n"),
            left => format!("-A {services} -m statistic --mode nth --every {left} --packet 0 -j {chain}\n"),
        };
        rules += &format!("-A {chain} -s {ip}/32 -j KUBE-MARK-MASQ\n");
        rules += &format!("-A {chain} -p tcp -m tcp -j DNAT --to-destination {ip}:8080\n");
    }
    format!("{chains}{rules}COMMIT\n")
}

#[test]
fn the_agent_takes_over_from_kube_proxy() {
    let lab = Lab::up("takeover", &["--nodes", "2"]);
    lab.apply(WEB);
    lab.kubectl(&["wait", "--for=condition=available", "deployment/web", "--timeout=60s"]);
    lab.kubectl(&["wait", "--for=condition=ready", "pod/client", "--timeout=60s"]);
    let cluster_ip = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let pods = lab.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"]);
    let endpoints: Vec<String> = pods.split(' ').map(str::to_owned).collect();
    let rules = rules(&cluster_ip, &endpoints);
    let load = Load::start(lab.pid(AGENT), address(&cluster_ip, 80), "/hostname", Duration::from_millis(1));
    // Both kinds of iptables, and somebody else's rule beside.
    for kind in ["nft", "legacy"] {
        let script = format!(
            "iptables-{kind} -t nat -A PREROUTING -s 192.0.2.77 -j RETURN\n\
             iptables-{kind}-restore --noflush <<'END'\n{rules}END\n"
        );
        lab.exec(NODE, &["sh", "-ec", &script]);
    }
    let saved = |kind: &str| lab.exec(NODE, &[&format!("iptables-{kind}-save")]);
    // As it is after a reboot into Seaway: the agent starts beside kube-proxy's rules.
    let agent = lab.pid(AGENT);
    checked(Command::new("kill").args(["-9", &agent.to_string()]));
    for kind in ["nft", "legacy"] {
        eventually("kube-proxy's chains go", || (!saved(kind).contains("KUBE-")).then_some(()));
        assert!(saved(kind).contains("-A PREROUTING -s 192.0.2.77/32 -j RETURN"), "{}", saved(kind));
    }
    let before = load.count();
    eventually("requests after it", || (load.count() > before + 100).then_some(()));
    let failed = failures(&load.stop());
    assert!(failed.is_empty(), "{failed:#?}");
}
