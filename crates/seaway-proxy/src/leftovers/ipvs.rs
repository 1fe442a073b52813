//! The IPVS mode: IPVS services, the link that carries their addresses, IP sets.
//!
//! IPVS drops the packets of a connection whose service is deleted, so established ones live as long as it stays. New ones do
//! not come to it: nf_tables translates them before. The same holds for addresses: a program on the node that talks to a
//! service has the service's own address for its source, as it is local. So services and addresses stay until nothing uses
//! them, and the kernel is told to give new connections the node's address meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use seaway_net::conntrack::{Conntrack, Filter, tcp_state_name};
use seaway_net::ipset::IpSets;
use seaway_net::ipvs::{Connections, Ipvs, VirtualServer};
use seaway_net::netlink::NetlinkError;
use seaway_net::rtnl::{Route, RouteKind, Rtnl, Scope};

use super::{IpvsState, LeftoversError, names};

/// IPPROTO_TCP
const TCP: u8 = 6;
/// RT_TABLE_LOCAL, RTN_LOCAL, RTPROT_KERNEL (linux/rtnetlink.h)
const LOCAL_TABLE: u32 = 255;
const LOCAL: RouteKind = RouteKind::Other(2);
const KERNEL: u8 = 2;

/// What there is of the IPVS mode.
#[derive(Debug, Default)]
struct Found {
    /// The link's number and addresses.
    link: Option<(u32, Vec<IpNet>)>,
    /// All its services, and what uses them.
    services: BTreeMap<VirtualServer, Connections>,
    sets: BTreeSet<String>,
    /// Addresses of the link that established connections begin from.
    sources: BTreeSet<IpAddr>,
}

impl Found {
    /// The services whose packets must still find them.
    fn is_used(server: &VirtualServer, connections: Connections) -> bool {
        // What has no established connections (UDP) counts as inactive; of TCP that is what is over.
        connections.active > 0 || (server.protocol != TCP && connections.inactive > 0)
    }

    fn used(&self) -> BTreeSet<VirtualServer> {
        let used = self.services.iter().filter(|(server, connections)| Self::is_used(server, **connections));
        used.map(|(server, _)| *server).collect()
    }

    /// The addresses that must stay.
    fn used_addresses(&self) -> BTreeSet<IpAddr> {
        self.used().iter().map(|server| server.at.ip()).chain(self.sources.iter().copied()).collect()
    }

    fn state(&self) -> IpvsState {
        let addresses = self.link.as_ref().map(|(_, addresses)| addresses.len());
        IpvsState {
            services: self.services.len(),
            link: addresses,
            sets: self.sets.len(),
            waiting: self.used().iter().map(ToString::to_string).chain(self.waiting_sources()).collect(),
        }
    }

    fn waiting_sources(&self) -> impl Iterator<Item = String> {
        self.sources.iter().map(|source| format!("connections of this node's from {source}"))
    }
}

/// The services that are kube-proxy's: at an address of its link, or at a port of its sets of node ports.
fn own_services(
    all: Vec<VirtualServer>,
    addresses: &[IpNet],
    node_ports: &BTreeSet<u16>,
) -> Vec<VirtualServer> {
    let own = |server: &VirtualServer| {
        addresses.iter().any(|net| net.addr() == server.at.ip()) || node_ports.contains(&server.at.port())
    };
    all.into_iter().filter(own).collect()
}

