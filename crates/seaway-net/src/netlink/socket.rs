//! The socket itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with,
    sockopt,
};

use crate::netlink::message::{HEADER, Message, Messages, ne32};
use crate::netlink::{Attributes, NetlinkError};

/// The kernel never gives more than this in one datagram of a dump (netlink_dump: 32 KiB).
const RECEIVE: usize = 64 * 1024;
/// How often a dump that changed under its reader is started again before giving up.
const DUMP_TRIES: usize = 16;
/// Receive buffer: a burst of events, or of errors for a large batch.
const RECEIVE_BUFFER: usize = 8 << 20;
/// NLM_F_CAPPED, NLM_F_ACK_TLVS (linux/netlink.h), on error messages.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

/// Which part of the kernel a socket talks to (linux/netlink.h, `NETLINK_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// NETLINK_ROUTE: links, addresses, routes, neighbours.
    Route,
    /// NETLINK_NETFILTER: nf_tables, conntrack, ipset.
    Netfilter,
    /// NETLINK_GENERIC: IPVS.
    Generic,
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
            Protocol::Generic => Some(rustix::net::netlink::GENERIC),
        };
        let failed = |source: Errno| NetlinkError::io("open netlink socket", source);
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
            .map_err(failed)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        // Kernels before 4.12 and 4.2 lack these: errors then say less, which is no reason to stop.
        let _ = set_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1);
        let _ = set_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1);
        let socket = Self { fd, sequence: 0, buffer: vec![0; RECEIVE] };
        socket.reserve_receive(RECEIVE_BUFFER);
        Ok(socket)
    }

    /// Makes the kernel check dump requests strictly, so that their filters count (NETLINK_GET_STRICT_CHK).
    pub fn strict(&self) -> Result<(), NetlinkError> {
        set_option(self.fd.as_fd(), libc::NETLINK_GET_STRICT_CHK, 1)
            .map_err(|source| NetlinkError::io("make netlink dumps strict", source))
    }

    /// Joins a multicast group (the group's number, not a bit mask).
    pub fn join(&self, group: u32) -> Result<(), NetlinkError> {
        set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group as libc::c_int)
            .map_err(|source| NetlinkError::io(&format!("join netlink group {group}"), source))
    }

    /// Makes [`Socket::receive`] give up at once, with `EAGAIN`, when there is nothing to receive.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), NetlinkError> {
        rustix::io::ioctl_fionbio(&self.fd, nonblocking)
            .map_err(|source| NetlinkError::io("set netlink socket non-blocking", source))
    }

    /// Asks for a send buffer that takes a message of `bytes`; beyond the system's limit only with CAP_NET_ADMIN.
    pub fn reserve_send(&self, bytes: usize) {
        let has = sockopt::socket_send_buffer_size(&self.fd).unwrap_or(0);
        // The kernel doubles what is set, and needs some room for bookkeeping.
        if has < 2 * bytes + 4096
            && sockopt::set_socket_send_buffer_size_force(&self.fd, bytes + 4096).is_err()
        {
            let _ = sockopt::set_socket_send_buffer_size(&self.fd, bytes + 4096);
        }
    }

    /// Asks for a receive buffer of `bytes`; beyond the system's limit only with CAP_NET_ADMIN.
    pub fn reserve_receive(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.fd, bytes);
        }
    }

    /// A sequence number not used before on this socket.
    pub fn next_sequence(&mut self) -> u32 {
        self.reserve_sequences(1)
    }

    /// The first of `count` consecutive sequence numbers, not used before on this socket and never 0.
    pub fn reserve_sequences(&mut self, count: u32) -> u32 {
        let first = match self.sequence.checked_add(count) {
            Some(_) => self.sequence + 1,
            None => 1,
        };
        self.sequence = first + count - 1;
        first
    }

    /// Sends bytes to the kernel in one datagram.
    pub fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.reserve_send(bytes.len());
        let sent =
            retry_interrupted(|| sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)))
                .map_err(|source| match source {
                    Errno::MSGSIZE => {
                        NetlinkError::TooLong { operation: "send to netlink".to_owned(), bytes: bytes.len() }
                    }
                    source => NetlinkError::io("send to netlink", source),
                })?;
        if sent != bytes.len() {
            return Err(NetlinkError::malformed(format!("sent {sent} of {} bytes", bytes.len())));
        }
        Ok(())
    }

    /// Receives one datagram from the kernel and gives its messages; blocks unless the socket is non-blocking.
    pub fn receive(&mut self) -> Result<Messages<'_>, NetlinkError> {
        let length = self.receive_length(RecvFlags::empty())?;
        Ok(Messages::new(&self.buffer[..length]))
    }

    /// As [`Socket::receive`], but `None` instead of blocking.
    pub fn try_receive(&mut self) -> Result<Option<Messages<'_>>, NetlinkError> {
        match self.receive_length(RecvFlags::DONTWAIT) {
            Ok(length) => Ok(Some(Messages::new(&self.buffer[..length]))),
            Err(error) if error.errno() == Some(libc::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Receives a datagram into the buffer and gives its length. Datagrams of other processes are dropped.
    fn receive_length(&mut self, flags: RecvFlags) -> Result<usize, NetlinkError> {
        loop {
            let (_, length, from) = retry_interrupted(|| {
                recvfrom(&self.fd, self.buffer.as_mut_slice(), flags | RecvFlags::TRUNC)
            })
            .map_err(|source| match source {
                Errno::NOBUFS => NetlinkError::Overrun { operation: "receive from netlink".to_owned() },
                source => NetlinkError::io("receive from netlink", source),
            })?;
            if length > self.buffer.len() {
                return Err(NetlinkError::malformed(format!(
                    "datagram of {length} bytes is longer than {}",
                    self.buffer.len()
                )));
            }
            let kernel = from
                .and_then(|address| SocketAddrNetlink::try_from(address).ok())
                .is_some_and(|address| address.pid() == 0);
            if kernel {
                return Ok(length);
            }
        }
    }

    /// Sends one request that was written with `sequence` and gives `each` message of the answer, up to the
    /// acknowledgement, the end of the dump, or (when the request had neither the ACK nor the DUMP flag) the first message.
    ///
    /// Where `each` fails the rest of the answer is read all the same: the kernel refuses a socket's next dump (EBUSY)
    /// until the last one is at its end.
    pub fn exchange(
        &mut self,
        request: &[u8],
        sequence: u32,
        mut each: impl FnMut(Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let flags = Messages::new(request).next().transpose()?.map_or(0, |message| message.flags);
        let acknowledged = flags & (libc::NLM_F_ACK as u16) != 0;
        let dump = flags & (libc::NLM_F_DUMP as u16) == libc::NLM_F_DUMP as u16;
        self.send(request)?;
        let mut interrupted = false;
        let mut failed = None;
        loop {
            for message in self.receive()? {
                let message = message?;
                if message.sequence != sequence {
                    continue; // the rest of an answer that an earlier caller gave up on
                }
                interrupted |= message.flags & (libc::NLM_F_DUMP_INTR as u16) != 0;
                match outcome(&message)? {
                    Outcome::Data => {
                        if failed.is_none() {
                            failed = each(message).err();
                        }
                        if !acknowledged && !dump {
                            return failed.map_or(Ok(()), Err);
                        }
                    }
                    Outcome::Finished if interrupted => {
                        return Err(NetlinkError::Interrupted { operation: "netlink dump".to_owned() });
                    }
                    Outcome::Finished => return failed.map_or(Ok(()), Err),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs a dump again, a few times, as long as the list changes while it is read.
pub(crate) fn retry_dump<T>(mut dump: impl FnMut() -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    let mut result = dump();
    for _ in 1..DUMP_TRIES {
        match result {
            Err(NetlinkError::Interrupted { .. }) => result = dump(),
            _ => break,
        }
    }
    result
}

/// What a received message means for the exchange that it belongs to.
pub(crate) enum Outcome {
    /// An object.
    Data,
    /// A positive acknowledgement or the end of a dump.
    Finished,
}

/// Tells data from acknowledgements; a refusal is an error.
pub(crate) fn outcome(message: &Message<'_>) -> Result<Outcome, NetlinkError> {
    let kind = i32::from(message.kind);
    if kind == libc::NLMSG_OVERRUN {
        return Err(NetlinkError::Overrun { operation: "netlink".to_owned() });
    }
    if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
        return Ok(Outcome::Data);
    }
    // Both start with a negative errno (of NLMSG_DONE, absent in old kernels: no error).
    let errno = match ne32(message.payload, 0) {
        Some(code) => (code as i32).wrapping_neg(),
        None if kind == libc::NLMSG_DONE => 0,
        None => return Err(NetlinkError::malformed("error message without a code")),
    };
    if errno == 0 {
        return Ok(Outcome::Finished);
    }
    let (text, offset) = extended(message);
    Err(NetlinkError::Refused {
        operation: "netlink request".to_owned(),
        errno,
        message: text,
        sequence: message.sequence,
        offset,
    })
}

/// The extended acknowledgement's text (NLMSGERR_ATTR_MSG = 1) and offset (NLMSGERR_ATTR_OFFS = 2).
fn extended(message: &Message<'_>) -> (Option<String>, Option<u32>) {
    if message.flags & ACK_TLVS == 0 {
        return (None, None);
    }
    let skip = if i32::from(message.kind) == libc::NLMSG_DONE {
        4
    } else if message.flags & CAPPED != 0 {
        4 + HEADER
    } else {
        // The request's own length stands in the copy of its header.
        4 + ne32(message.payload, 4).map_or(HEADER, |length| crate::netlink::align(length as usize))
    };
    let Some(rest) = message.payload.get(skip..) else { return (None, None) };
    let mut text = None;
    let mut offset = None;
    for attribute in Attributes::new(rest).flatten() {
        match attribute.kind {
            1 => text = attribute.string().ok(),
            2 => offset = attribute.value.try_into().ok().map(u32::from_ne_bytes),
            _ => {}
        }
    }
    (text, offset)
}

fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which lives until the call returns, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    #[test]
    fn refusals_carry_the_kernels_explanation() {
        let mut payload = (-libc::EEXIST).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        let mut writer = crate::netlink::Writer::default();
        writer.string(1, "File exists, says the kernel");
        writer.attribute(2, &7_u32.to_ne_bytes());
        payload.extend_from_slice(writer.as_slice());
        let flags = CAPPED | ACK_TLVS;
        let message =
            Message { kind: libc::NLMSG_ERROR as u16, flags, sequence: 3, port: 0, payload: &payload };
        let Err(NetlinkError::Refused { errno, message, sequence, offset, .. }) = outcome(&message) else {
            panic!("no refusal")
        };
        assert_eq!((errno, sequence, offset), (libc::EEXIST, 3, Some(7)));
        assert_eq!(message.as_deref(), Some("File exists, says the kernel"));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(
            kind in 0..6_u16,
            flags in any::<u16>(),
            errno in any::<[u8; 4]>(),
            rest in arbitrary::payload(HEADER),
        ) {
            for payload in [&errno[..], &rest[..], &[&errno[..], &rest[..]].concat()] {
                let _ = outcome(&Message { kind, flags, sequence: 0, port: 0, payload }).is_ok();
            }
        }
    }
}
