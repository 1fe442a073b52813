//! `seaway lab down`: ends a lab and removes what it left.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use seaway_net::sandbox::{self, Signal};

use crate::command::{NameArgs, show};
use crate::kept::Kept;
use crate::paths::Paths;
use crate::state::{LabState, Process};

/// How long the kernel may take to end a lab's processes.
const PATIENCE: Duration = Duration::from_secs(20);

/// `seaway lab down`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  seaway lab down            nothing is left
  seaway lab down --keep     nothing runs; `seaway lab up` brings it back with its objects and its nodes' disks")]
pub(crate) struct DownArgs {
    #[command(flatten)]
    lab: NameArgs,
    /// Keep the lab's state, with which `seaway lab up` goes on
    #[arg(long)]
    keep: bool,
}

/// Ends the lab, in whatever state it is.
pub(crate) fn run(args: &DownArgs) -> anyhow::Result<()> {
    let name = &args.lab.name;
    let paths = Paths::new(name)?;
    let _lock = lock(&paths)?;
    if args.keep {
        return keep(name, &paths);
    }
    let was_there = remove(&paths)?;
    paths.forget().context("cannot remove the lock")?;
    show(&format!("lab {name} {}", if was_there { "is down" } else { "was not up" }))
}

/// Keeps other commands from changing the lab at the same time.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<File> {
    let path = paths.lock_file();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    loop {
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        match file.try_lock() {
            // Whoever held the lock may have removed the file meanwhile; the next command would lock another one.
            Ok(()) if !is_at(&file, &path)? => {}
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another `seaway lab up` or `down` is at work on this lab; wait for it to end ({} is locked)",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let held = identity(&file.metadata()?);
    match std::fs::metadata(path) {
        Ok(there) => Ok(identity(&there) == held),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends the lab and keeps what it is to go on with.
fn keep(name: &str, paths: &Paths) -> anyhow::Result<()> {
    match LabState::read(paths)?.filter(|state| state.init.is_alive()) {
        // Written first: from then on `up` goes on with what is there, whatever becomes of this command.
        Some(state) => Kept::new(&state.design, state.cloud(paths)?, state.port).write(paths)?,
        None if Kept::read(paths)?.is_some() => {}
        None => {
            // No more than a lock, then: it says nothing to anyone.
            paths.forget().context("cannot remove the lock")?;
            anyhow::bail!("lab {name:?} is not running: there is nothing to keep");
        }
    }
    end_all(paths)?;
    paths.remove_run().with_context(|| format!("cannot remove {}", paths.run.display()))?;
    paths.forget().context("cannot remove the lock")?;
    show(&format!("lab {name} is down and kept; `seaway lab up --name {name}` brings it back"))
}

/// Ends all processes of the lab and removes its files; whether there was anything.
pub(crate) fn remove(paths: &Paths) -> anyhow::Result<bool> {
    let was_there = paths.run.exists() || paths.state.exists();
    let ran = end_all(paths)?;
    paths.remove().with_context(|| format!("cannot remove {}", paths.run.display()))?;
    Ok(was_there || ran)
}

/// Ends all processes of the lab; whether there were any.
pub(crate) fn end_all(paths: &Paths) -> anyhow::Result<bool> {
    let mut was_there = false;
    if let Ok(Some(state)) = LabState::read(paths) {
        was_there |= state.init.is_alive();
        end(state.init)?;
    }
    // Where the file is damaged, or `up` was killed before it wrote it.
    for supervisor in supervisors(paths)? {
        was_there = true;
        end(supervisor)?;
    }
    Ok(was_there)
}

/// The lab's supervisors, with each of which its lab ends, by their command lines: proc_pid_cmdline(5).
fn supervisors(paths: &Paths) -> std::io::Result<Vec<Process>> {
    let line = format!("{}\0lab\0supervisor\0", paths.binary().display());
    let Ok(binary) = std::fs::metadata(paths.binary()) else { return Ok(Vec::new()) };
    // Another machine's lab, which a container looks like, may have the same command line.
    let is_ours = |pid: i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own == line.as_bytes())
            && std::fs::metadata(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| identity(&exe) == identity(&binary))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile has nothing to read.
        if is_ours(pid) {
            found.extend(Process::of(pid).ok());
        }
    }
    Ok(found)
}

/// Kills process 1 of the lab, with which the kernel kills the rest, or the supervisor, with which process 1 ends; waits until
/// it is gone.
fn end(init: Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while init.is_alive() {
        sandbox::kill(init.pid, Signal::KILL)?;
        // The kernel lets process 1 go only when all others in its namespace are gone.
        anyhow::ensure!(Instant::now() < deadline, "process {} does not end", init.pid);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
