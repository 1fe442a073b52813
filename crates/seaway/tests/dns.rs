//! Cluster DNS in a lab: what it answers to a pod, and that it goes on answering.

#![allow(
    clippy::unwrap_used,
    reason = "these are tests, though clippy sees no test function around the helpers"
)]

mod common;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::questions::queries_of;
use common::{Lab, eventually};
use seaway_dns::resolvconf::{Libc, ResolvConf, ResolvOption, candidates};
use seaway_net::netns::NetNs;

const CLIENT: &str = "default/client";

const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: busybox, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: member, labels: {app: member}}
spec:
  hostname: alpha
  subdomain: headless
  containers: [{name: c, image: busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: vip}
spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: member}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.baidu.com}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {clusterIP: None, ports: [{port: 80}]}
";

/// A lab of one node with a pod to ask from.
fn lab(name: &str) -> Lab {
    let lab = Lab::up(name, &["--nodes", "1"]);
    lab.apply(MANIFESTS);
    lab.kubectl(&["wait", "pod/client", "pod/member", "--for=condition=Ready", "--timeout=30s"]);
    lab
}

/// What `dig` prints of an answer.
#[derive(Debug)]
struct Answer {
    status: String,
    flags: String,
    /// `TYPE RDATA` of the answer section, in order of text.
    records: Vec<String>,
}

fn dig(lab: &Lab, arguments: &[&str]) -> Answer {
    let dig = ["dig", "+noedns", "+noall", "+comments", "+answer"];
    let text = lab.exec(CLIENT, &[&dig, arguments].concat());
    let after = |what: &str, end: char| {
        let (_, rest) = text.split_once(what).unwrap_or_else(|| panic!("{arguments:?}: {text}"));
        rest.split(end).next().unwrap_or_default().to_owned()
    };
    let lines = text.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    let record = |line: &str| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ");
    let mut records: Vec<String> = lines.map(record).collect();
    records.sort();
    Answer { status: after("status: ", ','), flags: after("flags: ", ';'), records }
}

#[test]
fn a_pod_gets_every_kind_of_record() {
    let lab = lab("dns-records");
    let ip = lab.kubectl(&["get", "pod", "member", "-o", "jsonpath={.status.podIP}"]);
    let dashed = ip.replace('.', "-");
    let a = format!("A {ip}");
    eventually("the endpoint's name", || {
        (dig(&lab, &[&zone("alpha.headless")]).status == "NOERROR").then_some(())
    });
    let cases: [(&[&str], &str, &[&str]); 20] = [
        (&[&zone("vip"), "A"], "NOERROR", &["A 10.96.1.1"]),
        (&[&zone("vip"), "AAAA"], "NOERROR", &[]),
        (&[&zone("_http._tcp.vip"), "SRV"], "NOERROR", &["SRV 0 100 80 vip.default.svc.cluster.local."]),
        (
            &[&zone("vip"), "SRV"],
            "NOERROR",
            &["SRV 0 50 53 vip.default.svc.cluster.local.", "SRV 0 50 80 vip.default.svc.cluster.local."],
        ),
        (&[&zone("_http._udp.vip"), "SRV"], "NXDOMAIN", &[]),
        (&[&zone("headless"), "A"], "NOERROR", &[&a]),
        (
            &[&zone("_http._tcp.headless"), "SRV"],
            "NOERROR",
            &["SRV 0 100 8080 alpha.headless.default.svc.cluster.local."],
        ),
        (&[&zone("many"), "A"], "NXDOMAIN", &[]),
        (
            &[&zone("outside"), "A"],
            "NOERROR",
            &["A 198.51.100.75", "A 198.51.100.76", "CNAME www.a.shifen.com.", "CNAME www.baidu.com."],
        ),
        (&[&zone("below.outside"), "A"], "NXDOMAIN", &[]),
        (&[&format!("{dashed}.default.pod.cluster.local"), "A"], "NOERROR", &[&a]),
        (&[&format!("{dashed}.nowhere.pod.cluster.local"), "A"], "NXDOMAIN", &[]),
        (&["-x", "10.96.1.1"], "NOERROR", &["PTR vip.default.svc.cluster.local."]),
        (&["-x", &ip], "NOERROR", &["PTR alpha.headless.default.svc.cluster.local."]),
        (&["dns-version.cluster.local", "TXT"], "NOERROR", &["TXT \"1.1.0\""]),
        (&["cluster.local", "NS"], "NOERROR", &["NS kube-dns.kube-system.svc.cluster.local."]),
        (&["default.svc.cluster.local", "A"], "NOERROR", &[]),
        (&[&zone("nothing"), "A"], "NXDOMAIN", &[]),
        (&["vip.nowhere.svc.cluster.local", "A"], "NXDOMAIN", &[]),
        (&["+tcp", &zone("vip"), "A"], "NOERROR", &["A 10.96.1.1"]),
    ];
    for (question, status, records) in &cases {
        let answer = dig(&lab, question);
        assert_eq!((answer.status.as_str(), &answer.records), (*status, &owned(records)), "{question:?}");
        assert_eq!(answer.flags, "qr aa rd", "{question:?}");
    }
    for (question, records) in
        [(["google.com", "A"], ["A 198.51.100.10"]), (["-x", "198.51.100.10"], ["PTR google.com."])]
    {
        let answer = dig(&lab, &question);
        assert_eq!((answer.flags.contains(" ra"), answer.records), (true, owned(&records)), "{question:?}");
    }
    answers_too_long_for_udp_come_by_tcp(&lab);
}

