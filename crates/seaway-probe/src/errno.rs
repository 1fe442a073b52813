//! Names of errors.

use std::io;

use rustix::io::Errno;

/// The name of the error's number in `errno.h`, for those that sockets give; others by number.
pub(crate) fn name(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "ETIMEDOUT",
            io::ErrorKind::InvalidInput => "EINVAL",
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => "EPROTO",
            _ => "EIO",
        }
        .to_owned();
    };
    let names = [
        (Errno::ACCESS, "EACCES"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::HOSTDOWN, "EHOSTDOWN"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::INVAL, "EINVAL"),
        (Errno::MSGSIZE, "EMSGSIZE"),
        (Errno::NETDOWN, "ENETDOWN"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NOPROTOOPT, "ENOPROTOOPT"),
        (Errno::PERM, "EPERM"),
        (Errno::PIPE, "EPIPE"),
        (Errno::PROTO, "EPROTO"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        // A read that took longer than its limit (SO_RCVTIMEO).
        (Errno::AGAIN, "ETIMEDOUT"),
    ];
    let found = names.iter().find(|(errno, _)| errno.raw_os_error() == number);
    found.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}
