//! Puts a trace together: read the question, gather, predict, tell.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use seaway_dns::resolvconf::{Libc, ResolvConf};
use seaway_lab::Lab;
use seaway_model::Protocol;

use crate::args::{LibcArg, OutputArg, TraceArgs};
use crate::ask;
use crate::explain::{Caller, Question, predict};
use crate::gather::{Gathered, gather};
use crate::hop::{Outcome, Proto, Trace};
use crate::names::{NameService, Resolved};
use crate::render::{self, Paint};
use crate::target::{self, Target, TargetHost};
use crate::verify::{Request, verify};
use crate::world::World;

/// Exit code: something was seen that was not told.
const DIFFERS: u8 = 1;
/// Exit code: something could not be seen, or the question cannot be answered.
const UNKNOWN: u8 = 2;
/// How many predictions are kept on the disk.
const PREDICTIONS: usize = 32;
/// Ports that are taken for HTTP where TO names no scheme.
const HTTP_PORTS: [u16; 9] = [80, 3000, 5000, 8000, 8080, 8181, 8888, 9090, 9376];

/// Traces.
///
/// # Errors
/// The question cannot be read, there is no such lab, caller or target, or the API server does not answer.
pub fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    match start(&args) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("seaway trace: {error:#}");
            Ok(ExitCode::from(UNKNOWN))
        }
    }
}

