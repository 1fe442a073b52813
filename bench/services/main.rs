//! Service sync against kube-proxy's nftables layout: all services in full, and one more.
//!
//! Runs in network namespaces of its own. bench/README.md says how to read the result.

mod cluster;
mod measure;
mod peer;
mod report;
mod seaway;

use anyhow::Context;
use clap::Parser;
use seaway_net::netns::NetNs;

use cluster::Cluster;

/// Times service sync in full and for one more service: Seaway's flat maps against chains per service and endpoint.
#[derive(Debug, Parser)]
#[command(
    after_help = "Needs root, and nft for the peer.\n\nExamples:\n  bench-services\n  bench-services --services 500"
)]
struct Args {
    /// Number of services
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Times that one more service is added; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Leave out the peer's layout by nft, which takes a minute at full size
    #[arg(long)]
    without_nft: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cluster = Cluster::new(args.services, args.endpoints)?;
    println!(
        "{} services × {} endpoints, then one more service (median of {})",
        args.services, args.endpoints, args.rounds
    );
    let mut results = vec![within(|| seaway::run(&cluster, args.rounds))?];
    results.push(within(|| peer::run_by_netlink(&cluster, args.rounds))?);
    if !args.without_nft {
        results.push(within(|| peer::run_by_nft(&cluster, args.rounds))?);
    }
    print!("{}", report::table(&results, args.services));
    Ok(())
}

/// Runs something in a fresh network namespace.
fn within<T: Send>(run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let namespace = NetNs::new().context("making a network namespace needs root")?;
    namespace.run(run).context("entering a network namespace")?
}
