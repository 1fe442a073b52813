//! `seaway lab up`: decides what the lab is, starts its supervisor, and waits until it works.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use kube::Client;
use seaway_net::sandbox::{self, Ns, Spec, Stdio};

use crate::addresses;
use crate::boxes;
use crate::cloud::{CloudState, Instance};
use crate::command::{NameArgs, NetworkArgs, show};
use crate::kept::Kept;
use crate::manifests::{self, Manifests};
use crate::paths::Paths;
use crate::progress::Display;
use crate::state::{Design, LabState, Process};
use crate::supervisor::{Progress, Task};
use crate::{credentials, design, down, ready, system};

/// How long a lab may take to work, and how much more for each of its nodes.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(2));

/// `seaway lab up`.
#[derive(clap::Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// How many nodes [default: the lab file's, or 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(addresses::MAX_NODES)))]
    nodes: Option<u16>,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Starts the lab.
pub(crate) fn run(args: &UpArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let manifests = manifests::read(&args.network.files)?;
    let paths = Paths::new(&args.lab.name)?;
    let file = manifests.lab.as_ref().map(|lab| lab.spec.clone());
    // Before the lock: what is wrong with the command line is told in any case.
    let asked = design::decide(&args.lab.name, args.nodes, &args.network, file.clone().unwrap_or_default())?;
    let _lock = down::lock(&paths)?;
    let mut display = Display::new();
    let kept = Kept::read(&paths)?;
    let lab = match &kept {
        Some(kept) => {
            kept.check(args.nodes, &args.network, file.as_ref())?;
            down::end_all(&paths)?;
            paths.remove_run().with_context(|| format!("cannot remove {}", paths.run.display()))?;
            display.note(&format!("lab {} was kept and goes on", asked.name));
            kept.notes().iter().for_each(|note| display.note(note));
            kept.clone()
        }
        None => {
            if down::remove(&paths)? {
                display.note(&format!("lab {} was there and is replaced", asked.name));
            }
            let cloud = CloudState::new(asked.cloud.clone());
            // Port 0: a free one.
            Kept::new(&asked, cloud, 0)
        }
    };
    let since = Timestamp::now();
    if let Err(error) = start(&lab, &paths, &mut display) {
        let error = error.context(log_tails(&paths));
        let cleared = match &kept {
            // What was kept is kept.
            Some(_) => down::end_all(&paths).and_then(|_| Ok(paths.remove_run()?)),
            None => down::remove(&paths).map(drop),
        };
        return Err(match cleared.and_then(|()| Ok(paths.forget()?)) {
            Ok(()) => error,
            Err(left) => error.context(format!("{left:#}; `seaway lab down` tries again")),
        });
    }
    Kept::forget(&paths).context("cannot remove what says that the lab is kept")?;
    let design = &lab.design;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let wait = settle(&lab, kept.is_some().then_some(since), &paths, &manifests, &mut display);
        let nodes = u32::try_from(design.cloud.nodes.len()).unwrap_or(u32::MAX);
        let patience = PATIENCE.0 + PATIENCE.1.saturating_mul(nodes);
        tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "not ready after {} s; see `seaway lab status` and the logs in {}",
                patience.as_secs(),
                paths.run.join("logs").display()
            ))
        })
    })?;
    display.finish(&format!("lab {} is up in {:.1} s", design.name, begun.elapsed().as_secs_f64()));
    show(&format!("export KUBECONFIG={}", paths.admin_kubeconfig().display()))
}

/// Makes files and certificates, and starts the supervisor; returns when it has started everything.
fn start(lab: &Kept, paths: &Paths, display: &mut Display) -> anyhow::Result<()> {
    let design = &lab.design;
    paths.create().with_context(|| format!("cannot make {}", paths.run.display()))?;
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, lab.port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            display.note(&format!("port {} is taken: the kubeconfig has another one", lab.port));
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        }
        bound => bound,
    };
    let listener = listener.context("cannot listen on 127.0.0.1")?;
    let port = listener.local_addr()?.port();
    let task = credentials::make(design, lab.cloud.clone(), paths, port, listener.as_raw_fd())?;

    let mut spec = Spec::new("supervisor", vec![own_binary(paths)?, "lab".into(), "supervisor".into()]);
    spec.net = Ns::New;
    spec.mount = Ns::New;
    spec.pid = Ns::New;
    spec.uts = Ns::New;
    spec.ipc = Ns::New;
    spec.hostname = Some(format!("lab-{}", design.name));
    spec.env = boxes::environment();
    spec.keep_fds = vec![listener.as_raw_fd()];
    spec.die_with_parent = false;
    spec.reaper = true;
    let log = File::options().create(true).append(true).open(paths.log_file())?;
    let (progress, ours) = std::io::pipe()?;
    let stdio =
        Stdio { stdin: Some(with_contents(&task)?), stdout: Some(ours.into()), stderr: Some(log.into()) };
    let running = sandbox::spawn(&spec, stdio)?;
    LabState { design: design.clone(), init: Process::of(running.pid())?, port }.write(paths)?;
    for line in BufReader::new(progress).lines() {
        match serde_json::from_str(&line?)? {
            Progress::Done(what) => display.done(&what),
            Progress::Started => return Ok(()),
            Progress::Failed(why) => anyhow::bail!("{why}"),
        }
    }
    anyhow::bail!("the lab's supervisor ended before the lab was built")
}

