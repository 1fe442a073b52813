//! `seaway lab`: its command line.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::family::IpFamily;
use crate::state::Backend;
use crate::{down, exec, gateway, internet, machines, node, status, supervisor, up};

/// `seaway lab`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  seaway lab up                                  three nodes, a cloud, a small internet
  seaway lab up --nodes 5 -f examples/           five nodes, and the manifests of a folder applied
  seaway lab up --ip-family dual                 IPv4 and IPv6 side by side
  export KUBECONFIG=$(seaway lab kubeconfig)     kubectl works against the lab
  seaway lab exec default/client -- curl -s http://serve-svc
  seaway lab exec node/node-1 -- conntrack -L
  seaway lab exec internet/google.com -- tcpdump -ni eth0
  seaway lab node stop node-2                    and start, add, remove; `lab cut A B` parts two of them
  seaway lab down                                `--keep` keeps it for the next `lab up`

Exit codes: 0 done; 1 failed, the reason is on standard error; 2 wrong usage. `exec` ends with its program's (128 + N after
signal N), 127 where there is no such program, 126 where it can't be executed.
Needs root. The lab's logs are in /run/seaway/labs/NAME/logs.")]
pub struct LabArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a lab; one of the same name is replaced, one that is kept goes on
    Up(up::UpArgs),
    /// End a lab and remove all that it left, or keep it for later
    Down(down::DownArgs),
    /// Show nodes, pods, the cloud and the processes of a lab
    Status(StatusArgs),
    /// Run a program in a pod, on a node, on a host of the internet or on the gateway
    Exec(ExecArgs),
    /// Print the path of the kubeconfig
    Kubeconfig(NameArgs),
    /// Stop, start, add or remove a node
    Node(machines::NodeArgs),
    /// Lose all packets between two nodes, or a node and another part of the cloud
    Cut(machines::CutArgs),
    /// Undo a cut
    Mend(machines::MendArgs),
    /// List the labs of this machine
    List(OutputArgs),
    /// The lab's first process
    #[command(hide = true)]
    Supervisor,
    /// A node's main process
    #[command(hide = true, name = "node-main")]
    NodeMain(node::NodeArgs),
    /// A host of the internet
    #[command(hide = true)]
    InternetHost(ConfigArgs),
    /// The cloud's router
    #[command(hide = true)]
    Gateway(GatewayArgs),
}

/// Which lab.
#[derive(Args, Debug, Clone)]
pub(crate) struct NameArgs {
    /// The lab's name
    #[arg(long, default_value = "default", env = "SEAWAY_LAB")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    lab: NameArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct OutputArgs {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables.
    #[default]
    Text,
    /// JSON.
    Json,
}

#[derive(Args, Debug)]
struct ExecArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Where: a pod NAMESPACE/NAME, node/NAME, internet/HOST, gateway or control-plane
    target: String,
    /// The container, where a pod has more than one
    #[arg(short, long)]
    container: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Args, Debug)]
struct GatewayArgs {
    /// The folder with the cloud's files
    #[arg(long)]
    cloud: PathBuf,
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// What to be, as JSON
    #[arg(long)]
    config: String,
}

/// The networks of a lab that the command line can set.
#[derive(Args, Debug, Clone)]
pub(crate) struct NetworkArgs {
    /// Which IP families nodes, pods and Services have [default: the lab file's, or ipv4]
    #[arg(long, value_enum)]
    pub(crate) ip_family: Option<IpFamily>,
    /// The pods' network, one for each family; each node gets a /24 of it, or a /64
    /// [default: 10.244.0.0/16, fd00:10:244::/56]
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pub(crate) pod_cidr: Vec<IpNet>,
    /// The Services' network, one for each family [default: 10.96.0.0/12, fd00:10:96::/112]
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pub(crate) service_cidr: Vec<IpNet>,
    /// How packets get from node to node
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: Backend,
    /// A lab file, Kubernetes manifests, or a folder of them; may be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR")]
    pub(crate) files: Vec<PathBuf>,
}

/// Prints to standard output; a reader who has seen enough, such as `head`, is no failure.
pub(crate) fn show(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Runs the command.
///
/// # Errors
/// What could not be done and why, for standard error.
pub fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    // The owner of this process, by its effective user ID: proc(5).
    let user = std::fs::metadata("/proc/self").context("cannot read /proc/self")?.uid();
    anyhow::ensure!(
        user == 0,
        "`seaway lab` makes network namespaces and needs root: run it with sudo (now it is user {user})"
    );
    match args.command {
        Command::Up(args) => up::run(&args)?,
        Command::Down(args) => down::run(&args)?,
        Command::Status(args) => return status::run(&args.lab.name, args.output.output),
        Command::Exec(args) => {
            return exec::run(&args.lab.name, &args.target, args.container.as_deref(), args.command);
        }
        Command::Kubeconfig(args) => {
            let (paths, _) = crate::state::LabState::running(&args.name)?;
            show(&paths.admin_kubeconfig().display().to_string())?;
        }
        Command::Node(args) => machines::run(args)?,
        Command::Cut(args) => machines::cut(args)?,
        Command::Mend(args) => machines::mend(args)?,
        Command::List(args) => status::list(args.output)?,
        Command::Supervisor => supervisor::run()?,
        Command::NodeMain(args) => node::run(&args)?,
        Command::InternetHost(args) => {
            let config = serde_json::from_str(&args.config)?;
            small_runtime()?.block_on(internet::serve(config))?;
        }
        Command::Gateway(args) => small_runtime()?.block_on(gateway::run(&args.cloud))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
