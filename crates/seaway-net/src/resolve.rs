//! Names to addresses as programs do it: the C library's getaddrinfo, with its `/etc/nsswitch.conf`, `/etc/hosts` and
//! `/etc/resolv.conf`.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

/// Why getaddrinfo gave no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {text}")]
pub struct ResolveError {
    /// The error's name in `netdb.h`, such as `EAI_NONAME`.
    pub name: &'static str,
    /// What the C library says of it; for `EAI_SYSTEM` the errno's text.
    pub text: String,
}

/// What the addresses are for: getaddrinfo's `ai_socktype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_DGRAM`.
    Datagram,
}

impl SocketKind {
    /// `SOCK_…` as a number.
    pub fn number(self) -> i32 {
        match self {
            Self::Stream => libc::SOCK_STREAM,
            Self::Datagram => libc::SOCK_DGRAM,
        }
    }
}

/// The addresses of `name` in the C library's order, with port 0.
///
/// The hints are `AF_UNSPEC` and no flags, as Rust's standard library, Python and curl give them: without `AI_ADDRCONFIG` both A
/// and AAAA are asked for, also where the caller has no IPv6 address. Blocks as long as `resolv.conf` lets it.
///
/// # Errors
/// See [`ResolveError`].
pub fn getaddrinfo(name: &str, kind: SocketKind) -> Result<Vec<SocketAddr>, ResolveError> {
    let node = CString::new(name)
        .map_err(|_| ResolveError { name: "EAI_NONAME", text: "the name has a NUL in it".to_owned() })?;
    // SAFETY: addrinfo is a C struct of integers and pointers, for which all zeros are valid.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = libc::AF_UNSPEC;
    hints.ai_socktype = kind.number();
    let mut first = ptr::null_mut();
    // SAFETY: node ends with NUL, hints is initialised, and first receives the list where the result is 0.
    let code = unsafe { libc::getaddrinfo(node.as_ptr(), ptr::null(), &raw const hints, &raw mut first) };
    if code != 0 {
        let text = match code {
            libc::EAI_SYSTEM => io::Error::last_os_error().to_string(),
            // SAFETY: gai_strerror gives a static text for any number.
            _ => unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned(),
        };
        return Err(ResolveError { name: error_name(code), text });
    }
    let mut addresses = Vec::new();
    let mut entry = first;
    // SAFETY: the list's entries are valid until freeaddrinfo, and the last one's ai_next is null.
    while let Some(info) = unsafe { entry.as_ref() } {
        // SAFETY: ai_addr points to ai_addrlen bytes within the list.
        addresses.extend(unsafe { socket_address(info.ai_addr, info.ai_addrlen) });
        entry = info.ai_next;
    }
    // SAFETY: first came from getaddrinfo, and nothing refers to the list any more.
    unsafe { libc::freeaddrinfo(first) };
    Ok(addresses)
}

/// The name of getaddrinfo's error `code` in `netdb.h`; glibc and musl have the same numbers.
pub fn error_name(code: c_int) -> &'static str {
    match code {
        -1 => "EAI_BADFLAGS",
        -2 => "EAI_NONAME",
        -3 => "EAI_AGAIN",
        -4 => "EAI_FAIL",
        -5 => "EAI_NODATA",
        -6 => "EAI_FAMILY",
        -7 => "EAI_SOCKTYPE",
        -8 => "EAI_SERVICE",
        -9 => "EAI_ADDRFAMILY",
        -10 => "EAI_MEMORY",
        -11 => "EAI_SYSTEM",
        -12 => "EAI_OVERFLOW",
        _ => "EAI_UNKNOWN",
    }
}

/// An IPv4 or IPv6 address out of C's form; `None` for other families.
///
/// # Safety
/// `address` is null or points to `length` readable bytes, aligned as the family's struct.
unsafe fn socket_address(address: *const libc::sockaddr, length: libc::socklen_t) -> Option<SocketAddr> {
    let length = usize::try_from(length).unwrap_or(0);
    if address.is_null() || length < size_of::<libc::sockaddr_in>() {
        return None;
    }
    // SAFETY: not null, and at least a sockaddr long.
    match c_int::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, and it is long enough.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: the family says that it is a sockaddr_in6, and it is long enough.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_nonsense_need_no_server() {
        for (name, address) in [("192.0.2.7", "192.0.2.7:0"), ("2001:db8::7", "[2001:db8::7]:0")] {
            assert_eq!(getaddrinfo(name, SocketKind::Stream), Ok(vec![address.parse().unwrap()]));
        }
        assert_eq!(getaddrinfo("a b", SocketKind::Datagram).unwrap_err().name, "EAI_NONAME");
        assert_eq!(getaddrinfo("a\0b", SocketKind::Stream).unwrap_err().name, "EAI_NONAME");
    }

    #[test]
    fn names_of_errors_are_the_headers() {
        for (code, name) in [
            (libc::EAI_BADFLAGS, "EAI_BADFLAGS"),
            (libc::EAI_NONAME, "EAI_NONAME"),
            (libc::EAI_AGAIN, "EAI_AGAIN"),
            (libc::EAI_FAIL, "EAI_FAIL"),
            (libc::EAI_NODATA, "EAI_NODATA"),
            (libc::EAI_FAMILY, "EAI_FAMILY"),
            (libc::EAI_SOCKTYPE, "EAI_SOCKTYPE"),
            (libc::EAI_SERVICE, "EAI_SERVICE"),
            (libc::EAI_MEMORY, "EAI_MEMORY"),
            (libc::EAI_SYSTEM, "EAI_SYSTEM"),
            (libc::EAI_OVERFLOW, "EAI_OVERFLOW"),
        ] {
            assert_eq!(error_name(code), name);
        }
    }
}
