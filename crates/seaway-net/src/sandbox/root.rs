//! Assembling a root file system on a tmpfs.
//!
//! Sources are picked up as detached mount trees while the caller's root is in place; then the tmpfs becomes
//! the root and targets are made in it. So symbolic links on either side are followed in the root that they
//! belong to, and a target such as `/var/run/secrets` never leads out of the sandbox.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::shim::{Step, failed};
use super::{Mount, Root};

/// Where the caller's programs are, besides `/usr`: links into it on a merged system, directories elsewhere.
const PROGRAM_DIRS: [&str; 8] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "opt"];
/// Files of `/etc` that programs need and that say nothing about names of hosts.
const ETC_FILES: [&str; 16] = [
    "passwd",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "services",
    "protocols",
    "rpc",
    "mime.types",
    "localtime",
    "timezone",
    "os-release",
    "debian_version",
    "ca-certificates.conf",
    "shells",
    "profile",
    "bash.bashrc",
];
/// Directories of `/etc` of the same kind.
const ETC_DIRS: [&str; 6] = ["ssl", "pki", "alternatives", "ld.so.conf.d", "crypto-policies", "terminfo"];
/// More than any of [`ETC_FILES`] has a reason to hold, in bytes.
const ETC_FILE_LIMIT: u64 = 4 << 20;
/// Devices that are the caller's own nodes, bound: making nodes is not allowed in a user namespace.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Where writable layers over read-only directories are kept, in the new root.
const LAYERS: &str = "/.layers";

/// The running binary, once for each target: a mount tree is attached once.
#[derive(Default)]
pub(super) struct OwnBinary(Vec<Binary>);

struct Binary {
    /// As a detached mount.
    tree: OwnedFd,
    /// To read.
    file: File,
}

impl OwnBinary {
    /// Picks the binary up in the caller's mount namespace: of another one's mounts the kernel makes no copies.
    pub(super) fn pick_up(root: &Root) -> Step<Self> {
        let targets = root.mounts.iter().filter(|mount| matches!(mount, Mount::SelfExe { .. }));
        targets.map(|_| Binary::pick_up()).collect::<Step<_>>().map(Self)
    }
}

impl Binary {
    fn pick_up() -> Step<Self> {
        let link = Path::new("/proc/self/exe");
        let file = File::open(link).map_err(failed("open", link.display()))?;
        let tree = match pick_up(link, true) {
            // The caller was itself executed by a path of a namespace that it has left since.
            Err(failure) if failure.errno == libc::EINVAL => {
                let path = fs::read_link(link).map_err(failed("read", link.display()))?;
                pick_up(&path, true)?
            }
            result => result?,
        };
        Ok(Self { tree, file })
    }

    fn place(mut self, target: &Path) -> Step<()> {
        match attach(&self.tree, target) {
            // The kernel mounts nothing that was deleted, as a binary is when it is built anew.
            Err(failure) if failure.errno == libc::ENOENT => {
                let copy = |file: &mut File| -> io::Result<()> {
                    let mut made = File::create(target)?;
                    io::copy(file, &mut made)?;
                    made.set_permissions(Permissions::from_mode(0o755))
                };
                copy(&mut self.file).map_err(failed("copy the binary to", target.display()))
            }
            result => result,
        }
    }
}

/// Something that stands ready to be put into the new root.
enum Piece {
    /// A detached mount.
    Tree {
        tree: OwnedFd,
        target: PathBuf,
    },
    /// The running binary.
    Binary {
        binary: Binary,
        target: PathBuf,
    },
    /// A mount of a file system type.
    FileSystem {
        kind: &'static str,
        target: PathBuf,
        flags: MountFlags,
        options: String,
    },
    Dir {
        target: PathBuf,
        mode: u32,
    },
    File {
        target: PathBuf,
        contents: Vec<u8>,
        mode: u32,
    },
    Symlink {
        target: PathBuf,
        to: PathBuf,
    },
}

/// Makes `root` the root of the calling process, in its own mount namespace, and lets go of the old one.
pub(super) fn assemble(root: &Root, mut own_binary: OwnBinary) -> Step<()> {
    let mut pieces = Vec::new();
    for mount in &root.mounts {
        prepare(mount, &mut own_binary, &mut pieces)?;
    }
    rustix::process::umask(Mode::empty());
    let dir = &root.dir;
    mount("tmpfs", dir, MountFlags::NOSUID, "mode=0755")?;
    rustix::process::chdir(dir)
        // Both arguments the same: the old root lies on top of the new one until it is detached
        // (pivot_root(2)).
        .and_then(|()| rustix::process::pivot_root(".", "."))
        .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(failed("make the root", dir.display()))?;
    pieces.into_iter().try_for_each(place)
}

