//! The overlay's driver: makes the kernel of the calling thread's network namespace match an [`OverlayPlan`].
//!
//! It reads what is there, works out the difference, and applies that alone: a second run changes nothing,
//! and packets flow on while it runs. Its own are all entries of the plan's VXLAN devices, devices called
//! `seaway.N` and `seaway-v6.N`, and routes of protocol 83; nothing else is touched.

mod diff;
mod differences;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use seaway_model::{Difference, Foreign, MacAddr, OverlayPlan, Underlay};
use seaway_net::netlink::NetlinkError;
use seaway_net::rtnl::{MAIN_TABLE, RouteFilter, Rtnl, VxlanSettings, VxlanSpec};
use seaway_net::sysctl::{self, SysctlError};

pub use diff::{Change, Observed, ObservedDevice};
pub(crate) use differences::way;

use crate::OVERLAY_ROUTE_PROTOCOL;

/// Why the overlay could not be observed or changed.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A kernel parameter could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The node's address is on none of its links.
    #[error("no link of this node has the address {address} that its Node object gives as InternalIP")]
    NoUnderlay {
        /// The address.
        address: IpAddr,
    },
    /// A link of the plan is gone.
    #[error("link {link} is gone: observe and plan again")]
    NoLink {
        /// Its name.
        link: String,
    },
}

/// Finds the link with one of `addresses` (the Node's InternalIPs) and what the planner must know of it.
pub fn underlay(addresses: &[IpAddr]) -> Result<Underlay, OverlayError> {
    let mut rtnl = Rtnl::open()?;
    let missing = addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let known = rtnl.addresses(None)?;
    let index = known.iter().find(|known| addresses.contains(&known.net.addr())).map(|known| known.index);
    let links = rtnl.links()?;
    let Some(link) = links.iter().find(|link| Some(link.index) == index) else {
        return Err(OverlayError::NoUnderlay { address: missing });
    };
    // The addresses that the Node names come first: they are what others reach.
    let mut nets: Vec<IpNet> =
        known.iter().filter(|known| known.index == link.index).map(|known| known.net).collect();
    nets.retain(|net| !is_link_local(net.addr()));
    nets.sort_by_key(|net| !addresses.contains(&net.addr()));
    let own = links.iter().filter(|link| diff::is_own_device(&link.name) && link.vxlan.is_some());
    let device_macs: BTreeMap<String, MacAddr> =
        own.filter_map(|link| Some((link.name.clone(), MacAddr(link.mac?)))).collect();
    Ok(Underlay { link: link.name.clone(), mtu: link.mtu, addresses: nets, device_macs })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What would have to change for the kernel to match `plan`; nothing is changed.
pub fn dry_run(plan: &OverlayPlan) -> Result<Vec<Change>, OverlayError> {
    let mut rtnl = Rtnl::open()?;
    let observed = observe(&mut rtnl, plan)?;
    Ok(diff::changes(&observed, plan))
}

/// What in the kernel is not as `plan` says, which was made for `underlay`, and what others put there that may be in the
/// way; nothing is changed.
pub fn differences(
    plan: &OverlayPlan,
    underlay: &Underlay,
) -> Result<(Vec<Difference>, Vec<Foreign>), OverlayError> {
    let mut rtnl = Rtnl::open()?;
    let observed = observe(&mut rtnl, plan)?;
    let routes = rtnl.routes(RouteFilter { table: Some(MAIN_TABLE), ..RouteFilter::default() })?;
    let found = match rtnl.link_by_name(&underlay.link)? {
        Some(link) => {
            let addresses = rtnl.addresses(Some(link.index))?;
            Some((link.mtu, link.up, addresses.iter().map(|address| address.net).collect()))
        }
        None => None,
    };
    let mut told = differences::of_underlay(underlay, found);
    told.extend(differences::of_changes(&diff::changes(&observed, plan), &observed, &routes, plan));
    Ok((told, differences::foreign(&routes, &observed, plan)))
}

/// What [`apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes that were made; empty where the kernel matched.
    pub changes: Vec<Change>,
    /// Why others could not be made, each of which is about one other node alone; call again.
    pub refused: Vec<OverlayError>,
}

