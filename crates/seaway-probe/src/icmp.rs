//! ICMP's echo (RFC 792, RFC 4443): by a ping socket where `net.ipv4.ping_group_range` lets the program have one, otherwise by a
//! raw socket.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use crate::tcp;

/// Length of an echo's header.
const HEADER: usize = 8;

/// An echo that goes on.
pub(crate) struct Echo {
    /// Not of UDP, but it sends and receives as one does.
    socket: UdpSocket,
    from: SocketAddr,
    token: String,
    is_raw: bool,
}

impl Echo {
    /// A socket that will send to `to`; `id` absent: one that is free.
    pub(crate) fn bind(to: SocketAddr, id: Option<u16>, token: &str) -> io::Result<Self> {
        let to = SocketAddr::new(to.ip(), 0);
        let mut from = tcp::source_for(to)?;
        from.set_port(id.unwrap_or(0));
        let (family, protocol) = match to.ip() {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let open = |kind| rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
        let (socket, is_raw) = match open(SocketType::DGRAM) {
            Ok(socket) => (socket, false),
            Err(Errno::ACCESS) => (open(SocketType::RAW)?, true),
            Err(errno) => return Err(errno.into()),
        };
        if is_raw {
            // A raw socket has no port, and nobody gives out identifiers.
            rustix::net::bind(&socket, &SocketAddr::new(from.ip(), 0))?;
            from.set_port(id.unwrap_or_else(any_id));
        } else {
            rustix::net::bind(&socket, &from)?;
            from = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        }
        rustix::net::connect(&socket, &to)?;
        seaway_net::socket::receive_errors(&socket)?;
        Ok(Self { socket: socket.into(), from, token: token.to_owned(), is_raw })
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The source address, with the identifier as its port.
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// The request with sequence number `number` + 1.
    pub(crate) fn request(&self, number: u16) -> Vec<u8> {
        let kind = if self.from.is_ipv4() { 8 } else { 128 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(number.saturating_add(1).to_be_bytes());
        packet.extend(self.token.bytes());
        // The kernel does it for ping sockets and for IPv6.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// The data of `packet`, where it is the reply.
    pub(crate) fn data_of(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let is_ipv4 = self.from.is_ipv4();
        // A raw socket of IPv4 gets the IP header too.
        let header = if self.is_raw && is_ipv4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
        let (echo, data) = packet.get(header..)?.split_at_checked(HEADER)?;
        let is_reply = echo[0] == if is_ipv4 { 0 } else { 129 };
        let is_ours = echo[4..6] == self.from.port().to_be_bytes() && data == self.token.as_bytes();
        (is_reply && is_ours).then(|| data.to_vec())
    }
}

fn any_id() -> u16 {
    let random = RandomState::new().hash_one(0_u8);
    // Not 0.
    (random & 0xffff) as u16 | 1
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // RFC 1071, 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }
}
