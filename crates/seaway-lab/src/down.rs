//! `seaway lab down`: ends a lab and removes what it left.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use anyhow::Context;
use seaway_net::sandbox::{self, Signal};

use crate::paths::Paths;
use crate::state::{LabState, Process};

/// How long the kernel may take to end a lab's processes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the lab `name`, in whatever state it is.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let paths = Paths::new(name)?;
    let _lock = lock(&paths)?;
    let was_there = remove(&paths)?;
    paths.forget().context("cannot remove the lock")?;
    println!("lab {name} {}", if was_there { "is down" } else { "was not up" });
    Ok(())
}

/// Keeps other commands from changing the lab at the same time.
pub(crate) fn lock(paths: &Paths) -> anyhow::Result<File> {
    let path = paths.lock_file();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another `seaway lab up` or `down` is at work on this lab; wait for it to end ({} is locked)",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Ends all processes of the lab and removes its files; whether there was anything.
pub(crate) fn remove(paths: &Paths) -> anyhow::Result<bool> {
    let mut was_there = paths.run.exists() || paths.state.exists();
    // A damaged file tells no process; the search below finds the lab's processes without it.
    if let Ok(Some(state)) = LabState::read(paths) {
        was_there |= state.init.is_alive();
        end(state.init)?;
    }
    paths.remove().with_context(|| format!("cannot remove {}", paths.run.display()))?;
    Ok(was_there)
}

/// Kills process 1 of the lab, with which the kernel kills the rest, and waits until it is gone.
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
