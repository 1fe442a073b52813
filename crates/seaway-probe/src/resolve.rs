//! Names to addresses, by the C library that the request names.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use seaway_net::resolve::{SocketKind, getaddrinfo};

use crate::api::{Libc, MAX_ADDRESSES, Protocol, Request, ResolveFailure};
use crate::musl;
use crate::serve::{lookup_patience, timed_out};

/// The addresses of `name`, with port 0.
pub(crate) fn addresses(request: &Request, name: &str) -> Result<Vec<SocketAddr>, ResolveFailure> {
    let kind = match request.protocol {
        Protocol::Tcp => SocketKind::Stream,
        Protocol::Udp | Protocol::Icmp => SocketKind::Datagram,
    };
    let mut found = match request.libc {
        Libc::Glibc => by_glibc(request, name, kind),
        Libc::Musl => musl::getaddrinfo(name, kind, lookup_patience(request)),
    }?;
    found.truncate(MAX_ADDRESSES);
    Ok(found)
}

/// getaddrinfo can't be interrupted, so it has a thread of its own, which is left alone when it takes too long.
fn by_glibc(request: &Request, name: &str, kind: SocketKind) -> Result<Vec<SocketAddr>, ResolveFailure> {
    let (sender, receiver) = mpsc::channel();
    let owned = name.to_owned();
    let resolver = move || {
        // Nobody listens any more where it took too long.
        let _ = sender.send(getaddrinfo(&owned, kind));
    };
    thread::Builder::new()
        .name("getaddrinfo".to_owned())
        .spawn(resolver)
        .map_err(|error| failure("UNAVAILABLE", format!("cannot start a thread: {error}")))?;
    let patience = lookup_patience(request);
    match receiver.recv_timeout(patience) {
        Ok(outcome) => outcome.map_err(|error| failure(error.name, error.text)),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(failure("TIMEOUT", timed_out("answer from getaddrinfo", patience).to_string()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(failure("UNAVAILABLE", "getaddrinfo panicked".to_owned()))
        }
    }
}

/// Why there are no addresses.
pub(crate) fn failure(code: &str, text: String) -> ResolveFailure {
    ResolveFailure { code: code.to_owned(), text }
}
