//! Links, addresses, routes and neighbours (rtnetlink(7)).
//!
//! [`Rtnl`] is of the network namespace that it was opened in, whichever thread uses it. Additions fail with
//! `EEXIST` where the object exists ([`NetlinkError::already_exists`]); `replace_*` do not; `delete_*` return
//! `false` where there was nothing to delete. Errors name the operation with its object, the errno and the
//! kernel's own words.

mod address;
mod link;
mod lookup;
mod neighbor;
mod route;

use std::net::IpAddr;

use crate::netlink::{Attribute, Attributes, Message, NetlinkError, Protocol, Socket, Writer, retry_dump};
use crate::netns::NetNs;

pub use address::Address;
pub use link::{Link, VethSpec, VxlanSettings, VxlanSpec};
pub use lookup::{Lookup, Way};
pub use neighbor::{FdbEntry, Neighbor};
pub use route::{MAIN_TABLE, Route, RouteFilter, RouteKind, Scope};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An Ethernet address in the notation of `ip link`: `0a:1b:2c:3d:4e:5f`.
pub fn format_mac(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// A typed rtnetlink socket.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
}

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

impl Rtnl {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(Protocol::Route)?;
        socket.strict()?;
        Ok(Self { socket })
    }

    /// Opens a socket in `ns`.
    pub fn open_in(ns: &NetNs) -> Result<Self, NetlinkError> {
        ns.run(Self::open).map_err(|source| NetlinkError::Io {
            operation: "open a netlink socket in a namespace".to_owned(),
            source,
        })?
    }

    /// Makes a change and waits for the kernel's word on it; `operation` describes it in the error.
    fn change(
        &mut self,
        kind: u16,
        flags: u16,
        operation: impl FnOnce() -> String,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::with_capacity(256);
        writer.begin(kind, flags | libc::NLM_F_ACK as u16, sequence);
        body(&mut writer);
        writer.end();
        let result = self.socket.exchange(writer.as_slice(), sequence, |_| Ok(()));
        result.map_err(|error| error.during(operation()))
    }

    /// As [`Rtnl::change`], for a deletion: `false` where the object was not there.
    fn remove(
        &mut self,
        kind: u16,
        operation: impl FnOnce() -> String,
        body: impl FnOnce(&mut Writer),
    ) -> Result<bool, NetlinkError> {
        match self.change(kind, 0, operation, body) {
            Ok(()) => Ok(true),
            Err(error) if error.not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists what `read` finds in each message; starts again when the list changed meanwhile.
    fn list<T>(
        &mut self,
        kind: u16,
        operation: &str,
        body: impl Fn(&mut Writer),
        mut read: impl FnMut(&Message<'_>) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        retry_dump(|| self.list_once(kind, &body, &mut read)).map_err(|error| error.during(operation))
    }

    fn list_once<T>(
        &mut self,
        kind: u16,
        body: &impl Fn(&mut Writer),
        read: &mut impl FnMut(&Message<'_>) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::with_capacity(64);
        writer.begin(kind, libc::NLM_F_DUMP as u16, sequence);
        body(&mut writer);
        writer.end();
        let mut found = Vec::new();
        self.socket.exchange(writer.as_slice(), sequence, |message| {
            found.extend(read(&message)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// The attributes behind a message's fixed header of `size` bytes, and the header.
fn split<'a>(message: &Message<'a>, size: usize) -> Result<(&'a [u8], Attributes<'a>), NetlinkError> {
    match message.payload.split_at_checked(size) {
        Some((header, rest)) => Ok((header, Attributes::new(rest))),
        None => Err(NetlinkError::Malformed {
            operation: "read rtnetlink".to_owned(),
            detail: format!(
                "message of type {} has {} bytes, not {size}",
                message.kind,
                message.payload.len()
            ),
        }),
    }
}

/// A number of the host's byte order in a header whose length has been checked.
fn number(header: &[u8], at: usize) -> u32 {
    header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn attribute_u32(attribute: &Attribute<'_>) -> Option<u32> {
    attribute.value.try_into().ok().map(u32::from_ne_bytes)
}

fn attribute_mac(attribute: &Attribute<'_>) -> Option<Mac> {
    attribute.value.try_into().ok()
}

fn attribute_ip(attribute: &Attribute<'_>) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(attribute.value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(attribute.value).ok().map(IpAddr::from)
}

fn write_u32(writer: &mut Writer, kind: u16, value: u32) {
    writer.attribute(kind, &value.to_ne_bytes());
}

fn write_ip(writer: &mut Writer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => writer.attribute(kind, &address.octets()),
        IpAddr::V6(address) => writer.attribute(kind, &address.octets()),
    }
}

/// The address family's number in message headers.
fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_message_is_read_without_panic(payload in (0..20_usize).prop_flat_map(arbitrary::payload)) {
            let message = Message { kind: 0, flags: 0, sequence: 0, port: 0, payload: &payload };
            let _ = (link::read(&message), address::read(&message), route::read(&message));
            let _ = neighbor::read(&message).is_ok();
        }
    }
}
