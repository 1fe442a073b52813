//! The shim's side: namespaces, fork, wait.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::program::{self, Program};
use super::root::{self, OwnBinary};
use super::{Entry, Namespaces, Ns, Spec};
use crate::netns::{bring_loopback_up, set_ns};

/// The shim's first argument; its second is the label.
pub(super) const SHIM_COMMAND: &str = "__sandbox";
/// The operation of a report that the program could not be executed.
pub(super) const EXECUTE: &str = "execute";
/// The exit code where the program was never executed.
const NOT_STARTED: i32 = 127;
/// The exit code of a shim that followed its caller into death: as if killed.
const ORPHANED: i32 = 128 + libc::SIGKILL;

/// What the shim is to do; it reads it from a descriptor.
#[derive(Serialize, Deserialize)]
pub(super) struct Task {
    /// The process to die with, as it sees itself.
    pub(super) caller: Option<i32>,
    pub(super) kind: TaskKind,
}

#[derive(Serialize, Deserialize)]
pub(super) enum TaskKind {
    Spawn(Box<Spec>),
    Enter { target: i32, entry: Box<Entry> },
}

/// What the shim tells its caller, one a packet.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The child is there (its pidfd comes with this), about to set itself up.
    Started { pid: i32 },
    /// A step failed, in the shim or in the child.
    Failed { operation: String, object: String, errno: i32 },
}

/// A step that failed.
pub(super) struct Failure {
    operation: String,
    object: String,
    pub(super) errno: i32,
}

pub(super) type Step<T> = Result<T, Failure>;

/// Turns an error into the failure of `operation` on `object`.
pub(super) fn failed<E: Into<io::Error>>(
    operation: &str,
    object: impl ToString,
) -> impl FnOnce(E) -> Failure {
    move |error| {
        let errno = error.into().raw_os_error().unwrap_or(libc::EINVAL);
        Failure { operation: operation.to_owned(), object: object.to_string(), errno }
    }
}

/// Becomes the shim, and never returns, where the first argument is `__sandbox`: to be called first in
/// `main`, before any thread is started.
pub fn run_shim_if_asked() {
    let arguments: Vec<OsString> = std::env::args_os().take(4).collect();
    if arguments.get(1).is_none_or(|argument| argument != SHIM_COMMAND) {
        return;
    }
    let descriptors = arguments.get(3).and_then(|text| text.to_str()).and_then(|text| {
        let (task, report) = text.split_once(',')?;
        Some((inherited(task.parse().ok()?)?, inherited(report.parse().ok()?)?))
    });
    let Some((task, report)) = descriptors else {
        eprintln!("__sandbox is started by Seaway itself, with descriptors for its task and its report");
        std::process::exit(2);
    };
    let Err(failure) = run(File::from(task), &report);
    report_failure(&report, failure);
    std::process::exit(NOT_STARTED);
}

/// Takes a descriptor that the caller passed on, and passes it no further.
fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that is no descriptor fails and does nothing.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: it is open, and this process, which has only begun, owns nothing above 2 yet.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the task until the program has ended, and ends with its exit code.
fn run(task: File, report: &OwnedFd) -> Step<Infallible> {
    let task: Task = serde_json::from_reader(task).map_err(failed("read", "the shim's task"))?;
    let caller = match task.caller.map(watch_caller).transpose()? {
        Some(None) => std::process::exit(ORPHANED),
        caller => caller.flatten(),
    };
    program::ignore_terminal_signals();
    let own_session = match &task.kind {
        TaskKind::Spawn(_) => true,
        TaskKind::Enter { entry, .. } => entry.new_session || entry.tty,
    };
    if own_session {
        // Fails where the shim leads a group already, which it does not: it was just forked.
        let _ = rustix::process::setsid();
    }
    let own_pidfd = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(failed("open", "the shim's pidfd"))?;
    let child = match task.kind {
        TaskKind::Spawn(spec) => {
            let own_binary = make_namespaces(&spec)?;
            fork_into(&own_pidfd, report, || set_up(&spec, own_binary))?
        }
        TaskKind::Enter { target, entry } => {
            let root = join_process(target, entry.namespaces)?;
            fork_into(&own_pidfd, report, || set_up_inside(&entry, root))?
        }
    };
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())
        .map_err(failed("open", "the child's pidfd"))?;
    report_start(report, child, &pidfd);
    wait_for(child, &pidfd, caller)
}

