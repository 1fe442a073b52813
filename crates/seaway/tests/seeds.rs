//! What the project's first documents show of a cluster, asked of a lab with the same commands.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use common::questions::queries_of;
use common::{Lab, eventually};

/// A lab with the manifests of `examples/`, all of them running.
fn lab(name: &str) -> Lab {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let lab = Lab::up(name, &["-f", examples]);
    for deployment in ["serve-demo", "nginx-deployment", "busybox", "alpine"] {
        lab.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=60s"]);
    }
    lab.kubectl(&["-n", "monitoring", "rollout", "status", "deployment/prometheus-k8s", "--timeout=60s"]);
    lab
}

fn jsonpath(lab: &Lab, kind: &str, name: &str, path: &str) -> String {
    lab.kubectl(&["get", kind, name, "-o", &format!("jsonpath={path}")])
}

/// The columns of the row whose first column begins with `prefix`.
fn row<'a>(table: &'a str, prefix: &str) -> Vec<&'a str> {
    let line = table
        .lines()
        .find(|line| line.starts_with(prefix))
        .unwrap_or_else(|| panic!("no {prefix} in:\n{table}"));
    line.split_whitespace().collect()
}

#[test]
fn kubectl_shows_what_people_know() {
    let lab = lab("kubectl");
    let pods = lab.kubectl(&["get", "pods", "-o", "wide"]);
    let columns = [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "NOMINATED",
        "NODE",
        "READINESS",
        "GATES",
    ];
    assert_eq!(row(&pods, "NAME"), columns);
    assert_eq!(
        pods.lines().filter(|line| line.starts_with("serve-demo-") && line.contains(" 1/1 ")).count(),
        3,
        "{pods}"
    );

    let services = lab.kubectl(&["get", "svc"]);
    assert_eq!(row(&services, "NAME"), ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(
        row(&services, "kubernetes")[..5],
        ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]
    );
    assert_eq!(row(&services, "serve-svc")[4], "80/TCP");

    let endpoints = lab.kubectl(&["get", "endpoints", "serve-svc"]);
    let listed: Vec<&str> = row(&endpoints, "serve-svc")[1].split(',').collect();
    assert!(
        listed.len() == 3 && listed.iter().all(|e| e.starts_with("10.244.") && e.ends_with(":9376")),
        "{endpoints}"
    );

    let dns = lab.kubectl(&["get", "svc", "-n", "kube-system", "-o", "wide"]);
    let kube_dns = row(&dns, "kube-dns");
    assert_eq!(kube_dns[..5], ["kube-dns", "ClusterIP", "10.96.0.10", "<none>", "53/UDP,53/TCP,9153/TCP"]);
    assert_eq!(kube_dns[6], "k8s-app=kube-dns");
    let dns_pods = lab.kubectl(&["get", "pods", "-n", "kube-system"]);
    assert_eq!(
        dns_pods.lines().filter(|line| line.starts_with("coredns-") && line.contains(" 1/1 ")).count(),
        2
    );

    let corefile = lab.kubectl(&["get", "configmaps", "-n", "kube-system", "coredns", "-o", "yaml"]);
    for directive in
        ["kubernetes cluster.local in-addr.arpa ip6.arpa {", "forward . /etc/resolv.conf {", "loadbalance"]
    {
        assert!(corefile.contains(directive), "{corefile}");
    }
}

#[test]
fn a_service_spreads_connections_over_its_pods() {
    let lab = lab("spread");
    let client = format!("default/{}", lab.pod("app=busybox"));
    let vip = jsonpath(&lab, "svc", "serve-svc", "{.spec.clusterIP}");
    for from in [client.as_str(), "node/node-1"] {
        let mut reached = std::collections::BTreeSet::new();
        // Three pods: that thirty connections all miss one of them has a chance of one in 190,000.
        for _ in 0..30 {
            let host = lab.exec(from, &["curl", "-s", "--max-time", "5", &vip]);
            assert!(host.starts_with("serve-demo-"), "{from}: {host:?}");
            reached.insert(host);
        }
        assert_eq!(reached.len(), 3, "{from} reached {reached:?}");
    }
    let node = jsonpath(&lab, "pod", client.trim_start_matches("default/"), "{.spec.nodeName}");
    let tracked =
        lab.exec(&format!("node/{node}"), &["sh", "-c", &format!("conntrack -L -d {vip} 2>/dev/null")]);
    let translated = |line: &str| {
        line.contains(&format!("dst={vip}")) && line.contains("dport=80") && line.contains("sport=9376")
    };
    assert!(tracked.lines().any(translated), "{tracked}");
}

#[test]
fn pods_get_out_with_the_gateways_address() {
    let lab = lab("out");
    let client = format!("default/{}", lab.pod("app=busybox"));
    assert_eq!(
        lab.exec(&client, &["curl", "-s", "--max-time", "5", "http://google.com"]).trim(),
        "203.0.113.10"
    );
    assert_eq!(
        lab.exec(&client, &["curl", "-s", "--max-time", "5", "http://partner.example"]).trim(),
        "203.0.113.10"
    );
    let ping = lab.exec(&client, &["ping", "-c", "1", "-W", "3", "www.baidu.com"]);
    assert!(ping.contains("www.a.shifen.com") && ping.contains(" 0% packet loss"), "{ping}");
}

