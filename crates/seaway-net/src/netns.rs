//! Network namespaces.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

/// A network namespace, held open by a descriptor: it lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// Makes a fresh namespace with its loopback up; the calling thread stays where it is.
    pub fn new() -> io::Result<Self> {
        let made = thread::Builder::new().name("netns".to_owned()).spawn(|| {
            unshare_net()?;
            bring_loopback_up()?;
            Self::current()
        })?;
        made.join().map_err(|_| io::Error::other("the thread that makes the namespace panicked"))?
    }

    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace behind `path`: `/proc/PID/ns/net` or a file that a namespace is bound to.
    ///
    /// `NotFound` where the path is absent, `InvalidInput` where it is not a network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)?;
        // NS_GET_NSTYPE (include/uapi/linux/nsfs.h) answers for namespace files alone.
        // SAFETY: the request takes no argument and reads nothing of ours.
        let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            let text = format!("{} is not a network namespace", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { fd: file.into() })
    }

    /// The namespace of process `pid`.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Runs `f` on a fresh thread inside the namespace and waits for it; a panic of `f` goes on in the
    /// caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = thread::Builder::new().name("in-netns".to_owned()).spawn_scoped(scope, || {
                self.enter_thread()?;
                Ok(f())
            })?;
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace, for good: for threads that serve one namespace alone.
    pub fn enter_thread(&self) -> io::Result<()> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Binds the namespace to `path` (created where absent), which keeps it alive until [`NetNs::unbind`].
    pub fn bind_at(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let source = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::mount::mount(source, path, "", MountFlags::BIND, None)?;
        Ok(())
    }

    /// Undoes [`NetNs::bind_at`]; a path that is absent or no mount point is no error.
    pub fn unbind(path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The namespace's inode: two handles with the same one are the same namespace.
    pub fn inode(&self) -> io::Result<u64> {
        let file = File::from(self.fd.try_clone()?);
        Ok(file.metadata()?.ino())
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Gives the calling thread a network namespace of its own.
fn unshare_net() -> io::Result<()> {
    // SAFETY: a network namespace is a thread's own; no descriptor or memory is affected.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Joins the namespace of type `kind` that `fd` names, or of all types in `kind` where `fd` is a pidfd
/// (`setns(2)`).
pub(crate) fn set_ns(fd: BorrowedFd<'_>, kind: ThreadNameSpaceType) -> rustix::io::Result<()> {
    // SAFETY: setns has no memory operands; callers are single-threaded or join what is a thread's own.
    match unsafe { libc::setns(fd.as_raw_fd(), kind.bits() as libc::c_int) } {
        0 => Ok(()),
        _ => {
            Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::INVAL))
        }
    }
}

/// Sets `lo` up in the calling thread's namespace (netdevice(7), `SIOCSIFFLAGS`), which gives it 127.0.0.1
/// and ::1.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the pointer is to a whole ifreq that outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn fresh_namespaces_differ_and_have_loopback() {
        let (one, two) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let here = NetNs::current().unwrap();
        assert_ne!(one.inode().unwrap(), two.inode().unwrap());
        assert_ne!(one.inode().unwrap(), here.inode().unwrap());
        let port =
            one.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()).unwrap();
        assert_ne!(port, 0);
        let inside = one.run(|| NetNs::current().unwrap().inode().unwrap()).unwrap();
        assert_eq!(inside, one.inode().unwrap());
    }

    #[test]
    fn bound_namespaces_outlive_their_handle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns");
        // On a thread with mounts of its own, which the host never sees.
        let check = || {
            // SAFETY: the mount namespace and the working directory are this thread's own from here on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let made = NetNs::new().unwrap();
            made.bind_at(&path).unwrap();
            let inode = made.inode().unwrap();
            drop(made);
            assert_eq!(NetNs::open(&path).unwrap().inode().unwrap(), inode);
            NetNs::unbind(&path).unwrap();
            assert!(!path.exists());
            NetNs::unbind(&path).unwrap();
        };
        thread::scope(|scope| scope.spawn(check).join()).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null"] {
            assert_eq!(NetNs::open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(NetNs::open("/absent").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
