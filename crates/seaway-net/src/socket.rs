//! Socket options that rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, sockopt};

/// Has a datagram socket's next call fail with every error that comes back for what it sent: `IP_RECVERR` and `IPV6_RECVERR` in
/// ip(7) and ipv6(7). Without it a connected socket hears of `ECONNREFUSED` and few others, not of hosts that can't be
/// reached.
///
/// # Errors
/// As setsockopt(2).
pub fn receive_errors(socket: impl AsFd) -> io::Result<()> {
    let (level, option) = match sockopt::socket_domain(&socket)? {
        AddressFamily::INET6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        _ => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the value is an int, read during the call alone.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
