//! Links: veth pairs, bridges, VXLAN devices, and what can be set on any link.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::{
    CREATE, Mac, Rtnl, attribute_ip, attribute_mac, attribute_u32, number, split, write_ip, write_u32,
};
use crate::netlink::{Attribute, Message, NetlinkError, Writer};
use crate::netns::NetNs;

/// Size of `struct ifinfomsg` (linux/rtnetlink.h).
const HEADER: usize = 16;
/// `VETH_INFO_PEER` (linux/veth.h).
const VETH_INFO_PEER: u16 = 1;
// linux/if_link.h
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINK_NETNSID: u16 = 37;
/// `IF_OPER_UNKNOWN` (linux/if.h): the driver keeps no state, as loopback's.
const OPER_UNKNOWN: u8 = 0;
/// `IF_OPER_UP` (linux/if.h).
const OPER_UP: u8 = 6;

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Set up by an administrator (`IFF_UP`).
    pub up: bool,
    /// Able to carry packets (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The kernel has seen to the carrier (RFC 2863's state `up`, or none is kept): packets are sent, not
    /// dropped.
    pub operational: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// The driver: `veth`, `bridge`, `vxlan`; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// A veth's other end, an overlay's underlying link: an index in the namespace [`Link::peer_elsewhere`]
    /// tells about.
    pub peer_index: Option<u32>,
    /// The other end is in another namespace.
    pub peer_elsewhere: bool,
    /// The settings of a VXLAN device.
    pub vxlan: Option<VxlanSettings>,
}

/// What a VXLAN device was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanSettings {
    /// The network's identifier, 24 bits.
    pub vni: u32,
    /// The source address of the tunnel's packets.
    pub local: Option<IpAddr>,
    /// The underlying link.
    pub dev: Option<u32>,
    /// The UDP port that it listens on and sends to.
    pub port: u16,
    /// Learns addresses from what it receives.
    pub learning: bool,
}

/// A VXLAN device to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: VxlanSettings,
    /// Its Ethernet address; `None` lets the kernel draw one.
    pub mac: Option<Mac>,
    /// Its MTU; `None` for the underlying link's less the overhead.
    pub mtu: Option<u32>,
}

/// A veth pair to make.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// This end's name.
    pub name: &'a str,
    /// This end's Ethernet address; `None` lets the kernel draw one.
    pub mac: Option<Mac>,
    /// The other end's name.
    pub peer_name: &'a str,
    /// The namespace to make the other end in; `None` for this one.
    pub peer_ns: Option<&'a NetNs>,
    /// The other end's Ethernet address.
    pub peer_mac: Option<Mac>,
    /// The MTU of both; `None` for 1500.
    pub mtu: Option<u32>,
    /// Sets this end up at once; the other is down.
    pub up: bool,
}

