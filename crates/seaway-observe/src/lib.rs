//! What a network namespace sees: packets on its links, nf_tables rules hit, tracked connections, routes.
//!
//! Every place (a node's agent, and in a lab the gateway and the internet's hosts) serves the same [`Observer`] on a
//! unix socket; `trace --verify` and `capture` ask it. [`api`] is what goes over the socket.
//!
//! Architecture invariant: nothing is done while nobody asks. An observation's sockets and rules live no longer than it
//! does, whatever becomes of the process: the rules are in a table that the kernel takes away with its socket.

use std::io;
use std::sync::Arc;

use seaway_net::netlink::NetlinkError;
use seaway_net::netns::NetNs;
use seaway_net::nft::NftError;

pub mod api;
mod dns;
mod inspect;
mod packet;
mod route;
mod rules;
mod select;
mod server;
mod session;
mod stream;
mod tap;

pub use packet::{Parsed, parse};
pub use server::router;

/// Why an observer cannot tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// As many observations run as may.
    #[error("{0} observations run already; end one, or wait until they end")]
    TooMany(usize),
    /// There is no such observation.
    #[error("there is no observation {0}, or it has ended")]
    NotFound(String),
    /// The namespace cannot be entered, or a thread not be started.
    #[error("enter the network namespace: {0}")]
    Namespace(io::Error),
    /// The capturing socket fails.
    #[error("capture packets: {0}")]
    Capture(io::Error),
    /// The kernel does not answer a request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel does not take a table, or does not show one.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// The observer of a network namespace.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Inner>,
}

struct Inner {
    namespace: NetNs,
    sessions: session::Sessions,
}

impl Observer {
    /// The observer of the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's, where the namespace has no file.
    pub fn new() -> io::Result<Self> {
        Ok(Self::of(NetNs::current()?))
    }

    /// The observer of `namespace`.
    pub fn of(namespace: NetNs) -> Self {
        Self { inner: Arc::new(Inner { namespace, sessions: session::Sessions::default() }) }
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.inner.namespace
    }

    pub(crate) fn sessions(&self) -> &session::Sessions {
        &self.inner.sessions
    }
}
