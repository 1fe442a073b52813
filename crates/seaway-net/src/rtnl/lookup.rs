//! What the kernel would do with a packet (`ip route get`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::{RouteKind, Rtnl, attribute_ip, attribute_u32, family, split, write_ip, write_u32};
use crate::netlink::{Attribute, Message, NetlinkError, Writer};

/// Size of `struct rtmsg` (linux/rtnetlink.h).
const HEADER: usize = 12;
/// `RTM_F_FIB_MATCH` (linux/rtnetlink.h): the table's entry, not what was made of it.
const FIB_MATCH: u32 = 0x2000;
/// `RTA_VIA`, `RTA_METRICS`, `RTAX_MTU` (linux/rtnetlink.h).
const RTA_VIA: u16 = 18;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;

/// A packet to look up the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Where it goes.
    pub destination: IpAddr,
    /// Where it comes from; what comes in by a link needs one.
    pub source: Option<IpAddr>,
    /// The link that it comes in by; `None`: it is sent from here.
    pub iif: Option<u32>,
}

/// The way of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What becomes of it.
    pub kind: RouteKind,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The link that it leaves by.
    pub oif: Option<u32>,
    /// The largest packet that is known to get through.
    pub mtu: Option<u32>,
    /// The destinations of the route that matched.
    pub network: Option<IpNet>,
}

impl Rtnl {
    /// The way of a packet. A route that refuses packets is an error: `EINVAL` of a blackhole, `EHOSTUNREACH` of
    /// `unreachable`, `EACCES` of `prohibit`; `ENETUNREACH` where there is no route.
    pub fn way(&mut self, lookup: &Lookup) -> Result<Way, NetlinkError> {
        let way = self.get_route(lookup, 0)?;
        let matched = self.get_route(lookup, FIB_MATCH)?;
        Ok(Way { network: matched.network, ..way })
    }

    fn get_route(&mut self, lookup: &Lookup, flags: u32) -> Result<Way, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::with_capacity(96);
        writer.begin(libc::RTM_GETROUTE, 0, sequence);
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let source_bits = lookup.source.map_or(0, bits);
        writer.bytes(&[family(lookup.destination), bits(lookup.destination), source_bits, 0, 0, 0, 0, 0]);
        writer.bytes(&flags.to_ne_bytes());
        write_ip(&mut writer, libc::RTA_DST, lookup.destination);
        if let Some(source) = lookup.source {
            write_ip(&mut writer, libc::RTA_SRC, source);
        }
        if let Some(iif) = lookup.iif {
            write_u32(&mut writer, libc::RTA_IIF, iif);
        }
        writer.end();
        let mut found = Way::default();
        let result = self.socket.exchange(writer.as_slice(), sequence, |message| {
            found = read(&message)?;
            Ok(())
        });
        result
            .map(|()| found)
            .map_err(|error| error.during(format!("look up the way to {}", lookup.destination)))
    }
}

fn read(message: &Message<'_>) -> Result<Way, NetlinkError> {
    let (header, attributes) = split(message, HEADER)?;
    let v6 = i32::from(header[0]) == libc::AF_INET6;
    let mut destination: IpAddr = if v6 { [0_u8; 16].into() } else { [0_u8; 4].into() };
    let mut way = Way {
        kind: match header[7] {
            libc::RTN_UNICAST => RouteKind::Unicast,
            libc::RTN_BLACKHOLE => RouteKind::Blackhole,
            libc::RTN_UNREACHABLE => RouteKind::Unreachable,
            other => RouteKind::Other(other),
        },
        ..Way::default()
    };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            libc::RTA_DST => destination = attribute_ip(&attribute).unwrap_or(destination),
            libc::RTA_GATEWAY => way.via = attribute_ip(&attribute),
            RTA_VIA => way.via = via(&attribute),
            libc::RTA_OIF => way.oif = attribute_u32(&attribute),
            RTA_METRICS => {
                for metric in attribute.nested() {
                    let metric = metric?;
                    if metric.kind == RTAX_MTU {
                        way.mtu = attribute_u32(&metric);
                    }
                }
            }
            _ => {}
        }
    }
    way.network = IpNet::new(destination, header[1]).ok();
    Ok(way)
}

/// `struct rtvia`: the family, then the address.
fn via(attribute: &Attribute<'_>) -> Option<IpAddr> {
    let bytes = attribute.value.get(2..)?;
    attribute_ip(&Attribute { kind: attribute.kind, value: bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&Message { kind: 24, flags: 0, sequence: 0, port: 0, payload: &bytes });
        }
    }
}