/// Mounts `/proc` of the calling process's PID namespace over the one that is there.
pub(super) fn mount_proc() -> Step<()> {
    mount("proc", Path::new("/proc"), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

fn prepare(mount: &Mount, own_binary: &mut OwnBinary, pieces: &mut Vec<Piece>) -> Step<()> {
    match mount {
        Mount::HostUserland => prepare_userland(pieces)?,
        Mount::Bind { source, target, read_only } => {
            pieces.push(Piece::Tree { tree: pick_up(source, *read_only)?, target: target.clone() });
        }
        Mount::Tmpfs { target, mode, size_bytes } => {
            let size = size_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            pieces.push(Piece::FileSystem {
                kind: "tmpfs",
                target: target.clone(),
                flags: MountFlags::NOSUID | MountFlags::NODEV,
                options: format!("mode={mode:o}{size}"),
            });
        }
        Mount::Proc => pieces.push(Piece::FileSystem {
            kind: "proc",
            target: PathBuf::from("/proc"),
            flags: MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            options: String::new(),
        }),
        Mount::Sysfs => pieces.push(Piece::FileSystem {
            kind: "sysfs",
            target: PathBuf::from("/sys"),
            flags: MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY,
            options: String::new(),
        }),
        Mount::Dev => prepare_devices(pieces)?,
        Mount::Dir { target, mode } => pieces.push(Piece::Dir { target: target.clone(), mode: *mode }),
        Mount::File { target, contents, mode } => {
            let contents = contents.clone().into_bytes();
            pieces.push(Piece::File { target: target.clone(), contents, mode: *mode });
        }
        Mount::Symlink { target, to } => {
            pieces.push(Piece::Symlink { target: target.clone(), to: to.clone() })
        }
        Mount::SelfExe { target } => {
            let binary = own_binary.0.pop().ok_or(Errno::NOENT).map_err(failed("bind", "the binary"))?;
            pieces.push(Piece::Binary { binary, target: target.clone() });
        }
    }
    Ok(())
}

fn prepare_userland(pieces: &mut Vec<Piece>) -> Step<()> {
    pieces.push(Piece::Tree { tree: pick_up(Path::new("/usr"), true)?, target: PathBuf::from("/usr") });
    for name in PROGRAM_DIRS {
        let target = Path::new("/").join(name);
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&target).map_err(failed("read", target.display()))?;
                pieces.push(Piece::Symlink { target, to });
            }
            Ok(found) if found.is_dir() => pieces.push(Piece::Tree { tree: pick_up(&target, true)?, target }),
            _ => {}
        }
    }
    for (path, mode) in [
        ("/etc", 0o755),
        ("/run", 0o755),
        ("/run/lock", 0o1777),
        ("/tmp", 0o1777),
        ("/root", 0o700),
        ("/home", 0o755),
        ("/var", 0o755),
        ("/var/cache", 0o755),
        ("/var/lib", 0o755),
        ("/var/log", 0o755),
        ("/var/tmp", 0o1777),
    ] {
        pieces.push(Piece::Dir { target: PathBuf::from(path), mode });
    }
    for (path, to) in [("/var/run", "/run"), ("/var/lock", "/run/lock"), ("/etc/mtab", "/proc/self/mounts")] {
        pieces.push(Piece::Symlink { target: PathBuf::from(path), to: PathBuf::from(to) });
    }
    let etc = Path::new("/etc");
    for name in ETC_FILES {
        let target = etc.join(name);
        if fs::metadata(&target).is_ok_and(|found| found.is_file() && found.len() <= ETC_FILE_LIMIT) {
            let contents = fs::read(&target).map_err(failed("read", target.display()))?;
            pieces.push(Piece::File { target, contents, mode: 0o644 });
        }
    }
    for name in ETC_DIRS {
        let target = etc.join(name);
        if target.is_dir() {
            pieces.push(Piece::Tree { tree: pick_up(&target, true)?, target });
        }
    }
    Ok(())
}

fn prepare_devices(pieces: &mut Vec<Piece>) -> Step<()> {
    let file_system = |kind, target: &str, mode: &str, more: MountFlags| Piece::FileSystem {
        kind,
        target: PathBuf::from(target),
        flags: MountFlags::NOSUID | more,
        options: mode.to_owned(),
    };
    pieces.push(file_system("tmpfs", "/dev", "mode=0755", MountFlags::empty()));
    pieces.push(file_system("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", MountFlags::NOEXEC));
    pieces.push(file_system("tmpfs", "/dev/shm", "mode=1777", MountFlags::NODEV));
    for name in DEVICES {
        let target = Path::new("/dev").join(name);
        pieces.push(Piece::Tree { tree: pick_up(&target, false)?, target });
    }
    for (name, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        pieces.push(Piece::Symlink { target: Path::new("/dev").join(name), to: PathBuf::from(to) });
    }
    Ok(())
}