fn start(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let caller = target::caller(&args.from).context("FROM")?;
    let target = target::target(&args.to).context("TO")?;
    let lab = Lab::open(&args.name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(trace(args, caller, target, &lab))
}

async fn trace(args: &TraceArgs, caller: Caller, target: Target, lab: &Lab) -> anyhow::Result<ExitCode> {
    let gathered = gather(lab).await?;
    check_caller(&caller, &gathered.world)?;
    let question = question(args, caller, &target, &gathered.world)?;
    let resolved = resolve(lab, &target, &question.caller, &gathered, args.libc).await?;
    let prediction = predict(&gathered.world, &question, &resolved);
    if !args.verify {
        print(&prediction.trace(&question), args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = request(args, &target, &question, &resolved, &gathered.world);
    let told = prediction.trace(&question);
    write_down(lab, &told, &request.token)?;
    if std::io::stderr().is_terminal() {
        eprintln!("predicted: {}: {}; sending the request …", told.verdict, told.reason);
    }
    let trace = verify(lab, &gathered.world, &question, &prediction, request).await?;
    print(&trace, args.output)?;
    Ok(match trace.verified.map(|verified| verified.0) {
        Some(Outcome::Ok) => ExitCode::SUCCESS,
        Some(Outcome::Differs) => ExitCode::from(DIFFERS),
        Some(Outcome::Unknown) | None => ExitCode::from(UNKNOWN),
    })
}

/// Writes the prediction to the disk, before the first packet: `traces/TOKEN.json` in the lab's folder, which goes with the lab.
fn write_down(lab: &Lab, told: &Trace, token: &str) -> anyhow::Result<()> {
    let folder = lab.run.join("traces");
    let path = folder.join(format!("{token}.json"));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        forget_old(&folder)?;
        std::fs::write(&path, serde_json::to_vec_pretty(told)?)
    };
    write().with_context(|| format!("write the prediction to {}", path.display()))
}

/// Keeps the newest predictions alone.
fn forget_old(folder: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let surplus = files.len().saturating_sub(PREDICTIONS - 1);
    for (_, path) in files.into_iter().take(surplus) {
        // Another trace may have removed it.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn print(trace: &Trace, output: OutputArg) -> anyhow::Result<()> {
    match output {
        OutputArg::Json => println!("{}", serde_json::to_string_pretty(trace)?),
        OutputArg::Text => print!("{}", render::text(trace, Paint(std::io::stdout().is_terminal()))),
    }
    Ok(())
}

fn check_caller(caller: &Caller, world: &World) -> anyhow::Result<()> {
    let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match caller {
        Caller::Pod(name) if !world.pods.contains_key(name) => {
            let same = world.pods.keys().filter(|pod| pod.namespace == name.namespace);
            let same = list(same.map(ToString::to_string).collect());
            bail!("FROM: there is no running pod {name}; in its namespace there are: {same}")
        }
        Caller::Node(name) if !world.nodes.contains_key(name) => {
            bail!(
                "FROM: there is no node {name:?}; there are: {}",
                list(world.nodes.keys().cloned().collect())
            )
        }
        Caller::Host(name) if !world.hosts.iter().any(|host| host.name == *name) => {
            let hosts = list(world.hosts.iter().map(|host| host.name.clone()).collect());
            bail!("FROM: there is no host {name:?} in the lab's internet; there are: {hosts}")
        }
        _ => Ok(()),
    }
}

fn question(args: &TraceArgs, caller: Caller, target: &Target, world: &World) -> anyhow::Result<Question> {
    let proto = match target.scheme.as_deref() {
        Some("udp") => Proto::Udp,
        _ => args.proto,
    };
    let port = match (proto, target.port) {
        (Proto::Icmp, _) => 0,
        (_, Some(port)) => port,
        (_, None) => default_port(target, proto, world)?,
    };
    Ok(Question { lab: args.name.clone(), caller, to: args.to.clone(), proto, port })
}

/// The port where none was written.
fn default_port(target: &Target, proto: Proto, world: &World) -> anyhow::Result<u16> {
    let wanted = if proto == Proto::Udp { Protocol::Udp } else { Protocol::Tcp };
    let declared = match &target.host {
        TargetHost::Service(name) => {
            let ports = world.services.get(name).map(|service| service.ports.as_slice()).unwrap_or_default();
            ports.iter().find(|(protocol, ..)| *protocol == wanted).map(|(_, port, _)| *port)
        }
        TargetHost::Pod(name) => {
            let ports = world.pods.get(name).map(|pod| pod.ports.as_slice()).unwrap_or_default();
            ports.iter().find(|(protocol, _)| *protocol == wanted).map(|(_, port)| *port)
        }
        _ => None,
    };
    match (declared, target.scheme.as_deref(), proto) {
        (Some(port), ..) => Ok(port),
        (None, Some("https"), _) => Ok(443),
        (None, _, Proto::Tcp) => Ok(80),
        (None, ..) => bail!("TO: {:?}: give the port, as in {}:53", target.text, target.text),
    }
}

/// What the probe is to send.
fn request(
    args: &TraceArgs,
    target: &Target,
    question: &Question,
    resolved: &Resolved,
    world: &World,
) -> Request {
    let name = match &target.host {
        TargetHost::Name(name) => Some(name.clone()),
        _ => None,
    };
    let host = name.clone().map(|name| name.trim_end_matches('.').to_owned());
    let host = host.or_else(|| resolved.addresses.first().map(ToString::to_string)).unwrap_or_default();
    let is_http = question.proto == Proto::Tcp && speaks_http(target, question.port, world);
    Request {
        address: if name.is_some() { None } else { resolved.addresses.first().copied() },
        name,
        port: question.port,
        proto: question.proto,
        musl: args.libc == LibcArg::Musl,
        http: is_http.then(|| (host, target.path.clone())),
        token: uuid::Uuid::new_v4().simple().to_string(),
        source_port: args.source_port,
    }
}

fn speaks_http(target: &Target, port: u16, world: &World) -> bool {
    let named = match &target.host {
        TargetHost::Service(name) => {
            let ports = world.services.get(name).map(|service| service.ports.as_slice()).unwrap_or_default();
            ports.iter().any(|(_, its, name)| *its == port && name.contains("http"))
        }
        _ => false,
    };
    match target.scheme.as_deref() {
        Some(scheme) => scheme == "http",
        None => named || HTTP_PORTS.contains(&port),
    }
}

/// The addresses that TO stands for.
async fn resolve(
    lab: &Lab,
    target: &Target,
    caller: &Caller,
    gathered: &Gathered,
    libc: LibcArg,
) -> anyhow::Result<Resolved> {
    let world = &gathered.world;
    let found = match &target.host {
        TargetHost::Address(address) => Some(*address),
        TargetHost::Service(name) => {
            let service =
                world.services.get(name).with_context(|| format!("TO: there is no Service {name}"))?;
            let ip = service.cluster_ips.first().copied();
            Some(ip.with_context(|| format!("TO: Service {name} has no cluster IP: trace its name instead"))?)
        }
        TargetHost::Pod(name) => {
            let pod = world.pods.get(name).with_context(|| format!("TO: there is no running pod {name}"))?;
            Some(*pod.addresses.first().with_context(|| format!("TO: pod {name} has no address yet"))?)
        }
        TargetHost::Node(name) => {
            let node = world.nodes.get(name).with_context(|| format!("TO: there is no node {name}"))?;
            Some(*node.addresses.first().with_context(|| format!("TO: node {name} has no address"))?)
        }
        TargetHost::Name(_) => None,
    };
    match (found, &target.host) {
        (Some(address), _) => Ok(Resolved::literal(address)),
        (None, TargetHost::Name(name)) => by_name(lab, name, caller, gathered, libc).await,
        (None, _) => Ok(Resolved::default()),
    }
}

async fn by_name(
    lab: &Lab,
    name: &str,
    caller: &Caller,
    gathered: &Gathered,
    libc: LibcArg,
) -> anyhow::Result<Resolved> {
    let files = ask::planned_files(lab, gathered, caller).map_err(anyhow::Error::msg)?;
    let conf = ResolvConf::parse_host(&files.resolv_conf);
    let libc = match libc {
        LibcArg::Glibc => Libc::Glibc,
        LibcArg::Musl => Libc::Musl,
    };
    let address = own_address(caller, &gathered.world).context("FROM: it has no address")?;
    let answers = ask::ask(lab, &gathered.world, (caller, address), name, &conf, libc).await;
    let service = NameService { world: &gathered.world, caller, libc, files: &files, answers: &answers };
    Ok(service.resolve(name))
}

fn own_address(caller: &Caller, world: &World) -> Option<IpAddr> {
    match caller {
        Caller::Pod(name) => world.pods.get(name)?.addresses.first().copied(),
        Caller::Node(name) => world.nodes.get(name)?.addresses.first().copied(),
        Caller::Host(name) => {
            let host = world.hosts.iter().find(|host| host.name == *name)?;
            host.addresses.first().copied()
        }
    }
}