fn answers_too_long_for_udp_come_by_tcp(lab: &Lab) {
    let endpoints: String = (1..=100).map(|i| format!("- {{addresses: [10.200.0.{i}]}}\n")).collect();
    lab.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: 80}}]\n\
         metadata: {{name: many-1, labels: {{kubernetes.io/service-name: many}}}}\nendpoints:\n{endpoints}"
    ));
    eventually("its addresses", || (dig(lab, &[&zone("many")]).records.len() == 100).then_some(()));
    let cut = dig(lab, &["+ignore", &zone("many")]);
    assert!(cut.flags.contains(" tc") && cut.records.len() < 100, "{cut:?}");
    let addresses = lab.exec(CLIENT, &["getent", "ahostsv4", "many"]);
    assert_eq!(addresses.lines().filter(|line| line.contains("STREAM")).count(), 100, "{addresses}");
}

fn zone(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

fn owned(records: &[&str]) -> Vec<String> {
    records.iter().map(|&record| record.to_owned()).collect()
}

#[test]
fn glibc_asks_for_the_candidates() {
    let lab = lab("dns-search");
    let conf = ResolvConf::parse_host(&lab.exec(CLIENT, &["cat", "/etc/resolv.conf"]));
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut script = String::new();
    for ndots in 1..=6 {
        let mut conf = conf.clone();
        conf.options = vec![ResolvOption::new("ndots", Some(ndots.to_string()))];
        for dots in 0..=6 {
            for end in ["", "."] {
                // No such names: the walk goes on to its end.
                let first = format!("n{ndots}d{dots}{}", if end.is_empty() { "s" } else { "a" });
                let name = format!("{first}{}{end}", ".x".repeat(dots));
                script += &format!("RES_OPTIONS=ndots:{ndots} getent ahosts {name}\n");
                expected.insert(first, candidates(&name, &conf, Libc::Glibc));
            }
        }
    }
    script += "true\n";
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for question in queries_of(&lab, CLIENT, &["sh", "-c", &script]) {
        if let Some(name) = question.strip_prefix("A? ") {
            let first = name.split('.').next().unwrap().to_owned();
            seen.entry(first).or_default().push(name.to_owned());
        }
    }
    assert_eq!(seen, expected);
}

/// Asks for `name` all the time, from a place of its own, until it is told to stop; then tells how often it asked and
/// what went wrong.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, Vec<String>)>,
}