/// Makes the kernel match `plan`. One other node whose address or podCIDR the kernel does not take keeps nobody from
/// the rest.
///
/// # Errors
/// The kernel cannot be read, or does not take what concerns this node itself; it may match in part: call again.
pub fn apply(plan: &OverlayPlan) -> Result<Applied, OverlayError> {
    let mut rtnl = Rtnl::open()?;
    let mut applied = Applied::default();
    for change in diff::changes(&observe(&mut rtnl, plan)?, plan) {
        match make(&mut rtnl, &change) {
            Ok(()) => applied.changes.push(change),
            Err(error) if change.is_of_another_node() => applied.refused.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

fn observe(rtnl: &mut Rtnl, plan: &OverlayPlan) -> Result<Observed, OverlayError> {
    let mut observed = Observed::default();
    let links = rtnl.links()?;
    observed.links = links.iter().map(|link| (link.name.clone(), link.index)).collect();
    for link in links.iter().filter(|link| diff::is_own_device(&link.name)) {
        let Some(settings) = link.vxlan.clone() else { continue };
        let addresses = rtnl.addresses(Some(link.index))?;
        observed.devices.insert(
            link.name.clone(),
            ObservedDevice {
                settings,
                mac: link.mac.map(MacAddr),
                mtu: link.mtu,
                up: link.up,
                addresses: addresses
                    .iter()
                    .map(|address| address.net)
                    .filter(|net| !is_link_local(net.addr()))
                    .collect(),
                neighbors: rtnl.neighbors(Some(link.index))?,
                forwards: rtnl.fdb(link.index)?,
            },
        );
    }
    observed.routes =
        rtnl.routes(RouteFilter { protocol: Some(OVERLAY_ROUTE_PROTOCOL), ..RouteFilter::default() })?;
    for name in plan.sysctls.keys() {
        // Absent are those of a device that is yet to be made.
        if let Ok(value) = sysctl::get(name) {
            observed.sysctls.insert(name.clone(), value);
        }
    }
    Ok(observed)
}

fn make(rtnl: &mut Rtnl, change: &Change) -> Result<(), OverlayError> {
    match change {
        Change::DeleteDevice { name, .. } => {
            rtnl.delete_link_by_name(name)?;
        }
        Change::CreateDevice(device) => {
            let settings = VxlanSettings {
                vni: device.vni,
                local: Some(device.local),
                dev: Some(index(rtnl, &device.link)?),
                port: device.port,
                learning: false,
            };
            let (mac, mtu) = (Some(device.mac.0), Some(device.mtu));
            rtnl.add_vxlan(&VxlanSpec { name: device.name.clone(), settings, mac, mtu })?;
            if device.local.is_ipv4() {
                // IN6_ADDR_GEN_MODE_NONE (linux/if_link.h): an IPv4 tunnel has no use for a link-local address and what the
                // kernel sends to defend it. A kernel without IPv6 has no such parameter.
                let _ = sysctl::set(&format!("net/ipv6/conf/{}/addr_gen_mode", device.name), "1");
            }
        }
        Change::SetMtu { device, mtu } => {
            let index = index(rtnl, device)?;
            rtnl.set_mtu(index, *mtu)?;
        }
        Change::SetMac { device, mac } => {
            let index = index(rtnl, device)?;
            rtnl.set_mac(index, mac.0)?;
        }
        Change::SetUp { device } => {
            let index = index(rtnl, device)?;
            rtnl.set_up(index)?;
        }
        Change::AddAddress { device, address } => {
            let index = index(rtnl, device)?;
            rtnl.add_address(index, *address)?;
        }
        Change::DeleteAddress { device, address } => {
            let index = index(rtnl, device)?;
            rtnl.delete_address(index, *address)?;
        }
        Change::SetNeighbor(neighbor) => {
            let index = index(rtnl, &neighbor.device)?;
            rtnl.replace_neighbor(index, neighbor.ip, neighbor.mac.0)?;
        }
        Change::DeleteNeighbor { device, ip } => {
            let index = index(rtnl, device)?;
            rtnl.delete_neighbor(index, *ip)?;
        }
        Change::SetForward(forward) => {
            let index = index(rtnl, &forward.device)?;
            rtnl.replace_fdb(index, forward.mac.0, forward.dst)?;
        }
        Change::DeleteForward { device, mac, dst } => {
            let index = index(rtnl, device)?;
            rtnl.delete_fdb(index, mac.0, *dst)?;
        }
        Change::SetRoute(route) => {
            let index = index(rtnl, &route.link)?;
            rtnl.replace_route(&diff::kernel_route(route, index))?;
        }
        Change::DeleteRoute(route) => {
            rtnl.delete_route(route)?;
        }
        Change::SetSysctl { name, value } => {
            sysctl::set(name, value)?;
        }
    }
    Ok(())
}

fn index(rtnl: &mut Rtnl, name: &str) -> Result<u32, OverlayError> {
    let link = rtnl.link_by_name(name)?;
    link.map(|link| link.index).ok_or_else(|| OverlayError::NoLink { link: name.to_owned() })
}
