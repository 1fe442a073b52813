//! What others do to nf_tables.

use std::os::fd::{AsFd, BorrowedFd};

use super::decode;
use super::error::NftError;
use super::table::{Family, TableId};
use super::uapi::{GEN_ID, GROUP_NFTABLES, SUBSYSTEM, message, table};
use crate::netlink::{Message, NetlinkError, Protocol, Socket};

/// A change of the ruleset, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A table was deleted, be it by name or with the whole ruleset.
    TableDeleted(TableId),
    /// A transaction is complete; comes after the changes that were part of it. Carries the new generation, which
    /// [`Nft::generation`](super::Nft::generation) gives too: a transaction of one's own can be told by it.
    Generation(u32),
    /// Changes were lost because they came faster than they were read: read the table again.
    Lost,
}

/// Watches the ruleset of a network namespace.
///
/// Deleting a table's contents (`nft flush table`) shows as a generation alone, as any change of another table does:
/// read the table when a generation comes that is not one's own.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Watches the calling thread's network namespace from now on.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.join(GROUP_NFTABLES)?;
        Ok(Self { socket })
    }

    /// The changes that come next; waits for the first.
    pub fn next_changes(&mut self) -> Result<Vec<Change>, NftError> {
        loop {
            let messages = match self.socket.receive() {
                Ok(messages) => messages,
                Err(NetlinkError::Overrun { .. }) => return Ok(vec![Change::Lost]),
                Err(error) => return Err(error.into()),
            };
            let mut changes = Vec::new();
            for message in messages {
                changes.extend(decode_change(&message?)?);
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// Makes [`Monitor::next_changes`] fail with `EAGAIN` when there are none, for use with poll.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), NftError> {
        Ok(self.socket.set_nonblocking(nonblocking)?)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode_change(received: &Message<'_>) -> Result<Option<Change>, NetlinkError> {
    const DELTABLE: u16 = SUBSYSTEM << 8 | message::DELTABLE;
    const NEWGEN: u16 = SUBSYSTEM << 8 | message::NEWGEN;
    match received.kind {
        DELTABLE => {
            let family = match received.payload.first() {
                Some(1) => Family::Inet,
                Some(2) => Family::Ip,
                Some(10) => Family::Ip6,
                _ => return Ok(None),
            };
            for attribute in decode::attributes(received.payload) {
                let attribute = attribute?;
                if attribute.kind == table::NAME {
                    return Ok(Some(Change::TableDeleted(TableId::new(family, attribute.string()?))));
                }
            }
            Ok(None)
        }
        NEWGEN => {
            for attribute in decode::attributes(received.payload) {
                let attribute = attribute?;
                if attribute.kind == GEN_ID {
                    return Ok(Some(Change::Generation(attribute.be32()?)));
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}
