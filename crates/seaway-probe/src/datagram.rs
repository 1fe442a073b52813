//! A datagram and its answer: UDP, and ICMP's echo.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::api::{Event, Protocol, Request, Stage};
use crate::serve::{Steps, Stop, micros_since, patience, timed_out};
use crate::{dns, http, icmp, tcp};

/// When it is sent again, since it was first sent.
const REPEATS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// The port of DNS.
const DNS: u16 = 53;

/// Tries one address; whether it worked.
pub(crate) fn attempt(request: &Request, to: SocketAddr, driver: &mut impl Steps) -> Result<bool, Stop> {
    let begun = Instant::now();
    let made = match request.protocol {
        Protocol::Icmp => icmp::Echo::bind(to, request.source_port, &request.token).map(Talk::Echo),
        _ => udp(to, request.source_port, &request.token).map(Talk::Udp),
    };
    let mut talk = match made {
        Ok(talk) => talk,
        Err(error) => return tcp::fail(driver, Stage::Bind, &error, begun),
    };
    driver.step(&talk.bound(to))?;
    let begun = Instant::now();
    match talk.exchange(patience(request)) {
        Ok((data, body)) => {
            let (bytes, micros) = (data.len(), micros_since(begun));
            driver.step(&Event::Response { status: None, server: None, body, bytes, micros })?;
            Ok(true)
        }
        Err(error) => tcp::fail(driver, Stage::Answer, &error, begun),
    }
}

enum Talk {
    Udp(Udp),
    Echo(icmp::Echo),
}

struct Udp {
    socket: UdpSocket,
    from: SocketAddr,
    payload: Vec<u8>,
    is_dns: bool,
}

fn udp(to: SocketAddr, port: Option<u16>, token: &str) -> io::Result<Udp> {
    let mut from = tcp::source_for(to)?;
    from.set_port(port.unwrap_or(0));
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    seaway_net::socket::receive_errors(&socket)?;
    let from = socket.local_addr()?;
    let is_dns = to.port() == DNS;
    let payload = if is_dns { dns::query(token) } else { format!("echo {token}").into_bytes() };
    Ok(Udp { socket, from, payload, is_dns })
}

impl Talk {
    fn bound(&self, to: SocketAddr) -> Event {
        match self {
            Self::Udp(udp) => tcp::bound(udp.from, to),
            Self::Echo(echo) => tcp::bound(echo.from(), SocketAddr::new(to.ip(), 0)),
        }
    }

    /// The answer's data, and what to tell of it.
    fn exchange(&mut self, patience: Duration) -> io::Result<(Vec<u8>, String)> {
        match self {
            Self::Udp(udp) => {
                let data =
                    exchange(&udp.socket, |_| udp.payload.clone(), |data| Some(data.to_vec()), patience)?;
                let body = if udp.is_dns { dns::summary(&data) } else { http::text_of(&data) };
                Ok((data, body))
            }
            Self::Echo(echo) => {
                let data = exchange(
                    echo.socket(),
                    |number| echo.request(number),
                    |packet| echo.data_of(packet),
                    patience,
                )?;
                let body = http::text_of(&data);
                Ok((data, body))
            }
        }
    }
}

/// Sends `datagram`, again after each of [`REPEATS`] (it is given the number, from 0), until `accept` takes an answer.
fn exchange(
    socket: &UdpSocket,
    datagram: impl Fn(u16) -> Vec<u8>,
    accept: impl Fn(&[u8]) -> Option<Vec<u8>>,
    patience: Duration,
) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut repeats = REPEATS.iter().copied();
    let mut number = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        socket.send(&datagram(number))?;
        number += 1;
        let until = begun + repeats.next().unwrap_or(patience).min(patience);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(read) => {
                    if let Some(data) = accept(&buffer[..read]) {
                        return Ok(data);
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        if begun.elapsed() >= patience {
            return Err(timed_out("answer", patience));
        }
    }
}
