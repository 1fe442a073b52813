//! What someone breaks behind the agent's back, `seaway trace --verify` finds: it marks the hop at fault, says what is wrong
//! there and exits with 1; and when it is undone, or the agent has mended it, the same trace is as it was told.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::process::Command;

use common::tracing::{UNKNOWN, is_mended, trace};
use common::{Lab, checked, eventually};
use serde_json::Value;

const NODE_1: &str = "node/node-1";
const NODE_2: &str = "node/node-2";
const CLIENT: &str = "default/client";
const POD: &str = "pod/default/client";
const TO_WEB: [&str; 2] = [CLIENT, "svc/default/web:80"];
const TO_FAR: [&str; 2] = [CLIENT, "svc/default/far:80"];
const TO_GOOGLE: [&str; 2] = [CLIENT, "google.com"];

/// A lab with the pods and Services in it, and their addresses.
struct World {
    lab: Lab,
    client: String,
    near: String,
    far: String,
    web_service: String,
    far_service: String,
}

impl World {
    fn up(name: &str) -> Self {
        let lab = Lab::up(name, &[]);
        lab.apply(include_str!("sabotage.yaml"));
        lab.kubectl(&["wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"]);
        let pod = |name: &str| lab.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]);
        let service = |name: &str| lab.kubectl(&["get", "svc", name, "-o", "jsonpath={.spec.clusterIP}"]);
        let (client, near, far) = (pod("client"), pod("near"), pod("far"));
        let (web_service, far_service) = (service("web"), service("far"));
        let world = Self { lab, client, near, far, web_service, far_service };
        for way in [TO_WEB, TO_FAR, TO_GOOGLE] {
            is_mended(&world.lab, &way);
        }
        world
    }

    /// A script somewhere; what it prints.
    fn at(&self, place: &str, script: &str) -> String {
        self.lab.exec(place, &["sh", "-ec", script])
    }

    /// Does something, finds the fault where it is, undoes it, and finds none.
    fn sabotage(&self, way: &[&str], (place, done, undone): (&str, &str, &str), fault: (&str, &str, &str)) {
        self.at(place, done);
        let traced = trace(&self.lab, way);
        traced.blames(fault.0, fault.1, fault.2);
        self.at(place, undone);
        is_mended(&self.lab, way);
    }

    fn signal(&self, signal: &str, process: &str) {
        signal_to(signal, self.lab.pid(process));
    }

    /// The pids of the DNS servers.
    fn dns_servers(&self) -> Vec<i32> {
        let status = self.lab.status();
        let processes = status["processes"].as_array().unwrap().iter();
        let dns = processes.filter(|it| it["what"].as_str().is_some_and(|what| what.ends_with("/coredns")));
        dns.map(|it| it["pid"].as_i64().unwrap().try_into().unwrap()).collect()
    }
}

fn signal_to(signal: &str, pid: i32) {
    checked(Command::new("kill").args([signal, &pid.to_string()]));
}

