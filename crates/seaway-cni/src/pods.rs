//! The links of this node's pods beside what the plugin noted when it made them. Nothing mends these: a pod that lost its
//! link has to be made anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use seaway_model::{Difference, PlanPart};
use seaway_net::netlink::NetlinkError;
use seaway_net::rtnl::{Link, MAIN_TABLE, Neighbor, Route, RouteFilter, Rtnl};
use seaway_net::sysctl;

use crate::POD_ROUTE_PROTOCOL;
use crate::files::NETWORK_NAME;
use crate::ipam::{Ipam, IpamError, Owner};
use crate::overlay::way;
use crate::plugin::host_interface;

/// Why the pods' links could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// The notes could not be read.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The kernel could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The node's ends of its pods' links by the pods' addresses, as the plugin noted them below `data_dir`.
///
/// # Errors
/// The notes cannot be read.
pub fn links(data_dir: &Path) -> Result<BTreeMap<IpAddr, String>, PodsError> {
    if !data_dir.join(NETWORK_NAME).is_dir() {
        return Ok(BTreeMap::new());
    }
    let owners = Ipam::new(data_dir, NETWORK_NAME).owners()?;
    let link = |(address, owner): (IpAddr, Owner)| (address, host_interface(&owner.container, &owner.ifname));
    Ok(owners.into_iter().map(link).collect())
}

/// What is not as the plugin made it, for the pods noted below `data_dir`. `mtu` is what pods get at present.
pub fn differences(data_dir: &Path, mtu: u32) -> Result<Vec<Difference>, PodsError> {
    let noted = links(data_dir)?;
    if noted.is_empty() {
        return Ok(Vec::new());
    }
    let mut rtnl = Rtnl::open()?;
    let links: BTreeMap<String, Link> =
        rtnl.links()?.into_iter().map(|link| (link.name.clone(), link)).collect();
    let kernel = Kernel {
        links,
        routes: rtnl.routes(RouteFilter { table: Some(MAIN_TABLE), ..RouteFilter::default() })?,
        neighbors: rtnl.neighbors(None)?,
    };
    Ok(noted.iter().flat_map(|(address, link)| kernel.of_pod(*address, link, mtu)).collect())
}

struct Kernel {
    links: BTreeMap<String, Link>,
    routes: Vec<Route>,
    neighbors: Vec<Neighbor>,
}

impl Kernel {
    fn of_pod(&self, address: IpAddr, name: &str, mtu: u32) -> Vec<Difference> {
        let mut told = Vec::new();
        let mut tell = |what: &str, kernel: String, planned: String, actual: Option<String>| {
            told.push(Difference {
                part: PlanPart::Pods,
                object: format!("pod {address}"),
                address: None,
                what: what.to_owned(),
                kernel,
                planned: Some(planned),
                actual,
            });
        };
        let Some(link) = self.links.get(name) else {
            tell("the pod's link is missing", format!("link {name}"), name.to_owned(), None);
            return told;
        };
        if !link.up {
            tell("the pod's link is down", format!("link {name}"), "up".into(), Some("down".into()));
        }
        if link.mtu != mtu {
            let text = |mtu: u32| format!("mtu {mtu}");
            let what = "the MTU of the pod's link is not the one that new pods get";
            tell(what, format!("link {name}"), text(mtu), Some(text(link.mtu)));
        }
        let to_pod = |route: &&Route| route.dst == address.into();
        let ours = |route: &Route| route.protocol == POD_ROUTE_PROTOCOL && route.dev == Some(link.index);
        if !self.routes.iter().filter(to_pod).any(ours) {
            let by_index =
                |index| self.links.values().find(|link| link.index == index).map(|link| link.name.clone());
            let actual = self.routes.iter().find(to_pod).map(|route| way(route, by_index));
            tell(
                "the route to the pod is missing or leads elsewhere",
                format!("route {address}"),
                format!("dev {name}"),
                actual,
            );
        }
        let permanent =
            |entry: &&Neighbor| entry.index == link.index && entry.ip == address && entry.permanent;
        if !self.neighbors.iter().any(|entry| permanent(&entry)) {
            let kernel = format!("neighbour {address} dev {name}");
            tell("the pod's Ethernet address is not noted", kernel, "a permanent neighbour".into(), None);
        }
        let parameter = format!("net/ipv4/conf/{name}/rp_filter");
        if address.is_ipv4()
            && let Ok(value) = sysctl::get(&parameter)
            && value != "1"
        {
            let kernel = format!("sysctl {}", parameter.replace('/', "."));
            tell("the pod may send from addresses that are not its own", kernel, "1".into(), Some(value));
        }
        told
    }
}
