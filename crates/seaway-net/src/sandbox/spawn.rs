//! The caller's side: starts the shim, hands it its task, hears how it went.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::shim::{Report, SHIM_COMMAND, Task, TaskKind};
use super::{Entry, Mount, Ns, SandboxError, Spec, Stdio};

/// A sandboxed process. Dropping this neither kills nor reaps it.
#[derive(Debug)]
pub struct Running {
    shim: Child,
    shim_pidfd: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
}

impl Running {
    /// The program's process (the reaper's, where there is one), as the caller's PID namespace sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The shim's process.
    pub fn shim_pid(&self) -> i32 {
        self.shim.id().cast_signed()
    }

    /// Waits until the program has ended; its exit code, or 128 + the signal that ended it.
    pub fn wait(&mut self) -> io::Result<i32> {
        self.shim.wait().map(exit_code)
    }

    /// As [`Running::wait`], without waiting: `None` while it runs.
    pub fn try_wait(&mut self) -> io::Result<Option<i32>> {
        Ok(self.shim.try_wait()?.map(exit_code))
    }

    /// A descriptor that becomes readable when [`Running::try_wait`] has an answer: to wait for many at once.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.shim_pidfd.as_fd()
    }

    /// Sends `signal` to the program; one that has ended is no error.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Sends `signal` to process `pid`, never to a group, all, or process 1; `true` where it existed.
