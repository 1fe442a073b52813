//! Waiting for descriptors (poll(2)).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits until one of `fds` can be read or is at its end, at the most for `patience`; `false` where that ran out.
///
/// # Errors
/// What the system says.
pub fn readable(fds: &[BorrowedFd<'_>], patience: Duration) -> io::Result<bool> {
    let mut asked: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let patience = Timespec::try_from(patience).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut asked, Some(&patience)) {
        // To its callers an interruption is as if something had come: they look.
        Err(rustix::io::Errno::INTR) => Ok(true),
        Ok(ready) => Ok(ready > 0),
        Err(errno) => Err(errno.into()),
    }
}
