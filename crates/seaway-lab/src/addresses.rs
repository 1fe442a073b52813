//! The address plan: which part of a lab has which address. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::family::{Family, Several};
use crate::file::{Cloud, Egress, Internet, NatGateway};

/// The most nodes that a lab can have: what fits between the eleventh and the last address of a /24.
pub(crate) const MAX_NODES: u16 = 200;

/// The gateway's own addresses on the internet.
pub(crate) const GATEWAY_PUBLIC: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(public_v6(0x1))];

/// An address of 2001:db8:203:113::/64, the cloud's public addresses in IPv6.
const fn public_v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0x113, 0, 0, 0, last)
}

/// A node's place in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// `node-1`, `node-2`, …
    pub name: String,
    /// Its addresses in the cloud network, one of each of the lab's families, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its public addresses, where the cloud gives each node its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public: Vec<IpAddr>,
    /// Its zone, where the lab has zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// Where a node's packets get their public source address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceNat {
    /// The nodes' addresses, all of one family.
    pub nodes: Vec<IpAddr>,
    /// The public addresses of the same family, one of which each connection gets.
    pub addresses: Vec<IpAddr>,
    /// Whether connections from outside to the address reach the node (one-to-one).
    pub inbound: bool,
}

/// The address plan of a lab's cloud. Lists have one entry of each of the lab's families, the primary one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudPlan {
    /// The nodes' networks.
    pub networks: Vec<IpNet>,
    /// The largest packet on them, in bytes.
    pub mtu: u32,
    /// The gateway's addresses in them.
    pub gateways: Vec<IpAddr>,
    /// The gateway's own addresses on the internet.
    pub gateways_public: Vec<IpAddr>,
    /// The control plane's addresses in them.
    pub control_plane: Vec<IpAddr>,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The source address translation at the gateway.
    pub source_nat: Vec<SourceNat>,
}

impl CloudPlan {
    /// Addresses of the cloud with the prefix length of their network.
    pub(crate) fn on_link(&self, addresses: &[IpAddr]) -> Vec<IpNet> {
        let length =
            |address: &IpAddr| self.networks.iter().find(|net| net.contains(address)).map(IpNet::prefix_len);
        addresses.iter().filter_map(|address| IpNet::new(*address, length(address)?).ok()).collect()
    }

    /// The addresses of the n-th node, from 1.
    fn addresses_of(networks: &[IpNet], n: u16) -> Vec<IpAddr> {
        networks.iter().map(|net| nth_readable(net, 10 + n)).collect()
    }

    /// The switch's end of a node's cable; at most 15 bytes, whatever the node is called.
    pub(crate) fn port(&self, node: &NodePlan) -> String {
        let is_its = |n: &u16| Self::addresses_of(&self.networks, *n) == node.addresses;
        format!("vm-{}", (1..=MAX_NODES).find(is_its).unwrap_or_default())
    }

    /// The first number that a new node can have: neither its name nor its addresses are taken.
    fn free(&self, name: Option<&str>, zones: &[String]) -> Option<NodePlan> {
        (1..=MAX_NODES).find_map(|n| {
            let name = name.map_or_else(|| format!("node-{n}"), str::to_owned);
            let addresses = Self::addresses_of(&self.networks, n);
            let taken = self.nodes.iter().any(|node| node.name == name || node.addresses == addresses);
            (!taken).then(|| NodePlan { name, addresses, public: Vec::new(), zone: zone(zones, n) })
        })
    }
}

/// The zone of the n-th node.
fn zone(zones: &[String], n: u16) -> Option<String> {
    (!zones.is_empty()).then(|| zones[usize::from(n - 1) % zones.len()].clone())
}

/// Lays out `count` nodes with addresses of these families, the primary one first.
///
/// # Errors
/// The field of the lab file that names a node which is not there, or that there are too few public addresses.
pub(crate) fn plan(
    cloud: &Cloud,
    internet: &Internet,
    count: u16,
    families: &[Family],
) -> Result<CloudPlan, String> {
    let networks: Vec<IpNet> = families.iter().map(|family| cloud.network_of(*family)).collect();
    let nodes: Vec<NodePlan> = (1..=count)
        .map(|n| NodePlan {
            name: format!("node-{n}"),
            addresses: CloudPlan::addresses_of(&networks, n),
            public: Vec::new(),
            zone: zone(&cloud.zones, n),
        })
        .collect();
    if let Egress::NatGateway { gateways } = &cloud.egress {
        for (i, gateway) in gateways.iter().enumerate() {
            if let Some(name) =
                gateway.nodes.iter().find(|name| !nodes.iter().any(|node| node.name == **name))
            {
                return Err(format!("spec.cloud.egress.gateways[{i}].nodes: there is no node {name:?}"));
            }
        }
    }
    if let Egress::OneToOne { addresses } = &cloud.egress
        && let Some(name) = addresses.keys().find(|name| !nodes.iter().any(|node| node.name == **name))
    {
        return Err(format!("spec.cloud.egress.addresses.{name}: there is no node {name:?}"));
    }
    lay_out(cloud, internet, nodes, networks)
}