pub fn kill(pid: i32, signal: Signal) -> io::Result<bool> {
    let pid = Pid::from_raw(pid.max(0)).filter(|pid| !pid.is_init()).ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::process::kill_process(pid, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Starts a program as `spec` says; returns when it has been executed.
pub fn spawn(spec: &Spec, stdio: Stdio) -> Result<Running, SandboxError> {
    check_spec(spec).map_err(|problem| SandboxError::Invalid { label: spec.label.clone(), problem })?;
    let kind = TaskKind::Spawn(Box::new(spec.clone()));
    start(&spec.label, kind, &spec.keep_fds, spec.die_with_parent, stdio)
}

/// Starts a program in the namespaces and the root of process `target`; it ends with the caller at the
/// latest.
pub fn enter(target: i32, entry: &Entry, stdio: Stdio) -> Result<Running, SandboxError> {
    check_program(&entry.label, &entry.argv, &entry.cwd, &entry.env, &entry.keep_fds)
        .map_err(|problem| SandboxError::Invalid { label: entry.label.clone(), problem })?;
    let kind = TaskKind::Enter { target, entry: Box::new(entry.clone()) };
    start(&entry.label, kind, &entry.keep_fds, true, stdio)
}

fn check_spec(spec: &Spec) -> Result<(), String> {
    check_program(&spec.label, &spec.argv, &spec.cwd, &spec.env, &spec.keep_fds)?;
    if spec.hostname.is_some() && spec.uts == Ns::Inherit {
        return Err("hostname needs a UTS namespace: set uts to New or a path".to_owned());
    }
    if spec.reaper && spec.pid != Ns::New {
        return Err("reaper needs a new PID namespace".to_owned());
    }
    let Some(root) = &spec.root else { return Ok(()) };
    if spec.mount != Ns::New {
        return Err("root needs a new mount namespace".to_owned());
    }
    let paths = root.mounts.iter().flat_map(|mount| match mount {
        Mount::Bind { source, target, .. } => vec![source, target],
        Mount::Tmpfs { target, .. }
        | Mount::Dir { target, .. }
        | Mount::File { target, .. }
        | Mount::Symlink { target, .. }
        | Mount::SelfExe { target } => vec![target],
        Mount::HostUserland | Mount::Proc | Mount::Sysfs | Mount::Dev => vec![],
    });
    match paths.chain([&root.dir]).find(|path| !is_usable(path)) {
        Some(path) => Err(format!("root: path {} must be absolute and without ..", path.display())),
        None => Ok(()),
    }
}

fn check_program(
    label: &str,
    argv: &[String],
    cwd: &Path,
    env: &[(String, String)],
    keep_fds: &[RawFd],
) -> Result<(), String> {
    if argv.first().is_none_or(String::is_empty) {
        return Err("argv must name a program".to_owned());
    }
    if !is_usable(cwd) {
        return Err(format!("cwd {} must be absolute and without ..", cwd.display()));
    }
    let words = argv.iter().map(String::as_str).chain([label]);
    if words
        .chain(env.iter().flat_map(|(name, value)| [name.as_str(), value]))
        .any(|word| word.contains('\0'))
    {
        return Err("label, argv and env must not contain NUL".to_owned());
    }
    if let Some((name, _)) = env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(format!("env: {name:?} is not a variable's name"));
    }
    match keep_fds.iter().find(|&&fd| fd < 3) {
        Some(fd) => Err(format!("keep_fds: {fd} must be 3 or more")),
        None => Ok(()),
    }
}

fn is_usable(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

fn start(
    label: &str,
    kind: TaskKind,
    keep_fds: &[RawFd],
    die_with_parent: bool,
    stdio: Stdio,
) -> Result<Running, SandboxError> {
    let failed = |operation: &str| {
        let operation = operation.to_owned();
        move |source: io::Error| SandboxError::Shim { label: label.to_owned(), operation, source }
    };
    let caller = rustix::process::getpid().as_raw_nonzero().get();
    let task = Task { caller: die_with_parent.then_some(caller), kind };
    let task = memfd_with(&task).map_err(failed("write the shim's task"))?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed("make the shim's report socket")(errno.into()))?;

    let mut command = Command::new(shim_path());
    command.arg0("seaway").arg(SHIM_COMMAND).arg(label);
    command.arg(format!("{},{}", task.as_raw_fd(), theirs.as_raw_fd())).env_clear();
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(std::process::Stdio::null, std::process::Stdio::from);
    command.stdin(or_null(stdio.stdin)).stdout(or_null(stdio.stdout)).stderr(or_null(stdio.stderr));
    let mut passed = keep_fds.to_vec();
    passed.extend([task.as_raw_fd(), theirs.as_raw_fd()]);
    let pass_on = move || {
        for &fd in &passed {
            // SAFETY: only changes a flag of a descriptor; one that is not open gives EBADF.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure calls fcntl alone, and allocates nothing.
    unsafe { command.pre_exec(pass_on) };
    let mut shim = command.spawn().map_err(failed("start the shim"))?;
    drop((command, theirs, task));

    let shim_pidfd = rustix::process::pidfd_open(Pid::from_child(&shim), PidfdFlags::empty())
        .map_err(|errno| failed("open the shim's pidfd")(errno.into()));
    match shim_pidfd.and_then(|shim_pidfd| Ok((shim_pidfd, await_report(&ours, label)?))) {
        Ok((shim_pidfd, (pid, pidfd))) => Ok(Running { shim, shim_pidfd, pid, pidfd }),
        Err(error) => {
            // Without a program the shim has nothing to live for; where it hangs, it must not be waited for
            // in vain.
            let _ = shim.kill();
            let _ = shim.wait();
            Err(error)
        }
    }
}

/// Reads the shim's reports until the program is executed, which closes the socket, or a step fails.
fn await_report(socket: &OwnedFd, label: &str) -> Result<(i32, OwnedFd), SandboxError> {
    let failed = |source: io::Error| SandboxError::Shim {
        label: label.to_owned(),
        operation: "hear from the shim".to_owned(),
        source,
    };
    let mut started = None;
    loop {
        match receive(socket).map_err(failed)? {
            Some((Report::Started { pid }, Some(pidfd))) => started = Some((pid, pidfd)),
            Some((Report::Started { .. }, None)) => {
                return Err(failed(io::Error::other("no pidfd came with the pid")));
            }
            Some((Report::Failed { operation, object, errno }, _)) => {
                let source = io::Error::from_raw_os_error(errno);
                return Err(SandboxError::Setup { label: label.to_owned(), operation, object, source });
            }
            None => {
                return started
                    .ok_or_else(|| failed(io::Error::other("it ended before it started the program")));
            }
        }
    }
}

/// The next report and the descriptor that came with it; `None` at the end.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let mut bytes = [0u8; 16 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fd)))
}

fn memfd_with(task: &Task) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("seaway-sandbox", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&serde_json::to_vec(task)?)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// The binary whose `main` calls [`super::run_shim_if_asked`]: this one, or `SEAWAY_SHIM` for test binaries
/// that don't.
fn shim_path() -> PathBuf {
    std::env::var_os("SEAWAY_SHIM").map_or_else(|| PathBuf::from("/proc/self/exe"), PathBuf::from)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
