//! The changes that the plan asks for, told as what is not as planned; pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use seaway_model::{Difference, Foreign, MacAddr, OverlayPlan, PlanPart, Underlay};
use seaway_net::rtnl::{Neighbor, Route, RouteKind};

use super::diff::{Change, Observed};
use crate::{OVERLAY_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL};

/// Tells `changes`, which lead from `observed` to `plan`; `routes` are all of the main table. What a device takes along
/// with it is not told again.
pub(super) fn of_changes(
    changes: &[Change],
    observed: &Observed,
    routes: &[Route],
    plan: &OverlayPlan,
) -> Vec<Difference> {
    let teller = Teller { observed, routes, plan };
    let missing: BTreeSet<&str> = changes.iter().filter_map(made_anew).collect();
    changes
        .iter()
        .filter(|change| !follows(change, &missing))
        .filter_map(|change| teller.tell(change))
        .collect()
}

/// The device that a change makes.
fn made_anew(change: &Change) -> Option<&str> {
    match change {
        Change::CreateDevice(device) => Some(&device.name),
        _ => None,
    }
}

/// A change that is due to nothing but a missing device.
fn follows(change: &Change, missing: &BTreeSet<&str>) -> bool {
    match change {
        Change::AddAddress { device, .. } | Change::SetUp { device } => missing.contains(device.as_str()),
        Change::SetNeighbor(neighbor) => missing.contains(neighbor.device.as_str()),
        Change::SetForward(forward) => missing.contains(forward.device.as_str()),
        Change::DeleteDevice { name, .. } => missing.contains(name.as_str()),
        Change::SetSysctl { name, .. } => missing.iter().any(|device| name.contains(&format!("/{device}/"))),
        _ => false,
    }
}

struct Teller<'a> {
    observed: &'a Observed,
    routes: &'a [Route],
    plan: &'a OverlayPlan,
}

