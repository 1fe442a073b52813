//! Sockets of the three protocols, used alike: a call is a connection or a datagram, and an answer of one line.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, send,
    socket_with, sockopt,
};
use seaway_model::Protocol;

/// The protocols that this kernel has sockets of. Many have no SCTP: the virtual machine of `make test-battery` has it, and demands it
/// by SEAWAY_BATTERY_SCTP.
pub(crate) static PROTOCOLS: LazyLock<Vec<Protocol>> = LazyLock::new(|| {
    let mut protocols = vec![Protocol::Tcp, Protocol::Udp];
    let sctp = try_socket(Protocol::Sctp, AddressFamily::INET);
    if sctp.is_ok() {
        protocols.push(Protocol::Sctp);
    } else {
        assert!(std::env::var_os("SEAWAY_BATTERY_SCTP").is_none(), "no SCTP sockets: {sctp:?}");
        println!("this kernel has no SCTP sockets: TCP and UDP alone are tested");
    }
    protocols
});

/// Stands for all that is not tested over SCTP here, so that one sees it.
#[test]
#[ignore = "needs SCTP sockets: make test-battery"]
fn scenarios_run_over_sctp() {
    assert!(PROTOCOLS.contains(&Protocol::Sctp));
}

fn try_socket(protocol: Protocol, family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(number))
}

/// A socket of the calling thread's namespace that waits for nothing, bound to `local`.
pub(crate) fn bound(protocol: Protocol, local: SocketAddr) -> OwnedFd {
    let family = if local.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = try_socket(protocol, family).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    if local.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    bind(&socket, &local).unwrap_or_else(|error| panic!("bind {protocol:?} to {local}: {error}"));
    socket
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A server's line.
    Answer(String),
    /// An error that came back at once: RST or ICMP.
    Refused,
    /// The system did not let the packet go (EPERM): what a rule on the way out does to a caller on its own node.
    NotPermitted,
    /// Nothing came.
    Silence,
    /// Another error.
    Error(Errno),
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Self {
        match errno {
            // The latter is what SCTP says of a protocol that is unreachable.
            Errno::CONNREFUSED | Errno::NOPROTOOPT => Self::Refused,
            Errno::PERM => Self::NotPermitted,
            Errno::AGAIN | Errno::TIMEDOUT => Self::Silence,
            errno => Self::Error(errno),
        }
    }
}

/// A socket that has called `to` and may have an answer one day.
#[derive(Debug)]
pub(crate) struct Calling {
    socket: OwnedFd,
    protocol: Protocol,
}

impl Calling {
    /// Calls from the calling thread's namespace.
    pub(crate) fn begin(protocol: Protocol, local: SocketAddr, to: SocketAddr) -> Result<Self, Outcome> {
        let socket = bound(protocol, local);
        let connecting = connect(&socket, &to);
        let calling = Self { socket, protocol };
        match (protocol, connecting) {
            (Protocol::Udp, Ok(())) => calling.ask_again()?,
            (_, Ok(()) | Err(Errno::INPROGRESS)) => {}
            (_, Err(errno)) => return Err(errno.into()),
        }
        Ok(calling)
    }

    /// One more datagram, or line, of the same flow.
    pub(crate) fn ask_again(&self) -> Result<(), Outcome> {
        send(&self.socket, b"?\n", SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn wait_for(&self, what: PollFlags, until: Instant) -> Result<(), Outcome> {
        let left = || Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        let ready =
            retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), what)], Some(&left())));
        if ready? == 0 { Err(Outcome::Silence) } else { Ok(()) }
    }

    /// As programs do that ask by UDP, and as the other protocols do by themselves, asks again every second.
    fn wait_for_datagram(&self, until: Instant) -> Result<(), Outcome> {
        loop {
            let soon = until.min(Instant::now() + Duration::from_secs(1));
            match self.wait_for(PollFlags::IN, soon) {
                Err(Outcome::Silence) if Instant::now() < until => self.ask_again()?,
                result => return result,
            }
        }
    }

    /// Waits until it is connected, or is told that it cannot be.
    pub(crate) fn connected(&self, patience: Duration) -> Result<(), Outcome> {
        self.wait_for(PollFlags::OUT, Instant::now() + patience)?;
        match sockopt::socket_error(&self.socket)? {
            Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the server's line.
    pub(crate) fn answer(&self, patience: Duration) -> Result<String, Outcome> {
        let until = Instant::now() + patience;
        if self.protocol != Protocol::Udp {
            self.connected(patience)?;
        }
        let mut line = Vec::new();
        loop {
            match self.protocol {
                Protocol::Udp => self.wait_for_datagram(until)?,
                _ => self.wait_for(PollFlags::IN, until)?,
            }
            let mut part = [0; 128];
            let (length, _) = recv(&self.socket, &mut part, RecvFlags::empty())?;
            line.extend(&part[..length]);
            if line.last() == Some(&b'\n') {
                return Ok(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            if length == 0 {
                return Err(Outcome::Error(Errno::CONNRESET));
            }
        }
    }
}

/// One call from the calling thread's namespace; silence is waited for as long as `patience`.
pub(crate) fn call(protocol: Protocol, local: SocketAddr, to: SocketAddr, patience: Duration) -> Outcome {
    let answer = Calling::begin(protocol, local, to).and_then(|calling| calling.answer(patience));
    answer.map_or_else(|outcome| outcome, Outcome::Answer)
}
