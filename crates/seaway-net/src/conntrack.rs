//! Connection tracking: list, get, delete, watch.
//!
//! Wire format: linux/netfilter/nfnetlink_conntrack.h.

mod decode;
mod events;
mod flow;

use std::net::IpAddr;

use crate::netlink::{NetlinkError, Outcome, Protocol, Socket, Writer, outcome, retry_dump};

pub use events::{Event, Events};
pub use flow::{Counters, Flow, Transport, Tuple, status, status_names, tcp_state_name};

/// NFNL_SUBSYS_CTNETLINK, the high byte of message types.
const SUBSYSTEM: u16 = 1;
/// enum cntl_msg_types
const MESSAGE_NEW: u16 = 0;
const MESSAGE_GET: u16 = 1;
const MESSAGE_DELETE: u16 = 2;

/// enum ctattr_type
mod attribute {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOINFO: u16 = 4;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const MARK: u16 = 8;
    pub(super) const COUNTERS_ORIG: u16 = 9;
    pub(super) const COUNTERS_REPLY: u16 = 10;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const LABELS: u16 = 22;
    pub(super) const FILTER: u16 = 25;
    pub(super) const STATUS_MASK: u16 = 26;
}

/// enum ctattr_tuple, ctattr_ip, ctattr_l4proto
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
    pub(super) const V4_SRC: u16 = 1;
    pub(super) const V4_DST: u16 = 2;
    pub(super) const V6_SRC: u16 = 3;
    pub(super) const V6_DST: u16 = 4;
    pub(super) const PROTO_NUM: u16 = 1;
    pub(super) const SRC_PORT: u16 = 2;
    pub(super) const DST_PORT: u16 = 3;
    pub(super) const ICMP_ID: u16 = 4;
    pub(super) const ICMP_TYPE: u16 = 5;
    pub(super) const ICMP_CODE: u16 = 6;
    pub(super) const ICMPV6_ID: u16 = 7;
    pub(super) const ICMPV6_TYPE: u16 = 8;
    pub(super) const ICMPV6_CODE: u16 = 9;
}

/// Deletions sent in one datagram; their acknowledgements must all fit into the receive buffer.
const DELETIONS_AT_ONCE: usize = 256;

/// Which address family to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// Which connections to list; all of them by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this family.
    pub family: Option<Family>,
    /// Only this transport protocol, such as 17 for UDP.
    pub protocol: Option<u8>,
    /// Only this zone.
    pub zone: Option<u16>,
    /// Only those that no answer has been seen of.
    pub unreplied: bool,
}

impl Filter {
    /// All connections of one transport protocol.
    pub const fn protocol(protocol: u8) -> Self {
        Self { family: None, protocol: Some(protocol), zone: None, unreplied: false }
    }

    fn takes(&self, flow: &Flow) -> bool {
        self.protocol.is_none_or(|protocol| flow.original.protocol == protocol)
            && self.zone.is_none_or(|zone| flow.zone == zone)
            && !(self.unreplied && flow.status & status::SEEN_REPLY != 0)
    }
}

/// The connection table of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens the connection table of the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// The connections that the filter lets through.
    pub fn list(&mut self, filter: &Filter) -> Result<Vec<Flow>, NetlinkError> {
        self.list_where(filter, |_| true)
    }

    /// The connections that the filter and `wanted` let through.
    pub fn list_where(
        &mut self,
        filter: &Filter,
        wanted: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        // For each dump the kernel goes through its whole table, however few are in it, so one has to do for both families.
        // But it takes a protocol only together with a family (EOPNOTSUPP).
        let families = match (filter.family, filter.protocol) {
            (Some(family), _) => &[family.number()][..],
            (None, Some(_)) => &[Family::V4.number(), Family::V6.number()][..],
            (None, None) => &[libc::AF_UNSPEC as u8][..],
        };
        let wanted = |flow: &Flow| filter.takes(flow) && wanted(flow);
        let mut all = Vec::new();
        for family in families {
            all.append(&mut retry_dump(|| self.dump(*family, filter, &wanted))?);
        }
        Ok(all)
    }

    fn dump(
        &mut self,
        family: u8,
        filter: &Filter,
        wanted: &dyn Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::default();
        writer.begin(SUBSYSTEM << 8 | MESSAGE_GET, libc::NLM_F_DUMP as u16, sequence);
        writer.bytes(&[family, 0, 0, 0]);
        if let Some(protocol) = filter.protocol {
            write_protocol_filter(&mut writer, protocol);
        }
        if filter.unreplied {
            write_unreplied_filter(&mut writer);
        }
        writer.end();
        let mut flows = Vec::new();
        self.socket.exchange(writer.as_slice(), sequence, |message| {
            let flow = decode::flow(message.payload)?;
            flows.extend(flow.filter(wanted));
            Ok(())
        })?;
        Ok(flows)
    }

    /// The connection whose first packet was sent as `original` says; `None` where there is none.
    pub fn get(&mut self, original: &Tuple) -> Result<Option<Flow>, NetlinkError> {
        let family = if original.source.is_ipv4() { Family::V4 } else { Family::V6 };
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::default();
        writer.begin(SUBSYSTEM << 8 | MESSAGE_GET, 0, sequence);
        writer.bytes(&[family.number(), 0, 0, 0]);
        writer.nested(attribute::TUPLE_ORIG, |writer| write_tuple(writer, original));
        writer.end();
        let mut found = None;
        let result = self.socket.exchange(writer.as_slice(), sequence, |message| {
            found = decode::flow(message.payload)?;
            Ok(())
        });
        match result {
            // The kernel looks among the tuples of answers as well.
            Ok(()) => Ok(found.filter(|flow| flow.original == *original)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error.during(format!("get connection {original}"))),
        }
    }

    /// Deletes a connection; `false` if it is not there any more.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, NetlinkError> {
        self.delete_all(std::slice::from_ref(flow)).map(|deleted| deleted == 1)
    }

    /// Deletes the connections that the filter and `condemned` let through; gives how many there were.
    ///
    /// Connections that come while it lists are left: where traffic goes to them no more, list and delete after the rules
    /// have changed.
    pub fn delete_where(
        &mut self,
        filter: &Filter,
        condemned: impl Fn(&Flow) -> bool,
    ) -> Result<usize, NetlinkError> {
        let flows = self.list_where(filter, condemned)?;
        self.delete_all(&flows)
    }

    /// Deletes connections; those that are not there any more do not count.
    pub fn delete_all(&mut self, flows: &[Flow]) -> Result<usize, NetlinkError> {
        let mut deleted = 0;
        for some in flows.chunks(DELETIONS_AT_ONCE) {
            let first = self.socket.reserve_sequences(some.len() as u32);
            let mut writer = Writer::default();
            for (sequence, flow) in (first..).zip(some) {
                write_deletion(&mut writer, sequence, flow);
            }
            self.socket.send(writer.as_slice()).map_err(|error| error.during("delete connections"))?;
            deleted += self.deletions_answered(first, some)?;
        }
        Ok(deleted)
    }

    fn deletions_answered(&mut self, first: u32, flows: &[Flow]) -> Result<usize, NetlinkError> {
        let mut waiting = flows.len();
        let mut deleted = 0;
        let mut failed = None;
        while waiting > 0 {
            for message in self.socket.receive()? {
                let message = message?;
                let Some(flow) = flows.get(message.sequence.wrapping_sub(first) as usize) else { continue };
                match outcome(&message) {
                    Ok(Outcome::Data) => continue,
                    Ok(Outcome::Finished) => deleted += 1,
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    Err(error) => failed = Some(error.during(format!("delete connection {}", flow.original))),
                }
                waiting -= 1;
            }
        }
        failed.map_or(Ok(deleted), Err)
    }
}