impl Teller<'_> {
    /// What the kernel has for `ip` on a device.
    fn neighbor(&self, device: &str, ip: IpAddr) -> Option<&Neighbor> {
        self.observed.devices.get(device)?.neighbors.iter().rfind(|entry| entry.ip == ip)
    }

    fn tell(&self, change: &Change) -> Option<Difference> {
        let device = |name: &str, what: &str, planned: Option<String>, actual: Option<String>| {
            difference(format!("device {name}"), what, format!("link {name}"), planned, actual)
        };
        Some(match change {
            Change::CreateDevice(wanted) => {
                let planned = format!("VXLAN {} port {} local {}", wanted.vni, wanted.port, wanted.local);
                match self.observed.devices.get(&wanted.name) {
                    None => device(
                        &wanted.name,
                        "the VXLAN device is missing: no pod reaches pods of other nodes",
                        Some(planned),
                        None,
                    ),
                    Some(found) => {
                        let settings = &found.settings;
                        let local = settings.local.map_or_else(|| "none".to_owned(), |ip| ip.to_string());
                        let learning = if settings.learning { " learning" } else { "" };
                        let actual =
                            format!("VXLAN {} port {} local {local}{learning}", settings.vni, settings.port);
                        device(
                            &wanted.name,
                            "the VXLAN device was made otherwise",
                            Some(planned),
                            Some(actual),
                        )
                    }
                }
            }
            Change::DeleteDevice { name, reason } => device(
                name,
                &format!("the device should not be there: {reason}"),
                None,
                Some("a VXLAN device".into()),
            ),
            Change::SetMtu { device: name, mtu } => {
                let actual = self.observed.devices.get(name).map(|found| format!("mtu {}", found.mtu));
                device(name, "the MTU differs", Some(format!("mtu {mtu}")), actual)
            }
            Change::SetMac { device: name, mac } => {
                let actual = self.observed.devices.get(name).and_then(|found| found.mac);
                let what = "the Ethernet address differs: other nodes send to the planned one";
                device(name, what, Some(mac.to_string()), actual.map(|mac| mac.to_string()))
            }
            Change::AddAddress { device: name, address } => {
                device(name, "an address is missing", Some(address.to_string()), None)
            }
            Change::DeleteAddress { device: name, address } => {
                device(name, "an address should not be there", None, Some(address.to_string()))
            }
            Change::SetUp { device: name } => {
                device(name, "the device is down", Some("up".to_owned()), Some("down".to_owned()))
            }
            Change::SetNeighbor(wanted) => {
                let actual = self.neighbor(&wanted.device, wanted.ip).map(|entry| {
                    let learnt = if entry.permanent { "" } else { " (learnt)" };
                    format!("{}{learnt}", MacAddr(entry.mac))
                });
                let kernel = format!("neighbour {} dev {}", wanted.ip, wanted.device);
                let what = "the Ethernet address of the node's tunnel is not known";
                difference(self.node_via(wanted.ip), what, kernel, Some(wanted.mac.to_string()), actual)
            }
            Change::DeleteNeighbor { device, ip } => {
                let actual = self.neighbor(device, *ip).map(|entry| MacAddr(entry.mac).to_string());
                let kernel = format!("neighbour {ip} dev {device}");
                difference(
                    format!("device {device}"),
                    "a neighbour should not be there",
                    kernel,
                    None,
                    actual,
                )
            }
            Change::SetForward(wanted) => {
                let found = self.observed.devices.get(&wanted.device).into_iter().flat_map(|it| &it.forwards);
                let mut actual = found.filter(|entry| entry.mac == wanted.mac.0).map(|entry| dst(entry.dst));
                let kernel = format!("forwarding entry {} dev {}", wanted.mac, wanted.device);
                let what = "packets for the node's pods have no way through the tunnel, or a wrong one";
                difference(
                    self.node_of(wanted.mac),
                    what,
                    kernel,
                    Some(dst(Some(wanted.dst))),
                    actual.next_back(),
                )
            }
            Change::DeleteForward { device, mac, dst: to } => {
                let kernel = format!("forwarding entry {mac} dev {device}");
                let what = "a forwarding entry should not be there";
                difference(format!("device {device}"), what, kernel, None, Some(dst(*to)))
            }
            Change::SetRoute(wanted) => {
                let actual =
                    self.routes.iter().find(|route| route.dst == wanted.dst && route.metric.is_none());
                let planned = format!("via {} dev {}", wanted.via, wanted.link);
                let actual = actual.map(|route| self.way(route));
                let kernel = format!("route {}", wanted.dst);
                let what = match actual {
                    None => "the route to the node's pods is missing",
                    Some(_) => "the route to the node's pods leads elsewhere",
                };
                difference(format!("node {}", wanted.node), what, kernel, Some(planned), actual)
            }
            Change::DeleteRoute(route) => {
                let kernel = format!("route {}", route.dst);
                difference(
                    kernel.clone(),
                    "a route of Seaway's should not be there",
                    kernel,
                    None,
                    Some(self.way(route)),
                )
            }
            Change::SetSysctl { name, value } => {
                let actual = self.observed.sysctls.get(name).cloned();
                let kernel = format!("sysctl {}", name.replace('/', "."));
                difference(kernel.clone(), "a kernel parameter differs", kernel, Some(value.clone()), actual)
            }
        })
    }

    fn node_via(&self, via: IpAddr) -> String {
        let route = self.plan.routes.iter().find(|route| route.via == via);
        route.map_or_else(|| format!("neighbour {via}"), |route| format!("node {}", route.node))
    }

    fn node_of(&self, mac: MacAddr) -> String {
        let neighbor = self.plan.neighbors.iter().find(|neighbor| neighbor.mac == mac);
        neighbor.map_or_else(|| format!("tunnel {mac}"), |neighbor| self.node_via(neighbor.ip))
    }

    fn way(&self, route: &Route) -> String {
        way(route, |index| {
            self.observed.links.iter().find(|(_, known)| **known == index).map(|(name, _)| name.clone())
        })
    }
}