fn look() -> Result<Found, NetlinkError> {
    let mut found = Found::default();
    let mut rtnl = Rtnl::open()?;
    if let Some(link) = rtnl.link_by_name(names::LINK)? {
        let addresses = rtnl.addresses(Some(link.index))?;
        let global = addresses.iter().filter(|address| address.scope == Scope::Universe);
        found.link = Some((link.index, global.map(|address| address.net).collect()));
    }
    let mut node_ports = BTreeSet::new();
    if let Some(mut sets) = IpSets::open()? {
        for (name, ports) in sets.list()? {
            let Some(short) = names::set(&name) else { continue };
            if short.starts_with(names::NODE_PORT_SETS) {
                node_ports.extend(ports);
            }
            found.sets.insert(name);
        }
    }
    let addresses = found.link.as_ref().map_or(&[][..], |(_, addresses)| addresses);
    if let Some(mut ipvs) = Ipvs::open()? {
        for server in own_services(ipvs.services()?, addresses, &node_ports) {
            found.services.insert(server, ipvs.connections(&server)?);
        }
    }
    if !addresses.is_empty() {
        found.sources = sources(addresses)?;
    }
    Ok(found)
}

/// Which of these addresses established TCP connections of this node's begin from.
fn sources(addresses: &[IpNet]) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let ours: BTreeSet<IpAddr> = addresses.iter().map(IpNet::addr).collect();
    let flows = Conntrack::open()?.list_where(&Filter::protocol(TCP), |flow| {
        let state = flow.tcp_state.and_then(tcp_state_name);
        ours.contains(&flow.original.source) && state == Some("ESTABLISHED")
    })?;
    Ok(flows.into_iter().map(|flow| flow.original.source).collect())
}

pub(super) fn find() -> Result<Option<IpvsState>, LeftoversError> {
    Ok(Some(look()?.state()).filter(IpvsState::is_something))
}

/// Removes what nothing uses, and tells what there was; what is used still, the state's `waiting` tells.
pub(super) fn remove() -> Result<Option<IpvsState>, LeftoversError> {
    let found = look()?;
    let state = found.state();
    if !state.is_something() {
        return Ok(None);
    }
    let used = found.used();
    if let Some(mut ipvs) = Ipvs::open()? {
        for server in found.services.keys().filter(|server| !used.contains(server)) {
            ipvs.delete(server)?;
        }
    }
    if let Some((link, addresses)) = &found.link {
        remove_addresses(*link, addresses, &found.used_addresses())?;
    }
    if let Some(mut sets) = IpSets::open()? {
        // The sets of node ports say which services at the node's own addresses are kube-proxy's.
        let needed = |name: &String| {
            !used.is_empty() && names::set(name).is_some_and(|name| name.starts_with(names::NODE_PORT_SETS))
        };
        for name in found.sets.iter().filter(|name| !needed(name)) {
            sets.destroy(name)?;
        }
    }
    Ok(Some(state))
}

/// Removes the link with all its addresses, or where some are used the others.
fn remove_addresses(link: u32, addresses: &[IpNet], used: &BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
    let mut rtnl = Rtnl::open()?;
    if used.is_empty() {
        rtnl.delete_link(link)?;
        return Ok(());
    }
    let source = own_source(&mut rtnl, link)?;
    for net in addresses {
        let address = net.addr();
        let route = |src| Route {
            dev: Some(link),
            src,
            scope: Scope::Host,
            protocol: KERNEL,
            table: LOCAL_TABLE,
            kind: LOCAL,
            ..Route::to(address.into())
        };
        if !used.contains(&address) {
            rtnl.delete_address(link, *net)?;
            // One that was changed below does not go with its address.
            rtnl.delete_route(&route(None))?;
        } else if let (IpAddr::V4(_), Some(source)) = (address, source) {
            rtnl.replace_route(&route(Some(source)))?;
        }
    }
    Ok(())
}

/// An IPv4 address that the node may call from, one that other machines know: not of a link to a pod.
fn own_source(rtnl: &mut Rtnl, without: u32) -> Result<Option<IpAddr>, NetlinkError> {
    let all = rtnl.addresses(None)?;
    let own = all.iter().filter(|address| address.scope == Scope::Universe && address.index != without);
    let addresses = own.map(|address| address.net).filter(|net| net.addr().is_ipv4());
    Ok(addresses.min_by_key(IpNet::prefix_len).map(|net| net.addr()))
}
