//! The API server alone, without a lab around it:
//! `cargo run -p seaway-apiserver --example apiserver -- --data-dir d --cert-dir c --advertise-address 127.0.0.1 --write-kubeconfig k`

use std::process::ExitCode;

use clap::Parser as _;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: seaway_apiserver::ApiserverArgs,
}

fn main() -> anyhow::Result<ExitCode> {
    seaway_apiserver::run(Command::parse().args)
}
