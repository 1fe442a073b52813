//! A lab leaves nothing behind and touches nothing of the host, however it ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{Lab, checked, eventually, host};

fn pids(lab: &Lab) -> BTreeSet<i64> {
    lab.status()["processes"].as_array().unwrap().iter().map(|p| p["pid"].as_i64().unwrap()).collect()
}

fn nothing_is_left(lab: &Lab, pids: &BTreeSet<i64>) {
    for folder in ["/run/seaway/labs", "/var/lib/seaway/labs"] {
        let path = Path::new(folder).join(&lab.name);
        assert!(!path.exists(), "{} is left", path.display());
    }
    for pid in pids {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!command.contains("seaway"), "process {pid} is left: {command}");
    }
}

/// The lab's listening sockets on the host, by `ss`.
fn listeners(lab: &Lab) -> BTreeSet<String> {
    let pids = pids(lab);
    let sockets = checked(Command::new("ss").args(["-Htulpn"]));
    let of_lab = |line: &&str| pids.iter().any(|pid| line.contains(&format!("pid={pid},")));
    sockets.lines().filter(of_lab).map(|line| line.split_whitespace().nth(4).unwrap().to_owned()).collect()
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let before = host::state();
    let mut lab = Lab::up("clean", &["--nodes", "2"]);
    assert_eq!(host::changed(&before), Vec::<String>::new(), "while the lab runs");
    let opened = listeners(&lab);
    assert!(
        opened.len() == 1 && opened.iter().all(|at| at.starts_with("127.0.0.1:")),
        "listeners on the host: {opened:?}"
    );

    let first = pids(&lab);
    lab.seaway(&["down"]);
    nothing_is_left(&lab, &first);
    assert_eq!(host::changed(&before), Vec::<String>::new(), "after lab down");

    // Every process at once, as the out-of-memory killer on a bad day.
    lab.start(&["--nodes", "2"]);
    let second = pids(&lab);
    for pid in &second {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
    }
    lab.start(&["--nodes", "2"]);
    let third = pids(&lab);
    assert!(second.is_disjoint(&third));
    lab.kubectl(&["get", "nodes"]);

    // The supervisor alone: all the rest ends with it.
    let status = lab.status();
    let processes = status["processes"].as_array().unwrap();
    let supervisor = processes.iter().find(|p| p["what"] == "supervisor").unwrap()["pid"].as_i64().unwrap();
    checked(Command::new("kill").args(["-9", &supervisor.to_string()]));
    eventually("all processes end with the supervisor", || {
        third.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    lab.seaway(&["down"]);
    nothing_is_left(&lab, &third);
    assert_eq!(host::changed(&before), Vec::<String>::new(), "after kill -9 and lab down");

    // What says which processes are the lab's is gone, as when `lab up` was killed before it wrote it.
    lab.start(&["--nodes", "1"]);
    let fourth = pids(&lab);
    std::fs::remove_file(format!("/run/seaway/labs/{}/lab.json", lab.name)).unwrap();
    lab.seaway(&["down"]);
    nothing_is_left(&lab, &fourth);
}

#[test]
fn commands_say_how_they_went() {
    let lab = Lab::up("codes", &["--nodes", "1"]);
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["no-such-program"], 127),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = lab.try_exec("node/node-1", command);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
    }
    let nowhere = lab.try_exec("node/node-9", &["true"]);
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
    let listed: serde_json::Value = serde_json::from_str(&lab.seaway(&["list", "-o", "json"])).unwrap();
    let own = listed.as_array().unwrap().iter().find(|listed| listed["name"] == lab.name.as_str());
    assert_eq!(own.expect("in the list")["running"], true);
    assert!(lab.seaway(&["list"]).lines().any(|line| line.starts_with(&lab.name)));
    // A reader that goes away early is no failure.
    let script =
        format!("'{}' lab status --name {} | true; exit ${{PIPESTATUS[0]}}", common::SEAWAY, lab.name);
    checked(Command::new("bash").args(["-c", &script]));

    for (arguments, code) in [(&["status", "--name", "test-none"][..], 1), (&["no-such-command"], 2)] {
        let output = Command::new(common::SEAWAY).arg("lab").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
}

#[test]
fn labs_run_side_by_side() {
    let one = Lab::up("one", &["--nodes", "1"]);
    let two = Lab::up("two", &["--nodes", "1", "--backend", "host-gw"]);
    for lab in [&one, &two] {
        let nodes = lab.kubectl(&["get", "nodes", "-o", "name"]);
        assert_eq!(nodes.trim(), "node/node-1");
    }
    assert!(pids(&one).is_disjoint(&pids(&two)));
}