impl Asking {
    fn start(lab: &Lab, name: &str) -> Self {
        let netns = NetNs::of_process(lab.pid("pod/default/client/c")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, question) = (stop.clone(), question(name));
        let thread = std::thread::spawn(move || {
            netns.enter_thread().unwrap();
            let (mut count, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                if let Err(error) = ask(&question) {
                    failures.push(format!("question {count}: {error}"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (count, failures)
        });
        Self { stop, thread }
    }

    fn stop_without_failures(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, failures) = self.thread.join().unwrap();
        assert!(count > 100 && failures.is_empty(), "of {count}: {failures:?}");
    }
}

/// A question for the A records of a name (RFC 1035, section 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// One question on a port of its own, so that the Service may give it to any DNS pod.
fn ask(question: &[u8]) -> Result<(), String> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(|error| error.to_string())?;
    socket.connect("10.96.0.10:53").map_err(|error| error.to_string())?;
    socket.send(question).map_err(|error| error.to_string())?;
    let mut answer = [0; 512];
    let size = socket.recv(&mut answer).map_err(|error| error.to_string())?;
    let (rcode, count) = (answer[3] & 15, answer[7]);
    if size > 12 && rcode == 0 && count == 1 {
        Ok(())
    } else {
        Err(format!("rcode {rcode}, {count} answers"))
    }
}

#[test]
fn no_question_is_lost_while_the_dns_pods_are_replaced() {
    let lab = lab("dns-roll");
    let asking = Asking::start(&lab, &zone("vip"));
    let dns_pods = || {
        let names = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "name"];
        lab.kubectl(&names).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = dns_pods();
    lab.kubectl(&["-n", "kube-system", "rollout", "restart", "deployment/coredns"]);
    lab.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s"]);
    // They go on for their lameduck time, and only then end.
    eventually("the end of the old pods", || {
        dns_pods().iter().all(|pod| !before.contains(pod)).then_some(())
    });
    asking.stop_without_failures();
}

#[test]
fn names_outlive_the_api_server_and_then_catch_up() {
    let lab = lab("dns-api");
    assert_eq!(dig(&lab, &[&zone("later")]).status, "NXDOMAIN");
    let asking = Asking::start(&lab, &zone("vip"));
    let kill = ["-c", &format!("kill -9 {}", lab.pid("control-plane/apiserver"))];
    common::checked(std::process::Command::new("sh").args(kill));
    eventually("the API server's return", || {
        let mut create = lab.kubectl_command();
        create.args(["create", "service", "clusterip", "later", "--tcp=80"]).stderr(Stdio::null());
        create.output().unwrap().status.success().then_some(())
    });
    eventually("the new name", || (dig(&lab, &[&zone("later")]).status == "NOERROR").then_some(()));
    asking.stop_without_failures();
}

#[test]
fn a_broken_corefile_leaves_the_last_one_in_force() {
    let lab = lab("dns-reload");
    let config_map = |from: &str, to: &str| {
        let corefile = lab.kubectl(&["-n", "kube-system", "get", "configmap", "coredns", "-o", "yaml"]);
        assert!(corefile.contains(from), "{corefile}");
        lab.apply(&corefile.replace(from, to));
    };
    // The shortest interval; the pods that are there would take up to 45 s to see it.
    config_map("   reload\n", "   reload 2s 1s\n");
    lab.kubectl(&["-n", "kube-system", "rollout", "restart", "deployment/coredns"]);
    lab.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s"]);
    let asking = Asking::start(&lab, &zone("vip"));
    config_map("ttl 30", "ttl many");
    let logs = ["-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--tail=100"];
    eventually("an error with line and column", || {
        lab.kubectl(&logs).contains("/etc/coredns/Corefile:10:12: `many`").then_some(())
    });
    config_map("ttl many", "ttl 17");
    let ttl = || lab.exec(CLIENT, &["dig", "+noall", "+answer", "+ttlid", &zone("vip")]);
    eventually("the new time to live", || (ttl().split_whitespace().nth(1) == Some("17")).then_some(()));
    asking.stop_without_failures();
}
