//! The cloud's router: it gives nodes their public source addresses, and drops what does not come from a node.

use std::net::Ipv4Addr;

use anyhow::Context;
use seaway_net::nft::{
    Chain, ChainKind, Element, Family, Field, Hook, Kernel, NatFlags, NatKind, NatTarget, Nft, Rule, Set,
    SetSpec, Statement, Table, Transaction, Value, priority,
};
use seaway_net::sysctl;

use crate::addresses::CloudPlan;
use crate::observer;

/// The table's name, in the gateway's own network namespace.
const TABLE: &str = "seaway-gateway";
/// The interface to the nodes.
const CLOUD: &str = "eth0";

/// Programs the kernel, then tells those who ask what goes through.
pub(crate) async fn run(plan: CloudPlan) -> anyhow::Result<()> {
    sysctl::set("net/ipv4/ip_forward", "1").context("cannot switch forwarding on")?;
    let mut kernel = Kernel::open()?;
    kernel.commit(&Transaction::replace(&table(&plan)))?;
    tracing::info!(nodes = plan.nodes.len(), "gateway works");
    observer::serve(plan).await
}

/// The gateway's rules. A node's connection gets one of the public addresses that its gateway has, at random.
fn table(plan: &CloudPlan) -> Table {
    let nodes = plan.nodes.iter().map(|node| node.address).chain([plan.control_plane]);
    let nodes = nodes.map(|address| (Value::new().ipv4(address), Element::default()));
    let filter = Chain::base("from-nodes-only", ChainKind::Filter, Hook::Prerouting, priority::RAW).rule(
        Rule::new()
            .equal(Field::IifName, Value::new().interface(CLOUD))
            .not_in_set([Field::IpSaddr], "nodes")
            .counter()
            .drop()
            .comment("the source is not a node's address"),
    );
    let inbound = Chain::base("inbound", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT)
        .rule(Rule::new().statement(nat(NatKind::Destination, vec![Field::IpDaddr], "inbound")));
    let mut outbound = Chain::base("outbound", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT);
    for choices in choices(plan) {
        let key = vec![Field::IpSaddr, Field::random(choices)];
        let rule = Rule::new()
            .not_equal(Field::OifName, Value::new().interface(CLOUD))
            .in_set([Field::IpSaddr], sources(choices))
            .statement(nat(NatKind::Source, key, "public"));
        outbound = outbound.rule(rule);
    }
    let mut table = Table::new(Family::Ip, TABLE)
        .set(Set::with(SetSpec::typeof_fields("nodes", [Field::IpSaddr]), nodes))
        .set(public_addresses(plan))
        .set(inbound_addresses(plan));
    for choices in choices(plan) {
        table = table.set(sources_with(plan, choices));
    }
    table.chain(filter).chain(inbound).chain(outbound)
}

fn nat(kind: NatKind, key: Vec<Field>, map: &str) -> Statement {
    let to = NatTarget::Map { key, map: map.into(), port: false };
    Statement::Nat { kind, family: Family::Ip, to, flags: NatFlags::default() }
}

/// The distinct numbers of public addresses that nodes have.
fn choices(plan: &CloudPlan) -> Vec<u32> {
    let mut numbers: Vec<u32> =
        plan.source_nat.iter().filter_map(|nat| u32::try_from(nat.addresses.len()).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn sources(choices: u32) -> String {
    format!("sources-{choices}")
}

/// The nodes that have `choices` public addresses.
fn sources_with(plan: &CloudPlan, choices: u32) -> Set {
    let same = plan.source_nat.iter().filter(|nat| u32::try_from(nat.addresses.len()) == Ok(choices));
    let nodes = same.flat_map(|nat| &nat.nodes).map(|node| (Value::new().ipv4(*node), Element::default()));
    Set::with(SetSpec::typeof_fields(sources(choices), [Field::IpSaddr]), nodes)
}

/// Node and number to public address.
fn public_addresses(plan: &CloudPlan) -> Set {
    let numbered = |addresses: &[Ipv4Addr]| addresses.iter().copied().zip(0_u32..).collect::<Vec<_>>();
    let elements = plan.source_nat.iter().flat_map(|nat| {
        nat.nodes.iter().flat_map(move |node| {
            numbered(&nat.addresses).into_iter().map(move |(address, number)| {
                (Value::new().ipv4(*node).number(number), Element::data(Value::new().ipv4(address)))
            })
        })
    });
    let spec = SetSpec::typeof_fields("public", [Field::IpSaddr, Field::random(u32::MAX)])
        .to_typeof([Field::IpSaddr]);
    Set::with(spec, elements)
}

/// Public address to node, where each node has one of its own.
fn inbound_addresses(plan: &CloudPlan) -> Set {
    let own = plan.source_nat.iter().filter(|nat| nat.inbound);
    let elements = own.filter_map(|nat| {
        let (public, node) = (*nat.addresses.first()?, *nat.nodes.first()?);
        Some((Value::new().ipv4(public), Element::data(Value::new().ipv4(node))))
    });
    let spec = SetSpec::typeof_fields("inbound", [Field::IpDaddr]).to_typeof([Field::IpDaddr]);
    Set::with(spec, elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses;
    use crate::file::{Cloud, Egress, Internet, NatGateway};

    fn text(egress: Egress) -> String {
        let cloud = Cloud { egress, ..Cloud::default() };
        table(&addresses::plan(&cloud, &Internet::default(), 3).unwrap()).to_string()
    }

    #[test]
    fn one_gateway_for_all() {
        insta::assert_snapshot!(text(Egress::default()));
    }

    #[test]
    fn two_gateways_one_with_two_addresses() {
        let gateway = |nodes: &[&str], last: &[u8]| NatGateway {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            addresses: last.iter().map(|n| Ipv4Addr::new(203, 0, 113, *n)).collect(),
        };
        let gateways = vec![gateway(&["node-1"], &[10]), gateway(&["node-2", "node-3"], &[20, 21])];
        insta::assert_snapshot!(text(Egress::NatGateway { gateways }));
    }

    #[test]
    fn one_to_one() {
        insta::assert_snapshot!(text(Egress::OneToOne { addresses: Default::default() }));
    }
}
