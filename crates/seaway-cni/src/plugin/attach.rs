//! Joining a pod to its node, and parting them.
//!
//! A veth pair, point to point. In the pod: the address as a host prefix, the gateway 169.254.1.1 (fe80::1)
//! as a permanent neighbour with the node end's Ethernet address, and the default route through it. On the
//! node: a route to the address and the pod's Ethernet address as a permanent neighbour. So nobody ever asks
//! for an Ethernet address, and pods of a node do not see each other's frames.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use seaway_model::{MacAddr, stable_hash};
use seaway_net::netlink::NetlinkError;
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Route, Rtnl, Scope, VethSpec};
use seaway_net::sysctl;

use super::result::gateway;
use super::{CniError, Code, Request};
use crate::POD_ROUTE_PROTOCOL;
use crate::ipam::{Ipam, Owner};

/// How long the kernel may take to see that both ends are up; it says itself, at most a second.
const CARRIER_PATIENCE: Duration = Duration::from_secs(2);

/// A pod's attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The node's end.
    pub host_interface: String,
    /// Its Ethernet address.
    pub host_mac: MacAddr,
    /// The pod end's Ethernet address.
    pub pod_mac: MacAddr,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// The name of the node's end: `sw` and 10 hex digits that follow from container and interface.
pub fn host_interface(container: &str, ifname: &str) -> String {
    format!("sw{:010x}", stable_hash(&["pod", container, ifname]) >> 24)
}

/// ADD: all or nothing.
pub fn add(request: &Request) -> Result<Attached, CniError> {
    let path = request.netns.as_deref().unwrap_or_default();
    let pod_ns = NetNs::open(path).map_err(|error| {
        let text = format!("container {}: cannot open network namespace {path}: {error}", request.container);
        CniError::new(Code::UnknownContainer, text)
    })?;
    let Request { container, ifname, config, .. } = request;
    let ipam = Ipam::new(&config.ipam.data_dir, &config.name);
    let owner = Owner { container: container.clone(), ifname: ifname.clone(), netns: path.to_owned() };
    let attached = Attached {
        host_interface: host_interface(container, ifname),
        host_mac: MacAddr::derived(&["node end", container, ifname]),
        pod_mac: MacAddr::derived(&["pod end", container, ifname]),
        addresses: ipam.allocate(&config.ipam.ranges, &owner)?,
    };
    match connect(request, &attached, &pod_ns) {
        Ok(()) => Ok(attached),
        Err(error) => {
            // With the link go its routes and neighbours. What can't be undone, the runtime's DEL will.
            if !error.already_exists {
                let _ = Rtnl::open().and_then(|mut rtnl| rtnl.delete_link_by_name(&attached.host_interface));
            }
            let _ = ipam.release(container, ifname);
            Err(error.error)
        }
    }
}

/// DEL: takes away what is there; nothing is no error.
pub fn del(request: &Request) -> Result<(), CniError> {
    // The link first: an address must not be given away while it still leads to the old pod.
    Rtnl::open()?.delete_link_by_name(&host_interface(&request.container, &request.ifname))?;
    let ipam = &request.config.ipam;
    Ipam::new(&ipam.data_dir, &request.config.name).release(&request.container, &request.ifname)?;
    Ok(())
}

/// An error of [`connect`], and whether the link that it is about is another attachment's.
struct ConnectError {
    error: CniError,
    already_exists: bool,
}

impl<E: Into<CniError>> From<E> for ConnectError {
    fn from(error: E) -> Self {
        Self { error: error.into(), already_exists: false }
    }
}

fn connect(request: &Request, attached: &Attached, pod_ns: &NetNs) -> Result<(), ConnectError> {
    let mut node = Rtnl::open()?;
    let spec = VethSpec {
        name: &attached.host_interface,
        mac: Some(attached.host_mac.0),
        peer_name: &request.ifname,
        peer_ns: Some(pod_ns),
        peer_mac: Some(attached.pod_mac.0),
        mtu: request.config.mtu,
        up: false,
    };
    node.add_veth_pair(&spec).map_err(|error| {
        // The kernel says the same of either end's name; the node's is another pod's only where the hashes
        // collide.
        let already_exists = error.already_exists();
        ConnectError { error: error.into(), already_exists }
    })?;
    let mut pod = Rtnl::open_in(pod_ns)?;
    let index = index_of(&mut pod, &request.ifname)?;
    set_up_pod(&mut pod, index, attached)?;
    set_up_node(&mut node, attached)?;
    // The pod may send as soon as ADD returns. Where it still cannot, its first packets are lost and nothing
    // else.
    pod.await_operational(index, CARRIER_PATIENCE)?;
    Ok(())
}

fn set_up_pod(pod: &mut Rtnl, index: u32, attached: &Attached) -> Result<(), CniError> {
    for &address in &attached.addresses {
        pod.add_address(index, address.into())?;
    }
    pod.set_up(index)?;
    for address in &attached.addresses {
        let v4 = address.is_ipv4();
        let gateway = gateway(v4);
        pod.replace_neighbor(index, gateway, attached.host_mac.0)?;
        if v4 {
            pod.replace_route(&Route { dev: Some(index), scope: Scope::Link, ..Route::to(gateway.into()) })?;
        }
        let everything = if v4 { Ipv4Net::default().into() } else { Ipv6Net::default().into() };
        pod.replace_route(&Route {
            via: Some(gateway),
            dev: Some(index),
            onlink: v4,
            ..Route::to(everything)
        })?;
    }
    Ok(())
}

fn set_up_node(node: &mut Rtnl, attached: &Attached) -> Result<(), CniError> {
    let name = &attached.host_interface;
    let index = index_of(node, name)?;
    let has = |v4: bool| attached.addresses.iter().any(|address| address.is_ipv4() == v4);
    if has(true) {
        // Strict where the node allows it (the kernel takes the larger of this and conf/all): a pod sends
        // from its own address alone.
        sysctl::set(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
        sysctl::set(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
    }
    // Without IPv6 pods the end needs no address of its own, nor the traffic that getting one makes. Absent:
    // IPv6 is off.
    let _ = sysctl::set(&format!("net/ipv6/conf/{name}/disable_ipv6"), if has(false) { "0" } else { "1" });
    node.set_up(index)?;
    for &address in &attached.addresses {
        node.replace_neighbor(index, address, attached.pod_mac.0)?;
        let scope = if address.is_ipv4() { Scope::Link } else { Scope::Universe };
        let route =
            Route { dev: Some(index), scope, protocol: POD_ROUTE_PROTOCOL, ..Route::to(address.into()) };
        node.replace_route(&route)?;
    }
    Ok(())
}

fn index_of(rtnl: &mut Rtnl, name: &str) -> Result<u32, NetlinkError> {
    let link = rtnl.link_by_name(name)?;
    link.map(|link| link.index).ok_or_else(|| NetlinkError::Malformed {
        operation: format!("find link {name}"),
        detail: "it vanished right after it was made".to_owned(),
    })
}
