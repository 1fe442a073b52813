//! IPVS, the kernel's load balancer: list and delete services.
//!
//! Wire format: linux/ip_vs.h (generic netlink family `IPVS`, version 1) and linux/genetlink.h.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::netlink::{Attribute, Attributes, Message, NetlinkError, Protocol, Socket, Writer, retry_dump};

/// The namespace's connections, shown by kernels that have IPVS, built in or as a module that is loaded.
const LOADED: &str = "/proc/thread-self/net/ip_vs";
/// Size of `struct genlmsghdr`, before the attributes.
const HEADER: usize = 4;
/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// IPVS_GENL_NAME, IPVS_GENL_VERSION
const NAME: &str = "IPVS";
const VERSION: u8 = 1;
/// IPVS_CMD_*
const DELETE_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const GET_DESTINATION: u8 = 8;
/// IPVS_CMD_ATTR_SERVICE, IPVS_CMD_ATTR_DEST
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;

/// IPVS_SVC_ATTR_*
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
}

/// IPVS_DEST_ATTR_*
mod destination {
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
}

/// Where a service listens. Services by firewall mark have no address and are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServer {
    /// Its address and port.
    pub at: SocketAddr,
    /// IPPROTO_* number.
    pub protocol: u8,
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::from(self.protocol) {
            libc::IPPROTO_TCP => write!(f, "{} tcp", self.at),
            libc::IPPROTO_UDP => write!(f, "{} udp", self.at),
            libc::IPPROTO_SCTP => write!(f, "{} sctp", self.at),
            other => write!(f, "{} protocol {other}", self.at),
        }
    }
}

/// Connections that a service's destinations have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established ones.
    pub active: u64,
    /// Others: closing, and those of protocols without connections until they time out.
    pub inactive: u64,
}

/// IPVS in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    /// Opens IPVS of the calling thread's network namespace; `None` where the kernel has none. No module is loaded.
    pub fn open() -> Result<Option<Self>, NetlinkError> {
        if !Path::new(LOADED).exists() {
            return Ok(None);
        }
        let mut ipvs = Self { socket: Socket::open(Protocol::Generic)?, family: CONTROLLER };
        let mut family = None;
        let name = |writer: &mut Writer| writer.string(FAMILY_NAME, NAME);
        ipvs.request(GET_FAMILY, libc::NLM_F_ACK as u16, name, |message| {
            family = family.or(decode_family(message.payload)?);
            Ok(())
        })
        .map_err(|error| error.during("find IPVS's generic netlink family"))?;
        Ok(family.map(|family| Self { family, ..ipvs }))
    }

    /// The services that have an address.
    pub fn services(&mut self) -> Result<Vec<VirtualServer>, NetlinkError> {
        let read = retry_dump(|| {
            let mut found = Vec::new();
            self.request(
                GET_SERVICE,
                libc::NLM_F_DUMP as u16,
                |_| (),
                |message| {
                    found.extend(decode_service(message.payload)?);
                    Ok(())
                },
            )?;
            Ok(found)
        });
        read.map_err(|error: NetlinkError| error.during("list IPVS services"))
    }

    /// How many connections a service has.
    pub fn connections(&mut self, of: &VirtualServer) -> Result<Connections, NetlinkError> {
        let read = retry_dump(|| {
            let mut connections = Connections::default();
            let body = |writer: &mut Writer| write_service(writer, of);
            self.request(GET_DESTINATION, libc::NLM_F_DUMP as u16, body, |message| {
                let more = decode_connections(message.payload)?;
                connections.active += more.active;
                connections.inactive += more.inactive;
                Ok(())
            })?;
            Ok(connections)
        });
        read.map_err(|error: NetlinkError| error.during(format!("list destinations of IPVS service {of}")))
    }

    /// Deletes a service; `false` where it was gone. Packets of its connections are dropped from then on.
    pub fn delete(&mut self, what: &VirtualServer) -> Result<bool, NetlinkError> {
        let body = |writer: &mut Writer| write_service(writer, what);
        match self.request(DELETE_SERVICE, libc::NLM_F_ACK as u16, body, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.not_found() => Ok(false),
            Err(error) => Err(error.during(format!("delete IPVS service {what}"))),
        }
    }

    fn request(
        &mut self,
        command: u8,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::default();
        writer.begin(self.family, flags, sequence);
        writer.bytes(&[command, VERSION, 0, 0]);
        body(&mut writer);
        writer.end();
        self.socket.exchange(writer.as_slice(), sequence, each)
    }
}

