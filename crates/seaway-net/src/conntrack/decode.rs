//! Messages of the kernel as flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::flow::{Counters, Flow, Transport, Tuple};
use super::{attribute, tuple};
use crate::netlink::{Attribute, Attributes, NetlinkError};

/// Size of `struct nfgenmsg`, before the attributes.
const GENERIC_HEADER: usize = 4;

/// Reads a flow; `None` for one without tuples.
pub(super) fn flow(payload: &[u8]) -> Result<Option<Flow>, NetlinkError> {
    let mut original = None;
    let mut reply = None;
    let mut rest = Flow {
        original: UNSPECIFIED,
        reply: UNSPECIFIED,
        status: 0,
        timeout: None,
        mark: 0,
        zone: 0,
        id: None,
        tcp_state: None,
        labels: Vec::new(),
        sent: None,
        answered: None,
    };
    for part in Attributes::new(payload.get(GENERIC_HEADER..).unwrap_or_default()) {
        let part = part?;
        match part.kind {
            attribute::TUPLE_ORIG => original = read_tuple(&part)?,
            attribute::TUPLE_REPLY => reply = read_tuple(&part)?,
            attribute::STATUS => rest.status = part.be32()?,
            attribute::PROTOINFO => rest.tcp_state = tcp_state(&part)?,
            attribute::TIMEOUT => rest.timeout = Some(Duration::from_secs(part.be32()?.into())),
            attribute::MARK => rest.mark = part.be32()?,
            attribute::ID => rest.id = Some(part.be32()?),
            attribute::ZONE => rest.zone = part.be16()?,
            attribute::LABELS => rest.labels = part.value.to_vec(),
            attribute::COUNTERS_ORIG => rest.sent = Some(counters(&part)?),
            attribute::COUNTERS_REPLY => rest.answered = Some(counters(&part)?),
            _ => {}
        }
    }
    Ok(original.zip(reply).map(|(original, reply)| Flow { original, reply, ..rest }))
}

const UNSPECIFIED: Tuple = Tuple {
    source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    protocol: 0,
    transport: Transport::None,
};

fn read_tuple(nest: &Attribute<'_>) -> Result<Option<Tuple>, NetlinkError> {
    let mut addresses = (None, None);
    let mut protocol = 0;
    let mut transport = Transport::None;
    for part in nest.nested() {
        let part = part?;
        match part.kind {
            tuple::IP => addresses = read_addresses(&part)?,
            tuple::PROTO => (protocol, transport) = read_protocol(&part)?,
            _ => {}
        }
    }
    let (source, destination) = addresses;
    Ok(source.zip(destination).map(|(source, destination)| Tuple {
        source,
        destination,
        protocol,
        transport,
    }))
}

fn read_addresses(nest: &Attribute<'_>) -> Result<(Option<IpAddr>, Option<IpAddr>), NetlinkError> {
    let mut source = None;
    let mut destination = None;
    for part in nest.nested() {
        let part = part?;
        let address = match part.value.len() {
            4 => part.value.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into()),
            16 => part.value.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into()),
            _ => None,
        };
        match part.kind {
            tuple::V4_SRC | tuple::V6_SRC => source = address,
            tuple::V4_DST | tuple::V6_DST => destination = address,
            _ => {}
        }
    }
    Ok((source, destination))
}

fn read_protocol(nest: &Attribute<'_>) -> Result<(u8, Transport), NetlinkError> {
    let mut protocol = 0;
    let mut ports = (None, None);
    let mut icmp = (None, 0, 0);
    for part in nest.nested() {
        let part = part?;
        match part.kind {
            tuple::PROTO_NUM => protocol = part.u8()?,
            tuple::SRC_PORT => ports.0 = Some(part.be16()?),
            tuple::DST_PORT => ports.1 = Some(part.be16()?),
            tuple::ICMP_ID | tuple::ICMPV6_ID => icmp.0 = Some(part.be16()?),
            tuple::ICMP_TYPE | tuple::ICMPV6_TYPE => icmp.1 = part.u8()?,
            tuple::ICMP_CODE | tuple::ICMPV6_CODE => icmp.2 = part.u8()?,
            _ => {}
        }
    }
    let transport = match (ports, icmp) {
        ((Some(source), Some(destination)), _) => Transport::Ports { source, destination },
        (_, (Some(id), kind, code)) => Transport::Icmp { id, kind, code },
        _ => Transport::None,
    };
    Ok((protocol, transport))
}

/// CTA_PROTOINFO_TCP = 1, and in it CTA_PROTOINFO_TCP_STATE = 1.
fn tcp_state(nest: &Attribute<'_>) -> Result<Option<u8>, NetlinkError> {
    for part in nest.nested() {
        let part = part?;
        if part.kind != 1 {
            continue;
        }
        for part in part.nested() {
            let part = part?;
            if part.kind == 1 {
                return part.u8().map(Some);
            }
        }
    }
    Ok(None)
}

/// CTA_COUNTERS_PACKETS = 1, CTA_COUNTERS_BYTES = 2.
fn counters(nest: &Attribute<'_>) -> Result<Counters, NetlinkError> {
    let mut counters = Counters::default();
    for part in nest.nested() {
        let part = part?;
        match part.kind {
            1 => counters.packets = part.be64()?,
            2 => counters.bytes = part.be64()?,
            _ => {}
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = flow(&bytes);
        }

        #[test]
        fn any_attributes_are_read_without_panic(payload in arbitrary::payload(GENERIC_HEADER)) {
            if let Ok(Some(flow)) = flow(&payload) {
                let _ = (flow.original.to_string(), flow.reply.source_socket(), flow.is_dnat());
            }
        }
    }
}