/// This binary under a name of the lab's own, so that a rebuild does not change a lab that runs.
fn own_binary(paths: &Paths) -> anyhow::Result<String> {
    let binary = std::env::current_exe().context("cannot find the seaway binary")?;
    let ours = paths.binary();
    // A lab that was kept may have been another version's.
    match std::fs::remove_file(&ours) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", ours.display()));
        }
        _ => {}
    }
    // On another file system there are no hard links.
    if std::fs::hard_link(&binary, &ours).is_err() {
        std::fs::copy("/proc/self/exe", &ours)
            .with_context(|| format!("cannot copy this binary to {}", ours.display()))?;
    }
    ours.into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.to_string_lossy()))
}

/// A file without a name that holds `task`, for the supervisor's standard input: it holds keys.
fn with_contents(task: &Task) -> anyhow::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("seaway-lab-task", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(task)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Applies what belongs to the lab and what `-f` named, and waits until nodes and system pods are ready.
async fn settle(
    lab: &Kept,
    again: Option<Timestamp>,
    paths: &Paths,
    manifests: &Manifests,
    display: &mut Display,
) -> anyhow::Result<()> {
    let client = ready::client(&paths.admin_kubeconfig()).await?;
    display.done("API server");
    match again {
        Some(since) => settle_again(&client, lab, since, display).await?,
        None => settle_anew(&client, &lab.design, display).await?,
    }
    if !manifests.objects.is_empty() {
        manifests::apply(&client, &manifests.objects)
            .await
            .context("the lab is up, but not all of -f is applied (`kubectl apply` goes on from here)")?;
        display.done(&format!("{} objects of -f", manifests.objects.len()));
    }
    Ok(())
}

/// A lab that was kept has its objects: nothing is applied, lest what somebody changed be changed back.
async fn settle_again(
    client: &Client,
    lab: &Kept,
    since: Timestamp,
    display: &mut Display,
) -> anyhow::Result<()> {
    let cut_off = |name: &str| lab.cloud.cuts.iter().any(|cut| cut.a == "control-plane" && cut.b == name);
    let runs = |name: &&str| lab.cloud.instance(name) == Instance::Running && !cut_off(name);
    let nodes: Vec<&str> = lab.cloud.node_names().filter(runs).collect();
    if nodes.is_empty() {
        return Ok(());
    }
    ready::nodes_again(client, &nodes, since).await?;
    display.done("nodes ready");
    if lab.cloud.cuts.is_empty() && nodes.len() == lab.design.cloud.nodes.len() {
        ready::a_pod_again(client, "kube-system", "k8s-app=kube-dns", since).await?;
        display.done("cluster DNS");
    }
    Ok(())
}

async fn settle_anew(client: &Client, design: &Design, display: &mut Display) -> anyhow::Result<()> {
    let system = |objects: Vec<_>| -> Vec<_> {
        objects.into_iter().map(|object| (PathBuf::from("kube-system"), object)).collect()
    };
    manifests::apply(client, &system(system::objects(design))).await?;
    ready::nodes(client, &design.cloud.nodes).await?;
    display.done("nodes ready");
    manifests::apply(client, &system(system::workloads())).await?;
    ready::deployment(client, "kube-system", "coredns").await?;
    display.done("cluster DNS");
    Ok(())
}

/// The last lines of the lab's logs, which say why it did not start.
fn log_tails(paths: &Paths) -> String {
    let mut logs = vec![paths.log_file()];
    logs.extend(
        std::fs::read_dir(paths.run.join("logs")).into_iter().flatten().flatten().map(|entry| entry.path()),
    );
    let tail = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.iter().rev().map(|line| format!("  {name}: {line}\n")).collect::<String>()
    };
    format!("the lab did not start; its logs end with:\n{}", logs.iter().map(tail).collect::<String>())
}
