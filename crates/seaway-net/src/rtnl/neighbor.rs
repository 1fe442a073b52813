//! Neighbours (ARP and NDP) and forwarding entries of VXLAN devices and bridges.

use std::net::IpAddr;

use super::{
    Mac, REPLACE, Rtnl, attribute_ip, attribute_mac, family, format_mac, number, split, write_ip, write_u32,
};
use crate::netlink::{Message, NetlinkError, Writer};

/// Size of `struct ndmsg` (linux/neighbour.h).
const HEADER: usize = 12;

/// What Ethernet address an IP address has on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbor {
    /// The link.
    pub index: u32,
    /// The IP address.
    pub ip: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Set by an administrator; never asked for and never forgotten. False in a list is an entry that the
    /// kernel learnt.
    pub permanent: bool,
}

/// What a VXLAN device does with frames to an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbEntry {
    /// The device.
    pub index: u32,
    /// The address; all zeros for frames to no known one.
    pub mac: Mac,
    /// The tunnel's other end.
    pub dst: Option<IpAddr>,
    /// Set by an administrator, not learnt.
    pub permanent: bool,
}

impl Rtnl {
    /// The neighbours with a known Ethernet address on all links, or on the one with this number.
    pub fn neighbors(&mut self, index: Option<u32>) -> Result<Vec<Neighbor>, NetlinkError> {
        let body = |writer: &mut Writer| {
            header(writer, 0, 0, 0, 0);
            if let Some(index) = index {
                write_u32(writer, libc::NDA_IFINDEX, index);
            }
        };
        self.list(libc::RTM_GETNEIGH, "list neighbours", body, |message| {
            let entry = read(message)?;
            Ok(match (entry.dst, entry.mac) {
                (Some(ip), Some(mac)) if index.is_none_or(|index| index == entry.index) => {
                    Some(Neighbor { index: entry.index, ip, mac, permanent: entry.permanent })
                }
                _ => None,
            })
        })
    }

    /// Sets a permanent neighbour.
    pub fn replace_neighbor(&mut self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        let operation = || format!("set neighbour {ip} on link {index} to {}", format_mac(mac));
        self.change(libc::RTM_NEWNEIGH, REPLACE, operation, |writer| {
            header(writer, family(ip), index, libc::NUD_PERMANENT, 0);
            write_ip(writer, libc::NDA_DST, ip);
            writer.attribute(libc::NDA_LLADDR, &mac);
        })
    }

    /// Deletes a neighbour.
    pub fn delete_neighbor(&mut self, index: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        self.remove(
            libc::RTM_DELNEIGH,
            || format!("delete neighbour {ip} from link {index}"),
            |writer| {
                header(writer, family(ip), index, 0, 0);
                write_ip(writer, libc::NDA_DST, ip);
            },
        )
    }

    /// The forwarding entries of device `index`.
    pub fn fdb(&mut self, index: u32) -> Result<Vec<FdbEntry>, NetlinkError> {
        let body = |writer: &mut Writer| header(writer, libc::AF_BRIDGE as u8, index, 0, 0);
        let operation = format!("list forwarding entries of link {index}");
        self.list(libc::RTM_GETNEIGH, &operation, body, |message| {
            let entry = read(message)?;
            Ok(entry.mac.filter(|_| entry.index == index).map(|mac| FdbEntry {
                index,
                mac,
                dst: entry.dst,
                permanent: entry.permanent,
            }))
        })
    }

    /// Has VXLAN device `index` send frames for `mac` to `dst`, permanently.
    pub fn replace_fdb(&mut self, index: u32, mac: Mac, dst: IpAddr) -> Result<(), NetlinkError> {
        let operation = || format!("set forwarding entry {} on link {index} to {dst}", format_mac(mac));
        self.change(libc::RTM_NEWNEIGH, REPLACE, operation, |writer| {
            header(
                writer,
                libc::AF_BRIDGE as u8,
                index,
                libc::NUD_PERMANENT | libc::NUD_NOARP,
                libc::NTF_SELF,
            );
            write_ip(writer, libc::NDA_DST, dst);
            writer.attribute(libc::NDA_LLADDR, &mac);
        })
    }

    /// Deletes a forwarding entry of VXLAN device `index`.
    pub fn delete_fdb(&mut self, index: u32, mac: Mac, dst: Option<IpAddr>) -> Result<bool, NetlinkError> {
        let operation = || format!("delete forwarding entry {} from link {index}", format_mac(mac));
        self.remove(libc::RTM_DELNEIGH, operation, |writer| {
            header(writer, libc::AF_BRIDGE as u8, index, 0, libc::NTF_SELF);
            if let Some(dst) = dst {
                write_ip(writer, libc::NDA_DST, dst);
            }
            writer.attribute(libc::NDA_LLADDR, &mac);
        })
    }
}

/// `struct ndmsg`.
fn header(writer: &mut Writer, family: u8, index: u32, state: u16, flags: u8) {
    writer.bytes(&[family, 0, 0, 0]);
    writer.bytes(&index.to_ne_bytes());
    writer.bytes(&state.to_ne_bytes());
    writer.bytes(&[flags, 0]);
}

pub(super) struct Entry {
    index: u32,
    permanent: bool,
    dst: Option<IpAddr>,
    mac: Option<Mac>,
}

pub(super) fn read(message: &Message<'_>) -> Result<Entry, NetlinkError> {
    let (header, attributes) = split(message, HEADER)?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let permanent = state & libc::NUD_PERMANENT != 0;
    let mut entry = Entry { index: number(header, 4), permanent, dst: None, mac: None };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            libc::NDA_DST => entry.dst = attribute_ip(&attribute),
            libc::NDA_LLADDR => entry.mac = attribute_mac(&attribute),
            _ => {}
        }
    }
    Ok(entry)
}
