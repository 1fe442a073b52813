//! `seaway capture` in a lab: one flow on every link that it crosses, as text, as JSON and as a file. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{Lab, SEAWAY, checked};
use serde_json::Value;

const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  containers: [{name: client, image: busybox, command: [sleep, infinity]}]
";

/// Starts a capture; it captures when this returns.
fn capture(lab: &Lab, arguments: &[&str]) -> Child {
    let mut child = Command::new(SEAWAY)
        .args(["capture", "--name", &lab.name])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    assert!(line.contains("capturing"), "{line:?}");
    // What it says at its end must find an open pipe.
    std::thread::spawn(move || says.lines().map_while(Result::ok).for_each(drop));
    child
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_flow_is_seen_on_every_link() {
    let lab = Lab::up("capture", &["--nodes", "2"]);
    lab.apply(CLIENT);
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flow.pcapng");
    let file = file.to_str().unwrap();
    let only_http = ["default/client", "--filter", "tcp port 80", "--seconds", "5"];
    let text = capture(&lab, &only_http);
    let json = capture(&lab, &[&only_http[..], &["-o", "json"]].concat());
    let written = capture(&lab, &[&only_http[..], &["-w", file]].concat());
    let gateway = capture(&lab, &["gateway", "--filter", "tcp and src port 80", "--count", "2"]);
    let address = lab.exec("default/client", &["curl", "-s", "http://198.51.100.10"]);
    let public = address.trim();

    // The same SYN: out of the pod, out of the gateway under another address, into the host.
    let text = output(text);
    let pod = lab.kubectl(&["get", "pod", "client", "-o", "jsonpath={.status.podIP}"]);
    for (place, source) in [
        ("(default/client) <", pod.as_str()),
        ("gateway/eth1 >", public),
        ("internet/google.com/eth0 <", public),
    ] {
        let is_syn = |line: &str| {
            line.contains(place) && line.contains(&format!(" {source}:")) && line.contains("tcp S ")
        };
        assert!(text.lines().any(is_syn), "no SYN at {place} from {source} in\n{text}");
    }
    let lines: Vec<Value> = output(json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines.iter().any(|packet| packet["source"] == public && packet["tcp"]["syn"] == true),
        "{lines:?}"
    );
    assert_eq!(output(gateway).lines().filter(|line| line.contains("198.51.100.10:80 >")).count(), 2);
    output(written);
    let read = checked(Command::new("tcpdump").args(["-nr", file]));
    assert!(read.contains(&format!("IP {public}.")) && read.contains("198.51.100.10.80"), "{read}");
}

#[test]
fn what_cannot_be_captured_is_said() {
    let lab = Lab::up("capture-no", &["--nodes", "1"]);
    for (arguments, said) in [
        (&["default/none"][..], "default/none"),
        (&["node/node-9"][..], "node-9"),
        (&["gateway", "--filter", "tcp prt 80"][..], "prt"),
    ] {
        let output =
            Command::new(SEAWAY).args(["capture", "--name", &lab.name]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{arguments:?}: {text}");
    }
}
