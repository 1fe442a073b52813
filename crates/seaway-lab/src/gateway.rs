//! The cloud's router: it gives nodes their public source addresses, and drops what does not come from a node.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use anyhow::Context;
use ipnet::Ipv6Net;
use seaway_net::nft::{
    Chain, ChainKind, Element, Family, Field, Hook, Kernel, NatFlags, NatKind, NatTarget, Nft, Rule, Set,
    SetSpec, Statement, Table, Transaction, Value, priority,
};
use seaway_net::sysctl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::addresses::{CloudPlan, SourceNat};
use crate::cloud::CloudState;
use crate::family;
use crate::observer;

/// The table's name, in the gateway's own network namespace.
const TABLE: &str = "seaway-gateway";
/// The interface to the nodes.
const CLOUD: &str = "eth0";

/// Programs the kernel, now and each time that SIGHUP says that the cloud has changed, and tells those who ask what goes through.
pub(crate) async fn run(folder: &Path) -> anyhow::Result<()> {
    // Before the first look, so that no change is missed.
    let mut changes = signal(SignalKind::hangup())?;
    let (tell, plan) = watch::channel(program(folder)?);
    let follow = async {
        while changes.recv().await.is_some() {
            match program(folder) {
                Ok(plan) => drop(tell.send_replace(plan)),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the cloud has changed, the rules have not")
                }
            }
        }
    };
    tokio::select! {
        served = observer::serve(move || plan.borrow().clone()) => served,
        () = follow => Ok(()),
    }
}

/// Makes the kernel's rules those of the cloud's plan.
fn program(folder: &Path) -> anyhow::Result<CloudPlan> {
    let state = CloudState::read(folder)?;
    let plan = state.with_context(|| format!("there is no plan in {}", folder.display()))?.plan;
    let mut kernel = Kernel::open()?;
    for side in sides(&plan) {
        let parameter = match side.family {
            Family::Ip6 => "net/ipv6/conf/all/forwarding",
            _ => "net/ipv4/ip_forward",
        };
        sysctl::set(parameter, "1").context("cannot switch forwarding on")?;
        kernel.commit(&Transaction::replace(&side.table()))?;
    }
    tracing::info!(nodes = plan.nodes.len(), "gateway works");
    Ok(plan)
}

fn sides(plan: &CloudPlan) -> impl Iterator<Item = Side<'_>> {
    plan.networks.iter().map(|network| Side::new(plan, family::Family::of_net(network)))
}

/// What the gateway does in one IP family.
struct Side<'a> {
    family: Family,
    source: Field,
    destination: Field,
    /// The addresses that packets may come from.
    nodes: Vec<IpAddr>,
    source_nat: Vec<&'a SourceNat>,
}

impl<'a> Side<'a> {
    fn new(plan: &'a CloudPlan, of: family::Family) -> Self {
        let is_its = |address: &IpAddr| family::Family::of(*address) == of;
        let nodes = plan.nodes.iter().flat_map(|node| &node.addresses).chain(&plan.control_plane);
        let (family, source, destination) = match of {
            family::Family::V4 => (Family::Ip, Field::IpSaddr, Field::IpDaddr),
            family::Family::V6 => (Family::Ip6, Field::Ip6Saddr, Field::Ip6Daddr),
        };
        Self {
            family,
            source,
            destination,
            nodes: nodes.copied().filter(is_its).collect(),
            source_nat: plan.source_nat.iter().filter(|nat| nat.addresses.iter().all(is_its)).collect(),
        }
    }

    /// The gateway's rules. A node's connection gets one of the public addresses that its gateway has, at random.
    fn table(&self) -> Table {
        let mut table = Table::new(self.family, TABLE)
            .set(Set::with(SetSpec::typeof_fields("nodes", [self.source]), keys(&self.nodes)))
            .set(self.public_addresses())
            .set(self.inbound_addresses());
        for choices in self.choices() {
            table = table.set(self.sources_with(choices));
        }
        table.chain(self.nodes_alone()).chain(self.inbound()).chain(self.outbound())
    }

