//! The last steps before the program: terminal, credentials, signals, descriptors, `execve`; and the reaper.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus};

use super::credentials::Credentials;
use super::shim::{EXECUTE, Step, failed, report_failure};

/// The search path where the environment has none (execvp(3) has the like).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the reaper passes on to the program.
const FORWARDED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// The program to become.
pub(super) struct Program<'a> {
    pub(super) argv: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) cwd: &'a Path,
    pub(super) tty: bool,
    pub(super) keep_fds: &'a [RawFd],
    pub(super) reaper: bool,
    pub(super) credentials: &'a Credentials,
}

impl Program<'_> {
    /// Executes the program, or forks it off and becomes its reaper.
    pub(super) fn run(&self, shim: BorrowedFd<'_>, report: &OwnedFd) -> Step<Infallible> {
        if self.tty && !self.reaper {
            take_terminal()?;
        }
        rustix::process::chdir(self.cwd).map_err(failed("change into", self.cwd.display()))?;
        if self.reaper {
            self.run_as_child(report)?;
        }
        self.credentials.assume()?;
        if !self.reaper {
            // A change of credentials may have cleared it (prctl(2)).
            die_with_shim(shim)?;
        }
        self.execute()
    }

    /// Forks; returns in the child, the program-to-be. The parent stays as the reaper and never returns.
    fn run_as_child(&self, report: &OwnedFd) -> Step<()> {
        // Blocked before the fork, so that no signal is lost between fork and wait; execute() unblocks for
        // the program.
        let signals = block_signals();
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(failed("fork", "the reaper")(io::Error::last_os_error())),
            0 => {
                let _ = rustix::process::setsid();
                if self.tty
                    && let Err(failure) = take_terminal()
                {
                    report_failure(report, failure);
                    std::process::exit(127);
                }
                Ok(())
            }
            child => {
                close_all_but(&mut []);
                std::process::exit(reap(child, &signals))
            }
        }
    }

    fn execute(&self) -> Step<Infallible> {
        let name = &self.argv[0];
        let words = |text: &str| CString::new(text).map_err(|_| failed(EXECUTE, name)(Errno::INVAL));
        let argv = self.argv.iter().map(|word| words(word)).collect::<Step<Vec<_>>>()?;
        let env = self
            .env
            .iter()
            .map(|(name, value)| words(&format!("{name}={value}")))
            .collect::<Step<Vec<_>>>()?;
        let path = self.env.iter().rfind(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, path)| path);
        let candidates: Vec<CString> = if name.contains('/') {
            vec![words(name)?]
        } else {
            path.split(':')
                .map(|dir| words(&format!("{}/{name}", if dir.is_empty() { "." } else { dir })))
                .collect::<Step<_>>()?
        };
        rustix::process::umask(Mode::from_raw_mode(0o022));
        self.pass_descriptors()?;
        reset_signals();
        let argv = pointers(&argv);
        let env = pointers(&env);
        let mut reason = libc::ENOENT;
        for candidate in &candidates {
            // SAFETY: all three are NUL-terminated, live to the end of the call, and execve does not write to
            // them.
            unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), env.as_ptr()) };
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                // As a shell: go on looking, but say this if nothing better comes.
                Some(libc::EACCES) => reason = libc::EACCES,
                other => {
                    reason = other.unwrap_or(libc::EINVAL);
                    break;
                }
            }
        }
        Err(failed(EXECUTE, name)(io::Error::from_raw_os_error(reason)))
    }

    /// Has everything but 0, 1, 2 and the kept descriptors closed by the execution.
    fn pass_descriptors(&self) -> Step<()> {
        // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now.
        check(unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) })
            .map_err(failed("mark for closing", "descriptors"))?;
        for &fd in self.keep_fds {
            // SAFETY: fcntl on a number that is no descriptor fails and does nothing.
            check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map_err(failed("keep descriptor", fd))?;
        }
        Ok(())
    }
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The error of a C function that returns -1 for one.
pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the terminal on descriptor 0 the controlling one of this session.
fn take_terminal() -> Step<()> {
    rustix::process::ioctl_tiocsctty(std::io::stdin()).map_err(failed("take as terminal", "descriptor 0"))
}

/// Has the kernel kill this process when the shim ends, as it may just have done.
pub(super) fn die_with_shim(shim: BorrowedFd<'_>) -> Step<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("tie to the shim", "the child"))?;
    // By pidfd: in a new PID namespace the parent's pid reads 0 all the time.
    let mut polled = [PollFd::from_borrowed_fd(shim, PollFlags::IN)];
    let nothing = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut polled, Some(&nothing)) {
        Ok(0) => Ok(()),
        _ => Err(failed("tie to the shim", "the child")(Errno::SRCH)),
    }
}

/// Waits for the program `main`, passes signals on to it, reaps orphans; the exit code to end with.
fn reap(main: libc::pid_t, signals: &libc::sigset_t) -> i32 {
    loop {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == main => return exit_code(status),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return 127,
            }
        }
        // SAFETY: waits for one of the blocked signals; null for the details is allowed.
        let signal = unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) };
        if FORWARDED.contains(&signal) {
            // SAFETY: main has not been reaped, so the pid is still its own.
            unsafe { libc::kill(main, signal) };
        }
    }
}

/// Blocks what the reaper waits for.
fn block_signals() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigemptyset before use; all pointers are to this frame.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in FORWARDED.iter().chain(&[libc::SIGCHLD]) {
            libc::sigaddset(&mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        set
    }
}

/// Lets Ctrl-C in a shared terminal reach the program alone, not the shim.
pub(super) fn ignore_terminal_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Default dispositions (Rust's runtime ignores SIGPIPE) and an empty mask.
fn reset_signals() {
    // SAFETY: SIG_DFL runs no code of ours; numbers that cannot be set fail harmlessly; the set lives in this
    // frame.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Closes all descriptors but `kept`.
pub(super) fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut next: libc::c_uint = 0;
    for fd in kept.iter().map(|fd| fd.cast_unsigned()).chain([libc::c_uint::MAX]) {
        if fd > next {
            // SAFETY: the process goes on with `kept` alone.
            unsafe { libc::close_range(next, fd - 1, 0) };
        }
        next = fd.saturating_add(1);
    }
}

/// The exit code, or 128 + the signal, as a shell has it.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(127)
}