/// A pidfd of the caller; `None` where it has ended already.
fn watch_caller(caller: i32) -> Step<Option<OwnedFd>> {
    let is_parent =
        || rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == caller);
    let Some(pid) = Pid::from_raw(caller) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(failed("open the pidfd of", format!("process {caller}"))(errno)),
    };
    // Asked after opening: a process that is our parent now was so all the time, and its pid cannot have been
    // reused.
    Ok(is_parent().then_some(pidfd))
}

/// Waits for the child, or kills it once the caller has ended.
fn wait_for(child: Pid, pidfd: &OwnedFd, caller: Option<OwnedFd>) -> ! {
    let mut kept = vec![pidfd.as_raw_fd()];
    kept.extend(caller.as_ref().map(AsRawFd::as_raw_fd));
    // Pipes and sockets of the program must close when the program closes them. From here on only exit() is
    // safe: values that own a closed descriptor must not be dropped.
    program::close_all_but(&mut kept);
    let mut orphaned = false;
    if let Some(caller) = caller {
        let mut polled = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(&caller, PollFlags::IN)];
        while rustix::event::poll(&mut polled, None) == Err(Errno::INTR) {}
        if polled[0].revents().is_empty() {
            orphaned = true;
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some(_)) if orphaned => std::process::exit(ORPHANED),
            Ok(Some((_, status))) => std::process::exit(program::exit_code(status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => std::process::exit(NOT_STARTED),
        }
    }
}

/// Moves the shim into the namespaces of `spec`; a PID namespace takes effect for the child. Returns the
/// binary, picked up while the caller's mounts are in reach.
fn make_namespaces(spec: &Spec) -> Step<OwnBinary> {
    let kinds = [
        (&spec.net, ThreadNameSpaceType::NETWORK, UnshareFlags::NEWNET),
        (&spec.uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME, UnshareFlags::NEWUTS),
        (&spec.ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION, UnshareFlags::NEWIPC),
        (&spec.pid, ThreadNameSpaceType::PROCESS_ID, UnshareFlags::NEWPID),
        // Last: paths are opened in the caller's mount namespace.
        (&spec.mount, ThreadNameSpaceType::MOUNT, UnshareFlags::NEWNS),
    ];
    let own_binary = spec.root.as_ref().map(OwnBinary::pick_up).transpose()?.unwrap_or_default();
    let mut joined = Vec::new();
    let mut fresh = UnshareFlags::empty();
    for (ns, kind, flag) in kinds {
        match ns {
            Ns::Inherit => {}
            Ns::New => fresh |= flag,
            Ns::Path(path) => joined.push((path, open(path)?, kind)),
        }
    }
    for (path, fd, kind) in joined {
        set_ns(fd.as_fd(), kind).map_err(failed("join the namespace", path.display()))?;
    }
    // SAFETY: the shim has one thread, and no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(fresh) }
        .map_err(failed("make", format!("namespaces {fresh:?}")))?;
    if spec.net == Ns::New {
        bring_loopback_up().map_err(failed("bring up", "lo"))?;
    }
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(failed("set the hostname", hostname))?;
    }
    Ok(own_binary)
}

