//! New connections through a Service: how many a second, how long each takes, and what of that is the Service's.
//!
//! A client, a node and a server in network namespaces of their own, once for each contestant. bench/README.md says how to
//! read the result.

#[allow(dead_code, reason = "shared with bench/services, which uses all of it")]
#[path = "../services/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "shared with bench/services, which uses all of it")]
#[path = "../services/iptables.rs"]
mod iptables;
#[allow(dead_code, reason = "shared with bench/services, which uses all of it")]
#[path = "../services/measure.rs"]
mod measure;
#[allow(dead_code, reason = "shared with bench/services, which uses all of it")]
#[path = "../services/peer.rs"]
mod peer;
mod topology;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use seaway_net::nft::{Chain, ChainKind, Family, Hook, Kernel, Nft, Table, Transaction, priority};
use seaway_proxy::{NftablesDriver, ServiceDriver};

use cluster::{Cluster, PORT};
use measure::cost;
use topology::Topology;

/// Times new TCP connections through a Service among few and many, against direct ones with connection tracking.
#[derive(Debug, Parser)]
#[command(
    after_help = "Needs root, and iptables for a peer.\n\nExamples:\n  bench-connections\n  bench-connections --services 10"
)]
struct Args {
    /// Numbers of services to measure among; the one that is called is in their middle
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    services: Vec<u32>,
    /// Times that each contestant has its turn; medians count
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Connections of one turn
    #[arg(long, default_value_t = 2000)]
    connections: u32,
}

/// How a connection gets to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the server's own address; the node tracks connections and translates none.
    Direct,
    Seaway,
    Nftables,
    Iptables,
}

impl Way {
    const ALL: [Self; 4] = [Self::Direct, Self::Seaway, Self::Nftables, Self::Iptables];

    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct, with conntrack",
            Self::Seaway => "Seaway: flat maps",
            Self::Nftables => "kube-proxy's nftables layout",
            Self::Iptables => "kube-proxy's iptables layout, legacy",
        }
    }

    /// Programs the calling thread's namespace.
    fn program(self, cluster: &Cluster) -> anyhow::Result<()> {
        match self {
            Self::Direct => {
                let nat = Chain::base("prerouting", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT);
                Kernel::open()?
                    .commit(&Transaction::create(&Table::new(Family::Ip, "tracked").chain(nat)))?;
            }
            Self::Seaway => {
                NftablesDriver::new(Kernel::open()?).sync(&Cluster::plan(&cluster.snapshot()))?;
            }
            Self::Nftables => Kernel::open()?.commit(&peer::everything(cluster))?,
            Self::Iptables => iptables::Backend::Legacy.restore(&iptables::everything(cluster))?,
        }
        Ok(())
    }
}

/// One turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    each_second: f64,
    median: Duration,
    late: Duration,
    cpu: Duration,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for services in &args.services {
        among(*services, &args)?;
    }
    Ok(())
}

/// Measures all contestants in turn, among as many services.
fn among(services: u32, args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::new(services, 1)?;
    let called = services / 2;
    let endpoint = cluster.endpoints(called).next().context("a service has an endpoint")?;
    let mut contestants = Vec::new();
    for way in Way::ALL {
        let topology = Topology::new(endpoint)?;
        topology.node.run(|| way.program(&cluster))?.with_context(|| way.name())?;
        let to = if way == Way::Direct { endpoint } else { Cluster::cluster_ip(called) };
        contestants.push((way, topology, SocketAddr::new(IpAddr::V4(to), PORT), Vec::new()));
    }
    // The first turn fills caches and is not counted.
    for round in 0..=args.rounds {
        for (_, topology, to, turns) in &mut contestants {
            let turn = topology.client.run(|| turn(*to, args.connections))??;
            if round > 0 {
                turns.push(turn);
            }
        }
    }
    println!("{services} services, {} turns of {} connections, medians", args.rounds, args.connections);
    let mut direct = None;
    for (way, _, _, turns) in contestants {
        let each_second = middle(turns.iter().map(|turn| turn.each_second).collect());
        let micros = |of: fn(&Turn) -> Duration| {
            middle(turns.iter().map(|turn| of(turn).as_secs_f64() * 1e6).collect())
        };
        let (median, late, cpu) =
            (micros(|turn| turn.median), micros(|turn| turn.late), micros(|turn| turn.cpu));
        let slower = median / *direct.get_or_insert(median);
        println!(
            "  {:<38} {each_second:>8.0}/s  connect {median:>6.1} µs ({slower:.2} of direct), 99th {late:>6.1} µs, CPU {cpu:>6.1} µs each",
            way.name()
        );
    }
    Ok(())
}

/// Connects one after the other.
fn turn(to: SocketAddr, connections: u32) -> anyhow::Result<Turn> {
    let mut took = Vec::with_capacity(connections as usize);
    let (result, total) = cost(|| -> anyhow::Result<()> {
        for _ in 0..connections {
            let begun = Instant::now();
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
                .with_context(|| format!("connecting to {to}"))?;
            took.push(begun.elapsed());
            // It ends with a reset, and so leaves no port waiting.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Ok(())
    });
    result?;
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    Ok(Turn {
        each_second: f64::from(connections) / total.wall.as_secs_f64(),
        median: at(50),
        late: at(99),
        cpu: (total.user + total.system) / connections,
    })
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
