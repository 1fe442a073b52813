//! `--cleanup`: takes what this proxy has programmed out of the kernel.

use std::process::ExitCode;

use anyhow::Context;
use seaway_proxy::leftovers::remove_own;

/// Removes it, and says what it removed. What kube-proxy has programmed stays.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let removed = remove_own().context("--cleanup")?;
    if removed.is_empty() {
        tracing::info!("nothing to remove");
    }
    for table in removed {
        tracing::info!("table {table} removed");
    }
    Ok(ExitCode::SUCCESS)
}