impl Rtnl {
    /// All links, in the order of their numbers.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let body = |writer: &mut Writer| {
            header(writer, 0, 0, 0);
            skip_statistics(writer);
        };
        let mut links =
            self.list(libc::RTM_GETLINK, "list links", body, |message| read(message).map(Some))?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link called `name`.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.get_link(0, Some(name))
    }

    /// The link with this number.
    pub fn link(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.get_link(index, None)
    }

    fn get_link(&mut self, index: u32, name: Option<&str>) -> Result<Option<Link>, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::with_capacity(64);
        writer.begin(libc::RTM_GETLINK, 0, sequence);
        header(&mut writer, index, 0, 0);
        skip_statistics(&mut writer);
        if let Some(name) = name {
            writer.string(libc::IFLA_IFNAME, name);
        }
        writer.end();
        let mut found = None;
        let result = self.socket.exchange(writer.as_slice(), sequence, |message| {
            found = Some(read(&message)?);
            Ok(())
        });
        match result {
            Ok(()) => Ok(found),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => {
                Err(error
                    .during(format!("get link {}", name.map_or_else(|| index.to_string(), str::to_owned))))
            }
        }
    }

    /// Makes a veth pair, both ends down, with addresses that the kernel draws; the other end is in `peer_ns`
    /// or else here.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_ns: Option<&NetNs>,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        self.add_veth_pair(&VethSpec { name, mac: None, peer_name, peer_ns, peer_mac: None, mtu, up: false })
    }

    /// Makes a veth pair.
    pub fn add_veth_pair(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let up = if spec.up { libc::IFF_UP as u32 } else { 0 };
        let operation = || format!("add veth {} with peer {}", spec.name, spec.peer_name);
        self.change(libc::RTM_NEWLINK, CREATE, operation, |writer| {
            header(writer, 0, up, up);
            end_of_pair(writer, spec.name, spec.mac, spec.mtu);
            link_info(writer, "veth", |writer| {
                writer.nested(VETH_INFO_PEER, |writer| {
                    // The kernel makes the peer first, and refuses to set up an end that has no other
                    // (ENOTCONN).
                    header(writer, 0, 0, 0);
                    end_of_pair(writer, spec.peer_name, spec.peer_mac, spec.mtu);
                    if let Some(ns) = spec.peer_ns {
                        write_u32(writer, libc::IFLA_NET_NS_FD, ns.as_fd().as_raw_fd().cast_unsigned());
                    }
                });
            });
        })
    }

    /// Makes a bridge, down, without spanning tree.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.change(
            libc::RTM_NEWLINK,
            CREATE,
            || format!("add bridge {name}"),
            |writer| {
                header(writer, 0, 0, 0);
                writer.string(libc::IFLA_IFNAME, name);
                link_info(writer, "bridge", |_| {});
            },
        )
    }

    /// Makes a VXLAN device, down.
    pub fn add_vxlan(&mut self, spec: &VxlanSpec) -> Result<(), NetlinkError> {
        let VxlanSpec { name, settings, mac, mtu } = spec;
        let operation =
            || format!("add VXLAN device {name} with VNI {} on port {}", settings.vni, settings.port);
        self.change(libc::RTM_NEWLINK, CREATE, operation, |writer| {
            header(writer, 0, 0, 0);
            end_of_pair(writer, name, *mac, *mtu);
            link_info(writer, "vxlan", |writer| {
                write_u32(writer, IFLA_VXLAN_ID, settings.vni);
                if let Some(dev) = settings.dev {
                    write_u32(writer, IFLA_VXLAN_LINK, dev);
                }
                if let Some(local) = settings.local {
                    write_ip(
                        writer,
                        if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 },
                        local,
                    );
                }
                writer.attribute(IFLA_VXLAN_LEARNING, &[settings.learning.into()]);
                writer.attribute(IFLA_VXLAN_PORT, &settings.port.to_be_bytes());
            });
        })
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        self.change(
            libc::RTM_NEWLINK,
            0,
            || format!("set link {index} up"),
            |writer| header(writer, index, up, up),
        )
    }

    /// Waits until packets get out of a link that is up; `false` where they still don't after `patience`.
    ///
    /// The end of a veth that was set up first has no carrier then. When the other end follows, a worker of
    /// the kernel attaches its queue, up to a second later; until then what is sent is dropped in silence.
    /// Asking for the link makes kernels from 6.9 do it at once.
    pub fn await_operational(&mut self, index: u32, patience: Duration) -> Result<bool, NetlinkError> {
        let begun = Instant::now();
        loop {
            match self.link(index)? {
                Some(link) if link.operational => return Ok(true),
                Some(_) if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(1)),
                _ => return Ok(false),
            }
        }
    }

    /// Sets a link down.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        self.change(
            libc::RTM_NEWLINK,
            0,
            || format!("set link {index} down"),
            |writer| header(writer, index, 0, up),
        )
    }

    /// Makes a link a port of the bridge `master`, or of none.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        let operation = || format!("make link {index} a port of {master:?}");
        self.set_link(index, operation, |writer| write_u32(writer, libc::IFLA_MASTER, master.unwrap_or(0)))
    }

    /// Sets a link's MTU in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let operation = || format!("set the MTU of link {index} to {mtu}");
        self.set_link(index, operation, |writer| write_u32(writer, libc::IFLA_MTU, mtu))
    }

    /// Sets a link's Ethernet address.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let operation = || format!("set the address of link {index} to {}", super::format_mac(mac));
        self.set_link(index, operation, |writer| writer.attribute(libc::IFLA_ADDRESS, &mac))
    }

    /// Renames a link, which must be down on kernels before 6.2.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let operation = || format!("rename link {index} to {name}");
        self.set_link(index, operation, |writer| writer.string(libc::IFLA_IFNAME, name))
    }

    /// Moves a link into another namespace, where it is down and without addresses.
    pub fn move_to(&mut self, index: u32, ns: &NetNs) -> Result<(), NetlinkError> {
        let fd = ns.as_fd().as_raw_fd().cast_unsigned();
        let operation = || format!("move link {index} to another namespace");
        self.set_link(index, operation, |writer| write_u32(writer, libc::IFLA_NET_NS_FD, fd))
    }

    /// Deletes a link, and with a veth its other end.
    pub fn delete_link(&mut self, index: u32) -> Result<bool, NetlinkError> {
        self.remove(
            libc::RTM_DELLINK,
            || format!("delete link {index}"),
            |writer| header(writer, index, 0, 0),
        )
    }

    /// Deletes the link called `name`.
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<bool, NetlinkError> {
        self.remove(
            libc::RTM_DELLINK,
            || format!("delete link {name}"),
            |writer| {
                header(writer, 0, 0, 0);
                writer.string(libc::IFLA_IFNAME, name);
            },
        )
    }

    fn set_link(
        &mut self,
        index: u32,
        operation: impl FnOnce() -> String,
        attributes: impl FnOnce(&mut Writer),
    ) -> Result<(), NetlinkError> {
        self.change(libc::RTM_NEWLINK, 0, operation, |writer| {
            header(writer, index, 0, 0);
            attributes(writer);
        })
    }
}

