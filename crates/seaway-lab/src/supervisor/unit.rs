//! One box that the supervisor keeps running.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seaway_net::sandbox::{self, Running, Spec, Stdio};

/// How long a box that ended stays away.
const RESTART_DELAY: Duration = Duration::from_millis(500);
/// The longest that one stays away which keeps ending.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// A box that ran this long starts with a clean record.
const STABLE: Duration = Duration::from_secs(30);

/// Whether a box is started again when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    Never,
}

/// A box and the thread that waits for its end.
pub(super) struct Unit {
    pid: Mutex<i32>,
    alive: AtomicBool,
    gone: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Unit {
    /// Starts the box; returns when its program runs.
    pub(super) fn start(spec: Spec, log: File, restart: Restart) -> anyhow::Result<Arc<Self>> {
        // The thread that starts a box is its parent, and must live as long as it.
        let (tell, hear) = std::sync::mpsc::channel();
        let unit =
            Arc::new(Self { pid: Mutex::new(0), alive: AtomicBool::new(false), gone: Mutex::new(None) });
        let keeper = unit.clone();
        thread::Builder::new().name(spec.label.clone()).spawn(move || match spawn(&spec, &log) {
            Ok(running) => {
                keeper.runs(&running);
                let _ = tell.send(Ok(()));
                keeper.keep(&spec, &log, running, restart);
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        })?;
        hear.recv().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread ended")))?;
        Ok(unit)
    }

    fn runs(&self, running: &Running) {
        *self.pid.lock() = running.pid();
        self.alive.store(true, Ordering::Release);
    }

    fn keep(&self, spec: &Spec, log: &File, mut running: Running, restart: Restart) {
        let mut delay = RESTART_DELAY;
        loop {
            let started = Instant::now();
            let code = running.wait();
            tracing::warn!(label = spec.label, ?code, "ended");
            // Before it counts as ended: who waits for that may start its successor at once.
            self.do_when_gone();
            self.alive.store(false, Ordering::Release);
            self.do_when_gone();
            if restart == Restart::Never {
                return;
            }
            if started.elapsed() > STABLE {
                delay = RESTART_DELAY;
            }
            running = loop {
                thread::sleep(delay);
                delay = (delay * 2).min(LONGEST_DELAY);
                match spawn(spec, log) {
                    Ok(running) => break running,
                    Err(error) => {
                        tracing::error!(label = spec.label, error = format!("{error:#}"), "not started")
                    }
                }
            };
            self.runs(&running);
        }
    }

    /// Its process (the reaper's, where there is one).
    pub(super) fn pid(&self) -> i32 {
        *self.pid.lock()
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: sandbox::Signal) -> anyhow::Result<()> {
        sandbox::kill(self.pid(), signal)?;
        Ok(())
    }

    /// Whether the box runs.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Runs `f` when the box has ended, once.
    pub(super) fn when_gone(&self, f: impl FnOnce() + Send + 'static) {
        *self.gone.lock() = Some(Box::new(f));
        // It may have ended before it was told what to do then.
        if !self.is_alive() {
            self.do_when_gone();
        }
    }

    fn do_when_gone(&self) {
        let gone = self.gone.lock().take();
        if let Some(gone) = gone {
            gone();
        }
    }

    /// Ends the box at once and waits until it is gone.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        self.signal(sandbox::Signal::KILL)?;
        while self.is_alive() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn spawn(spec: &Spec, log: &File) -> anyhow::Result<Running> {
    let output = || log.try_clone().map(OwnedFd::from);
    let stdio = Stdio { stdin: None, stdout: Some(output()?), stderr: Some(output()?) };
    Ok(sandbox::spawn(spec, stdio)?)
}