/// What is wrong with a new node's name: it is a hostname, and the name of files beside those of the lab's other parts.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_label = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    let is_taken = crate::cloud::RESERVED.contains(&name)
        || ["apiserver", "controllers"].contains(&name)
        || name.starts_with("internet-");
    match (is_label, is_taken) {
        (true, false) => Ok(()),
        (true, true) => Err(format!("{name:?} is the name of another part of the lab")),
        (false, _) => Err(format!(
            "{name:?} is no node's name: use 1 to 63 lower-case letters, digits and '-', with a letter or digit at each end"
        )),
    }
}

/// How many nodes get their part of a network of pods: a /24, or a /64 of an IPv6 one. None where it cannot be split, which the
/// controllers do into 65536 parts at the most.
pub(crate) fn parts(pods: &IpNet) -> u32 {
    let bits = u32::from(part(pods)).checked_sub(pods.prefix_len().into()).filter(|bits| *bits <= 16);
    bits.map_or(0, |bits| 1 << bits)
}

/// The prefix length of a node's part.
pub(crate) fn part(pods: &IpNet) -> u8 {
    if pods.addr().is_ipv4() { 24 } else { 64 }
}

/// Adds a node, at the next free address; called `node-N` where there is no `name`.
///
/// # Errors
/// The name is taken, or nothing is left.
pub(crate) fn with_node(
    plan: &CloudPlan,
    cloud: &Cloud,
    internet: &Internet,
    name: Option<&str>,
) -> Result<(CloudPlan, NodePlan), String> {
    if let Some(name) = name.filter(|name| plan.nodes.iter().any(|node| node.name == *name)) {
        return Err(format!("there is a node {name} already"));
    }
    let full = || format!("the lab has {} nodes, and {MAX_NODES} is the most", plan.nodes.len());
    let mut nodes = plan.nodes.clone();
    nodes.push(plan.free(name, &cloud.zones).ok_or_else(full)?);
    let plan = lay_out(cloud, internet, nodes, plan.networks.clone())?;
    let node = plan.nodes.last().cloned().ok_or_else(full)?;
    Ok((plan, node))
}

/// Leaves a node out.
///
/// # Errors
/// None that the plan did not have before.
pub(crate) fn without_node(
    plan: &CloudPlan,
    cloud: &Cloud,
    internet: &Internet,
    name: &str,
) -> Result<CloudPlan, String> {
    let nodes = plan.nodes.iter().filter(|node| node.name != name).cloned().collect();
    lay_out(cloud, internet, nodes, plan.networks.clone())
}

/// The plan for these nodes, whose public addresses they keep.
fn lay_out(
    cloud: &Cloud,
    internet: &Internet,
    mut nodes: Vec<NodePlan>,
    networks: Vec<IpNet>,
) -> Result<CloudPlan, String> {
    let families: Vec<Family> = networks.iter().map(Family::of_net).collect();
    let families = families.as_slice();
    let at = |n: u16| -> Vec<IpAddr> { networks.iter().map(|net| nth_readable(net, n)).collect() };
    let source_nat = match &cloud.egress {
        Egress::NatGateway { gateways } => nat_gateways(gateways, &nodes, families)?,
        Egress::OneToOne { addresses } => {
            give_public_addresses(&mut nodes, addresses, internet, families)?;
            let own = |node: &NodePlan| {
                let pairs: Vec<_> = node.addresses.iter().copied().zip(node.public.iter().copied()).collect();
                pairs.into_iter().map(|(address, public)| SourceNat {
                    nodes: vec![address],
                    addresses: vec![public],
                    inbound: true,
                })
            };
            nodes.iter().flat_map(own).collect()
        }
    };
    let is_used = |address: &IpAddr| families.contains(&Family::of(*address));
    let mut gateways_public: Vec<IpAddr> = GATEWAY_PUBLIC.into_iter().filter(is_used).collect();
    gateways_public.sort_by_key(|address| families.iter().position(|family| *family == Family::of(*address)));
    Ok(CloudPlan {
        mtu: cloud.mtu,
        gateways: at(1),
        gateways_public,
        control_plane: at(2),
        nodes,
        source_nat,
        networks,
    })
}

