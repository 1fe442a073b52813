//! The network stack of Kubernetes in one binary.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "seaway",
    version,
    about,
    max_term_width = 120,
    after_help = "\
Examples:
  seaway lab up -f examples/                     a cluster of three nodes on this machine
  seaway lab exec default/client -- curl http://serve-svc
  seaway dns -conf Corefile --check              is this Corefile good?

Exit codes: 0 done; 1 failed, the reason is on standard error; 2 wrong usage; a command's --help tells of more.
Logs go to standard error; SEAWAY_LOG sets what is logged (info, debug, seaway_dns=trace, …)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A multi-node cluster out of network namespaces on this machine
    Lab(seaway_lab::LabArgs),
    /// What happens to a request, hop by hop, and the proof of it
    Trace(seaway_trace::TraceArgs),
    /// What is programmed on each node, beside what the kernel has
    Status(seaway_trace::StatusArgs),
    /// Packets of a flow on every link that it crosses
    Capture(seaway_trace::CaptureArgs),
    /// The node's agent: pods' network, Services, the way out
    Agent(seaway_agent::AgentArgs),
    /// Services alone, a drop-in for kube-proxy with its flags and configuration file
    Proxy(seaway_agent::ProxyArgs),
    /// Cluster DNS, a drop-in for CoreDNS
    Dns(seaway_dns::DnsArgs),
    /// The CNI plugin (container runtimes call it)
    Cni(seaway_cni::CniArgs),
    /// The lab's API server
    #[command(hide = true)]
    Apiserver(seaway_apiserver::ApiserverArgs),
    /// The lab's controllers
    #[command(hide = true)]
    Controllers(seaway_controllers::ControllersArgs),
    /// The lab's kubelet
    #[command(hide = true)]
    Kubelet(seaway_kubelet::KubeletArgs),
    /// A program that stands for an image in the lab
    #[command(hide = true)]
    Image(seaway_images::ImageArgs),
}

fn main() -> ExitCode {
    seaway_net::sandbox::run_shim_if_asked();
    if seaway_cni::is_cni_call() {
        return seaway_cni::run(seaway_cni::CniArgs::default());
    }
    if std::env::args_os().nth(1).is_some_and(|command| command == seaway_probe::COMMAND) {
        return seaway_probe::run();
    }
    start_logging();
    let cli = Cli::parse_from(arguments());
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seaway: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, but for those that it tells already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The command line; `seaway dns` takes CoreDNS's flags, which have one dash, `seaway proxy` kube-proxy's, which may have
/// underscores.
fn arguments() -> Vec<OsString> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "dns") {
        return seaway_dns::coredns_flags(arguments);
    }
    if arguments.get(1).is_some_and(|command| command == "proxy") {
        return seaway_agent::kube_proxy_flags(arguments);
    }
    arguments
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Lab(args) => seaway_lab::run(args),
        Command::Capture(args) => seaway_trace::run_capture(&args),
        Command::Trace(args) => seaway_trace::run(args),
        Command::Status(args) => seaway_trace::status(args),
        Command::Agent(args) => seaway_agent::run(args),
        Command::Proxy(args) => seaway_agent::run_proxy(args),
        Command::Dns(args) => tokio::runtime::Runtime::new()?.block_on(seaway_dns::run(args)),
        Command::Cni(args) => Ok(seaway_cni::run(args)),
        Command::Apiserver(args) => seaway_apiserver::run(args),
        Command::Controllers(args) => seaway_controllers::run(args),
        Command::Kubelet(args) => seaway_kubelet::run(args),
        Command::Image(args) => seaway_images::run(args),
    }
}

/// To standard error: readable on a terminal, JSON elsewhere only where SEAWAY_LOG_FORMAT=json asks for it.
fn start_logging() {
    let filter = log_filter(std::env::var("SEAWAY_LOG").ok().as_deref());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("SEAWAY_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// What is logged; what makes no sense is told of, and does not stop the program.
fn log_filter(wanted: Option<&str>) -> EnvFilter {
    let wanted = wanted.filter(|wanted| !wanted.is_empty()).unwrap_or("info");
    EnvFilter::try_new(wanted).unwrap_or_else(|error| {
        eprintln!("seaway: SEAWAY_LOG={wanted}: {error}; info is used");
        EnvFilter::new("info")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::other("no such file");
        let error = anyhow::Error::new(cause).context("cannot open x: no such file").context("lab up");
        assert_eq!(with_causes(&error), "lab up: cannot open x: no such file");
    }

    #[test]
    fn what_is_logged() {
        for (wanted, filter) in [
            (None, "info"),
            (Some(""), "info"),
            (Some("seaway_dns=debug"), "seaway_dns=debug"),
            (Some("a=b"), "info"),
        ] {
            assert_eq!(log_filter(wanted).to_string(), filter, "{wanted:?}");
        }
    }
}
