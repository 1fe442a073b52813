//! A TCP connection, and HTTP over it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::api::{Event, Request, Stage};
use crate::http;
use crate::serve::{Steps, Stop, failed, micros_since, patience, timed_out};

/// Tries one address; whether it worked.
pub(crate) fn attempt(request: &Request, to: SocketAddr, driver: &mut impl Steps) -> Result<bool, Stop> {
    let begun = Instant::now();
    let socket = match bind(to, request.source_port.unwrap_or(0)) {
        Ok((socket, from)) => {
            driver.step(&bound(from, to))?;
            socket
        }
        Err(error) => return fail(driver, Stage::Bind, &error, begun),
    };
    let begun = Instant::now();
    let stream = match connect(socket, to, patience(request)) {
        Ok(stream) => {
            driver.step(&Event::Connected { micros: micros_since(begun) })?;
            stream
        }
        Err(error) => return fail(driver, Stage::Connect, &error, begun),
    };
    let Some(wanted) = &request.http else { return Ok(true) };
    let begun = Instant::now();
    match http::get(stream, wanted, &request.token, patience(request)) {
        Ok(answer) => driver.step(&answer.event(micros_since(begun))).map(|()| true),
        Err(error) => fail(driver, Stage::Response, &error, begun),
    }
}

/// Tells that a step failed; the address did not work.
pub(crate) fn fail(
    driver: &mut impl Steps,
    stage: Stage,
    error: &io::Error,
    begun: Instant,
) -> Result<bool, Stop> {
    driver.step(&failed(stage, error, begun))?;
    Ok(false)
}

/// The addresses of a socket as an event.
pub(crate) fn bound(from: SocketAddr, to: SocketAddr) -> Event {
    Event::Bound {
        source: from.ip(),
        source_port: from.port(),
        destination: to.ip(),
        destination_port: to.port(),
    }
}

/// The address that the kernel would send from to `to`, with port 0. Nothing is sent to find it.
pub(crate) fn source_for(to: SocketAddr) -> io::Result<SocketAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    let mut source = socket.local_addr()?;
    source.set_port(0);
    Ok(source)
}

/// A socket that will send to `to` from the address it tells; `port` 0 for a free one.
fn bind(to: SocketAddr, port: u16) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut from = source_for(to)?;
    from.set_port(port);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &from)?;
    let from = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, from))
}

fn connect(socket: OwnedFd, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            if !await_events(&socket, PollFlags::OUT, Instant::now() + patience)? {
                return Err(timed_out("connection", patience));
            }
            sockopt::socket_error(&socket)??;
        }
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Waits until one of `events`, an error or the end has come; `false` where none did until `deadline`.
pub(crate) fn await_events(socket: impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match rustix::event::poll(&mut [PollFd::new(&socket, events)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
