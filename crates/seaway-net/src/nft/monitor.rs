//! What others do to nf_tables.

use std::os::fd::{AsFd, BorrowedFd};

use super::decode;
use super::error::NftError;
use super::table::{Family, TableId};
use super::uapi::{GEN_ID, GROUP_NFTABLES, SUBSYSTEM, message, table};
use crate::netlink::{Attribute, Message, NetlinkError, Protocol, Socket};

/// A change of the ruleset, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A table was deleted, be it by name or with the whole ruleset.
    TableDeleted(TableId),
    /// Something in a table changed, or the table itself; told once for changes of one table that come together.
    TableChanged(TableId),
    /// A transaction is complete; comes after the changes that were part of it. Carries the new generation, which
    /// [`Nft::generation`](super::Nft::generation) gives too: a transaction of one's own can be told by it.
    Generation(u32),
    /// Changes were lost because they came faster than they were read: read the table again.
    Lost,
}

/// Watches the ruleset of a network namespace, except elements that packets add and timeouts remove.
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
                let change = decode_change(&message?)?;
                // Ten thousand elements of one set are one thing to tell.
                if change.is_some() && changes.last() != change.as_ref() {
                    changes.extend(change);
                }
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
    if received.kind >> 8 != SUBSYSTEM {
        return Ok(None);
    }
    match received.kind & 0xff {
        message::NEWGEN => {
            let generation = attribute(received, GEN_ID)?;
            Ok(generation.map(|attribute| attribute.be32()).transpose()?.map(Change::Generation))
        }
        kind => {
            let Some(table) = table_of(received)? else { return Ok(None) };
            Ok(Some(match kind {
                message::DELTABLE => Change::TableDeleted(table),
                _ => Change::TableChanged(table),
            }))
        }
    }
}

/// The table that a message is about. Its name is the first kind of attribute of every object's messages:
/// NFTA_{TABLE_NAME,CHAIN_TABLE,RULE_TABLE,SET_TABLE,SET_ELEM_LIST_TABLE,OBJ_TABLE,FLOWTABLE_TABLE} are all 1.
fn table_of(received: &Message<'_>) -> Result<Option<TableId>, NetlinkError> {
    let family = match received.payload.first() {
        Some(1) => Family::Inet,
        Some(2) => Family::Ip,
        Some(10) => Family::Ip6,
        Some(7) => Family::Bridge,
        _ => return Ok(None),
    };
    let name = attribute(received, table::NAME)?;
    Ok(name.map(|name| name.string()).transpose()?.map(|name| TableId::new(family, name)))
}

/// The first attribute of a kind.
fn attribute<'a>(received: &Message<'a>, kind: u16) -> Result<Option<Attribute<'a>>, NetlinkError> {
    for attribute in decode::attributes(received.payload) {
        let attribute = attribute?;
        if attribute.kind == kind {
            return Ok(Some(attribute));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_message_is_read_without_panic(kind in any::<u8>(), payload in arbitrary::payload(4)) {
            let kind = SUBSYSTEM << 8 | u16::from(kind);
            let _ = decode_change(&Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload });
        }
    }
}
