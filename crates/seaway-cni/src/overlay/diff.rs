//! The difference between a plan and what the kernel has; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use seaway_model::{MacAddr, OverlayForward, OverlayNeighbor, OverlayPlan, OverlayRoute, VxlanDevice};
use seaway_net::rtnl::{FdbEntry, Neighbor, Route, VxlanSettings};

use crate::OVERLAY_ROUTE_PROTOCOL;

/// What the kernel has of the overlay.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All links' numbers by name.
    pub links: BTreeMap<String, u32>,
    /// The overlay's devices by name.
    pub devices: BTreeMap<String, ObservedDevice>,
    /// The overlay's routes.
    pub routes: Vec<Route>,
    /// The plan's kernel parameters that exist.
    pub sysctls: BTreeMap<String, String>,
}

/// A VXLAN device as it is.
#[derive(Clone, Debug)]
pub struct ObservedDevice {
    /// What it was made with.
    pub settings: VxlanSettings,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It is set up.
    pub up: bool,
    /// Its addresses, without link-local ones.
    pub addresses: Vec<IpNet>,
    /// Its neighbours.
    pub neighbors: Vec<Neighbor>,
    /// Its forwarding entries.
    pub forwards: Vec<FdbEntry>,
}

/// One change to the kernel. Their order in a list is the order to make them in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Delete a VXLAN device, with all that hangs on it.
    DeleteDevice {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Make a VXLAN device.
    CreateDevice(VxlanDevice),
    /// Set a device's MTU.
    SetMtu {
        /// Its name.
        device: String,
        /// In bytes.
        mtu: u32,
    },
    /// Set a device's Ethernet address.
    SetMac {
        /// Its name.
        device: String,
        /// The address.
        mac: MacAddr,
    },
    /// Add an address.
    AddAddress {
        /// The device.
        device: String,
        /// The address.
        address: IpNet,
    },
    /// Delete an address of an earlier podCIDR.
    DeleteAddress {
        /// The device.
        device: String,
        /// The address.
        address: IpNet,
    },
    /// Set a device up.
    SetUp {
        /// Its name.
        device: String,
    },
    /// Set a permanent neighbour.
    SetNeighbor(OverlayNeighbor),
    /// Delete a stale neighbour.
    DeleteNeighbor {
        /// The device.
        device: String,
        /// The neighbour.
        ip: IpAddr,
    },
    /// Set a forwarding entry.
    SetForward(OverlayForward),
    /// Delete a stale forwarding entry.
    DeleteForward {
        /// The device.
        device: String,
        /// The entry's Ethernet address.
        mac: MacAddr,
        /// Where it led.
        dst: Option<IpAddr>,
    },
    /// Add or replace a route.
    SetRoute(OverlayRoute),
    /// Delete a stale route.
    DeleteRoute(Route),
    /// Set a kernel parameter.
    SetSysctl {
        /// Its path below `/proc/sys`.
        name: String,
        /// The value.
        value: String,
    },
}

impl Change {
    /// Only the way to one other node depends on it.
    pub(super) fn is_of_another_node(&self) -> bool {
        match self {
            Self::SetNeighbor(_)
            | Self::DeleteNeighbor { .. }
            | Self::SetForward(_)
            | Self::DeleteForward { .. }
            | Self::SetRoute(_)
            | Self::DeleteRoute(_) => true,
            Self::DeleteDevice { .. }
            | Self::CreateDevice(_)
            | Self::SetMtu { .. }
            | Self::SetMac { .. }
            | Self::AddAddress { .. }
            | Self::DeleteAddress { .. }
            | Self::SetUp { .. }
            | Self::SetSysctl { .. } => false,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteDevice { name, reason } => write!(f, "delete {name}: {reason}"),
            Self::CreateDevice(device) => {
                let VxlanDevice { name, vni, port, local, link, .. } = device;
                write!(f, "add {name}: VXLAN {vni} on port {port}, local {local}, dev {link}")
            }
            Self::SetMtu { device, mtu } => write!(f, "set {device} mtu {mtu}"),
            Self::SetMac { device, mac } => write!(f, "set {device} address {mac}"),
            Self::AddAddress { device, address } => write!(f, "add address {address} dev {device}"),
            Self::DeleteAddress { device, address } => write!(f, "delete address {address} dev {device}"),
            Self::SetUp { device } => write!(f, "set {device} up"),
            Self::SetNeighbor(OverlayNeighbor { device, ip, mac }) => {
                write!(f, "set neighbour {ip} {mac} dev {device}")
            }
            Self::DeleteNeighbor { device, ip } => write!(f, "delete neighbour {ip} dev {device}"),
            Self::SetForward(OverlayForward { device, mac, dst }) => {
                write!(f, "set forward {mac} dst {dst} dev {device}")
            }
            Self::DeleteForward { device, mac, .. } => write!(f, "delete forward {mac} dev {device}"),
            Self::SetRoute(OverlayRoute { dst, via, link, .. }) => {
                write!(f, "set route {dst} via {via} dev {link}")
            }
            Self::DeleteRoute(route) => write!(f, "delete route {route}"),
            Self::SetSysctl { name, value } => write!(f, "set {name} = {value}"),
        }
    }
}

