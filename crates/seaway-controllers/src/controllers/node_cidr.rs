//! Gives each node its part of the pod networks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::error::Error;
use crate::meta::deleting;
use crate::object::{Action, Notice, NoticeKind, Part, Target};

/// One pod network and the size of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The network.
    network: IpNet,
    /// Prefix length of a part.
    part: u8,
}

/// The flag that the networks come from.
const FLAG: &str = "--cluster-cidr";

impl Pool {
    /// Checks the pair.
    pub fn new(network: IpNet, part: u8) -> Result<Self, Error> {
        let reason = if part < network.prefix_len() || part > network.max_prefix_len() {
            format!(
                "{network} cannot be split into networks of /{part}; give a node mask size from {} to {}",
                network.prefix_len(),
                network.max_prefix_len()
            )
        } else if part - network.prefix_len() > 16 {
            format!("{network} would split into more than 65536 networks of /{part}; give a larger node mask")
        } else {
            return Ok(Self { network: network.trunc(), part });
        };
        Err(Error::Flag { flag: FLAG, reason })
    }

    /// The pools of these networks: one of each family at most.
    pub fn all(networks: &[IpNet], part_v4: u8, part_v6: u8) -> Result<Vec<Self>, Error> {
        let v6 = |network: &IpNet| matches!(network, IpNet::V6(_));
        if networks.len() > 2 || (networks.len() == 2 && v6(&networks[0]) == v6(&networks[1])) {
            let reason = "takes one network, or one of each family".to_owned();
            return Err(Error::Flag { flag: FLAG, reason });
        }
        networks.iter().map(|n| Self::new(*n, if v6(n) { part_v6 } else { part_v4 })).collect()
    }

    /// The first part that overlaps none of `used`; `None` if all are taken.
    fn first_free(&self, used: &BTreeSet<IpNet>) -> Option<IpNet> {
        let parts = 1u32 << (self.part - self.network.prefix_len());
        (0..parts).filter_map(|number| self.nth(number)).find(|part| {
            !used.contains(part) && !used.iter().any(|other| other.contains(part) || part.contains(other))
        })
    }

    fn nth(&self, number: u32) -> Option<IpNet> {
        let shift = u32::from(self.network.max_prefix_len() - self.part);
        match self.network.addr() {
            IpAddr::V4(base) => {
                let address = u32::from(base) | number.checked_shl(shift).unwrap_or(0);
                Ipv4Net::new(address.into(), self.part).ok().map(IpNet::V4)
            }
            IpAddr::V6(base) => {
                let address = u128::from(base) | u128::from(number).checked_shl(shift).unwrap_or(0);
                Ipv6Net::new(address.into(), self.part).ok().map(IpNet::V6)
            }
        }
    }
}

/// The parts that a node has.
fn parts_of(node: &Node) -> impl Iterator<Item = IpNet> {
    let spec = node.spec.iter();
    let all = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|text| text.parse().ok())
}

/// Decides whether the node gets its parts. `others` are all nodes; what they have stays theirs.
pub fn decide<'a>(node: &Node, others: impl Iterator<Item = &'a Node>, pools: &[Pool]) -> Option<Action> {
    let has = node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.as_ref().is_some_and(|c| !c.is_empty()));
    if pools.is_empty() || has || deleting(node) {
        return None;
    }
    let used: BTreeSet<IpNet> = others.flat_map(parts_of).collect();
    let parts: Option<Vec<IpNet>> = pools.iter().map(|pool| pool.first_free(&used)).collect();
    let Some(parts) = parts else {
        let message = "Node got no pod CIDR: the cluster CIDR is used up".to_owned();
        return Some(Action::Notify(Notice::new(
            node,
            NoticeKind::Warning,
            "node-ipam-controller",
            "CIDRNotAvailable",
            message,
        )));
    };
    let patch = json!({"spec": {"podCIDR": parts[0], "podCIDRs": parts}});
    Some(Action::Patch(Target::unchanged(node), Part::Main, patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSpec;

    fn node(cidrs: &[&str]) -> Node {
        Node {
            spec: Some(NodeSpec {
                pod_cidr: cidrs.first().map(|c| (*c).into()),
                pod_cidrs: Some(cidrs.iter().map(|c| (*c).into()).collect()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pools(networks: &[&str], part: u8) -> Vec<Pool> {
        let networks: Vec<IpNet> = networks.iter().map(|n| n.parse().unwrap()).collect();
        Pool::all(&networks, part, 64).unwrap()
    }

    fn given(others: &[Node], pools: &[Pool]) -> Vec<String> {
        match decide(&node(&[]), others.iter(), pools) {
            Some(Action::Patch(_, _, patch)) => {
                assert_eq!(patch["spec"]["podCIDR"], patch["spec"]["podCIDRs"][0]);
                serde_json::from_value(patch["spec"]["podCIDRs"].clone()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_free_part() {
        let pools = pools(&["10.244.0.0/16"], 24);
        assert_eq!(given(&[], &pools), ["10.244.0.0/24"]);
        let others = [node(&["10.244.0.0/24"]), node(&["10.244.2.0/24"])];
        assert_eq!(given(&others, &pools), ["10.244.1.0/24"]);
        let others = [node(&["10.244.0.0/22"])];
        assert_eq!(given(&others, &pools), ["10.244.4.0/24"], "of another size, from another time");
        assert_eq!(decide(&node(&["10.244.7.0/24"]), [].iter(), &pools), None, "what it has it keeps");
    }

    #[test]
    fn two_families() {
        let pools = pools(&["10.244.0.0/16", "fd00:10:244::/56"], 24);
        let others = [node(&["10.244.0.0/24", "fd00:10:244::/64"])];
        assert_eq!(given(&others, &pools), ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    }

    #[test]
    fn used_up() {
        let pools = pools(&["10.244.0.0/23"], 24);
        let others = [node(&["10.244.0.0/24"]), node(&["10.244.1.0/24"])];
        assert!(matches!(decide(&node(&[]), others.iter(), &pools), Some(Action::Notify(_))));
    }

    #[test]
    fn flags_that_make_no_sense() {
        for (networks, part) in [
            (vec!["10.244.0.0/16"], 8),
            (vec!["10.244.0.0/16"], 33),
            (vec!["10.0.0.0/8"], 28),
            (vec!["10.244.0.0/16", "10.245.0.0/16"], 24),
        ] {
            let parsed: Vec<IpNet> = networks.iter().map(|n| n.parse().unwrap()).collect();
            assert!(Pool::all(&parsed, part, 64).is_err(), "{networks:?} {part}");
        }
    }
}
