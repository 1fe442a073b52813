//! Processes in namespaces and file systems of their own.
//!
//! [`spawn`] starts `seaway __sandbox LABEL`, a single-threaded shim that makes or joins namespaces, forks,
//! assembles the root file system in the child and executes the program there; [`enter`] starts a program in
//! the namespaces and the root of a process that runs. The caller's binary must call [`run_shim_if_asked`]
//! first thing in `main`.
//!
//! - The program dies with its shim (by `PR_SET_PDEATHSIG`), the shim with the process that started it where
//!   [`Spec::die_with_parent`] says so. Both hold for `kill -9`. With them go the namespaces and the mounts.
//! - A failure before the program runs comes back from [`spawn`] with the operation, its object and the
//!   errno.
//! - All mounts are made in a mount namespace with private propagation: none shows on the host.
//! - The program starts in a session of its own, with default signal dispositions, an empty signal mask, the
//!   given environment and no descriptors but 0, 1, 2 and [`Spec::keep_fds`].
//!
//! Needs Linux 5.12 (`mount_setattr`) and, for namespaces, root or a user namespace.

mod credentials;
mod find;
mod program;
mod pty;
mod root;
mod shim;
mod spawn;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use credentials::{Capabilities, Credentials};
pub use find::{Sandbox, children, environment, find_sandboxes};
pub use pty::{Pty, WindowSize, open_pty, set_window_size};
pub use rustix::process::Signal;
pub use shim::run_shim_if_asked;
pub use spawn::{Running, enter, kill, spawn};

/// The program and the world that it runs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// What it is, in the shim's command line: `node/node-1`, `pod/default/web/nginx`. No NUL.
    pub label: String,
    /// The network namespace; a new one has its loopback up.
    pub net: Ns,
    /// The mount namespace; must be new where [`Spec::root`] is given.
    pub mount: Ns,
    /// The namespace of the hostname; must not be inherited where [`Spec::hostname`] is given.
    pub uts: Ns,
    /// The namespace of System V IPC and POSIX message queues.
    pub ipc: Ns,
    /// The PID namespace; in a new one the program (or the reaper) is process 1.
    pub pid: Ns,
    /// The hostname to set.
    pub hostname: Option<String>,
    /// The root file system; `None` keeps the caller's (read and write, mind), with a `/proc` of its own
    /// where both the mount and the PID namespace are new.
    pub root: Option<Root>,
    /// The program and its arguments. A name without `/` is looked up in the `PATH` of [`Spec::env`].
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory, in the new root.
    pub cwd: PathBuf,
    /// Descriptor 0 is a terminal that becomes the controlling one.
    pub tty: bool,
    /// The caller's descriptors that the program finds open at the same numbers (not 0, 1, 2).
    pub keep_fds: Vec<RawFd>,
    /// The shim, and with it the program, is killed when the caller's process ends.
    pub die_with_parent: bool,
    /// Process 1 is a small reaper that runs the program as its child, passes SIGTERM, SIGINT, SIGHUP,
    /// SIGQUIT, SIGUSR1 and SIGUSR2 on to it, reaps orphans and ends with its status. Only with a new PID
    /// namespace.
    pub reaper: bool,
    /// As whom the program runs and what it may do; a reaper keeps the caller's.
    pub credentials: Credentials,
}

impl Spec {
    /// `argv` in the caller's namespaces, with an empty environment, in `/`, dying with the caller: to build
    /// on.
    pub fn new(label: impl Into<String>, argv: Vec<String>) -> Self {
        Self {
            label: label.into(),
            net: Ns::Inherit,
            mount: Ns::Inherit,
            uts: Ns::Inherit,
            ipc: Ns::Inherit,
            pid: Ns::Inherit,
            hostname: None,
            root: None,
            argv,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            tty: false,
            keep_fds: Vec::new(),
            die_with_parent: true,
            reaper: false,
            credentials: Credentials::default(),
        }
    }
}

/// Where a namespace comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ns {
    /// The caller's.
    #[default]
    Inherit,
    /// A fresh one.
    New,
    /// The one behind this path, such as `/proc/PID/ns/net`.
    Path(PathBuf),
}

/// A root file system to assemble on a tmpfs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// A directory that exists; the tmpfs is mounted here, in the new mount namespace alone. Many sandboxes
    /// may use the same one at the same time.
    pub dir: PathBuf,
    /// What to put there, in this order. Missing parent directories of targets are made with mode 0755.
    pub mounts: Vec<Mount>,
}