#[test]
fn the_agents_tables() {
    let world = World::up("sabotage-tables");
    let World { lab, web_service, far_service, .. } = &world;
    // The agent mends all of this by itself, often before the request is sent; what it mended is told all the same.
    let table = "ip seaway";
    let element = format!("{web_service} . tcp . 80 . 0");
    world.at(NODE_1, &format!("nft 'delete element {table} endpoints {{ {element} }}'"));
    trace(lab, &TO_WEB).blames("service", NODE_1, "endpoint");

    // "Another endpoint's address": the client may well be sent to the endpoint that is right.
    let element = format!("{web_service} . tcp . 80 . 1");
    let change = format!(
        "nft 'delete element {table} endpoints {{ {element} }}; add element {table} endpoints {{ {element} : 10.244.9.9 . 8080 }}'"
    );
    world.at(NODE_1, &change);
    trace(lab, &TO_WEB).blames("service", NODE_1, "points to 10.244.9.9:8080");
    // Another Service has nothing to do with it.
    is_mended(lab, &TO_FAR);

    // A node port is translated at its node.
    let to_port = [CLIENT, "node/node-2:30080"];
    is_mended(lab, &to_port);
    for (element, set, words) in [
        ("tcp . 30080", "node_ports", "is not translated"),
        ("tcp . 30080 . 0", "node_port_endpoints", "is missing"),
        ("tcp . 30080", "external_node_ports", "does not masquerade its callers"),
    ] {
        world.at(NODE_2, &format!("nft 'delete element {table} {set} {{ {element} }}'"));
        trace(lab, &to_port).blames("service", NODE_2, words);
        is_mended(lab, &to_port);
    }

    world.at(NODE_1, &format!("nft flush chain {table} masquerade_sources"));
    trace(lab, &TO_GOOGLE).blames("snat", NODE_1, "egress from a pod");
    is_mended(lab, &TO_GOOGLE);

    world.at(NODE_1, &format!("nft flush table {table}"));
    trace(lab, &TO_FAR).blames("service", NODE_1, "a rule is missing");
    world.at(NODE_1, &format!("nft delete table {table}"));
    trace(lab, &TO_FAR).blames("service", NODE_1, "the table is missing");
    for way in [TO_WEB, TO_FAR, TO_GOOGLE] {
        is_mended(lab, &way);
    }

    // Without the agent nothing is mended, and its node is never "ok".
    world.signal("-STOP", "node/node-1/agent");
    let traced = trace(lab, &TO_FAR);
    assert_eq!(traced.code, UNKNOWN, "{}", traced.not_ok());
    let element = format!("{far_service} . tcp . 80 . 0");
    world.at(NODE_1, &format!("nft 'delete element {table} endpoints {{ {element} }}'"));
    let traced = trace(lab, &TO_FAR);
    assert_ne!(traced.code, 0, "{}", traced.not_ok());
    world.signal("-CONT", "node/node-1/agent");
    is_mended(lab, &TO_FAR);
}

/// A node whose kernel cannot be compared with its plan is never "ok" where that counts.
#[test]
fn comparing_fails() {
    let world = World::up("sabotage-compare");
    let is_unknown = |way: &[&str], kinds: &[&str], words: &str| {
        let traced = trace(&world.lab, way);
        assert_eq!((traced.code, &traced.told["verified"]), (UNKNOWN, &Value::Null), "{}", traced.not_ok());
        let hops = traced.told["hops"].as_array().unwrap().iter();
        let hops: Vec<&Value> = hops.filter(|hop| hop["result"] == "unknown").collect();
        let found: Vec<&Value> = hops.iter().map(|hop| &hop["kind"]).collect();
        assert_eq!(found, kinds, "{}", traced.not_ok());
        assert!(hops.iter().all(|hop| hop["observed"].as_str().unwrap().contains(words)), "{hops:?}");
    };
    // No note of a pod's address, but a file of that name.
    let note = "/var/lib/seaway/ipam/seaway/10.244.0.250";
    world.at(NODE_1, &format!("touch {note}"));
    is_unknown(&TO_FAR, &["route"], "cannot be compared with the plan: cannot read");
    world.at(NODE_1, &format!("rm {note}"));
    is_mended(&world.lab, &TO_FAR);
}