/// Moves the shim into namespaces of process `target`; its root directory.
fn join_process(target: i32, namespaces: Namespaces) -> Step<Option<OwnedFd>> {
    let process = format!("process {target}");
    let pid = Pid::from_raw(target.max(0)).ok_or(Errno::SRCH).map_err(failed("enter", &process))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed("enter", &process))?;
    let root = if namespaces.mount { Some(open(Path::new(&format!("/proc/{target}/root")))?) } else { None };
    let mut kinds = ThreadNameSpaceType::empty();
    for (wanted, kind) in [
        (namespaces.net, ThreadNameSpaceType::NETWORK),
        (namespaces.mount, ThreadNameSpaceType::MOUNT),
        (namespaces.uts, ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        (namespaces.ipc, ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        (namespaces.pid, ThreadNameSpaceType::PROCESS_ID),
    ] {
        kinds.set(kind, wanted);
    }
    if !kinds.is_empty() {
        set_ns(pidfd.as_fd(), kinds).map_err(failed("join the namespaces of", &process))?;
    }
    Ok(root)
}

/// Forks; the child runs `set_up` and then the program. Returns in the shim alone.
fn fork_into<'a>(own: &OwnedFd, report: &OwnedFd, set_up: impl FnOnce() -> Step<Program<'a>>) -> Step<Pid> {
    // SAFETY: the shim has one thread, so the child's memory is in a consistent state.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork", "the shim")(io::Error::last_os_error())),
        0 => {
            let Err(failure) = in_child(own, report, set_up);
            report_failure(report, failure);
            std::process::exit(NOT_STARTED);
        }
        child => Pid::from_raw(child).ok_or_else(|| failed("fork", "the shim")(Errno::INVAL)),
    }
}

fn in_child<'a>(
    shim: &OwnedFd,
    report: &OwnedFd,
    set_up: impl FnOnce() -> Step<Program<'a>>,
) -> Step<Infallible> {
    program::die_with_shim(shim.as_fd())?;
    let program = set_up()?;
    program.run(shim.as_fd(), report)
}

/// What is left to do in the child, where the new PID namespace is in force.
fn set_up(spec: &Spec, own_binary: OwnBinary) -> Step<Program<'_>> {
    let _ = rustix::process::setsid();
    if spec.mount == Ns::New {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(failed("make private the mounts of", "/"))?;
    }
    match &spec.root {
        Some(root) => root::assemble(root, own_binary)?,
        // The caller's /proc would tell of another PID namespace's processes.
        None if spec.mount == Ns::New && spec.pid == Ns::New => root::mount_proc()?,
        None => {}
    }
    Ok(Program {
        argv: &spec.argv,
        env: &spec.env,
        cwd: &spec.cwd,
        tty: spec.tty,
        keep_fds: &spec.keep_fds,
        reaper: spec.reaper,
        credentials: &spec.credentials,
    })
}

fn set_up_inside(entry: &Entry, root: Option<OwnedFd>) -> Step<Program<'_>> {
    if entry.new_session || entry.tty {
        let _ = rustix::process::setsid();
    }
    if let Some(root) = root {
        // Joining the mount namespace has put us at its top; the process may have gone further down by
        // chroot.
        rustix::process::fchdir(&root)
            .and_then(|()| rustix::process::chroot("."))
            .map_err(failed("enter", "the root"))?;
    }
    Ok(Program {
        argv: &entry.argv,
        env: &entry.env,
        cwd: &entry.cwd,
        tty: entry.tty,
        keep_fds: &entry.keep_fds,
        reaper: false,
        credentials: &entry.credentials,
    })
}

/// A descriptor that only names what is at `path`.
fn open(path: &Path) -> Step<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", path.display()))
}

fn report_start(socket: &OwnedFd, child: Pid, pidfd: &OwnedFd) {
    let report = Report::Started { pid: child.as_raw_nonzero().get() };
    let fds = [pidfd.as_fd()];
    send(socket, &report, &fds);
}

pub(super) fn report_failure(socket: &OwnedFd, failure: Failure) {
    let Failure { operation, object, errno } = failure;
    send(socket, &Report::Failed { operation, object, errno }, &[]);
}

/// A caller that is gone hears nothing, which is as well.
fn send(socket: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) {
    let Ok(bytes) = serde_json::to_vec(report) else { return };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL);
}