    fn nodes_alone(&self) -> Chain {
        let mut chain = Chain::base("from-nodes-only", ChainKind::Filter, Hook::Prerouting, priority::RAW);
        if self.family == Family::Ip6 {
            // What nodes and gateway tell each other to find each other (neighbour discovery, RFC 4861; multicast listeners,
            // RFC 3810) has link-local sources or none, and goes no further than the link: no router hands it on.
            let prefix = |first: u16, length: u8| {
                Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length)
            };
            for (field, prefix) in [(self.source, prefix(0xfe80, 10)), (self.destination, prefix(0xff02, 16))]
            {
                let from_cloud = Rule::new().equal(Field::IifName, Value::new().interface(CLOUD));
                chain = chain.rule(from_cloud.in_prefix(field, prefix.into(), false).accept());
            }
        }
        chain.rule(
            Rule::new()
                .equal(Field::IifName, Value::new().interface(CLOUD))
                .not_in_set([self.source], "nodes")
                .counter()
                .drop()
                .comment("the source is not a node's address"),
        )
    }

    fn inbound(&self) -> Chain {
        let to_node = self.nat(NatKind::Destination, vec![self.destination], "inbound");
        Chain::base("inbound", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT)
            .rule(Rule::new().statement(to_node))
    }

    fn outbound(&self) -> Chain {
        let mut chain = Chain::base("outbound", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT);
        for choices in self.choices() {
            let key = vec![self.source, Field::random(choices)];
            let rule = Rule::new()
                .not_equal(Field::OifName, Value::new().interface(CLOUD))
                .in_set([self.source], sources(choices))
                .statement(self.nat(NatKind::Source, key, "public"));
            chain = chain.rule(rule);
        }
        chain
    }

    fn nat(&self, kind: NatKind, key: Vec<Field>, map: &str) -> Statement {
        let to = NatTarget::Map { key, map: map.into(), port: false };
        Statement::Nat { kind, family: self.family, to, flags: NatFlags::default() }
    }

    /// The distinct numbers of public addresses that nodes have.
    fn choices(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            self.source_nat.iter().filter_map(|nat| u32::try_from(nat.addresses.len()).ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The nodes that have `choices` public addresses.
    fn sources_with(&self, choices: u32) -> Set {
        let same = self.source_nat.iter().filter(|nat| u32::try_from(nat.addresses.len()) == Ok(choices));
        let nodes: Vec<IpAddr> = same.flat_map(|nat| &nat.nodes).copied().collect();
        Set::with(SetSpec::typeof_fields(sources(choices), [self.source]), keys(&nodes))
    }

    /// Node and number to public address.
    fn public_addresses(&self) -> Set {
        let numbered = |addresses: &[IpAddr]| addresses.iter().copied().zip(0_u32..).collect::<Vec<_>>();
        let elements = self.source_nat.iter().flat_map(|nat| {
            nat.nodes.iter().flat_map(move |node| {
                numbered(&nat.addresses).into_iter().map(move |(address, number)| {
                    (Value::new().address(*node).number(number), Element::data(Value::new().address(address)))
                })
            })
        });
        let spec =
            SetSpec::typeof_fields("public", [self.source, Field::random(u32::MAX)]).to_typeof([self.source]);
        Set::with(spec, elements)
    }

    /// Public address to node, where each node has one of its own.
    fn inbound_addresses(&self) -> Set {
        let own = self.source_nat.iter().filter(|nat| nat.inbound);
        let elements = own.filter_map(|nat| {
            let (public, node) = (*nat.addresses.first()?, *nat.nodes.first()?);
            Some((Value::new().address(public), Element::data(Value::new().address(node))))
        });
        let spec = SetSpec::typeof_fields("inbound", [self.destination]).to_typeof([self.destination]);
        Set::with(spec, elements)
    }
}

fn keys(addresses: &[IpAddr]) -> impl Iterator<Item = (Value, Element)> {
    addresses.iter().map(|address| (Value::new().address(*address), Element::default()))
}

fn sources(choices: u32) -> String {
    format!("sources-{choices}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses;
    use crate::file::{Cloud, Egress, Internet, NatGateway};

    fn text(egress: Egress) -> String {
        text_of(egress, &[family::Family::V4])
    }

    fn text_of(egress: Egress, families: &[family::Family]) -> String {
        let cloud = Cloud { egress, ..Cloud::default() };
        let plan = addresses::plan(&cloud, &Internet::default(), 3, families).unwrap();
        sides(&plan).map(|side| side.table().to_string()).collect()
    }

    #[test]
    fn one_gateway_in_ipv6() {
        insta::assert_snapshot!(text_of(Egress::default(), &[family::Family::V6]));
    }

    #[test]
    fn one_gateway_for_all() {
        insta::assert_snapshot!(text(Egress::default()));
    }

    #[test]
    fn two_gateways_one_with_two_addresses() {
        let gateway = |nodes: &[&str], last: &[u8]| NatGateway {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            addresses: last.iter().map(|n| IpAddr::from([203, 0, 113, *n])).collect(),
        };
        let gateways = vec![gateway(&["node-1"], &[10]), gateway(&["node-2", "node-3"], &[20, 21])];
        insta::assert_snapshot!(text(Egress::NatGateway { gateways }));
    }

    #[test]
    fn one_to_one() {
        insta::assert_snapshot!(text(Egress::OneToOne { addresses: Default::default() }));
    }
}
