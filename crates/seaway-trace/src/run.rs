//! Puts a trace together: read the question, gather, predict, tell.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, bail};
use seaway_lab::Lab;
use seaway_model::Protocol;

use crate::args::{OutputArg, TraceArgs};
use crate::explain::{Caller, Question, predict};
use crate::gather::{Gathered, gather};
use crate::hop::{Proto, Trace};
use crate::names::Resolved;
use crate::render::{self, Paint};
use crate::target::{self, Target, TargetHost};
use crate::world::World;

/// Traces.
///
/// # Errors
/// The question cannot be read, there is no such lab, caller or target, or the API server does not answer.
pub fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    let caller = target::caller(&args.from).context("FROM")?;
    let target = target::target(&args.to).context("TO")?;
    let lab = Lab::open(&args.name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(trace(&args, caller, target, &lab))
}

async fn trace(args: &TraceArgs, caller: Caller, target: Target, lab: &Lab) -> anyhow::Result<ExitCode> {
    let gathered = gather(lab).await?;
    check_caller(&caller, &gathered.world)?;
    let question = question(args, caller, &target, &gathered.world)?;
    let resolved = resolve(&target, &gathered)?;
    let prediction = predict(&gathered.world, &question, &resolved);
    let trace = prediction.trace(&question);
    print(&trace, args.output)?;
    Ok(ExitCode::SUCCESS)
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

/// The addresses that TO stands for.
fn resolve(target: &Target, gathered: &Gathered) -> anyhow::Result<Resolved> {
    let world = &gathered.world;
    match &target.host {
        TargetHost::Address(address) => Ok(Resolved::literal(*address)),
        TargetHost::Service(name) => {
            let service =
                world.services.get(name).with_context(|| format!("TO: there is no Service {name}"))?;
            let ip = service.cluster_ips.first();
            let ip =
                ip.with_context(|| format!("TO: Service {name} has no cluster IP: trace its name instead"))?;
            Ok(Resolved::literal(*ip))
        }
        TargetHost::Pod(name) => {
            let pod = world.pods.get(name).with_context(|| format!("TO: there is no running pod {name}"))?;
            let ip = pod.addresses.first();
            Ok(Resolved::literal(*ip.with_context(|| format!("TO: pod {name} has no address yet"))?))
        }
        TargetHost::Node(name) => {
            let node = world.nodes.get(name).with_context(|| format!("TO: there is no node {name}"))?;
            Ok(Resolved::literal(
                *node.addresses.first().with_context(|| format!("TO: node {name} has no address"))?,
            ))
        }
        TargetHost::Name(name) => bail!("TO: {name}: names are not followed yet"),
    }
}
