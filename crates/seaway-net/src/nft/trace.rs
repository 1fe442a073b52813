//! Which rules packets meet (`meta nftrace`, `nft monitor trace`).
//!
//! A [`Tracer`] marks packets with rules of its own, before all others, and receives what the kernel tells about every
//! marked packet of the namespace. Its table is tied to its socket, so that the kernel takes the rules away with it.

use std::os::fd::{AsFd, BorrowedFd};

use super::Nft;
use super::decode;
use super::error::NftError;
use super::kernel::Kernel;
use super::rule::{Rule, Statement};
use super::table::{Chain, ChainKind, Family, Hook, Table, TableId, priority};
use super::transaction::Transaction;
use super::uapi::{GROUP_TRACE, SUBSYSTEM, message, trace, verdict};
use crate::netlink::{Attribute, Message, NetlinkError, Protocol, Socket};

/// A burst of traced packets with a dozen rules each.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Behind the putting together of fragments (-400), before whatever else calls itself raw (-300).
const BEFORE_RAW: i32 = priority::RAW - 50;

/// What the kernel told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// A packet came to a point.
    Point(Point),
    /// Messages that there was no room for.
    Lost,
}

/// A packet met a rule, or came to a chain's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The kernel's number of the packet; later packets may get it again.
    pub packet: u32,
    /// The table's family: NFPROTO_*.
    pub family: u8,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `None` for a chain's policy or end. Recent kernels also tell of what is behind a base chain's
    /// last rule as if it were one, without a handle: its verdict is `continue`, and no more than its headers is news.
    pub handle: Option<u64>,
    /// `accept`, `drop`, `continue`, `jump CHAIN`, `goto CHAIN`, `return`, `queue`, `stolen`.
    pub verdict: String,
    /// The packet from the IP header on, cut off in the transport header; only of the first message of each base chain.
    pub headers: Vec<u8>,
    /// The link that it came in by; only beside the headers.
    pub iif: Option<u32>,
    /// The link that it leaves by; only beside the headers.
    pub oif: Option<u32>,
}

impl Point {
    /// The table as far as it can be asked for.
    pub fn table_id(&self) -> Option<TableId> {
        let family = [Family::Inet, Family::Ip, Family::Ip6];
        let family = family.into_iter().find(|family| family.number() == self.family)?;
        Some(TableId::new(family, self.table.clone()))
    }
}

/// Marks packets and hears of them.
#[derive(Debug)]
pub struct Tracer {
    kernel: Kernel,
    events: Socket,
    table: TableId,
}

impl Tracer {
    /// Marks the packets that match any of `matches`, rules without a verdict, in the calling thread's namespace, by a
    /// table of family inet called `name`.
    ///
    /// # Errors
    /// The kernel's; it needs owned tables (5.12).
    pub fn open(name: &str, matches: Vec<Rule>) -> Result<Self, NftError> {
        let events = Socket::open(Protocol::Netfilter)?;
        events.reserve_receive(RECEIVE_BUFFER);
        events.join(GROUP_TRACE)?;
        let mut kernel = Kernel::open()?;
        let mut table = Table::new(Family::Inet, name);
        table.owner = true;
        for hook in [Hook::Prerouting, Hook::Output] {
            let mut chain = Chain::base(hook.name(), ChainKind::Filter, hook, BEFORE_RAW);
            chain.rules = matches.iter().map(|rule| rule.clone().statement(Statement::Trace)).collect();
            table = table.chain(chain);
        }
        kernel.commit(&Transaction::create(&table))?;
        Ok(Self { kernel, events, table: table.id })
    }

    /// The table with the marking rules: a packet's first message is from there.
    pub fn table(&self) -> &TableId {
        &self.table
    }

    /// What waits to be read, a few messages at a time; `None` where nothing does.
    ///
    /// # Errors
    /// The system's.
    pub fn receive(&mut self) -> Result<Option<Vec<Traced>>, NftError> {
        let messages = match self.events.try_receive() {
            Ok(Some(messages)) => messages,
            Ok(None) => return Ok(None),
            Err(NetlinkError::Overrun { .. }) => return Ok(Some(vec![Traced::Lost])),
            Err(error) => return Err(error.into()),
        };
        let mut told = Vec::new();
        for message in messages {
            told.extend(decode_point(&message?)?.map(Traced::Point));
        }
        Ok(Some(told))
    }

    /// The kernel, for looking up what the messages name.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn decode_point(received: &Message<'_>) -> Result<Option<Point>, NetlinkError> {
    if received.kind != SUBSYSTEM << 8 | message::TRACE {
        return Ok(None);
    }
    let mut point = Point { family: received.payload.first().copied().unwrap_or(0), ..Point::default() };
    let (mut network, mut transport) = (&[][..], &[][..]);
    let (mut kind, mut verdict, mut accepts) = (0, String::new(), true);
    for part in decode::attributes(received.payload) {
        let part = part?;
        match part.kind {
            trace::TABLE => point.table = part.string()?,
            trace::CHAIN => point.chain = part.string()?,
            trace::RULE_HANDLE => point.handle = Some(part.be64()?),
            trace::TYPE => kind = part.be32()?,
            trace::VERDICT => verdict = verdict_name(&part)?,
            trace::ID => point.packet = part.be32()?,
            trace::NETWORK_HEADER => network = part.value,
            trace::TRANSPORT_HEADER => transport = part.value,
            trace::IIF => point.iif = Some(part.be32()?),
            trace::OIF => point.oif = Some(part.be32()?),
            trace::POLICY => accepts = part.be32()? != 0,
            _ => {}
        }
    }
    point.headers = [network, transport].concat();
    point.verdict = match kind {
        trace::TYPE_POLICY => (if accepts { "accept" } else { "drop" }).to_owned(),
        trace::TYPE_RETURN => "return".to_owned(),
        _ => verdict,
    };
    Ok(Some(point))
}

/// As nft names it; a trace tells of verdicts that no rule of ours has.
fn verdict_name(nest: &Attribute<'_>) -> Result<String, NetlinkError> {
    let (code, chain) = decode::verdict_parts(nest)?;
    Ok(match code {
        verdict::DROP => "drop".to_owned(),
        verdict::ACCEPT => "accept".to_owned(),
        verdict::CONTINUE => "continue".to_owned(),
        verdict::RETURN => "return".to_owned(),
        verdict::JUMP => format!("jump {chain}"),
        verdict::GOTO => format!("goto {chain}"),
        // NF_STOLEN; NF_QUEUE with the queue's number above the low 16 bits (linux/netfilter.h).
        2 => "stolen".to_owned(),
        code if code & 0xff == 3 => "queue".to_owned(),
        code => format!("verdict {code}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let kind = SUBSYSTEM << 8 | message::TRACE;
            let _ = decode_point(&Message { kind, flags: 0, sequence: 0, port: 0, payload: &bytes });
            let _ = decode::compatible_comment(&bytes);
        }
    }
}
