//! A lab for a test: brought up when made, down when dropped.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "these are tests, though clippy sees no test function around them")]

pub(crate) mod host;
pub(crate) mod load;
pub(crate) mod questions;
pub(crate) mod trace;
pub(crate) mod tracing;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test.
pub(crate) const SEAWAY: &str = env!("CARGO_BIN_EXE_seaway");

/// The rest of a lab file's `spec`: each node has a public address of its own, and only node-2's is let in by the partner.
pub(crate) const ONE_TO_ONE: &str = "
  cloud:
    egress: {type: one-to-one, addresses: {node-2: 203.0.113.77}}
  internet:
    hosts:
    - {name: google.com, addresses: [198.51.100.10]}
    - {name: partner.example, addresses: [198.51.100.40], allow: [203.0.113.77/32]}";

/// A lab of the test's own.
pub(crate) struct Lab {
    pub(crate) name: String,
    kubeconfig: PathBuf,
    /// Whether kubectl speaks SPDY in sessions, as it does by itself before 1.31, and not WebSocket.
    pub(crate) spdy: bool,
}

impl Lab {
    /// Brings a lab up, with more arguments for `lab up`.
    pub(crate) fn up(name: &str, arguments: &[&str]) -> Self {
        let name = format!("test-{name}-{}", std::process::id());
        let mut lab = Self { name, kubeconfig: PathBuf::new(), spdy: false };
        lab.start(arguments);
        lab
    }

    /// Brings it up (again).
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        let up =
            Command::new(SEAWAY).args(["lab", "up", "--name", &self.name]).args(arguments).output().unwrap();
        assert!(up.status.success(), "lab up: {}", String::from_utf8_lossy(&up.stderr));
        self.kubeconfig = self.seaway(&["kubeconfig"]).trim().into();
    }

    /// `seaway lab ARGUMENTS --name …`; what it prints. It must succeed.
    pub(crate) fn seaway(&self, arguments: &[&str]) -> String {
        checked(Command::new(SEAWAY).env("SEAWAY_LAB", &self.name).arg("lab").args(arguments))
    }

    /// `seaway lab ARGUMENTS --name …`, however it ends.
    pub(crate) fn try_seaway(&self, arguments: &[&str]) -> Output {
        Command::new(SEAWAY).env("SEAWAY_LAB", &self.name).arg("lab").args(arguments).output().unwrap()
    }

    /// `seaway lab status -o json`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.seaway(&["status", "-o", "json"])).unwrap()
    }

    /// The host's pid of a process of the lab, by what `lab status` calls it.
    pub(crate) fn pid(&self, what: &str) -> i32 {
        let status = self.status();
        let processes = status["processes"].as_array().unwrap();
        let found = processes
            .iter()
            .find(|process| process["what"] == what)
            .unwrap_or_else(|| panic!("no process {what}"));
        found["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// A program somewhere in the lab; what it prints. It must succeed.
    pub(crate) fn exec(&self, target: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", target, "--"];
        arguments.extend(command);
        self.seaway(&arguments)
    }

    /// A program somewhere in the lab, however it ends.
    pub(crate) fn try_exec(&self, target: &str, command: &[&str]) -> Output {
        let mut lab = Command::new(SEAWAY);
        lab.args(["lab", "exec", "--name", &self.name, target, "--"]).args(command).output().unwrap()
    }

    /// A `kubectl` command.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        // Its caches of discovery must be this lab's.
        kubectl
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", std::env::temp_dir().join(&self.name));
        let websockets = if self.spdy { "false" } else { "true" };
        for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
            kubectl.env(variable, websockets);
        }
        kubectl
    }

    /// `kubectl ARGUMENTS`; what it prints. It must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        checked(self.kubectl_command().args(arguments))
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str) {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(manifests.as_bytes()).unwrap();
        self.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
    }

    /// The first pod that has these labels.
    pub(crate) fn pod(&self, selector: &str) -> String {
        self.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let folder = format!("/run/seaway/labs/{}", self.name);
            let logs = Command::new("sh")
                .args(["-c", &format!("tail -n 15 {folder}/lab.log {folder}/logs/*")])
                .output();
            if let Ok(logs) = logs {
                eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
            }
        }
        let _ = Command::new(SEAWAY).args(["lab", "down", "--name", &self.name]).output();
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(&self.name));
    }
}

/// Runs a command that must succeed; what it prints.
pub(crate) fn checked(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` gives something, at most half a minute.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
