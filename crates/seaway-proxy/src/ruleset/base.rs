//! The table without any service: sets with nothing but networks in them, and the chains that are always there.

use ipnet::IpNet;
use seaway_model::{EgressPlan, LocalSources, ProxyPlan, loopback_networks};
use seaway_net::nft::{
    Chain, ChainKind, FibAddress, Field, Hook, NatFlags, Reject, Rule, SCTP, TCP, Table, Tuple, UDP, Value,
    address_type, ct_state, ct_status, priority,
};

use super::{IpFamily, NODE_PORT_FIELDS, SetId, TABLE, service_fields, sets};

/// Refuses, in the way that the caller's protocol understands.
pub(crate) const REFUSE: &str = "refuse";
/// Masquerades every caller of an external address.
pub(crate) const MASQUERADE_ALL: &str = "masquerade_external";
/// Masquerades the node itself as a caller of an external address.
pub(crate) const MASQUERADE_OWN: &str = "masquerade_own";
/// Masquerades by the networks that source and destination are in.
pub(crate) const SOURCES: &str = "masquerade_sources";

/// Before destination translation: what a source range forbids must not be translated (kube-proxy's nftables mode has the same).
const SOURCE_RANGES: i32 = -110;
/// After source translation.
const AFTER_SRCNAT: i32 = priority::SRCNAT + 10;

/// The table without any service.
pub(crate) fn skeleton(family: IpFamily, egress: &EgressPlan, proxy: &ProxyPlan) -> Table {
    let base = Base { family, proxy };
    let mut table = Table::new(family.family(), TABLE);
    table.sets = sets::all(family, egress, proxy);
    table
        .chain(base.source_ranges("source_ranges", Hook::Prerouting))
        .chain(base.source_ranges("source_ranges_output", Hook::Output))
        .chain(base.prerouting())
        .chain(base.output())
        .chain(base.refused("reject_input", Hook::Input))
        .chain(base.refused("reject_forward", Hook::Forward))
        .chain(base.refused("reject_output", Hook::Output))
        .chain(base.postrouting())
        .chain(base.learn("learn", Hook::Postrouting))
        .chain(base.learn("learn_input", Hook::Input))
        .chain(base.refuse())
        .chain(Chain::new(MASQUERADE_ALL).rule(masquerade(Rule::new(), "external address")))
        .chain(base.masquerade_own())
        .chain(base.sources())
}

/// What the rules depend on.
struct Base<'a> {
    family: IpFamily,
    proxy: &'a ProxyPlan,
}

fn masquerade(rule: Rule, why: &str) -> Rule {
    rule.masquerade(NatFlags::FULLY_RANDOM).comment(why)
}

fn translated() -> Rule {
    Rule::new().any_bit(Field::CtStatus, ct_status::DNAT)
}

fn new() -> Rule {
    Rule::new().any_bit(Field::CtState, ct_state::NEW)
}

