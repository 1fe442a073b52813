//! The developer's tasks behind the Makefile.

mod licences;
mod tidy;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use clap::Parser;

/// The developer's tasks; `make` has a short name for each.
#[derive(Parser)]
enum Task {
    /// Build the release binary and run scripts/demo
    Demo,
    /// Run all the tests
    Test,
    /// Run the tests of what talks to the kernel on Debian's, in a virtual machine
    TestVm,
    /// Run the tests of what Services do on Debian's kernel, in a virtual machine
    TestBattery,
    /// rustfmt, clippy with warnings denied, tidy
    Lint,
    /// Measure against the peers
    Bench,
    /// Check the rules of ARCHITECTURE.md and STYLE that no compiler checks
    Tidy,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    std::env::set_current_dir(root)?;
    match Task::parse() {
        Task::Demo => {
            run("cargo", &["build", "--release", "--package", "seaway"])?;
            run("scripts/demo", &[&release_binary()])
        }
        Task::Test => run("cargo", &["test", "--workspace"]),
        Task::TestBattery => test_battery(),
        Task::TestVm => test_vm(),
        Task::Lint => {
            run("cargo", &["fmt", "--all", "--check"])?;
            run("cargo", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
            tidy::check()
        }
        Task::Bench => {
            run("cargo", &["build", "--release", "--package", "seaway"])?;
            run("env", &[&format!("SEAWAY={}", release_binary()), "bench/run"])
        }
        Task::Tidy => tidy::check(),
    }
}

/// The integration tests of the crates at the kernel, each test binary in a machine of its own; those too that most kernels
/// lack something for. What they decide is the same everywhere, so unit tests and their properties are left out.
fn test_vm() -> anyhow::Result<()> {
    let packages = ["--package", "seaway-net", "--package", "seaway-cni", "--package", "seaway-proxy"];
    let tests = ["--test", "*", "--no-fail-fast", "--", "--include-ignored"];
    in_vm(&[], &[&packages[..], &tests[..]].concat())
}

/// What Services do, on Debian's kernel, once.
fn test_battery() -> anyhow::Result<()> {
    let battery =
        ["--package", "seaway-proxy", "--test", "battery", "--", "--include-ignored", "--test-threads=4"];
    in_vm(&["SEAWAY_BATTERY_CLUSTERS=4"], &battery)
}

/// Runs `cargo test` with each test binary in a virtual machine, where there has to be SCTP.
fn in_vm(settings: &[&str], arguments: &[&str]) -> anyhow::Result<()> {
    let machine = std::env::current_dir()?.join("scripts/vm-test");
    let runner = format!("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER={}", machine.display());
    let first = [runner.as_str(), "SEAWAY_BATTERY_SCTP=1"];
    run("env", &[&first, settings, &["cargo", "test"], arguments].concat())
}

/// Where cargo puts the release binary (the cargo book, "Environment Variables").
fn release_binary() -> String {
    format!("{}/release/seaway", std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned()))
}

/// Runs a program with the terminal of this one.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let line = || format!("{program} {}", arguments.join(" "));
    eprintln!("» {}", line());
    let status = Command::new(program).args(arguments).status().with_context(line)?;
    ensure!(status.success(), "{}: {status}", line());
    Ok(())
}
