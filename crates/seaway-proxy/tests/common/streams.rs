//! Connections of TCP and SCTP, which are used alike: one stream each way (RFC 6458, section 4, one-to-one style).

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, listen, socket_with, sockopt,
};
use seaway_model::Protocol;
use seaway_net::conntrack::{Conntrack, Filter};
use seaway_net::netns::NetNs;

use super::{VIP, ip, parse};

/// A socket that waits for nothing.
fn socket(protocol: Protocol) -> OwnedFd {
    let number = match protocol {
        Protocol::Tcp => ipproto::TCP,
        Protocol::Sctp => ipproto::SCTP,
        Protocol::Udp => panic!("UDP has no connections"),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(number));
    socket.unwrap_or_else(|error| panic!("{} sockets: {error}", protocol.label()))
}

/// An SCTP socket that listens. The standard library's type serves: it asks for nothing that SCTP has not.
pub(crate) fn listen_sctp(ns: &NetNs, at: SocketAddr) -> TcpListener {
    ns.run(|| {
        let socket = socket(Protocol::Sctp);
        bind(&socket, &at).unwrap();
        listen(&socket, 16).unwrap();
        TcpListener::from(socket)
    })
    .unwrap()
}

/// A socket on a port of its own (0: any) that has begun to connect.
pub(crate) fn begin_to_connect(ns: &NetNs, protocol: Protocol, source_port: u16, to: SocketAddr) -> OwnedFd {
    ns.run(|| {
        let socket = socket(protocol);
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, source_port))).unwrap();
        assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
        socket
    })
    .unwrap()
}

/// Waits until the socket is connected, or is told that it cannot be.
fn outcome(socket: OwnedFd) -> io::Result<TcpStream> {
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    if poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)], Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    sockopt::socket_error(&socket)??;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(super::PATIENCE))?;
    Ok(stream)
}

/// Waits until the socket is connected.
pub(crate) fn connected(socket: OwnedFd) -> TcpStream {
    outcome(socket).expect("a connection")
}

/// What an SCTP server at `to` answers: its own address and the caller's as it sees it.
pub(crate) fn ask_sctp(ns: &NetNs, to: SocketAddr) -> io::Result<(IpAddr, IpAddr)> {
    let mut answer = String::new();
    outcome(begin_to_connect(ns, Protocol::Sctp, 0, to))?.read_to_string(&mut answer)?;
    Ok(parse(&answer))
}

/// The endpoints that unanswered connections to the service go to.
pub(crate) fn half_open(conntrack: &mut Conntrack, protocol: Protocol) -> Vec<IpAddr> {
    let filter = Filter { unreplied: true, ..Filter::protocol(protocol.number()) };
    let flows = conntrack.list_where(&filter, |flow| flow.original.destination == ip(VIP)).unwrap();
    flows.iter().map(|flow| flow.reply.source).collect()
}