/// The n-th address of a network, which people can tell by its last digits in both families: 172.18.0.11 and fd00:172:18::11.
fn nth_readable(network: &IpNet, n: u16) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + u32::from(n)).into(),
        IpAddr::V6(base) => {
            let digits = u128::from_str_radix(&n.to_string(), 16).unwrap_or_default();
            Ipv6Addr::from_bits(base.to_bits() + digits).into()
        }
    }
}

fn nat_gateways(
    gateways: &[NatGateway],
    nodes: &[NodePlan],
    families: &[Family],
) -> Result<Vec<SourceNat>, String> {
    let mut served = BTreeSet::new();
    let mut all = Vec::new();
    for (i, gateway) in gateways.iter().enumerate() {
        let field = format!("spec.cloud.egress.gateways[{i}].nodes");
        let members = members(&gateway.nodes, nodes);
        if let Some(twice) = members.iter().find(|node| !served.insert(&node.name)) {
            return Err(format!(
                "{field}: {} has a gateway already (a gateway without nodes is for all)",
                twice.name
            ));
        }
        for family in families {
            let is_its = |address: &IpAddr| Family::of(*address) == *family;
            let addresses: Vec<IpAddr> = gateway.addresses.iter().copied().filter(is_its).collect();
            if !addresses.is_empty() {
                let nodes = members.iter().flat_map(|node| &node.addresses).copied().filter(is_its).collect();
                all.push(SourceNat { nodes, addresses, inbound: false });
            }
        }
    }
    Ok(all)
}

/// The nodes called `names`, as far as they are there; all where there are no names.
fn members<'a>(names: &[String], nodes: &'a [NodePlan]) -> Vec<&'a NodePlan> {
    nodes.iter().filter(|node| names.is_empty() || names.contains(&node.name)).collect()
}

fn give_public_addresses(
    nodes: &mut [NodePlan],
    wanted: &BTreeMap<String, Several<IpAddr>>,
    internet: &Internet,
    families: &[Family],
) -> Result<(), String> {
    let kept: Vec<IpAddr> = nodes.iter().flat_map(|node| node.public.clone()).collect();
    let taken = |address: &IpAddr| {
        GATEWAY_PUBLIC.contains(address)
            || internet.resolver.contains(address)
            || kept.contains(address)
            || wanted.values().any(|own| own.contains(address))
            || internet.hosts.iter().any(|host| host.addresses.contains(address))
    };
    for family in families {
        let mut free = (11..=254_u16).map(|n| nth_public(*family, n)).filter(|address| !taken(address));
        let has_none = |node: &&mut NodePlan| !node.public.iter().any(|a| Family::of(*a) == *family);
        for node in nodes.iter_mut().filter(has_none) {
            let own = wanted.get(&node.name).and_then(|own| own.iter().find(|a| Family::of(**a) == *family));
            let given = own.copied().or_else(|| free.next());
            node.public.push(given.ok_or("spec.cloud.egress: no public address is left in 203.0.113.0/24")?);
        }
    }
    Ok(())
}

