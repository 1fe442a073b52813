//! The address plan: which part of a lab has which address. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::file::{Cloud, Egress, Internet, NatGateway};

/// The most nodes that a lab can have: what fits between the eleventh and the last address of a /24.
pub(crate) const MAX_NODES: u16 = 200;

/// The gateway's own address on the internet.
pub(crate) const GATEWAY_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// A node's place in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// `node-1`, `node-2`, …
    pub name: String,
    /// Its address in the cloud network.
    pub address: Ipv4Addr,
    /// Its public address, where the cloud gives each node one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<Ipv4Addr>,
}

/// Where a node's packets get their public source address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceNat {
    /// The nodes' addresses.
    pub nodes: Vec<Ipv4Addr>,
    /// The public addresses, one of which each connection gets.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether connections from outside to the address reach the node (one-to-one).
    pub inbound: bool,
}

/// The address plan of a lab's cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudPlan {
    /// The nodes' network.
    pub network: Ipv4Net,
    /// The largest packet on it, in bytes.
    pub mtu: u32,
    /// The gateway's address in it.
    pub gateway: Ipv4Addr,
    /// The gateway's own address on the internet.
    pub gateway_public: Ipv4Addr,
    /// The control plane's address in it.
    pub control_plane: Ipv4Addr,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// The source address translation at the gateway.
    pub source_nat: Vec<SourceNat>,
}

/// Lays out `count` nodes.
///
/// # Errors
/// The field of the lab file that names a node which is not there, or that there are too few public addresses.
pub(crate) fn plan(cloud: &Cloud, internet: &Internet, count: u16) -> Result<CloudPlan, String> {
    let at = |n: u32| Ipv4Addr::from(u32::from(cloud.network.network()) + n);
    let mut nodes: Vec<NodePlan> = (1..=count)
        .map(|n| NodePlan { name: format!("node-{n}"), address: at(10 + u32::from(n)), public: None })
        .collect();
    let source_nat = match &cloud.egress {
        Egress::NatGateway { gateways } => nat_gateways(gateways, &nodes)?,
        Egress::OneToOne { addresses } => {
            give_public_addresses(&mut nodes, addresses, internet)?;
            let one = |node: &NodePlan| {
                node.public.map(|public| SourceNat {
                    nodes: vec![node.address],
                    addresses: vec![public],
                    inbound: true,
                })
            };
            nodes.iter().filter_map(one).collect()
        }
    };
    Ok(CloudPlan {
        network: cloud.network,
        mtu: cloud.mtu,
        gateway: at(1),
        gateway_public: GATEWAY_PUBLIC,
        control_plane: at(2),
        nodes,
        source_nat,
    })
}

fn nat_gateways(gateways: &[NatGateway], nodes: &[NodePlan]) -> Result<Vec<SourceNat>, String> {
    let mut served = BTreeSet::new();
    let mut all = Vec::new();
    for (i, gateway) in gateways.iter().enumerate() {
        let field = format!("spec.cloud.egress.gateways[{i}].nodes");
        let members =
            members(&gateway.nodes, nodes).map_err(|node| format!("{field}: there is no node {node:?}"))?;
        if let Some(twice) = members.iter().find(|address| !served.insert(**address)) {
            let node = nodes.iter().find(|node| node.address == *twice).map_or("", |node| &node.name);
            return Err(format!(
                "{field}: {node} has a gateway already (a gateway without nodes is for all)"
            ));
        }
        all.push(SourceNat { nodes: members, addresses: gateway.addresses.clone(), inbound: false });
    }
    Ok(all)
}

/// The addresses of the nodes called `names`, of all where there are none; or the name that is not there.
fn members(names: &[String], nodes: &[NodePlan]) -> Result<Vec<Ipv4Addr>, String> {
    if names.is_empty() {
        return Ok(nodes.iter().map(|node| node.address).collect());
    }
    names
        .iter()
        .map(|name| {
            nodes.iter().find(|node| node.name == *name).map(|node| node.address).ok_or_else(|| name.clone())
        })
        .collect()
}

fn give_public_addresses(
    nodes: &mut [NodePlan],
    wanted: &BTreeMap<String, Ipv4Addr>,
    internet: &Internet,
) -> Result<(), String> {
    if let Some(name) = wanted.keys().find(|name| !nodes.iter().any(|node| node.name == **name)) {
        return Err(format!("spec.cloud.egress.addresses.{name}: there is no node {name:?}"));
    }
    let taken = |address: &Ipv4Addr| {
        *address == GATEWAY_PUBLIC
            || *address == internet.resolver
            || wanted.values().any(|a| a == address)
            || internet.hosts.iter().any(|host| host.addresses.contains(address))
    };
    let mut free = (11..=254).map(|n| Ipv4Addr::new(203, 0, 113, n)).filter(|address| !taken(address));
    for node in nodes {
        node.public = match wanted.get(&node.name) {
            Some(address) => Some(*address),
            None => {
                Some(free.next().ok_or("spec.cloud.egress: no public address is left in 203.0.113.0/24")?)
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cloud_has_one_gateway_for_all() {
        let plan = plan(&Cloud::default(), &Internet::default(), 3).unwrap();
        assert_eq!(plan.gateway, Ipv4Addr::new(172, 18, 0, 1));
        assert_eq!(plan.control_plane, Ipv4Addr::new(172, 18, 0, 2));
        let addresses: Vec<_> = plan.nodes.iter().map(|n| n.address.to_string()).collect();
        assert_eq!(addresses, ["172.18.0.11", "172.18.0.12", "172.18.0.13"]);
        assert_eq!(plan.source_nat.len(), 1);
        assert_eq!(plan.source_nat[0].nodes.len(), 3);
        assert!(!plan.source_nat[0].inbound);
    }

    #[test]
    fn one_to_one_gives_each_node_an_address_of_its_own() {
        let addresses = BTreeMap::from([("node-2".to_owned(), Ipv4Addr::new(203, 0, 113, 11))]);
        let cloud = Cloud { egress: Egress::OneToOne { addresses }, ..Cloud::default() };
        let plan = plan(&cloud, &Internet::default(), 3).unwrap();
        let public: Vec<_> = plan.nodes.iter().map(|n| n.public.unwrap().to_string()).collect();
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
                addresses: vec![Ipv4Addr::new(203, 0, 113, 5)],
            };
            let egress = Egress::NatGateway { gateways: nodes.iter().map(gateway).collect() };
            let error = plan(&Cloud { egress, ..Cloud::default() }, &Internet::default(), 3).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