fn place(piece: Piece) -> Step<()> {
    match piece {
        Piece::Tree { tree, target } => attach(&tree, &target),
        Piece::Binary { binary, target } => binary.place(&target),
        Piece::FileSystem { kind, target, flags, options } => {
            make_dir(&target)?;
            mount(kind, &target, flags, &options)
        }
        Piece::Dir { target, mode } => {
            make_dir(&target)?;
            fs::set_permissions(&target, Permissions::from_mode(mode))
                .map_err(failed("set the mode of", target.display()))
        }
        Piece::File { target, contents, mode } => {
            make_parent(&target)?;
            on_writable(&target, || {
                // A link of the target's name must be replaced, not followed.
                match fs::remove_file(&target) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                fs::write(&target, &contents)?;
                fs::set_permissions(&target, Permissions::from_mode(mode))
            })
            .map_err(failed("write", target.display()))
        }
        Piece::Symlink { target, to } => {
            make_parent(&target)?;
            on_writable(&target, || symlink(&to, &target)).map_err(failed("make", target.display()))
        }
    }
}

/// Mounts a detached tree, making the directory or the file that it goes on where it is missing.
fn attach(tree: &OwnedFd, target: &Path) -> Step<()> {
    let kind = rustix::fs::fstat(tree).map_err(failed("bind", target.display()))?.st_mode;
    if FileType::from_raw_mode(kind) == FileType::Directory {
        make_dir(target)?;
    } else if !target.exists() {
        make_parent(target)?;
        on_writable(target, || fs::write(target, [])).map_err(failed("make", target.display()))?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(tree, "", CWD, target, flags).map_err(failed("bind", target.display()))
}

fn make_parent(target: &Path) -> Step<()> {
    target.parent().map_or(Ok(()), make_dir)
}

/// Makes a directory and those above it, where they are missing.
fn make_dir(target: &Path) -> Step<()> {
    if target.is_dir() {
        return Ok(());
    }
    make_parent(target)?;
    on_writable(target, || match fs::create_dir(target) {
        Err(_) if target.is_dir() => Ok(()),
        Ok(()) => fs::set_permissions(target, Permissions::from_mode(0o755)),
        other => other,
    })
    .map_err(failed("make", target.display()))
}

/// Runs `make`, which makes `target` in its existing parent, once more with a writable layer where that is
/// read-only.
fn on_writable(target: &Path, make: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match (make(), target.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            add_layer(parent)?;
            make()
        }
        (result, _) => result,
    }
}

/// Mounts an overlay on the read-only directory `dir`, whose changes stay in the sandbox's memory.
fn add_layer(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    let text =
        dir.to_str().filter(|text| !text.contains([',', ':', '\\'])).ok_or(io::ErrorKind::InvalidFilename)?;
    fs::create_dir_all(LAYERS)?;
    let layer = Path::new(LAYERS).join(fs::read_dir(LAYERS)?.count().to_string());
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir(&work)?;
    fs::set_permissions(&upper, fs::metadata(&dir)?.permissions())?;
    let options = format!("lowerdir={text},upperdir={},workdir={}", upper.display(), work.display());
    mount_raw("overlay", &dir, MountFlags::NOSUID, &options)
}

/// A detached copy of what is mounted at `source` and below.
fn pick_up(source: &Path, read_only: bool) -> Step<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, flags).map_err(failed("bind", source.display()))?;
    if read_only {
        make_read_only(&tree).map_err(failed("make read-only", source.display()))?;
    }
    Ok(tree)
}

/// `struct mount_attr` (include/uapi/linux/mount.h).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `MOUNT_ATTR_RDONLY` (include/uapi/linux/mount.h).
const READ_ONLY: u64 = 1;
/// `AT_RECURSIVE` (include/uapi/linux/fcntl.h).
const RECURSIVE: libc::c_int = 0x8000;

fn make_read_only(tree: &OwnedFd) -> io::Result<()> {
    let attributes = MountAttributes { set: READ_ONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: mount_setattr(2): the path is NUL-terminated, the structure as large as said, and both only
    // read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mount(kind: &str, target: &Path, flags: MountFlags, options: &str) -> Step<()> {
    mount_raw(kind, target, flags, options).map_err(failed(&format!("mount {kind} on"), target.display()))
}

fn mount_raw(kind: &str, target: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(kind, target, kind, flags, Some(options.as_c_str()))?;
    Ok(())
}