/// `struct ifinfomsg`.
fn header(writer: &mut Writer, index: u32, flags: u32, change: u32) {
    writer.bytes(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
    writer.bytes(&index.to_ne_bytes());
    writer.bytes(&flags.to_ne_bytes());
    writer.bytes(&change.to_ne_bytes());
}

fn skip_statistics(writer: &mut Writer) {
    write_u32(writer, libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS as u32);
}

fn end_of_pair(writer: &mut Writer, name: &str, mac: Option<Mac>, mtu: Option<u32>) {
    writer.string(libc::IFLA_IFNAME, name);
    if let Some(mac) = mac {
        writer.attribute(libc::IFLA_ADDRESS, &mac);
    }
    if let Some(mtu) = mtu {
        write_u32(writer, libc::IFLA_MTU, mtu);
    }
}

fn link_info(writer: &mut Writer, kind: &str, data: impl FnOnce(&mut Writer)) {
    writer.nested(libc::IFLA_LINKINFO, |writer| {
        writer.string(libc::IFLA_INFO_KIND, kind);
        writer.nested(libc::IFLA_INFO_DATA, data);
    });
}

pub(super) fn read(message: &Message<'_>) -> Result<Link, NetlinkError> {
    let (header, attributes) = split(message, HEADER)?;
    let flags = number(header, 8);
    let mut link = Link {
        index: number(header, 4),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
        operational: false,
        master: None,
        kind: None,
        peer_index: None,
        peer_elsewhere: false,
        vxlan: None,
    };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            libc::IFLA_IFNAME => link.name = attribute.string()?,
            libc::IFLA_ADDRESS => link.mac = attribute_mac(&attribute),
            libc::IFLA_MTU => link.mtu = attribute_u32(&attribute).unwrap_or(0),
            IFLA_OPERSTATE => link.operational = matches!(attribute.u8()?, OPER_UNKNOWN | OPER_UP),
            libc::IFLA_MASTER => link.master = attribute_u32(&attribute),
            libc::IFLA_LINK => link.peer_index = attribute_u32(&attribute).filter(|&index| index != 0),
            IFLA_LINK_NETNSID => link.peer_elsewhere = true,
            libc::IFLA_LINKINFO => read_info(&attribute, &mut link)?,
            _ => {}
        }
    }
    Ok(link)
}

fn read_info(info: &Attribute<'_>, link: &mut Link) -> Result<(), NetlinkError> {
    // The kernel puts the kind before the data.
    for attribute in info.nested() {
        let attribute = attribute?;
        match attribute.kind {
            libc::IFLA_INFO_KIND => link.kind = Some(attribute.string()?),
            libc::IFLA_INFO_DATA if link.kind.as_deref() == Some("vxlan") => {
                link.vxlan = Some(read_vxlan(&attribute)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_vxlan(data: &Attribute<'_>) -> Result<VxlanSettings, NetlinkError> {
    let mut settings = VxlanSettings::default();
    for attribute in data.nested() {
        let attribute = attribute?;
        match attribute.kind {
            IFLA_VXLAN_ID => settings.vni = attribute_u32(&attribute).unwrap_or(0),
            IFLA_VXLAN_LINK => settings.dev = attribute_u32(&attribute).filter(|&index| index != 0),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => settings.local = attribute_ip(&attribute),
            IFLA_VXLAN_LEARNING => settings.learning = attribute.u8()? != 0,
            IFLA_VXLAN_PORT => settings.port = attribute.be16()?,
            _ => {}
        }
    }
    Ok(settings)
}
