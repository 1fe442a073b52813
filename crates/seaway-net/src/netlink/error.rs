//! What can go wrong on a netlink socket.

use std::io;

/// A netlink operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a request.
    #[error("{operation}: the kernel refused: {}{}", describe_errno(*errno), explanation(message))]
    Refused {
        /// What was being done.
        operation: String,
        /// The positive errno, for example `libc::EEXIST`.
        errno: i32,
        /// The kernel's extended acknowledgement, if it gave one.
        message: Option<String>,
        /// Sequence number of the refused request.
        sequence: u32,
        /// Where in the request the offending attribute starts, if the kernel said so.
        offset: Option<u32>,
    },
    /// A system call on the socket failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel had more to say than the receive buffer holds: some events are lost, so list again.
    #[error(
        "{operation}: the socket's receive buffer overflowed and messages were lost; list everything again"
    )]
    Overrun {
        /// What was being done.
        operation: String,
    },
    /// A message that is longer than the socket's send buffer.
    #[error(
        "{operation}: {bytes} bytes do not fit into the socket's send buffer; raising it beyond net.core.wmem_max needs \
         CAP_NET_ADMIN in the initial user namespace"
    )]
    TooLong {
        /// What was being done.
        operation: String,
        /// The message's length.
        bytes: usize,
    },
    /// What was being listed kept changing; try again.
    #[error("{operation}: the list changed while it was read; try again")]
    Interrupted {
        /// What was being done.
        operation: String,
    },
    /// A message that does not follow the protocol.
    #[error("{operation}: malformed netlink message: {detail}")]
    Malformed {
        /// What was being done.
        operation: String,
        /// What is wrong with it.
        detail: String,
    },
}

fn describe_errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn explanation(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

impl NetlinkError {
    /// The same error, told as what happened during `operation` ("add route 10.244.1.0/24 dev seaway.1").
    pub fn during(mut self, what: impl Into<String>) -> Self {
        let operation = match &mut self {
            Self::Refused { operation, .. }
            | Self::Io { operation, .. }
            | Self::Overrun { operation }
            | Self::TooLong { operation, .. }
            | Self::Interrupted { operation }
            | Self::Malformed { operation, .. } => operation,
        };
        *operation = what.into();
        self
    }

    /// The positive errno, if the error carries one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Overrun { .. } => Some(libc::ENOBUFS),
            Self::TooLong { .. } => Some(libc::EMSGSIZE),
            Self::Interrupted { .. } => Some(libc::EINTR),
            Self::Malformed { .. } => None,
        }
    }

    /// Whether the object that the request names does not exist.
    pub fn not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the object to be made exists already.
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the same request may well succeed if it is made again, after listing anew where lists are concerned.
    pub fn retry(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EAGAIN | libc::EINTR | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::ERESTART)
        )
    }

    pub(crate) fn io(operation: &str, source: impl Into<io::Error>) -> Self {
        Self::Io { operation: operation.to_owned(), source: source.into() }
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::Malformed { operation: "netlink".to_owned(), detail: detail.into() }
    }
}
