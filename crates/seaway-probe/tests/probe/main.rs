//! Probes in a sandbox on the real kernel, as `seaway trace --verify` starts them.
//!
//! This binary is its own sandbox shim and its own probe. All is in namespaces of the test's own; it takes root, and fails
//! without.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod cases;
mod servers;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    seaway_net::sandbox::run_shim_if_asked();
    let first = std::env::args().nth(1).unwrap_or_default();
    if first == seaway_probe::COMMAND {
        return seaway_probe::run();
    }
    if first == "--list" {
        return ExitCode::SUCCESS;
    }
    let world = world::World::new();
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    for (name, case) in cases::CASES.iter().filter(|(name, _)| name.contains(&filter)) {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