#[test]
fn others_rules() {
    let world = World::up("sabotage-rules");
    let World { web_service, near, far, .. } = &world;
    let evil = |hook: &str, rule: &str| {
        format!("nft 'add table ip evil; add chain ip evil c {{ type {hook}; }}; add rule ip evil c {rule}'")
    };
    let gone = "nft delete table ip evil";
    let before_ours = "nat hook prerouting priority -150";
    let dnat = evil(before_ours, &format!("ip daddr {web_service} tcp dport 80 dnat to 198.51.100.40"));
    world.sabotage(&TO_WEB, (NODE_1, &dnat, gone), ("service", NODE_1, "evil"));
    let dnat = evil(before_ours, "ip daddr 198.51.100.10 dnat to 198.51.100.40");
    world.sabotage(&TO_GOOGLE, (NODE_1, &dnat, gone), ("service", NODE_1, "198.51.100.40"));
    let dnat = evil("nat hook prerouting priority -150", &format!("ip daddr {far} dnat to {near}"));
    world.sabotage(&[CLIENT, "pod/default/far:8080"], (NODE_2, &dnat, gone), ("route", NODE_2, "evil"));
    let drop = evil("filter hook forward priority 0", &format!("ip daddr {far} drop"));
    world.sabotage(&TO_FAR, (NODE_1, &drop, gone), ("policy", NODE_1, "evil"));
    world.sabotage(&TO_FAR, (NODE_2, &drop, gone), ("policy", NODE_2, "evil"));
    let drop = evil("filter hook forward priority 0", "ip daddr 198.51.100.10 drop");
    world.sabotage(&TO_GOOGLE, ("gateway", &drop, gone), ("gateway", "gateway", "evil"));
    let snat = evil("nat hook postrouting priority 90", &format!("ip daddr {far} snat to 10.244.1.99"));
    world.sabotage(&TO_FAR, (NODE_1, &snat, gone), ("snat", NODE_1, "10.244.1.99"));
}

#[test]
fn ways_and_entries() {
    let world = World::up("sabotage-ways");
    let World { client, far, far_service, .. } = &world;
    let hole = format!("ip route add blackhole {far}/32");
    let gone = format!("ip route del blackhole {far}/32");
    world.sabotage(&TO_FAR, (NODE_1, &hole, &gone), ("route", NODE_1, "blackhole"));

    let port = ["--proto", "udp", "--source-port", "40000"];
    let way = [&[CLIENT, "svc/default/far:81"], port.as_slice()].concat();
    let stale = format!(
        "conntrack -I -p udp -s {client} --sport 40000 -d {far_service} --dport 81 -r 10.244.9.9 -q {client} \
         --reply-port-src 8081 --reply-port-dst 40000 -t 120 -u SEEN_REPLY,ASSURED --dst-nat 10.244.9.9:8081"
    );
    let gone = "conntrack -D -p udp --sport 40000";
    world.sabotage(&way, (NODE_1, &stale, gone), ("service", NODE_1, "an earlier one"));

    // A forwarding entry on the way there, and one on the way back. The agent's resync puts them back, too.
    for (node, peer, fault) in [
        (NODE_1, "172.18.0.12", ("route", NODE_1, "forwarding entry")),
        (NODE_2, "172.18.0.11", ("return", "pod/default/far", "forwarding entry")),
    ] {
        let show = format!("bridge fdb show dev seaway.1 | grep 'dst {peer} ' | cut -d' ' -f1");
        let mac = world.at(node, &show).trim().to_owned();
        let delete = format!("bridge fdb del {mac} dev seaway.1 dst {peer}");
        let add = format!("bridge fdb replace {mac} dev seaway.1 dst {peer} self permanent");
        world.sabotage(&TO_FAR, (node, &delete, &add), fault);
    }

    // With every way symmetrical rp_filter drops nothing. It does where the way back is another one.
    let around = format!("ip route add {client}/32 via 172.18.0.11 dev eth0");
    world.at(NODE_2, &around);
    trace(&world.lab, &TO_FAR).blames("return", "pod/default/far", "not out of seaway.1");
    let undo = format!("sysctl -qw net/ipv4/conf/seaway.1/rp_filter=2; ip route del {client}/32");
    // Until the agent's resync, which may come between.
    eventually("strict rp_filter drops", || {
        world.at(NODE_2, "sysctl -qw net/ipv4/conf/seaway.1/rp_filter=1");
        let traced = trace(&world.lab, &TO_FAR);
        traced.blames("route", NODE_2, "rp_filter");
        traced.not_ok().contains("rp_filter is strict on seaway.1").then_some(())
    });
    world.at(NODE_2, &undo);
    is_mended(&world.lab, &TO_FAR);
}

