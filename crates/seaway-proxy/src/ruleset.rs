//! The table `seaway` of one family: its sets, its chains and the elements that stand for parts of the plan.
//!
//! ```text
//! prerouting, output:  ip daddr . meta l4proto . th dport vmap @services          → goto pick_<N>
//! pick_<N>:            dnat ip to ip daddr . meta l4proto . th dport . numgen random mod <N> map @endpoints
//! ```
//!
//! numgen writes into the last register of the key, so one lookup picks the endpoint and no packet mark is used. A commit
//! can fall between the two lookups: then the endpoint with the number drawn may be gone. Therefore each `pick_<N>`
//! looks once more for endpoint 0, which exists as long as any does, and then drops: nothing passes untranslated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use seaway_model::{Backend, EgressPlan, ServiceAddress};
use seaway_net::nft::{
    Chain, ChainKind, DataType, Element, Family, Field, Hook, NatFlags, Reject, Rule, SCTP, Set, SetSpec,
    TCP, Table, Tuple, UDP, Value, Verdict, ct_state, ct_status, priority,
};

/// The name of the tables, `ip seaway` and `ip6 seaway`.
pub(crate) const TABLE: &str = "seaway";
/// Service address → which `pick_<N>`.
pub(crate) const SERVICES: &str = "services";
/// Service address and index → endpoint.
pub(crate) const ENDPOINTS: &str = "endpoints";
/// Cluster IPs.
pub(crate) const CLUSTER_IPS: &str = "cluster_ips";
/// Endpoints of this node, as source and destination both.
pub(crate) const HAIRPIN: &str = "hairpin";
/// Networks of pods of the whole cluster.
pub(crate) const POD_NETWORKS: &str = "pod_networks";
/// Networks of this node's pods.
pub(crate) const NODE_POD_NETWORKS: &str = "node_pod_networks";
/// Where pods go under their own address.
pub(crate) const NON_MASQUERADE: &str = "non_masquerade";
/// What the names of the chains that pick an endpoint begin with.
const PICK: &str = "pick_";

/// IPv4 or IPv6: what differs between the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    pub(crate) fn has(self, net: &IpNet) -> bool {
        self == Self::of(&net.addr())
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }

    const fn saddr(self) -> Field {
        match self {
            Self::V4 => Field::IpSaddr,
            Self::V6 => Field::Ip6Saddr,
        }
    }

    const fn daddr(self) -> Field {
        match self {
            Self::V4 => Field::IpDaddr,
            Self::V6 => Field::Ip6Daddr,
        }
    }

    const fn original_daddr(self) -> Field {
        Field::original(match self {
            Self::V4 => Tuple::IpDaddr,
            Self::V6 => Tuple::Ip6Daddr,
        })
    }

    const fn data_type(self) -> DataType {
        match self {
            Self::V4 => DataType::Ipv4Addr,
            Self::V6 => DataType::Ipv6Addr,
        }
    }

    /// The address that nobody has.
    pub(crate) const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Bytes of an address.
    pub(crate) const fn address_length(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// The table without any service: sets with nothing but the networks in them, base chains, no `pick_<N>`.
pub(crate) fn skeleton(family: IpFamily, egress: &EgressPlan) -> Table {
    let service_key = [family.daddr(), Field::L4Proto, Field::ThDport];
    let dispatch = |name: &str, hook| {
        Chain::base(name, ChainKind::Nat, hook, priority::DSTNAT)
            .rule(Rule::new().vmap(service_key, SERVICES))
    };
    // Whatever new flow still has a cluster IP for its destination has not been translated: no endpoint, or no such
    // port.
    let refuse = |name: &str, hook| {
        let untranslated =
            |rule: Rule| rule.any_bit(Field::CtState, ct_state::NEW).in_set([family.daddr()], CLUSTER_IPS);
        let chain = Chain::base(name, ChainKind::Filter, hook, priority::FILTER);
        // Linux's SCTP goes on after a port unreachable, and tries for minutes.
        let sctp = untranslated(Rule::new().l4proto(SCTP)).reject(Reject::ProtocolUnreachable);
        let chain = if family == IpFamily::V4 { chain.rule(sctp) } else { chain };
        chain.rule(untranslated(Rule::new()).reject(Reject::PortUnreachable))
    };
    Table::new(family.family(), TABLE)
        .set(Set::new(SetSpec::typeof_fields(SERVICES, service_key).to_verdict()))
        .set(Set::new(endpoints_spec(family)))
        .set(Set::new(SetSpec::typeof_fields(CLUSTER_IPS, [family.daddr()])))
        .set(Set::new(SetSpec::typeof_fields(HAIRPIN, [family.saddr(), family.daddr()])))
        .set(networks(family, POD_NETWORKS, &egress.pod_networks))
        .set(networks(family, NODE_POD_NETWORKS, &egress.node_pod_cidrs))
        .set(networks(family, NON_MASQUERADE, &egress.non_masquerade))
        .chain(dispatch("prerouting", Hook::Prerouting))
        .chain(dispatch("output", Hook::Output))
        .chain(refuse("reject_input", Hook::Input))
        .chain(refuse("reject_forward", Hook::Forward))
        .chain(refuse("reject_output", Hook::Output))
        .chain(postrouting(family))
}

fn endpoints_spec(family: IpFamily) -> SetSpec {
    // The modulus says nothing but that the key's last part is numgen's: nft has no other name for the type.
    let key = [family.daddr(), Field::L4Proto, Field::ThDport, Field::random(u32::MAX)];
    SetSpec::typeof_fields(ENDPOINTS, key).to_typeof([family.daddr(), Field::ThDport])
}

/// Masquerade, in the order of `NodePlan::masquerade`.
fn postrouting(family: IpFamily) -> Chain {
    let translated = || Rule::new().any_bit(Field::CtStatus, ct_status::DNAT);
    let masquerade = |rule: Rule, why: &str| rule.masquerade(NatFlags::FULLY_RANDOM).comment(why);
    let (saddr, daddr) = (family.saddr(), family.daddr());
    Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT)
        .rule(masquerade(translated().in_set([saddr, daddr], HAIRPIN), "hairpin"))
        .rule(masquerade(
            translated().not_in_set([saddr], POD_NETWORKS).in_set([family.original_daddr()], CLUSTER_IPS),
            "cluster IP from outside the pod networks",
        ))
        .rule(masquerade(
            Rule::new().in_set([saddr], POD_NETWORKS).not_in_set([daddr], NON_MASQUERADE),
            "egress from a pod",
        ))
        .rule(masquerade(
            Rule::new()
                .not_in_set([saddr], POD_NETWORKS)
                .in_set([daddr], POD_NETWORKS)
                .not_in_set([daddr], NODE_POD_NETWORKS),
            "from outside to another node's pod",
        ))
}