/// One piece of a root file system. Targets are absolute paths in the new root and follow its symbolic links;
/// sources are paths of the caller's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mount {
    /// The caller's programs: `/usr`, `/opt`, `/bin`, `/sbin` and `/lib*` as they are there (links or
    /// directories), read-only; a small `/etc` (users, groups, certificates, services, the loader's cache)
    /// without anything of the name service: no resolv.conf, hosts, nsswitch.conf, host.conf, hostname; fresh
    /// `/run`, `/tmp`, `/var`, `/root`, `/home`.
    HostUserland,
    /// A file or directory of the caller's, with the mounts below it. A target that is missing in a read-only
    /// directory gets a writable layer over that directory.
    Bind {
        /// In the caller's root.
        source: PathBuf,
        /// In the new root; made where absent.
        target: PathBuf,
        /// Writes fail with EROFS.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where; made where absent.
        target: PathBuf,
        /// Permission bits of its top directory.
        mode: u32,
        /// Its limit; `None` for the kernel's default, half of the memory.
        size_bytes: Option<u64>,
    },
    /// `/proc` of the sandbox's PID namespace.
    Proc,
    /// `/sys` of the sandbox's network namespace, read-only.
    Sysfs,
    /// `/dev`: null, zero, full, random, urandom, tty; pts and ptmx of its own; shm; fd, stdin, stdout,
    /// stderr.
    Dev,
    /// A directory.
    Dir {
        /// Where.
        target: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A file with these contents; one that exists is replaced.
    File {
        /// Where.
        target: PathBuf,
        /// What it holds.
        contents: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Where.
        target: PathBuf,
        /// What it points to.
        to: PathBuf,
    },
    /// The running binary itself, read-only.
    SelfExe {
        /// Where; made where absent.
        target: PathBuf,
    },
}

/// A program to run within the world of a process that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// What it is, in the shim's command line.
    pub label: String,
    /// Which of the process's namespaces to join.
    pub namespaces: Namespaces,
    /// As [`Spec::argv`].
    pub argv: Vec<String>,
    /// The whole environment; [`environment`] tells the process's own.
    pub env: Vec<(String, String)>,
    /// The working directory, in the process's root.
    pub cwd: PathBuf,
    /// As [`Spec::tty`]; implies a new session.
    pub tty: bool,
    /// Run in a session of its own. Where false the caller's terminal goes on sending it Ctrl-C.
    pub new_session: bool,
    /// As [`Spec::keep_fds`].
    pub keep_fds: Vec<RawFd>,
    /// As [`Spec::credentials`].
    pub credentials: Credentials,
}

/// A choice of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The network namespace.
    pub net: bool,
    /// The mount namespace, and the process's root directory.
    pub mount: bool,
    /// The hostname's.
    pub uts: bool,
    /// The IPC namespace.
    pub ipc: bool,
    /// The PID namespace.
    pub pid: bool,
}

impl Namespaces {
    /// All of them.
    pub const ALL: Self = Self { net: true, mount: true, uts: true, ipc: true, pid: true };
    /// The network namespace alone.
    pub const NET: Self = Self { net: true, mount: false, uts: false, ipc: false, pid: false };
}

/// The program's descriptors 0, 1 and 2; `None` stands for `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Copies of the caller's own.
    pub fn inherit() -> io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: Some(io::stdout().as_fd().try_clone_to_owned()?),
            stderr: Some(io::stderr().as_fd().try_clone_to_owned()?),
        })
    }
}

/// Why a sandboxed process did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The request makes no sense.
    #[error("sandbox {label}: {problem}")]
    Invalid {
        /// [`Spec::label`].
        label: String,
        /// What is wrong with which field.
        problem: String,
    },
    /// The shim could not be started or talked to.
    #[error("sandbox {label}: cannot {operation}: {source}")]
    Shim {
        /// [`Spec::label`].
        label: String,
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A step within the sandbox failed.
    #[error("sandbox {label}: cannot {operation} {object}: {source}")]
    Setup {
        /// [`Spec::label`].
        label: String,
        /// What was tried: `mount`, `execute`, `join the network namespace`.
        operation: String,
        /// On what: a path, a namespace, a program.
        object: String,
        /// The errno.
        source: io::Error,
    },
}

impl SandboxError {
    /// The program does not exist (a container runtime's exit code 127 rather than 126).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Setup { operation, source, .. }
            if operation == shim::EXECUTE && source.kind() == io::ErrorKind::NotFound)
    }

    /// What a shell ends with where it can't execute a program: 127 if there is none, 126 if it can't be
    /// executed (POSIX, Shell Command Language, 2.8.2); `None` for all other failures.
    pub fn shell_exit_code(&self) -> Option<u8> {
        match self {
            Self::Setup { operation, .. } if operation == shim::EXECUTE => {
                Some(if self.is_not_found() { 127 } else { 126 })
            }
            _ => None,
        }
    }
}
