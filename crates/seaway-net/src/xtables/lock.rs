//! The lock by which programs that replace legacy tables keep out of each other's way.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Where iptables has it (XT_LOCK_NAME).
const PATH: &str = "/run/xtables.lock";
/// How long others may have it: as long as kube-proxy itself waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the lock until what it gives is dropped.
///
/// # Errors
/// Someone else keeps it, or there is no place for it.
pub(super) fn take() -> io::Result<File> {
    let file = OpenOptions::new().read(true).create(true).append(true).mode(0o600).open(PATH)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = format!("another program has had {PATH} for {} s", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