impl Base<'_> {
    /// The caller is not known for a pod.
    fn not_local(&self, rule: Rule) -> Rule {
        match &self.proxy.local_sources {
            LocalSources::Networks(_) => rule.not_in_set([self.family.saddr()], SetId::LocalSources.name()),
            LocalSources::Interface(name) => rule.not_equal(Field::IifName, Value::new().interface(name)),
            LocalSources::InterfacePrefix(prefix) => rule.name_begins(Field::IifName, &**prefix, true),
        }
    }

    /// The destination is an address of the node at which node ports are.
    fn at_node(&self, rule: Rule) -> Rule {
        let daddr = self.family.daddr();
        let rule = rule.in_set([daddr], SetId::NodePortNetworks.name());
        let loopback = |net: &IpNet| self.family.has(net);
        let rule = loopback_networks()
            .into_iter()
            .filter(loopback)
            .fold(rule, |rule, net| rule.in_prefix(daddr, net, true));
        rule.equal(Field::FibType(FibAddress::Daddr), Value::new().number(address_type::LOCAL))
    }

    /// Who may not call does not come as far as translation.
    fn source_ranges(&self, name: &str, hook: Hook) -> Chain {
        let with_source = |fields: &[Field]| [fields, &[self.family.saddr()]].concat();
        let forbidden = |rule: Rule, fields: &[Field], ranged: SetId, ranges: SetId| {
            rule.in_set(fields, ranged.name())
                .not_in_set(with_source(fields), ranges.name())
                .drop()
                .comment("not in the Service's source ranges")
        };
        let service = service_fields(self.family);
        Chain::base(name, ChainKind::Filter, hook, SOURCE_RANGES)
            .rule(forbidden(new(), &service, SetId::Ranged, SetId::Ranges))
            .rule(forbidden(
                self.at_node(new()),
                &NODE_PORT_FIELDS,
                SetId::RangedNodePorts,
                SetId::NodePortRanges,
            ))
    }

    fn prerouting(&self) -> Chain {
        let outside = |rule: Rule| self.not_local(rule);
        let service = service_fields(self.family);
        Chain::base("prerouting", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT)
            .rule(outside(Rule::new()).vmap(service, SetId::ServicesOutside.name()))
            .rule(Rule::new().vmap(service, SetId::Services.name()))
            .rule(outside(self.at_node(Rule::new())).vmap(NODE_PORT_FIELDS, SetId::NodePortsOutside.name()))
            .rule(self.at_node(Rule::new()).vmap(NODE_PORT_FIELDS, SetId::NodePorts.name()))
    }

    /// The node itself is never an outside caller.
    fn output(&self) -> Chain {
        Chain::base("output", ChainKind::Nat, Hook::Output, priority::DSTNAT)
            .rule(Rule::new().vmap(service_fields(self.family), SetId::Services.name()))
            .rule(self.at_node(Rule::new()).vmap(NODE_PORT_FIELDS, SetId::NodePorts.name()))
    }

    /// New flows that nothing has been done about, but should have been.
    fn refused(&self, name: &str, hook: Hook) -> Chain {
        let daddr = [self.family.daddr()];
        let chain = Chain::base(name, ChainKind::Filter, hook, priority::FILTER)
            .rule(new().vmap(service_fields(self.family), SetId::Refused.name()));
        let chain = if hook == Hook::Forward {
            chain
        } else {
            chain.rule(self.at_node(new()).vmap(NODE_PORT_FIELDS, SetId::RefusedNodePorts.name()))
        };
        // Whatever new flow still has a cluster IP for its destination has not been translated: no endpoint, or no such
        // port.
        chain.rule(new().in_set(daddr, SetId::ClusterIps.name()).goto(REFUSE)).rule(
            new().in_set(daddr, SetId::ServiceNetworks.name()).drop().comment("no Service's cluster IP"),
        )
    }

    fn refuse(&self) -> Chain {
        // Linux hands what it makes for itself and for its pods over at once, while connect still holds the caller's socket.
        // An ICMP error is put aside then, in IPv6 until the SYN is repeated after a second; a reset is not.
        let chain = Chain::new(REFUSE).rule(Rule::new().l4proto(TCP).reject(Reject::TcpReset));
        // Linux's SCTP goes on after a port unreachable, and tries for minutes.
        let sctp = Rule::new().l4proto(SCTP).reject(Reject::ProtocolUnreachable);
        let chain = if self.family == IpFamily::V4 { chain.rule(sctp) } else { chain };
        chain.rule(Rule::new().reject(Reject::PortUnreachable))
    }

    /// Masquerade, in the order of `NodePlan::masquerade`.
    fn postrouting(&self) -> Chain {
        let family = self.family;
        let original = [family.original_daddr(), Field::L4Proto, Field::original(Tuple::ProtoDst)];
        let hairpin = translated().in_set([family.saddr(), family.daddr()], SetId::Hairpin.name());
        let transport = || translated().l4proto_in([TCP, UDP, SCTP]);
        let cluster_ip = |rule: Rule| rule.in_set([family.original_daddr()], SetId::ClusterIps.name());
        let chain = Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT)
            .rule(masquerade(hairpin, "hairpin"))
            .rule(transport().vmap(original, SetId::External.name()));
        let chain = if self.proxy.masquerade_all {
            chain.rule(masquerade(cluster_ip(translated()), "cluster IP, and all is to be masqueraded"))
        } else if self.proxy.knows_pods(family == IpFamily::V6) {
            let rule = cluster_ip(self.not_local(translated()));
            chain.rule(masquerade(rule, "cluster IP from outside the pod networks"))
        } else {
            chain
        };
        chain
            .rule(cluster_ip(translated()).goto(SOURCES))
            .rule(
                transport()
                    .in_set([family.original_daddr()], SetId::NodePortNetworks.name())
                    .vmap(&original[1..], SetId::ExternalNodePorts.name()),
            )
            .rule(Rule::new().goto(SOURCES))
    }

    fn masquerade_own(&self) -> Chain {
        let own =
            Rule::new().equal(Field::FibType(FibAddress::Saddr), Value::new().number(address_type::LOCAL));
        Chain::new(MASQUERADE_OWN)
            .rule(masquerade(own, "external address from the node"))
            .rule(Rule::new().goto(SOURCES))
    }

    fn sources(&self) -> Chain {
        let (saddr, daddr) = (self.family.saddr(), self.family.daddr());
        let from_pod = Rule::new()
            .in_set([saddr], SetId::PodNetworks.name())
            .not_in_set([daddr], SetId::NonMasquerade.name());
        let to_other_node = Rule::new()
            .not_in_set([saddr], SetId::PodNetworks.name())
            .in_set([daddr], SetId::PodNetworks.name())
            .not_in_set([daddr], SetId::NodePodNetworks.name());
        Chain::new(SOURCES)
            .rule(masquerade(from_pod, "egress from a pod"))
            .rule(masquerade(to_other_node, "from outside to another node's pod"))
    }

    /// In a filter chain, for a nat chain ends with the translation; on the way into the node too, for endpoints in its own
    /// network.
    fn learn(&self, name: &str, hook: Hook) -> Chain {
        let original = [self.family.original_daddr(), Field::L4Proto, Field::original(Tuple::ProtoDst)];
        let translated = || new().any_bit(Field::CtStatus, ct_status::DNAT).l4proto_in([TCP, UDP, SCTP]);
        Chain::base(name, ChainKind::Filter, hook, AFTER_SRCNAT)
            .rule(translated().vmap(original, SetId::Sticky.name()))
            .rule(
                translated()
                    .in_set([self.family.original_daddr()], SetId::NodePortNetworks.name())
                    .vmap(&original[1..], SetId::StickyNodePorts.name()),
            )
    }
}
