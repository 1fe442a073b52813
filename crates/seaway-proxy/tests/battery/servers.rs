//! The servers of all hosts: each answers with who it is and whom it sees, as `A:8080 10.244.1.2`. A connection stays
//! open, and has an answer to each line, until its caller ends it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, accept_with, getpeername, listen, recv, recvfrom, send, sendto,
};
use seaway_model::Protocol;

use crate::addresses::*;
use crate::sockets::{PROTOCOLS, bound};
use crate::topology::Topology;

/// Nobody waits longer than this for an answer that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where Beyond serves.
pub(crate) const BEYOND_PORT: u16 = 7;

struct Server {
    socket: OwnedFd,
    name: String,
    protocol: Protocol,
}

/// Starts them all, on one thread that lives as long as the test's process.
pub(crate) fn start(topology: &Topology) {
    let mut servers = Vec::new();
    for host in Host::ALL.into_iter().filter(|host| *host != Gone) {
        let serve =
            || places(host).into_iter().map(|(protocol, at)| open(host, protocol, at)).collect::<Vec<_>>();
        servers.extend(topology.of(host).run(serve).unwrap());
    }
    thread::spawn(move || serve(servers));
}

/// Where a host serves.
fn places(host: Host) -> Vec<(Protocol, SocketAddr)> {
    let mut places = Vec::new();
    for family in Family::BOTH {
        let ips: &[&str] = match host {
            Node => &[Node.address(), SECOND_NODE_IP],
            Beyond => &["0.0.0.0"],
            _ => &[host.address()],
        };
        let ports: &[u16] = if host == Beyond { &[BEYOND_PORT] } else { &PORTS };
        for protocol in PROTOCOLS.iter() {
            for ip in ips {
                places.extend(ports.iter().map(|port| (*protocol, SocketAddr::new(family.ip(ip), *port))));
            }
        }
    }
    places
}

fn open(host: Host, protocol: Protocol, at: SocketAddr) -> Server {
    let socket = bound(protocol, at);
    if protocol != Protocol::Udp {
        listen(&socket, 128).unwrap();
    }
    Server { socket, name: format!("{host:?}:{}", at.port()), protocol }
}

/// What is served on one socket.
enum Work {
    Server(Server),
    /// A connection, with what each line of it is answered with.
    Connection(OwnedFd, String),
}

impl Work {
    fn socket(&self) -> &OwnedFd {
        match self {
            Self::Server(server) => &server.socket,
            Self::Connection(socket, _) => socket,
        }
    }
}

fn serve(servers: Vec<Server>) {
    let waiting = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let mut all: BTreeMap<u64, Work> = BTreeMap::new();
    let watch = |all: &mut BTreeMap<u64, Work>, work: Work| {
        let number = u64::try_from(work.socket().as_raw_fd()).unwrap();
        epoll::add(&waiting, work.socket(), epoll::EventData::new_u64(number), epoll::EventFlags::IN)
            .unwrap();
        all.insert(number, work);
    };
    for server in servers {
        watch(&mut all, Work::Server(server));
    }
    let mut ready = Vec::with_capacity(64);
    loop {
        ready.clear();
        // A debugger, or a machine that is frozen and thawed, interrupts it (signal(7)).
        retry_on_intr(|| epoll::wait(&waiting, rustix::buffer::spare_capacity(&mut ready), None)).unwrap();
        for event in &ready {
            let number = event.data.u64();
            match &all[&number] {
                Work::Server(server) if server.protocol == Protocol::Udp => answer_datagram(server),
                Work::Server(server) => {
                    if let Some((socket, line)) = accept(server) {
                        watch(&mut all, Work::Connection(socket, line));
                    }
                }
                Work::Connection(socket, line) => {
                    if !answer_line(socket, line) {
                        // A program that is being started may have the socket, too, for a moment.
                        epoll::delete(&waiting, socket).unwrap();
                        all.remove(&number);
                    }
                }
            }
        }
    }
}

fn line(server: &Server, caller: SocketAddr) -> String {
    format!("{} {}\n", server.name, caller.ip())
}

fn answer_datagram(server: &Server) {
    // An error is the ICMP error to an earlier answer.
    if let Ok((_, _, Some(caller))) = recvfrom(&server.socket, &mut [0; 64], RecvFlags::empty()) {
        let caller = SocketAddr::try_from(caller).unwrap();
        let _ = sendto(&server.socket, line(server, caller).as_bytes(), SendFlags::empty(), &caller);
    }
}

/// Takes a connection, whose first answer needs no question.
fn accept(server: &Server) -> Option<(OwnedFd, String)> {
    let socket = accept_with(&server.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let caller = SocketAddr::try_from(getpeername(&socket).ok()??).unwrap();
    let line = line(server, caller);
    let _ = send(&socket, line.as_bytes(), SendFlags::NOSIGNAL);
    Some((socket, line))
}

/// Answers what has come; false when the connection is over.
fn answer_line(socket: &OwnedFd, line: &str) -> bool {
    match recv(socket, &mut [0; 64], RecvFlags::empty()) {
        Ok((0, _)) => false,
        Ok(_) => send(socket, line.as_bytes(), SendFlags::NOSIGNAL).is_ok(),
        Err(errno) => errno == Errno::AGAIN,
    }
}
