//! `seaway lab up`: decides what the lab is, starts its supervisor, and waits until it works.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use seaway_net::sandbox::{self, Ns, Spec, Stdio};

use crate::addresses;
use crate::boxes;
use crate::command::{NameArgs, NetworkArgs, show};
use crate::manifests::{self, Manifests};
use crate::paths::Paths;
use crate::progress::Display;
use crate::state::{Design, LabState, Process};
use crate::supervisor::{Progress, Task};
use crate::{credentials, design, down, ready, system};

/// How long the lab may take to work.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let spec = manifests.lab.as_ref().map(|lab| lab.spec.clone()).unwrap_or_default();
    let design = design::decide(&args.lab.name, args.nodes, &args.network, spec)?;
    let paths = Paths::new(&design.name)?;
    let _lock = down::lock(&paths)?;
    let mut display = Display::new();
    if down::remove(&paths)? {
        display.note(&format!("lab {} was there and is replaced", design.name));
    }
    let state = match start(&design, &paths, &mut display) {
        Ok(state) => state,
        Err(error) => {
            let error = error.context(log_tails(&paths));
            return Err(match down::remove(&paths).and_then(|_| Ok(paths.forget()?)) {
                Ok(()) => error,
                Err(left) => error.context(format!("{left:#}; `seaway lab down` tries again")),
            });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let wait = settle(&state, &paths, &manifests, &mut display);
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "not ready after {} s; see `seaway lab status` and the logs in {}",
                PATIENCE.as_secs(),
                paths.run.join("logs").display()
            ))
        })
    })?;
    display.finish(&format!("lab {} is up in {:.1} s", design.name, begun.elapsed().as_secs_f64()));
    show(&format!("export KUBECONFIG={}", paths.admin_kubeconfig().display()))
}

/// Makes files and certificates, and starts the supervisor; returns when it has started everything.
fn start(design: &Design, paths: &Paths, display: &mut Display) -> anyhow::Result<LabState> {
    paths.create().with_context(|| format!("cannot make {}", paths.run.display()))?;
    // Port 0: a free one.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let port = listener.local_addr()?.port();
    let task = credentials::make(design, paths, port, listener.as_raw_fd())?;

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
    let state = LabState { design: design.clone(), init: Process::of(running.pid())?, port };
    state.write(paths)?;
    for line in BufReader::new(progress).lines() {
        match serde_json::from_str(&line?)? {
            Progress::Done(what) => display.done(&what),
            Progress::Started => return Ok(state),
            Progress::Failed(why) => anyhow::bail!("{why}"),
        }
    }
    anyhow::bail!("the lab's supervisor ended before the lab was built")
}

/// This binary under a name of the lab's own, so that a rebuild does not change a lab that runs.
fn own_binary(paths: &Paths) -> anyhow::Result<String> {
    let binary = std::env::current_exe().context("cannot find the seaway binary")?;
    let ours = paths.binary();
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
    state: &LabState,
    paths: &Paths,
    manifests: &Manifests,
    display: &mut Display,
) -> anyhow::Result<()> {
    let client = ready::client(&paths.admin_kubeconfig()).await?;
    display.done("API server");
    let system = |objects: Vec<_>| -> Vec<_> {
        objects.into_iter().map(|object| (PathBuf::from("kube-system"), object)).collect()
    };
    manifests::apply(&client, &system(system::objects(&state.design))).await?;
    ready::nodes(&client, &state.design.cloud.nodes).await?;
    display.done("nodes ready");
    manifests::apply(&client, &system(system::workloads())).await?;
    ready::deployment(&client, "kube-system", "coredns").await?;
    display.done("cluster DNS");
    if !manifests.objects.is_empty() {
        manifests::apply(&client, &manifests.objects)
            .await
            .context("the lab is up, but not all of -f is applied (`kubectl apply` goes on from here)")?;
        display.done(&format!("{} objects of -f", manifests.objects.len()));
    }
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