#[test]
fn names_resolve_as_in_any_cluster() {
    let lab = lab("names");
    let pod = lab.pod("app=busybox");
    let client = format!("default/{pod}");
    let resolv = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
    assert_eq!(lab.exec(&client, &["cat", "/etc/resolv.conf"]), resolv);
    assert_eq!(lab.kubectl(&["exec", &pod, "--", "cat", "/etc/resolv.conf"]), resolv);

    let vip = jsonpath(&lab, "svc", "nginx-svc", "{.spec.clusterIP}");
    let lookup = lab.exec(&client, &["nslookup", "nginx-svc"]);
    assert!(
        lookup.contains("Name:\tnginx-svc.default.svc.cluster.local")
            && lookup.contains(&format!("Address: {vip}")),
        "{lookup}"
    );
    let reverse = lab.exec(&client, &["nslookup", &vip, "10.96.0.10"]);
    assert!(reverse.contains("name = nginx-svc.default.svc.cluster.local."), "{reverse}");
    let endpoint = jsonpath(&lab, "endpoints", "nginx-svc", "{.subsets[0].addresses[0].ip}");
    let reverse = lab.exec(&client, &["nslookup", &endpoint, "10.96.0.10"]);
    let expected = format!("name = {}.nginx-svc.default.svc.cluster.local.", endpoint.replace('.', "-"));
    assert!(reverse.contains(&expected), "{reverse}");
}

#[test]
fn each_resolution_case_asks_exactly_its_names() {
    let lab = lab("queries");
    let client = format!("default/{}", lab.pod("app=busybox"));
    let both = |name: &str| vec![format!("A? {name}"), format!("AAAA? {name}")];
    let search = [
        "www.baidu.com.default.svc.cluster.local.",
        "www.baidu.com.svc.cluster.local.",
        "www.baidu.com.cluster.local.",
    ];
    let baidu: Vec<String> = search.iter().chain(&["www.baidu.com."]).flat_map(|name| both(name)).collect();
    let monitoring = "prometheus-k8s.monitoring";
    let cases: [(&[&str], Vec<String>); 6] = [
        (&["ping", "-n", "-c", "1", "www.baidu.com"], baidu),
        (&["ping", "-n", "-c", "1", "www.baidu.com."], both("www.baidu.com.")),
        (&["nslookup", "nginx-svc"], both("nginx-svc.default.svc.cluster.local.")),
        (
            &["nslookup", monitoring],
            std::iter::once(format!("A? {monitoring}.default.svc.cluster.local."))
                .chain(both(&format!("{monitoring}.svc.cluster.local.")))
                .collect(),
        ),
        (&["nslookup", "sls.doc.dc.wiki.tbchip.com"], both("sls.doc.dc.wiki.tbchip.com.")),
        (
            &["nslookup", "prometheus-k8s.monitoring.svc.cluster.local."],
            both("prometheus-k8s.monitoring.svc.cluster.local."),
        ),
    ];
    for (command, expected) in cases {
        let mut seen = queries_of(&lab, &client, command);
        let mut expected = expected;
        // A resolver may send the pair of A and AAAA in either order.
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected, "{command:?}");
    }
}

#[test]
fn a_pod_has_its_own_names_environment_and_token() {
    let lab = lab("pod");
    lab.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: named}\nspec:\n  hostname: web\n  hostAliases: [{ip: 192.0.2.77, hostnames: [old.example]}]\n  containers: [{name: c, image: busybox, command: [sleep, '1000']}]\n",
    );
    lab.kubectl(&["wait", "pod/named", "--for=condition=Ready", "--timeout=30s"]);
    assert_eq!(lab.exec("default/named", &["hostname"]).trim(), "web");
    let alias = lab.exec("default/named", &["getent", "hosts", "old.example"]);
    assert!(alias.starts_with("192.0.2.77"), "{alias}");
    let environment = lab.exec("default/named", &["env"]);
    for variable in ["KUBERNETES_SERVICE_HOST=10.96.0.1", "SERVE_SVC_SERVICE_PORT=80"] {
        assert!(environment.lines().any(|line| line == variable), "{environment}");
    }
    let token = lab.exec("default/named", &["ls", "/var/run/secrets/kubernetes.io/serviceaccount"]);
    assert_eq!(token.split_whitespace().collect::<Vec<_>>(), ["ca.crt", "namespace", "token"]);
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: unknown}\nspec:\n  containers: [{name: c, image: 'example.com/nothing:1'}]\n");
    let message = eventually("an event that says which images there are", || {
        let events = lab.kubectl(&["get", "events", "--field-selector", "involvedObject.name=unknown"]);
        events.contains("agnhost").then_some(events)
    });
    assert!(message.contains("example.com/nothing:1"), "{message}");
}