fn write_service(writer: &mut Writer, at: &VirtualServer) {
    let mut address = [0; 16];
    let family = match at.at.ip() {
        IpAddr::V4(ip) => {
            address[..4].copy_from_slice(&ip.octets());
            libc::AF_INET
        }
        IpAddr::V6(ip) => {
            address = ip.octets();
            libc::AF_INET6
        }
    };
    writer.nested(SERVICE, |writer| {
        writer.attribute(service::FAMILY, &(family as u16).to_ne_bytes());
        writer.attribute(service::PROTOCOL, &u16::from(at.protocol).to_ne_bytes());
        writer.attribute(service::ADDRESS, &address);
        writer.attribute(service::PORT, &at.at.port().to_be_bytes());
    });
}

/// The attributes of a message.
fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(HEADER..).unwrap_or_default())
}

/// The attributes nested in those of one kind.
fn nested(payload: &[u8], kind: u16) -> impl Iterator<Item = Result<Attribute<'_>, NetlinkError>> {
    let of_kind = move |attribute: &Attribute<'_>| attribute.kind == kind;
    attributes(payload).flatten().filter(of_kind).flat_map(|found| Attributes::new(found.value))
}

fn ne16(attribute: &Attribute<'_>) -> Option<u16> {
    attribute.value.try_into().ok().map(u16::from_ne_bytes)
}

fn ne32(attribute: &Attribute<'_>) -> Option<u32> {
    attribute.value.try_into().ok().map(u32::from_ne_bytes)
}

fn decode_family(payload: &[u8]) -> Result<Option<u16>, NetlinkError> {
    for attribute in attributes(payload) {
        let attribute = attribute?;
        if attribute.kind == FAMILY_ID {
            return Ok(ne16(&attribute));
        }
    }
    Ok(None)
}

fn decode_service(payload: &[u8]) -> Result<Option<VirtualServer>, NetlinkError> {
    let (mut family, mut protocol, mut address, mut port) = (None, None, None, None);
    for part in nested(payload, SERVICE) {
        let part = part?;
        match part.kind {
            service::FAMILY => family = ne16(&part).map(libc::c_int::from),
            service::PROTOCOL => protocol = ne16(&part).and_then(|number| u8::try_from(number).ok()),
            service::ADDRESS => address = <[u8; 16]>::try_from(part.value).ok(),
            service::PORT => port = Some(part.be16()?),
            _ => {}
        }
    }
    let (Some(protocol), Some(address), Some(port)) = (protocol, address, port) else { return Ok(None) };
    let [a, b, c, d, ..] = address;
    let ip = match family {
        Some(libc::AF_INET) => IpAddr::from([a, b, c, d]),
        Some(libc::AF_INET6) => IpAddr::from(address),
        _ => return Ok(None),
    };
    Ok(Some(VirtualServer { at: SocketAddr::new(ip, port), protocol }))
}

fn decode_connections(payload: &[u8]) -> Result<Connections, NetlinkError> {
    let mut connections = Connections::default();
    for part in nested(payload, DESTINATION) {
        let part = part?;
        match part.kind {
            destination::ACTIVE => connections.active = ne32(&part).unwrap_or(0).into(),
            destination::INACTIVE => connections.inactive = ne32(&part).unwrap_or(0).into(),
            _ => {}
        }
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    #[test]
    fn a_service_is_read_as_it_is_written() {
        for at in ["10.96.0.1:443", "[fd00::1]:53"] {
            let server = VirtualServer { at: at.parse().unwrap(), protocol: 17 };
            let mut writer = Writer::default();
            writer.bytes(&[0; HEADER]);
            write_service(&mut writer, &server);
            assert_eq!(decode_service(writer.as_slice()).unwrap(), Some(server));
            assert_eq!(server.to_string(), format!("{at} udp"));
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read_without_panic(payload in arbitrary::payload(HEADER)) {
            let _ = (decode_family(&payload).is_ok(), decode_service(&payload).is_ok());
            let _ = decode_connections(&payload).is_ok();
        }
    }
}
