//! `seaway trace --verify` and what it says.

use std::process::Command;

use serde_json::Value;

use super::{Lab, SEAWAY, eventually};

/// Exit codes of `seaway trace --verify`.
pub(crate) const AS_TOLD: i32 = 0;
pub(crate) const DIFFERS: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;

/// A verified trace.
pub(crate) struct Traced {
    pub(crate) code: i32,
    pub(crate) told: Value,
}

/// Runs `seaway trace ARGUMENTS --verify -o json`.
pub(crate) fn trace(lab: &Lab, arguments: &[&str]) -> Traced {
    let mut command = Command::new(SEAWAY);
    command.args(["trace", "--name", &lab.name, "--verify", "-o", "json"]).args(arguments);
    let output = command.output().unwrap();
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{command:?}: {error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    Traced { code: output.status.code().unwrap(), told }
}

impl Traced {
    fn hops(&self) -> &[Value] {
        self.told["hops"].as_array().unwrap()
    }

    /// Each hop that was not seen as it was told, one a line.
    pub(crate) fn not_ok(&self) -> String {
        let hops = self.hops().iter().filter(|hop| hop["result"] != "ok");
        hops.map(|hop| format!("{} {} {}: {}\n", hop["result"], hop["kind"], hop["where"], hop["observed"]))
            .collect()
    }

    /// The first hop that differs is of this kind, at this place, and what was seen there contains `words`.
    pub(crate) fn blames(&self, kind: &str, place: &str, words: &str) {
        let first = self.hops().iter().find(|hop| hop["result"] == "differs");
        let found = first.is_some_and(|hop| {
            hop["kind"] == kind
                && hop["where"] == place
                && hop["observed"].as_str().is_some_and(|text| text.contains(words))
        });
        assert!(found, "no fault of {kind} at {place} with {words:?}:\n{}", self.not_ok());
        assert_eq!(self.code, DIFFERS);
        assert_eq!(self.told["verified"], false);
    }
}

/// The trace comes out as it was told, sooner or later.
pub(crate) fn is_mended(lab: &Lab, arguments: &[&str]) {
    let mut last = String::new();
    eventually(&format!("{arguments:?} is as told"), || {
        let traced = trace(lab, arguments);
        let now = traced.not_ok();
        if now != last {
            eprintln!("{arguments:?}: {}", if now.is_empty() { "as told\n" } else { &now });
            last = now;
        }
        (traced.code == AS_TOLD).then_some(())
    });
}