/// Whether a link of this name is the overlay's: `seaway.N` or `seaway-v6.N`.
pub(super) fn is_own_device(name: &str) -> bool {
    let number = name.strip_prefix("seaway.").or_else(|| name.strip_prefix("seaway-v6."));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The route of the plan as the kernel shows it.
pub(super) fn kernel_route(route: &OverlayRoute, index: u32) -> Route {
    Route {
        via: Some(route.via),
        dev: Some(index),
        onlink: route.onlink,
        protocol: OVERLAY_ROUTE_PROTOCOL,
        ..Route::to(route.dst)
    }
}

/// What to change, in this order: devices; how to reach other devices; routes, which start to use them; then
/// what is stale, routes first; kernel parameters last, since those of a new device come with it.
pub(super) fn changes(observed: &Observed, plan: &OverlayPlan) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut stale = Vec::new();
    for (name, _) in
        observed.devices.iter().filter(|(name, _)| plan.devices.iter().all(|device| device.name != **name))
    {
        stale.push(Change::DeleteDevice {
            name: name.clone(),
            reason: "the plan has no such device".to_owned(),
        });
    }
    // A device that is made anew takes along what hung on it.
    let mut fresh = BTreeSet::new();
    for device in &plan.devices {
        let current = observed.devices.get(&device.name);
        let mismatch = current.and_then(|current| mismatch(&current.settings, device, &observed.links));
        if let Some(reason) = &mismatch {
            changes.push(Change::DeleteDevice { name: device.name.clone(), reason: reason.clone() });
        }
        let current = current.filter(|_| mismatch.is_none());
        if current.is_none() {
            fresh.insert(device.name.as_str());
        }
        device_changes(current, device, &mut changes, &mut stale);
    }
    for neighbor in &plan.neighbors {
        let current =
            observed.devices.get(&neighbor.device).filter(|_| !fresh.contains(neighbor.device.as_str()));
        let same =
            |entry: &Neighbor| entry.permanent && entry.ip == neighbor.ip && entry.mac == neighbor.mac.0;
        if !current.is_some_and(|device| device.neighbors.iter().any(same)) {
            changes.push(Change::SetNeighbor(neighbor.clone()));
        }
    }
    for forward in &plan.forwards {
        let current =
            observed.devices.get(&forward.device).filter(|_| !fresh.contains(forward.device.as_str()));
        let same = |entry: &FdbEntry| {
            entry.permanent && entry.mac == forward.mac.0 && entry.dst == Some(forward.dst)
        };
        if !current.is_some_and(|device| device.forwards.iter().any(same)) {
            changes.push(Change::SetForward(forward.clone()));
        }
    }
    let stale_routes = route_changes(observed, plan, &fresh, &mut changes);
    for device in plan.devices.iter().filter(|device| !fresh.contains(device.name.as_str())) {
        if let Some(current) = observed.devices.get(&device.name) {
            stale_entries(device, current, plan, &mut stale);
        }
    }
    changes.extend(stale_routes);
    changes.extend(stale);
    for (name, value) in &plan.sysctls {
        if observed.sysctls.get(name) != Some(value) {
            changes.push(Change::SetSysctl { name: name.clone(), value: value.clone() });
        }
    }
    changes
}

