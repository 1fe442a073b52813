//! Runs a node's pods.

mod args;

use std::process::ExitCode;

pub use args::KubeletArgs;

/// Runs the kubelet until SIGTERM or SIGINT; pods that run then are ended with it.
pub fn run(args: KubeletArgs) -> anyhow::Result<ExitCode> {
    drop(args);
    Ok(ExitCode::SUCCESS)
}
