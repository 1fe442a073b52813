//! A small synchronous netlink socket, and what is needed to write and read netlink messages.
//!
//! [`Socket`] belongs to the network namespace of the thread that opened it, whichever thread uses it later. It checks
//! sequence numbers and senders, puts multipart answers together, and turns refusals into [`NetlinkError`] with the
//! kernel's own explanation. A protocol writes its requests with [`Writer`], has [`Socket::exchange`] send them, and
//! reads the answers with [`Attributes`].

mod error;
mod message;
mod socket;

pub use error::NetlinkError;
#[cfg(test)]
pub(crate) use message::arbitrary;
pub use message::{Attribute, Attributes, Message, Messages, Writer, align};
pub(crate) use socket::{Outcome, outcome, retry_dump};
pub use socket::{Protocol, Socket};