fn dst(dst: Option<IpAddr>) -> String {
    dst.map_or_else(|| "no destination".to_owned(), |dst| format!("dst {dst}"))
}

/// A route without its destination, in words.
pub(crate) fn way(route: &Route, link: impl Fn(u32) -> Option<String>) -> String {
    match route.kind {
        RouteKind::Blackhole => return "blackhole".to_owned(),
        RouteKind::Unreachable => return "unreachable".to_owned(),
        RouteKind::Other(kind) => return format!("route of type {kind}"),
        RouteKind::Unicast => {}
    }
    let mut words = Vec::new();
    if let Some(via) = route.via {
        words.push(format!("via {via}"));
    }
    if let Some(index) = route.dev {
        words.push(format!("dev {}", link(index).unwrap_or_else(|| format!("link {index}"))));
    }
    words.join(" ")
}

/// The underlay is no longer what the plan was made for.
pub(super) fn of_underlay(planned: &Underlay, found: Option<(u32, bool, Vec<IpNet>)>) -> Vec<Difference> {
    let name = &planned.link;
    let tell = |what: &str, planned: Option<String>, actual: Option<String>| {
        difference(format!("link {name}"), what, format!("link {name}"), planned, actual)
    };
    let Some((mtu, up, addresses)) = found else {
        return vec![tell("the link to the other nodes is missing", Some(name.clone()), None)];
    };
    let mut told = Vec::new();
    if mtu != planned.mtu {
        let text = |mtu: u32| Some(format!("mtu {mtu}"));
        told.push(tell("the MTU of the link to the other nodes differs", text(planned.mtu), text(mtu)));
    }
    if !up {
        told.push(tell(
            "the link to the other nodes is down",
            Some("up".to_owned()),
            Some("down".to_owned()),
        ));
    }
    for address in planned.addresses.iter().filter(|address| !addresses.contains(address)) {
        told.push(tell("an address of the node is missing", Some(address.to_string()), None));
    }
    told
}

/// Routes of others to where the plan's routes lead, or to this node's pods: the kernel may prefer them.
pub(super) fn foreign(routes: &[Route], observed: &Observed, plan: &OverlayPlan) -> Vec<Foreign> {
    let ours = || plan.routes.iter().map(|route| route.dst).chain(plan.subnets.iter().copied());
    let devices: Vec<u32> =
        plan.devices.iter().filter_map(|device| observed.links.get(&device.name).copied()).collect();
    let is_own = |route: &Route| {
        [OVERLAY_ROUTE_PROTOCOL, POD_ROUTE_PROTOCOL].contains(&route.protocol)
            || route.dev.is_some_and(|dev| devices.contains(&dev))
    };
    // One in the place of a planned one is a difference.
    let is_in_the_way =
        |route: &Route| route.metric.is_none() && plan.routes.iter().any(|planned| planned.dst == route.dst);
    let others = routes.iter().filter(|route| {
        !is_own(route) && !is_in_the_way(route) && ours().any(|net| net.contains(&route.dst))
    });
    let name =
        |index| observed.links.iter().find(|(_, known)| **known == index).map(|(name, _)| name.clone());
    let tell = |route: &Route| Foreign {
        part: PlanPart::Overlay,
        kernel: format!("route {}", route.dst),
        what: format!("packets to {} go: {}", route.dst, way(route, name)),
    };
    others.map(tell).collect()
}

pub(crate) fn difference(
    object: String,
    what: &str,
    kernel: String,
    planned: Option<String>,
    actual: Option<String>,
) -> Difference {
    Difference {
        part: PlanPart::Overlay,
        object,
        address: None,
        what: what.to_owned(),
        kernel,
        planned,
        actual,
    }
}