fn networks(family: IpFamily, name: &str, nets: &[IpNet]) -> Set {
    let mut set = Set::new(SetSpec::of_types(name, [family.data_type()]).interval());
    for net in nets.iter().filter(|net| family.has(net)) {
        set.insert_prefix(*net);
    }
    set
}

/// The name of the chain that picks one of `count` endpoints.
pub(crate) fn pick_name(count: u32) -> String {
    format!("{PICK}{count}")
}

/// The number of endpoints that the chain called `name` picks from, if it is such a chain.
pub(crate) fn pick_count(name: &str) -> Option<u32> {
    name.strip_prefix(PICK)?.parse().ok()
}

/// The chain that picks one of `count` endpoints.
pub(crate) fn pick_chain(family: IpFamily, count: u32) -> Chain {
    let pick = |modulus| {
        let key = [family.daddr(), Field::L4Proto, Field::ThDport, Field::random(modulus)];
        Rule::new().l4proto_in([TCP, UDP, SCTP]).dnat_map(family.family(), key, ENDPOINTS)
    };
    let mut chain = Chain::new(pick_name(count)).rule(pick(count));
    if count > 1 {
        chain = chain.rule(pick(1));
    }
    chain.rule(Rule::new().drop())
}

/// The key of a service address in `services`.
pub(crate) fn service_key(address: &ServiceAddress) -> Value {
    Value::new().address(address.ip).protocol(address.protocol.number()).port(address.port)
}

/// What stands there for an address with `count` endpoints.
pub(crate) fn service_data(count: u32) -> Element {
    Element::data(Verdict::Goto(pick_name(count)))
}

/// The key of the endpoint at `index` in `endpoints`.
pub(crate) fn endpoint_key(address: &ServiceAddress, index: u32) -> Value {
    service_key(address).number(index)
}

/// What stands there.
pub(crate) fn endpoint_data(backend: &Backend) -> Element {
    Element::data(Value::new().address(backend.ip).port(backend.port))
}

/// The key of a local endpoint in `hairpin`.
pub(crate) fn hairpin_key(ip: IpAddr) -> Value {
    Value::new().address(ip).address(ip)
}
