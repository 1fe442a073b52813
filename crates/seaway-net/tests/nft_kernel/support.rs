//! Namespaces, and what `nft` itself says.

use std::io::Write;
use std::process::{Command, Stdio};

use seaway_net::netns::NetNs;

/// Runs a test inside a fresh network namespace.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let namespace = NetNs::new().expect("making a network namespace needs root");
    namespace.run(test).unwrap()
}

/// What `nft list ruleset` shows in the calling thread's namespace.
pub(crate) fn listed() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Gives `text` to `nft -f`.
pub(crate) fn load(text: &str) {
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}