#[test]
fn sizes_and_servers() {
    let world = World::up("sabotage-servers");
    let mtu = |link: &str, mtu: u16| format!("ip link set {link} mtu {mtu}");
    let (small, right) = (mtu("seaway.1", 1000), mtu("seaway.1", 1450));
    world.sabotage(&TO_FAR, (NODE_1, &small, &right), ("route", NODE_1, "1000 bytes"));
    let link = world.at(NODE_2, &format!("ip -o route get {} | grep -o 'sw[0-9a-f]*'", world.far));
    let (small, right) = (mtu(link.trim(), 900), mtu(link.trim(), 1450));
    world.sabotage(&TO_FAR, (NODE_2, &small, &right), ("route", NODE_2, "MTU"));
    let (small, right) = (mtu("eth1", 700), mtu("eth1", 1500));
    world.sabotage(&TO_GOOGLE, ("gateway", &small, &right), ("gateway", "gateway", "700 bytes"));

    let server = world.lab.pid("pod/default/far/c");
    signal_to("-STOP", server);
    trace(&world.lab, &TO_FAR).blames("destination", "pod/default/far", "no answer");
    signal_to("-CONT", server);
    is_mended(&world.lab, &TO_FAR);
    world.signal("-STOP", "internet/google.com");
    trace(&world.lab, &TO_GOOGLE).blames("destination", "internet/google.com", "no answer");
    world.signal("-CONT", "internet/google.com");
    is_mended(&world.lab, &TO_GOOGLE);
}

#[test]
fn names() {
    let world = World::up("sabotage-names");
    let lab = &world.lab;
    let keep = |file: &str| format!("cp {file} /tmp/kept");
    let back = |file: &str| format!("cat /tmp/kept > {file}");
    let (file, line) = ("/etc/resolv.conf", "nameserver 192.0.2.53");
    let wrong = format!("{}; echo {line} > {file}", keep(file));
    world.sabotage(&TO_GOOGLE, (CLIENT, &wrong, &back(file)), ("resolv-conf", POD, line));
    let (file, line) = ("/etc/hosts", "198.51.100.40 google.com");
    let wrong = format!("{}; echo {line} >> {file}", keep(file));
    world.sabotage(&TO_GOOGLE, (CLIENT, &wrong, &back(file)), ("hosts", POD, "198.51.100.40"));

    // A name that no server has in its cache.
    let way = [CLIENT, "partner.example"];
    world.signal("-STOP", "internet/resolver");
    trace(lab, &way).blames("dns", POD, "SERVFAIL");
    world.signal("-CONT", "internet/resolver");
    // Pods are admitted by no list, which is told as well.
    is_mended(lab, &way);

    // One server hangs, and the plan does not know yet: whoever asks it gets no answer.
    let servers = world.dns_servers();
    servers.iter().for_each(|pid| signal_to("-STOP", *pid));
    trace(lab, &TO_GOOGLE).blames("dns", POD, "not answered");
    servers.iter().for_each(|pid| signal_to("-CONT", *pid));
    is_mended(lab, &TO_GOOGLE);
    // Killed, they come back within a second; meanwhile there is none, or one that the plan does not have.
    eventually("a trace comes between", || {
        // One may be about to be started again.
        for pid in world.dns_servers() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
        }
        let traced = trace(lab, &TO_GOOGLE);
        let first = traced.told["hops"].as_array().unwrap().iter().find(|hop| hop["result"] == "differs");
        let dns = first.is_some_and(|hop| hop["kind"] == "dns") && traced.code == 1;
        is_mended(lab, &TO_GOOGLE);
        dns.then_some(())
    });
}
