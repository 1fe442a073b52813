//! `seaway status`: what is programmed on each node, from the plans in force beside the kernels' state.

mod dns;
mod gather;
mod nat;
mod report;
mod services;
mod text;

pub(crate) use dns::SOCKET as DNS_SOCKET;

use std::io::IsTerminal;
use std::process::ExitCode;

use seaway_lab::Lab;

use crate::args::OutputArg;
use crate::render::Paint;

/// What is programmed on each node, and where that is not what the plan says.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  seaway status                 all in short: agents, addresses, routes, DNS, and every difference
  seaway status services        each service address with its endpoints, and the nodes that have them
  seaway status nat             the NAT mapping table: source, node's address and port, gateway's, destination
  seaway status dns             the DNS pods with zones, upstreams and caches; each node's resolv.conf
  seaway status routes          how each node reaches the pods of the others
  seaway status agents          versions, generations, watches, the last sync of each part
  seaway status nat -o json | jq '.nat[] | {from: .source.name, seenAs: .seenAs.address}'

Exit codes: 0 all as planned, 1 something differs or could not be asked.")]
pub struct StatusArgs {
    /// One part alone
    #[arg(value_enum)]
    section: Option<Section>,
    /// The lab
    #[arg(long, default_value = "default", env = "SEAWAY_LAB")]
    name: String,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value = "text")]
    output: OutputArg,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    /// Service addresses and endpoints
    Services,
    /// Translated connections
    Nat,
    /// DNS pods and resolv.conf
    Dns,
    /// The network between nodes
    Routes,
    /// The nodes' agents
    Agents,
}

/// Reports.
///
/// # Errors
/// There is no such lab.
pub fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let lab = Lab::open(&args.name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let answers = runtime.block_on(gather::gather(&lab));
    let report = report::report(&answers, args.section);
    match args.output {
        OutputArg::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        OutputArg::Text => {
            print!("{}", text::text(&report, args.section, Paint(std::io::stdout().is_terminal())));
        }
    }
    Ok(if report.as_planned { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
