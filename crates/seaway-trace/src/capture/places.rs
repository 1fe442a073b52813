//! Where to capture, and what the links there are called.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, bail};
use seaway_lab::{Lab, Place};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{RouteFilter, Rtnl};

/// Whose packets are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Of an address, everywhere.
    Address(IpAddr),
    /// Of the place with this label.
    Place(String),
}

/// What TARGET means.
pub(super) fn target(text: &str, lab: &Lab) -> anyhow::Result<Target> {
    if let Ok(address) = text.parse() {
        return Ok(Target::Address(address));
    }
    let is_place = text == "gateway" || text.starts_with("node/") || text.starts_with("internet/");
    if is_place {
        if lab.place(text).is_some() {
            return Ok(Target::Place(text.to_owned()));
        }
        let all = lab.places.iter().filter(|place| is_observed(place)).map(|place| place.label.as_str());
        bail!("there is no {text}; there are: {}", all.collect::<Vec<_>>().join(", "));
    }
    let Some((namespace, name)) = text.split_once('/') else {
        bail!("{text:?}: give a pod as NAMESPACE/NAME, an address, node/NAME, internet/HOST or gateway");
    };
    let Some(place) = lab.pod(namespace, name) else {
        let pods =
            lab.places.iter().filter_map(|place| Some(place.label.strip_prefix("pod/")?.rsplit_once('/')?.0));
        bail!("pod {text} does not run; there are: {}", pods.collect::<Vec<_>>().join(", "));
    };
    let address = address_of(place.pid).with_context(|| format!("read the address of pod {text}"))?;
    address.map(Target::Address).with_context(|| format!("pod {text} has no address of its own"))
}

/// The first address of eth0 in a process's network namespace.
fn address_of(pid: i32) -> anyhow::Result<Option<IpAddr>> {
    let mut rtnl = Rtnl::open_in(&NetNs::of_process(pid)?)?;
    let Some(link) = rtnl.link_by_name("eth0")? else { return Ok(None) };
    let addresses = rtnl.addresses(Some(link.index))?;
    Ok(addresses.iter().map(|address| address.net.addr()).find(IpAddr::is_ipv4))
}

fn is_observed(place: &Place) -> bool {
    let label = &place.label;
    label == "gateway"
        || label.starts_with("internet/")
        || label.strip_prefix("node/").is_some_and(|node| !node.contains('/'))
}

/// The places whose observers are asked.
pub(super) fn observed<'a>(lab: &'a Lab, target: &Target) -> Vec<&'a Place> {
    let wanted = |place: &&Place| match target {
        Target::Address(_) => is_observed(place),
        Target::Place(label) => place.label == *label,
    };
    lab.places.iter().filter(wanted).collect()
}

/// Which pod is behind a node's link.
#[derive(Default)]
pub(super) struct Links {
    pods: HashMap<(String, String), String>,
}

impl Links {
    /// `node-1/eth0`; `node-1/sw0123456789(default/app)` for a pod's.
    pub(super) fn name(&self, place: &str, link: &str) -> String {
        match self.pods.get(&(place.to_owned(), link.to_owned())) {
            Some(pod) => format!("{place}/{link}({pod})"),
            None => format!("{place}/{link}"),
        }
    }
}

/// Finds the pods' links by the routes of the nodes; what cannot be read is not named.
pub(super) fn links(lab: &Lab) -> Links {
    let mut pods = HashMap::new();
    for place in &lab.places {
        let pod = place.label.strip_prefix("pod/").and_then(|label| Some(label.rsplit_once('/')?.0));
        if let (Some(pod), Ok(Some(address))) = (pod, address_of(place.pid)) {
            pods.insert(address, pod.to_owned());
        }
    }
    let mut links = Links::default();
    for place in &lab.places {
        let node = place.label.strip_prefix("node/").filter(|node| !node.contains('/'));
        if let Some(node) = node
            && let Ok(routes) = routes(place.pid)
        {
            let named = routes
                .into_iter()
                .filter_map(|(address, link)| Some(((node.to_owned(), link), pods.get(&address)?.clone())));
            links.pods.extend(named);
        }
    }
    links
}

/// The routes to single addresses, each with its link's name.
fn routes(pid: i32) -> anyhow::Result<Vec<(IpAddr, String)>> {
    let mut rtnl = Rtnl::open_in(&NetNs::of_process(pid)?)?;
    let names: HashMap<u32, String> = rtnl.links()?.into_iter().map(|link| (link.index, link.name)).collect();
    let table = Some(seaway_net::rtnl::MAIN_TABLE);
    let routes = rtnl.routes(RouteFilter { table, ..RouteFilter::default() })?;
    let single = routes.into_iter().filter(|route| route.dst.prefix_len() == route.dst.max_prefix_len());
    Ok(single.filter_map(|route| Some((route.dst.addr(), names.get(&route.dev?)?.clone()))).collect())
}
