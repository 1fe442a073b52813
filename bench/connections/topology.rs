//! A client, a node that forwards, and a server.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Route, Rtnl, Scope};
use seaway_net::sysctl;

use crate::cluster::PORT;

/// The client's address, from the pod network: nothing is masqueraded.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// Connections that wait for the server: a turn's, as many as a namespace allows.
const BACKLOG: i32 = 4096;
/// The node's address on both links.
const NODE: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The namespaces; the server listens for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) client: NetNs,
    pub(crate) node: NetNs,
}

impl Topology {
    /// With a server at `server`.
    pub(crate) fn new(server: Ipv4Addr) -> anyhow::Result<Self> {
        let node = NetNs::new().context("making a network namespace needs root")?;
        node.run(|| {
            sysctl::set("net/ipv4/ip_forward", "1")?;
            sysctl::set("net/ipv4/conf/all/rp_filter", "0")
        })??;
        let client = pod(&node, "client", CLIENT)?;
        let namespace = pod(&node, "server", server)?;
        let listener = namespace.run(|| TcpListener::bind((server, PORT)))??;
        // A SYN that finds the queue full is sent again after a second.
        rustix::net::listen(&listener, BACKLOG)?;
        thread::Builder::new().name("server".to_owned()).spawn(move || {
            // The namespace lives as long as its listener.
            let _namespace = namespace;
            for stream in listener.incoming() {
                drop(stream);
            }
        })?;
        Ok(Self { client, node })
    }
}

/// A namespace with `address`, behind the node.
fn pod(node: &NetNs, name: &str, address: Ipv4Addr) -> anyhow::Result<NetNs> {
    let pod = NetNs::new()?;
    let host = |address: Ipv4Addr| IpNet::V4(Ipv4Net::from(address));
    let mut outside = Rtnl::open_in(node)?;
    outside.add_veth(name, "eth0", Some(&pod), None)?;
    let link = outside.link_by_name(name)?.context("the node's link")?.index;
    outside.add_address(link, host(NODE))?;
    outside.set_up(link)?;
    outside.add_route(&Route { dev: Some(link), scope: Scope::Link, ..Route::to(host(address)) })?;
    let mut inside = Rtnl::open_in(&pod)?;
    let eth0 = inside.link_by_name("eth0")?.context("the pod's link")?.index;
    inside.add_address(eth0, host(address))?;
    inside.set_up(eth0)?;
    inside.add_route(&Route { dev: Some(eth0), scope: Scope::Link, ..Route::to(host(NODE)) })?;
    let everywhere = IpNet::V4(Ipv4Net::default());
    inside.add_route(&Route { via: Some(IpAddr::V4(NODE)), dev: Some(eth0), ..Route::to(everywhere) })?;
    Ok(pod)
}