/// What cannot be changed on a device that exists.
fn mismatch(settings: &VxlanSettings, wanted: &VxlanDevice, links: &BTreeMap<String, u32>) -> Option<String> {
    let differs = [
        (settings.vni != wanted.vni, format!("VNI {}", settings.vni)),
        (settings.port != wanted.port, format!("port {}", settings.port)),
        (settings.local != Some(wanted.local), format!("local address {:?}", settings.local)),
        (settings.dev != links.get(&wanted.link).copied(), format!("underlying link {:?}", settings.dev)),
        (settings.learning, "learning".to_owned()),
    ];
    let found: Vec<String> =
        differs.into_iter().filter(|(differs, _)| *differs).map(|(_, text)| text).collect();
    if found.is_empty() { None } else { Some(format!("it was made with {}", found.join(", "))) }
}

fn device_changes(
    current: Option<&ObservedDevice>,
    wanted: &VxlanDevice,
    changes: &mut Vec<Change>,
    stale: &mut Vec<Change>,
) {
    let device = || wanted.name.clone();
    match current {
        None => changes.push(Change::CreateDevice(wanted.clone())),
        Some(current) => {
            if current.mtu != wanted.mtu {
                changes.push(Change::SetMtu { device: device(), mtu: wanted.mtu });
            }
            if current.mac != Some(wanted.mac) {
                changes.push(Change::SetMac { device: device(), mac: wanted.mac });
            }
            for &address in current.addresses.iter().filter(|address| **address != wanted.address) {
                stale.push(Change::DeleteAddress { device: device(), address });
            }
        }
    }
    if !current.is_some_and(|current| current.addresses.contains(&wanted.address)) {
        changes.push(Change::AddAddress { device: device(), address: wanted.address });
    }
    if !current.is_some_and(|current| current.up) {
        changes.push(Change::SetUp { device: device() });
    }
}

/// Adds the routes that are missing; returns those that are stale.
fn route_changes(
    observed: &Observed,
    plan: &OverlayPlan,
    fresh: &BTreeSet<&str>,
    changes: &mut Vec<Change>,
) -> Vec<Change> {
    let mut kept = Vec::new();
    for route in &plan.routes {
        let wanted = observed.links.get(&route.link).map(|&index| kernel_route(route, index));
        match wanted.filter(|wanted| !fresh.contains(route.link.as_str()) && observed.routes.contains(wanted))
        {
            Some(wanted) => kept.push(wanted),
            None => changes.push(Change::SetRoute(route.clone())),
        }
    }
    // A route to the same destination is replaced in one step, without a gap, so it is not deleted.
    let replaced =
        |route: &Route| plan.routes.iter().any(|wanted| wanted.dst == route.dst && route.metric.is_none());
    // With a device go its routes.
    let gone: BTreeSet<u32> = observed
        .devices
        .keys()
        .filter(|name| fresh.contains(name.as_str()))
        .filter_map(|name| observed.links.get(name).copied())
        .collect();
    let stale = observed.routes.iter().filter(|route| {
        !kept.contains(route) && !replaced(route) && !route.dev.is_some_and(|dev| gone.contains(&dev))
    });
    stale.map(|route| Change::DeleteRoute(*route)).collect()
}

fn stale_entries(
    device: &VxlanDevice,
    current: &ObservedDevice,
    plan: &OverlayPlan,
    stale: &mut Vec<Change>,
) {
    let of_plan =
        |ip| plan.neighbors.iter().any(|neighbor| neighbor.device == device.name && neighbor.ip == ip);
    // What the kernel learnt by itself (multicast, router discovery) is its own to forget.
    for entry in current.neighbors.iter().filter(|entry| entry.permanent && !of_plan(entry.ip)) {
        stale.push(Change::DeleteNeighbor { device: device.name.clone(), ip: entry.ip });
    }
    let of_plan =
        |mac| plan.forwards.iter().any(|forward| forward.device == device.name && forward.mac == mac);
    for entry in current.forwards.iter().filter(|entry| !of_plan(MacAddr(entry.mac))) {
        let mac = MacAddr(entry.mac);
        stale.push(Change::DeleteForward { device: device.name.clone(), mac, dst: entry.dst });
    }
}

#[cfg(test)]
mod tests;
