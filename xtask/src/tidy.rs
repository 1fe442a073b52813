//! Rules of the project that no compiler checks: which crate may use which, and how long a file may be.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

/// A longer file needs its reason in its first lines: `// tidy: long because …`.
const LONGEST: usize = 1000;

/// Checks all rules.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut problems = dependencies_point_down(&metadata(true)?)?;
    problems.extend(crate::licences::unfit(&metadata(false)?)?);
    problems.extend(files_are_short()?);
    ensure!(problems.is_empty(), "tidy:\n  {}", problems.join("\n  "));
    Ok(())
}

/// The crates in the order of ARCHITECTURE.md's table, the topmost first.
fn order(architecture: &str) -> Vec<String> {
    let rows = architecture.lines().filter_map(|line| line.strip_prefix("| `seaway"));
    rows.filter_map(|row| row.split_once("` |")).map(|(rest, _)| format!("seaway{rest}")).collect()
}

/// What cargo knows of the workspace's packages, and of all that they use where `own_only` is false.
fn metadata(own_only: bool) -> anyhow::Result<Value> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    if own_only {
        cargo.arg("--no-deps");
    }
    let output = cargo.output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}

fn dependencies_point_down(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let architecture = std::fs::read_to_string("ARCHITECTURE.md")?;
    let section = architecture
        .split("\n## ")
        .find(|part| part.starts_with("Crates"))
        .context("ARCHITECTURE.md: no section Crates")?;
    let rank: BTreeMap<String, usize> =
        order(section).into_iter().enumerate().map(|(i, name)| (name, i)).collect();
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata: packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        if name == "xtask" {
            continue;
        }
        let Some(place) = rank.get(name) else {
            problems.push(format!("crate {name} is not in ARCHITECTURE.md's table of crates"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        // Tests may use what is above, such as the API server.
        for dependency in dependencies.filter(|dependency| dependency["kind"].is_null()) {
            let used = dependency["name"].as_str().unwrap_or_default();
            if rank.get(used).is_some_and(|below| below <= place) {
                problems
                    .push(format!("crate {name} uses {used}, which is above it in ARCHITECTURE.md's table"));
            }
        }
    }
    Ok(problems)
}

fn files_are_short() -> anyhow::Result<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "*.rs"]).output()?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let mut problems = Vec::new();
    for file in String::from_utf8(output.stdout)?.lines().filter(|file| Path::new(file).exists()) {
        let text = std::fs::read_to_string(file)?;
        let lines = text.lines().count();
        if lines > LONGEST && !text.lines().take(10).any(|line| line.starts_with("// tidy: long because ")) {
            problems.push(format!(
                "{file} has {lines} lines; split it, or say why not (// tidy: long because …)"
            ));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_tables() {
        let table =
            "| crate | one job |\n| --- | --- |\n| `seaway` | the binary |\n| `seaway-net` | the kernel |\n";
        assert_eq!(order(table), ["seaway", "seaway-net"]);
    }
}
