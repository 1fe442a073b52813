//! `seaway status` in a lab: what it shows, and that it tells what is wrong. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::process::Command;

use common::{Lab, SEAWAY, eventually};
use serde_json::Value;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: registry.k8s.io/e2e-test-images/agnhost:2.39, args: [netexec, --http-port=8080]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

/// `seaway status ARGUMENTS`: what it prints, and whether all is as planned.
fn text(lab: &Lab, arguments: &[&str]) -> (String, bool) {
    let output = Command::new(SEAWAY).args(["status", "--name", &lab.name]).args(arguments).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

fn json(lab: &Lab, section: &str) -> Value {
    let (text, as_planned) = text(lab, &[section, "-o", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["asPlanned"], as_planned, "{text}");
    report
}

/// The differences, each as `node object: kernel: actual`.
fn differences(report: &Value) -> Vec<String> {
    let each = |one: &Value| {
        let text = |field: &str| one[field].as_str().unwrap_or("nothing").to_owned();
        format!("{} {}: {}: {}", text("node"), text("object"), text("kernel"), text("actual"))
    };
    report["differences"].as_array().unwrap().iter().map(each).collect()
}

/// What is told once the agents have settled: a resync that falls between a change and the question mends it.
fn told(lab: &Lab, section: &str, node: &str, change: &[&str], expected: &str) {
    eventually(expected, || {
        lab.exec(node, change);
        let report = json(lab, section);
        differences(&report).iter().any(|one| one == expected).then_some(())
    });
}

#[test]
fn all_parts_and_what_is_wrong() {
    let lab = Lab::up("status", &["--nodes", "2"]);
    lab.apply(WEB);
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let vip = lab.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);

    services(&lab, &vip);
    dns(&lab);
    let agents = json(&lab, "agents");
    assert_eq!(agents["asPlanned"], true, "{agents}");
    assert_eq!(agents["agents"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(agents["agents"][1]["parts"][1]["pending"], false, "{agents}");
    let (shown, _) = text(&lab, &[]);
    assert!(shown.starts_with("NODE    AGENT   SERVICE ADDRESSES"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "colour where no terminal is: {shown}");

    routes(&lab);
    // An element that is put back each time it is mended is missing at most looks.
    let delete =
        format!("nft flush map ip seaway endpoints; nft delete element ip seaway cluster_ips '{{ {vip} }}'");
    eventually("an element is told to be missing", || {
        let _ = lab.try_exec("node/node-1", &["sh", "-c", &delete]);
        let report = json(&lab, "services");
        let found = differences(&report);
        let services = report["services"].as_array().unwrap();
        let web = services.iter().find(|row| row["service"] == "default/web").unwrap();
        let told = found.iter().any(|one| one.starts_with("node-1 Service default/web port http: element "));
        (told && web["differsOn"] == serde_json::json!(["node-1"])).then_some(())
    });
    eventually("the agent mends it", || (json(&lab, "services")["asPlanned"] == true).then_some(()));

    // Others' rules are shown and are no difference.
    let foreign = "nft add table ip theirs; nft 'add chain ip theirs out { type nat hook postrouting priority 90; }'; \
                   nft add rule ip theirs out ip daddr 192.0.2.77 masquerade";
    lab.exec("node/node-2", &["sh", "-c", foreign]);
    let report = json(&lab, "nat");
    let found = &report["foreign"][0];
    assert_eq!(
        (&found["node"], &found["kernel"]),
        (&"node-2".into(), &"chain out of table ip theirs".into())
    );
    assert_eq!(differences(&report), [""; 0]);

    an_agent_that_is_away(&lab);
}

fn services(lab: &Lab, vip: &str) {
    let report = json(lab, "services");
    assert_eq!(report["asPlanned"], true, "{report:#}");
    let services = report["services"].as_array().unwrap();
    let web = services.iter().find(|row| row["service"] == "default/web").unwrap();
    assert_eq!((&web["address"]["ip"], &web["address"]["port"]), (&vip.into(), &80.into()));
    assert_eq!(web["nodes"], serde_json::json!(["node-1", "node-2"]));
    let endpoints = web["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2, "{web}");
    for endpoint in endpoints {
        let (name, node) = (endpoint["name"].as_str().unwrap(), endpoint["localOn"].as_str().unwrap());
        let pod = name.strip_prefix("pod default/").unwrap();
        let running = lab.kubectl(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName} {.status.podIP}"]);
        assert_eq!(running, format!("{node} {}", endpoint["backend"]["ip"].as_str().unwrap()));
    }
    connections(lab, vip);
    let (shown, as_planned) = text(lab, &["services"]);
    assert!(
        as_planned && shown.contains(&format!("{vip}:80/TCP")) && shown.ends_with("all as planned\n"),
        "{shown}"
    );
}

/// Each request is a connection through one of the endpoints, with its packets.
fn connections(lab: &Lab, vip: &str) {
    let through = || {
        let report = json(lab, "services");
        let services = report["services"].as_array().unwrap();
        let web = services.iter().find(|row| row["service"] == "default/web").unwrap();
        let endpoints = web["endpoints"].as_array().unwrap().iter();
        let of = |one: &Value, field: &str| one.pointer(field).and_then(Value::as_u64).unwrap();
        endpoints.fold((0, 0), |(connections, packets), one| {
            (connections + of(one, "/connections"), packets + of(one, "/traffic/packets"))
        })
    };
    let (connections, packets) = through();
    for _ in 0..5 {
        lab.exec("node/node-1", &["curl", "-sf", "-o", "/dev/null", &format!("http://{vip}/")]);
    }
    let (more, more_packets) = through();
    assert_eq!(more, connections + 5);
    // A request takes no fewer than three packets to connect, two to ask and answer, and three to end.
    assert!(more_packets >= packets + 5 * 8, "{packets}, then {more_packets}");
}

fn routes(lab: &Lab) {
    let report = json(lab, "routes");
    assert_eq!(report["asPlanned"], true, "{report:#}");
    let rows = report["routes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["node"] == "node-1" && row["to"] == "node-2").unwrap();
    assert_eq!((&row["link"], &row["mtu"]), (&"seaway.1".into(), &1450.into()));
    assert_eq!(row["tunnel"]["remote"], "172.18.0.12");
    let (network, via) = (row["network"].as_str().unwrap(), row["via"].as_str().unwrap());
    let told = |change: &[&str], kernel: &str, actual: &str| {
        told(lab, "routes", "node/node-1", change, &format!("node-1 node node-2: {kernel}: {actual}"));
        let rows = json(lab, "routes");
        assert_eq!(rows["asPlanned"] == false, !differences(&rows).is_empty());
    };
    told(&["ip", "route", "replace", "blackhole", network], &format!("route {network}"), "blackhole");
    let neighbour = format!("ip neigh flush nud permanent to {via} dev seaway.1");
    told(&["sh", "-c", &neighbour], &format!("neighbour {via} dev seaway.1"), "nothing");
    let mac = row["tunnel"]["mac"].as_str().unwrap();
    let elsewhere =
        ["bridge", "fdb", "replace", mac, "dev", "seaway.1", "dst", "172.18.0.99", "self", "permanent"];
    told(&elsewhere, &format!("forwarding entry {mac} dev seaway.1"), "dst 172.18.0.99");
}

fn dns(lab: &Lab) {
    let report = json(lab, "dns");
    assert_eq!(report["asPlanned"], true, "{report:#}");
    let pods = report["dns"]["pods"].as_array().unwrap();
    assert_eq!(pods.len(), 2);
    let server = &pods[0]["servers"][0];
    assert_eq!(server["cluster"][0], "cluster.local.", "{server}");
    assert_eq!(server["upstreams"][0]["address"], "192.0.2.53:53", "{server}");
    assert_eq!(server["upstreams"][0]["down"], false, "{server}");
    assert!(server["cache"]["success"].is_u64(), "{server}");
    assert!(pods[0]["counts"]["requests"].is_u64());
    assert_eq!(report["dns"]["nodes"][0]["nameservers"][0], "192.0.2.53");
}

/// A stopped agent answers nobody: that is said, and not taken for "as planned".
fn an_agent_that_is_away(lab: &Lab) {
    // The brackets keep the shell itself from matching.
    let signal = |name: &str| {
        lab.exec("node/node-1", &["sh", "-c", &format!("kill {name} $(pgrep -f 'seaway agen[t] --node')")]);
    };
    signal("-STOP");
    let report = json(lab, "agents");
    assert_eq!(report["asPlanned"], false);
    assert_eq!(report["unknown"][0]["who"], "agent of node-1");
    assert!(report["agents"][0]["away"].is_string(), "{report:#}");
    assert_eq!(report["agents"][1]["api"], "synced", "{report:#}");
    let (shown, as_planned) = text(lab, &["agents"]);
    assert!(!as_planned && shown.contains("agent of node-1 cannot be asked"), "{shown}");
    signal("-CONT");
    eventually("the agent answers again", || {
        (json(lab, "agents")["unknown"].as_array().unwrap().is_empty()).then_some(())
    });
}
