//! What can go wrong with a transaction.

use std::fmt;

use super::table::TableId;
use super::transaction::Object;
use crate::netlink::NetlinkError;

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The table.
    pub table: TableId,
    /// `add`, `delete` or `flush`.
    pub verb: &'static str,
    /// The object in the table.
    pub object: Object,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, verb, object } = self;
        write!(f, "table {table}: {verb} {object}")
    }
}

/// An nf_tables operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel refused one of a transaction's operations, and so all of it.
    #[error("{subject}: {}{}{}", describe(*errno), explain(message), count(*others))]
    Refused {
        /// What was refused.
        subject: Box<Subject>,
        /// The positive errno.
        errno: i32,
        /// The kernel's explanation, if it gave one.
        message: Option<String>,
        /// How many later operations it refused too, often in consequence.
        others: usize,
        /// What those were about: the first of them.
        more: Vec<Subject>,
    },
    /// A table, set, chain or rule is written in a way that the kernel cannot take.
    #[error("{subject}: {reason}")]
    Invalid {
        /// What is wrong.
        subject: Box<Subject>,
        /// What is wrong with it.
        reason: String,
    },
    /// The socket failed.
    #[error("nf_tables: {0}")]
    Netlink(#[from] NetlinkError),
}

fn describe(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

fn explain(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

fn count(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more refused)") }
}

impl NftError {
    /// The positive errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Invalid { .. } => None,
            Self::Netlink(error) => error.errno(),
        }
    }

    /// What was refused.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Self::Refused { subject, .. } | Self::Invalid { subject, .. } => Some(&subject.object),
            Self::Netlink(_) => None,
        }
    }

    /// All that was refused, as far as it is told.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        let more = match self {
            Self::Refused { more, .. } => more.as_slice(),
            Self::Invalid { .. } | Self::Netlink(_) => &[],
        };
        self.object().into_iter().chain(more.iter().map(|subject| &subject.object))
    }

    /// Something that the transaction names is not there: the table is not as it was thought to be, so read it again.
    pub fn not_found(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }

    /// Something that the transaction makes is there already: the table is not as it was thought to be, so read it again.
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Something to be deleted is still used.
    pub fn busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// The same transaction may well succeed if it is made again.
    pub fn retry(&self) -> bool {
        match self {
            Self::Netlink(error) => error.retry(),
            _ => matches!(self.errno(), Some(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS)),
        }
    }
}