/// Has the kernel leave out what is of another protocol; kernels before 5.8 pay no attention to it.
fn write_protocol_filter(writer: &mut Writer, protocol: u8) {
    // CTA_FILTER_ORIG_FLAGS = 1, with CTA_FILTER_F_CTA_PROTO_NUM (net/netfilter/nf_internals.h): that field counts.
    const FILTER_ORIG_FLAGS: u16 = 1;
    const FILTER_REPLY_FLAGS: u16 = 2;
    const F_PROTO_NUM: u32 = 1 << 3;
    writer.nested(attribute::FILTER, |writer| {
        writer.attribute(FILTER_ORIG_FLAGS, &F_PROTO_NUM.to_ne_bytes());
        writer.attribute(FILTER_REPLY_FLAGS, &0u32.to_ne_bytes());
    });
    writer.nested(attribute::TUPLE_ORIG, |writer| {
        writer.nested(tuple::PROTO, |writer| writer.attribute(tuple::PROTO_NUM, &[protocol]));
    });
}

/// Has the kernel leave out what was answered; kernels before 5.17 pay no attention to it.
fn write_unreplied_filter(writer: &mut Writer) {
    writer.be32(attribute::STATUS, 0);
    writer.be32(attribute::STATUS_MASK, status::SEEN_REPLY);
}

fn write_deletion(writer: &mut Writer, sequence: u32, flow: &Flow) {
    let family = if flow.original.source.is_ipv4() { Family::V4 } else { Family::V6 };
    writer.begin(SUBSYSTEM << 8 | MESSAGE_DELETE, libc::NLM_F_ACK as u16, sequence);
    writer.bytes(&[family.number(), 0, 0, 0]);
    writer.nested(attribute::TUPLE_ORIG, |writer| write_tuple(writer, &flow.original));
    if flow.zone != 0 {
        writer.attribute(attribute::ZONE, &flow.zone.to_be_bytes());
    }
    // The same addresses and ports may be another connection by now.
    if let Some(id) = flow.id {
        writer.be32(attribute::ID, id);
    }
    writer.end();
}

fn write_tuple(writer: &mut Writer, of: &Tuple) {
    writer.nested(tuple::IP, |writer| {
        for (address, v4, v6) in
            [(of.source, tuple::V4_SRC, tuple::V6_SRC), (of.destination, tuple::V4_DST, tuple::V6_DST)]
        {
            match address {
                IpAddr::V4(address) => writer.attribute(v4, &address.octets()),
                IpAddr::V6(address) => writer.attribute(v6, &address.octets()),
            }
        }
    });
    writer.nested(tuple::PROTO, |writer| {
        writer.attribute(tuple::PROTO_NUM, &[of.protocol]);
        match of.transport {
            Transport::None => {}
            Transport::Ports { source, destination } => {
                writer.attribute(tuple::SRC_PORT, &source.to_be_bytes());
                writer.attribute(tuple::DST_PORT, &destination.to_be_bytes());
            }
            Transport::Icmp { id, kind, code } => {
                let [id_at, kind_at, code_at] = match of.source {
                    IpAddr::V4(_) => [tuple::ICMP_ID, tuple::ICMP_TYPE, tuple::ICMP_CODE],
                    IpAddr::V6(_) => [tuple::ICMPV6_ID, tuple::ICMPV6_TYPE, tuple::ICMPV6_CODE],
                };
                writer.attribute(id_at, &id.to_be_bytes());
                writer.attribute(kind_at, &[kind]);
                writer.attribute(code_at, &[code]);
            }
        }
    });
}
