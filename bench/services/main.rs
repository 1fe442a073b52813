//! Service sync against kube-proxy's nftables and iptables layouts: all services in full, and one more.
//!
//! Runs in network namespaces of its own. bench/README.md says how to read the result.

mod cluster;
mod iptables;
mod measure;
mod peer;
mod report;
mod seaway;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use seaway_net::netns::NetNs;

use cluster::Cluster;
use measure::Outcome;

/// Times service sync in full and for one more service: Seaway's flat maps against chains per service and endpoint.
#[derive(Debug, Parser)]
#[command(
    after_help = "Needs root, and nft and iptables for the peers.\n\nExamples:\n  bench-services\n  bench-services --services 500\n  bench-services --services 50000 --endpoints 5 --contestants seaway"
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
    /// Who takes part; at full size kube-proxy's nftables layout takes more than a minute, and iptables-nft hours
    #[arg(long, value_delimiter = ',', default_value = "seaway,netlink,nft,iptables-legacy")]
    contestants: Vec<Contestant>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Contestant {
    /// Flat maps, through our own netlink encoder
    Seaway,
    /// kube-proxy's nftables layout, through our own netlink encoder
    Netlink,
    /// kube-proxy's nftables layout, through nft
    Nft,
    /// kube-proxy's iptables layout, through iptables-legacy-restore
    IptablesLegacy,
    /// kube-proxy's iptables layout, through iptables-nft-restore
    IptablesNft,
}

impl Contestant {
    fn run(self, cluster: &Cluster, rounds: u32) -> anyhow::Result<Outcome> {
        match self {
            Self::Seaway => seaway::run(cluster, rounds),
            Self::Netlink => peer::run_by_netlink(cluster, rounds),
            Self::Nft => peer::run_by_nft(cluster, rounds),
            Self::IptablesLegacy => iptables::run(cluster, rounds, iptables::Backend::Legacy),
            Self::IptablesNft => iptables::run(cluster, rounds, iptables::Backend::Nft),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cluster = Cluster::new(args.services, args.endpoints)?;
    println!(
        "{} services × {} endpoints, then one more service (median of {})",
        args.services, args.endpoints, args.rounds
    );
    let mut results = Vec::new();
    for contestant in args.contestants {
        results.push(within(|| contestant.run(&cluster, args.rounds))?);
    }
    print!("{}", report::table(&results, args.services));
    Ok(())
}

/// Runs something in a fresh network namespace.
fn within<T: Send>(run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let namespace = NetNs::new().context("making a network namespace needs root")?;
    namespace.run(run).context("entering a network namespace")?
}
