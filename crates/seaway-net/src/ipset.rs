//! IP sets: list and destroy.
//!
//! Wire format: linux/netfilter/ipset/ip_set.h, protocol version 6, which kernels up to the present understand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::netlink::{Attribute, Attributes, NetlinkError, Protocol, Socket, Writer, retry_dump};

/// NFNL_SUBSYS_IPSET, the high byte of message types.
const SUBSYSTEM: u16 = 6;
/// enum ipset_cmd
const DESTROY: u16 = 3;
const LIST: u16 = 7;
/// IPSET_PROTOCOL_MIN
const VERSION: u8 = 6;
/// Size of `struct nfgenmsg`, before the attributes.
const HEADER: usize = 4;
/// IPSET_ERR_BUSY, a number of ip_set's own behind all of errno: a rule or another set uses it.
const BUSY: i32 = 4100;
/// Where the kernel shows that it has IP sets, be it built in or as a module that is loaded.
const LOADED: &str = "/sys/module/ip_set";

/// IPSET_ATTR_* of a message, and of an element in it
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SETNAME: u16 = 2;
    pub(super) const DATA: u16 = 7;
    pub(super) const ADT: u16 = 8;
    pub(super) const PORT: u16 = 4;
    pub(super) const PORT_TO: u16 = 5;
}

/// The IP sets of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct IpSets {
    socket: Socket,
}

impl IpSets {
    /// Opens the sets of the calling thread's network namespace; `None` where the kernel has none. No module is loaded.
    pub fn open() -> Result<Option<Self>, NetlinkError> {
        if !Path::new(LOADED).exists() {
            return Ok(None);
        }
        Ok(Some(Self { socket: Socket::open(Protocol::Netfilter)? }))
    }

    /// All sets by name, each with the ports that its elements have.
    pub fn list(&mut self) -> Result<BTreeMap<String, BTreeSet<u16>>, NetlinkError> {
        let read = retry_dump(|| {
            let mut sets = BTreeMap::new();
            let sequence = self.socket.next_sequence();
            let request = request(LIST, libc::NLM_F_DUMP as u16, sequence, None);
            self.socket
                .exchange(request.as_slice(), sequence, |message| decode(message.payload, &mut sets))?;
            Ok(sets)
        });
        read.map_err(|error: NetlinkError| error.during("list IP sets"))
    }

    /// Destroys a set; `false` where it was gone, or is used by a rule or another set.
    pub fn destroy(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let request = request(DESTROY, libc::NLM_F_ACK as u16, sequence, Some(name));
        match self.socket.exchange(request.as_slice(), sequence, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.not_found() || error.errno() == Some(BUSY) => Ok(false),
            Err(error) => Err(error.during(format!("destroy IP set {name}"))),
        }
    }
}

fn request(command: u16, flags: u16, sequence: u32, name: Option<&str>) -> Writer {
    let mut writer = Writer::default();
    writer.begin(SUBSYSTEM << 8 | command, flags, sequence);
    writer.bytes(&[libc::AF_INET as u8, 0, 0, 0]);
    writer.attribute(attribute::PROTOCOL, &[VERSION]);
    if let Some(name) = name {
        writer.string(attribute::SETNAME, name);
    }
    writer.end();
    writer
}

/// Adds what a message of a dump says; a set with many elements comes in several.
fn decode(payload: &[u8], sets: &mut BTreeMap<String, BTreeSet<u16>>) -> Result<(), NetlinkError> {
    let attributes = || Attributes::new(payload.get(HEADER..).unwrap_or_default());
    let mut name = String::new();
    for attribute in attributes() {
        let attribute = attribute?;
        if attribute.kind == attribute::SETNAME {
            name = attribute.string()?;
        }
    }
    if name.is_empty() {
        return Ok(());
    }
    let ports = sets.entry(name).or_default();
    for attribute in attributes() {
        let attribute = attribute?;
        if attribute.kind != attribute::ADT {
            continue;
        }
        for element in attribute.nested() {
            let element = element?;
            if element.kind == attribute::DATA {
                decode_element(&element, ports)?;
            }
        }
    }
    Ok(())
}

fn decode_element(element: &Attribute<'_>, ports: &mut BTreeSet<u16>) -> Result<(), NetlinkError> {
    let (mut first, mut last) = (None, None);
    for part in element.nested() {
        let part = part?;
        match part.kind {
            attribute::PORT => first = Some(part.be16()?),
            attribute::PORT_TO => last = Some(part.be16()?),
            _ => {}
        }
    }
    if let Some(first) = first {
        ports.extend(first..=last.unwrap_or(first));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_message_is_read_without_panic(payload in arbitrary::payload(HEADER)) {
            let _ = decode(&payload, &mut BTreeMap::new()).is_ok();
        }
    }
}