fn nth_public(family: Family, n: u16) -> IpAddr {
    let base: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 0).into(),
        Family::V6 => public_v6(0).into(),
    };
    nth_readable(&IpNet::from(base), n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cloud_has_one_gateway_for_all() {
        let plan = plan(&Cloud::default(), &Internet::default(), 3, &[Family::V4]).unwrap();
        assert_eq!(plan.gateways, [Ipv4Addr::new(172, 18, 0, 1)]);
        assert_eq!(plan.control_plane, [Ipv4Addr::new(172, 18, 0, 2)]);
        let addresses: Vec<_> = plan.nodes.iter().map(|n| n.addresses[0].to_string()).collect();
        assert_eq!(addresses, ["172.18.0.11", "172.18.0.12", "172.18.0.13"]);
        assert_eq!(plan.source_nat.len(), 1);
        assert_eq!(plan.source_nat[0].nodes.len(), 3);
        assert!(!plan.source_nat[0].inbound);
    }

    #[test]
    fn one_to_one_gives_each_node_an_address_of_its_own() {
        let addresses =
            BTreeMap::from([("node-2".to_owned(), vec![Ipv4Addr::new(203, 0, 113, 11).into()].into())]);
        let cloud = Cloud { egress: Egress::OneToOne { addresses }, ..Cloud::default() };
        let plan = plan(&cloud, &Internet::default(), 3, &[Family::V4]).unwrap();
        let public: Vec<_> = plan.nodes.iter().map(|n| n.public[0].to_string()).collect();
        assert_eq!(public, ["203.0.113.12", "203.0.113.11", "203.0.113.13"]);
        assert!(plan.source_nat.iter().all(|nat| nat.inbound && nat.nodes.len() == 1));
    }

    #[test]
    fn a_node_has_to_be_there_and_has_one_gateway() {
        for (nodes, problem) in [
            (&[&["node-9"][..]][..], "gateways[0].nodes: there is no node \"node-9\""),
            (&[&["node-1"], &["node-2", "node-1"]], "gateways[1].nodes: node-1 has a gateway already"),
            (&[&["node-3"], &[]], "gateways[1].nodes: node-3 has a gateway already"),
        ] {
            let gateway = |names: &&[&str]| NatGateway {
                nodes: names.iter().map(|&name| name.to_owned()).collect(),
                addresses: vec![Ipv4Addr::new(203, 0, 113, 5).into()],
            };
            let egress = Egress::NatGateway { gateways: nodes.iter().map(gateway).collect() };
            let cloud = Cloud { egress, ..Cloud::default() };
            let error = plan(&cloud, &Internet::default(), 3, &[Family::V4]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn both_families_are_laid_out_alike() {
        let strings = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cloud = Cloud { zones: vec!["a".into(), "b".into()], ..Cloud::default() };
        let dual = plan(&cloud, &Internet::default(), 3, &Family::BOTH).unwrap();
        assert_eq!(strings(&dual.gateways), ["172.18.0.1", "fd00:172:18::1"]);
        assert_eq!(strings(&dual.nodes[0].addresses), ["172.18.0.11", "fd00:172:18::11"]);
        assert_eq!(dual.source_nat.len(), 2);
        assert_eq!(strings(&dual.source_nat[1].addresses), ["2001:db8:203:113::10"]);
        let on_link = dual.on_link(&dual.nodes[2].addresses);
        assert_eq!(
            on_link.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["172.18.0.13/16", "fd00:172:18::13/64"]
        );
        let zones: Vec<_> = dual.nodes.iter().filter_map(|node| node.zone.as_deref()).collect();
        assert_eq!(zones, ["a", "b", "a"]);

        let egress = Egress::OneToOne { addresses: BTreeMap::new() };
        let six_first = [Family::V6, Family::V4];
        let own = plan(&Cloud { egress, ..Cloud::default() }, &Internet::default(), 2, &six_first).unwrap();
        assert_eq!(strings(&own.nodes[1].addresses), ["fd00:172:18::12", "172.18.0.12"]);
        assert_eq!(strings(&own.nodes[1].public), ["2001:db8:203:113::12", "203.0.113.12"]);
        assert_eq!(strings(&own.gateways_public), ["2001:db8:203:113::1", "203.0.113.1"]);
        assert_eq!(own.source_nat.len(), 4);
    }

    #[test]
    fn nodes_come_and_go() {
        let (cloud, internet) = (Cloud::default(), Internet::default());
        let three = plan(&cloud, &internet, 3, &[Family::V4]).unwrap();
        let (four, node) = with_node(&three, &cloud, &internet, None).unwrap();
        assert_eq!((node.name.as_str(), node.addresses[0]), ("node-4", IpAddr::from([172, 18, 0, 14])));
        assert_eq!(four.source_nat[0].nodes.len(), 4, "a gateway for all is for this one too");
        let less = without_node(&four, &cloud, &internet, "node-2").unwrap();
        let (_, again) = with_node(&less, &cloud, &internet, None).unwrap();
        assert_eq!((again.name.as_str(), again.addresses[0]), ("node-2", IpAddr::from([172, 18, 0, 12])));
        let (_, named) = with_node(&less, &cloud, &internet, Some("big")).unwrap();
        assert_eq!((named.name.as_str(), named.addresses[0]), ("big", IpAddr::from([172, 18, 0, 12])));
        assert!(with_node(&three, &cloud, &internet, Some("node-1")).unwrap_err().contains("already"));
        let all = plan(&cloud, &internet, MAX_NODES, &[Family::V4]).unwrap();
        assert!(with_node(&all, &cloud, &internet, None).unwrap_err().contains("200 is the most"));
    }

    #[test]
    fn nodes_keep_their_public_address() {
        let cloud = Cloud { egress: Egress::OneToOne { addresses: BTreeMap::new() }, ..Cloud::default() };
        let internet = Internet::default();
        let three = plan(&cloud, &internet, 3, &[Family::V4]).unwrap();
        let less = without_node(&three, &cloud, &internet, "node-1").unwrap();
        let (_, big) = with_node(&less, &cloud, &internet, Some("big")).unwrap();
        assert_eq!(big.public, three.nodes[0].public, "the lowest free one");
        let public =
            |plan: &CloudPlan| plan.nodes.iter().find(|n| n.name == "node-3").unwrap().public.clone();
        assert_eq!(public(&less), public(&three));
    }
}
