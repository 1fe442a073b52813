//! Connections as they come, change and go.

use std::os::fd::{AsFd, BorrowedFd};

use super::flow::Flow;
use super::{MESSAGE_DELETE, MESSAGE_NEW, SUBSYSTEM, decode};
use crate::netlink::{Message, NetlinkError, Protocol, Socket};

/// NFNLGRP_CONNTRACK_NEW, _UPDATE, _DESTROY (linux/netfilter/nfnetlink_compat.h).
const GROUPS: [u32; 3] = [1, 2, 3];
/// A burst of events: about a hundred thousand.
const RECEIVE_BUFFER: usize = 64 << 20;

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its first packet went through.
    New(Flow),
    /// Its state, status, mark or labels changed.
    Update(Flow),
    /// It is forgotten.
    Destroy(Flow),
    /// Events were lost because they came faster than they were read: list the connections again.
    Lost,
}

/// Watches the connections of a network namespace.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
}

impl Events {
    /// Watches the calling thread's network namespace from now on. The kernel makes events as long as somebody watches
    /// (net.netfilter.nf_conntrack_events).
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    /// As [`Events::open`], with room for `bytes` of events that are not read yet.
    pub fn with_buffer(bytes: usize) -> Result<Self, NetlinkError> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.reserve_receive(bytes);
        for group in GROUPS {
            socket.join(group)?;
        }
        Ok(Self { socket })
    }

    /// The events that come next; waits for the first.
    pub fn next_events(&mut self) -> Result<Vec<Event>, NetlinkError> {
        loop {
            let messages = match self.socket.receive() {
                Ok(messages) => messages,
                Err(NetlinkError::Overrun { .. }) => return Ok(vec![Event::Lost]),
                Err(error) => return Err(error.during("watch connections")),
            };
            let mut events = Vec::new();
            for message in messages {
                events.extend(decode_event(&message?)?);
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Makes [`Events::next_events`] fail with `EAGAIN` when there are none, for use with poll.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), NetlinkError> {
        self.socket.set_nonblocking(nonblocking)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode_event(message: &Message<'_>) -> Result<Option<Event>, NetlinkError> {
    const NEW: u16 = SUBSYSTEM << 8 | MESSAGE_NEW;
    const DELETE: u16 = SUBSYSTEM << 8 | MESSAGE_DELETE;
    if message.kind != NEW && message.kind != DELETE {
        return Ok(None);
    }
    let created = message.flags & (libc::NLM_F_CREATE as u16) != 0;
    Ok(decode::flow(message.payload)?.map(|flow| match message.kind {
        DELETE => Event::Destroy(flow),
        _ if created => Event::New(flow),
        _ => Event::Update(flow),
    }))
}
