//! Addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{REPLACE, Rtnl, Scope, attribute_ip, family, number, split, write_ip, write_u32};
use crate::netlink::{Message, NetlinkError, Writer};

/// Size of `struct ifaddrmsg` (linux/if_addr.h).
const HEADER: usize = 8;
/// `IFA_FLAGS` (linux/if_addr.h).
const IFA_FLAGS: u16 = 8;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address itself with its prefix length.
    pub net: IpNet,
    /// How far it is valid.
    pub scope: Scope,
}

impl Rtnl {
    /// The addresses of all links, or of the one with this number.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let body = |writer: &mut Writer| header(writer, libc::AF_UNSPEC as u8, 0, 0, index.unwrap_or(0));
        self.list(libc::RTM_GETADDR, "list addresses", body, |message| {
            Ok(read(message)?.filter(|address| index.is_none_or(|index| address.index == index)))
        })
    }

    /// Adds an address of global scope; one that is there already is no error. IPv6 addresses work at once,
    /// without duplicate address detection.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        self.add_scoped_address(Address { index, net, scope: Scope::Universe })
    }

    /// Adds an address; one that is there already is no error.
    pub fn add_scoped_address(&mut self, address: Address) -> Result<(), NetlinkError> {
        let Address { index, net, .. } = address;
        self.change(
            libc::RTM_NEWADDR,
            REPLACE,
            || format!("add address {net} to link {index}"),
            |writer| {
                body(writer, address);
                // iproute2's default; without it hosts that ask for the subnet's broadcast address find none.
                if let IpNet::V4(net) = net
                    && net.prefix_len() < 31
                {
                    write_ip(writer, libc::IFA_BROADCAST, net.broadcast().into());
                }
            },
        )
    }

    /// Deletes an address.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<bool, NetlinkError> {
        let address = Address { index, net, scope: Scope::Universe };
        let operation = || format!("delete address {net} from link {index}");
        self.remove(libc::RTM_DELADDR, operation, |writer| body(writer, address))
    }
}

fn body(writer: &mut Writer, address: Address) {
    let ip = address.net.addr();
    header(writer, family(ip), address.net.prefix_len(), address.scope.number(), address.index);
    write_ip(writer, libc::IFA_LOCAL, ip);
    write_ip(writer, libc::IFA_ADDRESS, ip);
    if ip.is_ipv6() {
        write_u32(writer, IFA_FLAGS, libc::IFA_F_NODAD);
    }
}

/// `struct ifaddrmsg`.
fn header(writer: &mut Writer, family: u8, prefix: u8, scope: u8, index: u32) {
    writer.bytes(&[family, prefix, 0, scope]);
    writer.bytes(&index.to_ne_bytes());
}

pub(super) fn read(message: &Message<'_>) -> Result<Option<Address>, NetlinkError> {
    let (header, attributes) = split(message, HEADER)?;
    let (mut local, mut address): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            libc::IFA_LOCAL => local = attribute_ip(&attribute),
            libc::IFA_ADDRESS => address = attribute_ip(&attribute),
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the other side's; IPv6 has no IFA_LOCAL (linux/if_addr.h).
    let net = local.or(address).and_then(|ip| IpNet::new(ip, header[1]).ok());
    Ok(net.map(|net| Address { index: number(header, 4), net, scope: Scope::from_number(header[3]) }))
}
