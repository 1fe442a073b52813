//! The same table by text and by netlink is the same to `nft list ruleset`.

use std::time::Duration;

use seaway_net::nft::*;

use crate::support::{in_namespace, listed, load};

/// What `nft` lists, by line; elements of a set come in the kernel's order, so each set's are sorted.
fn comparable(listing: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut elements: Option<String> = None;
    for line in listing.lines() {
        let trimmed = line.trim();
        if let Some(first) = trimmed.strip_prefix("elements = {") {
            elements = Some(first.to_owned());
        } else if let Some(all) = &mut elements {
            all.push_str(trimmed);
        } else {
            lines.push(trimmed.to_owned());
            continue;
        }
        if trimmed.ends_with('}')
            && let Some(all) = elements.take()
        {
            let mut each: Vec<_> =
                all.trim_end_matches('}').split(',').map(|element| element.trim().to_owned()).collect();
            each.sort();
            lines.append(&mut each);
        }
    }
    lines
}

fn same_by_text_and_netlink(table: &Table) -> String {
    let text = in_namespace(|| {
        load(&table.to_string());
        listed()
    });
    let transaction = in_namespace(|| {
        load(&Transaction::create(table).to_string());
        listed()
    });
    let netlink = in_namespace(|| {
        Kernel::open().unwrap().commit(&Transaction::create(table)).unwrap();
        listed()
    });
    assert_eq!(comparable(&text), comparable(&netlink), "text (left), netlink (right)\n{netlink}");
    assert_eq!(comparable(&transaction), comparable(&netlink), "transaction's text (left), netlink (right)");
    netlink
}

const PORT_KEY: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];

pub(crate) fn services_table() -> Table {
    let vip = Value::new().ipv4([10, 96, 0, 1].into()).protocol(TCP).port(443);
    let services = Set::with(
        SetSpec::typeof_fields("services", PORT_KEY).to_verdict(),
        [(vip.clone(), Element::data(Verdict::Goto("pick_10".to_owned())))],
    );
    let any = Field::random(u32::MAX);
    let endpoints = Set::with(
        SetSpec::typeof_fields("endpoints", [Field::IpDaddr, Field::L4Proto, Field::ThDport, any])
            .to_typeof([Field::IpDaddr, Field::ThDport]),
        (0..10).map(|index| {
            let endpoint = Value::new().ipv4([10, 244, 0, index].into()).port(6443);
            (vip.clone().number(index.into()), Element::data(endpoint))
        }),
    );
    let pick = |modulus| {
        let key = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::random(modulus)];
        Rule::new().l4proto_in([TCP, UDP, SCTP]).dnat_map(Family::Ip, key, "endpoints")
    };
    Table::new(Family::Ip, "seaway")
        .set(services)
        .set(endpoints)
        .chain(Chain::new("pick_10").rule(pick(10)).rule(pick(1)).rule(Rule::new().drop()))
        .chain(
            Chain::base("prerouting", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT)
                .rule(Rule::new().vmap(PORT_KEY, "services")),
        )
}

#[test]
fn the_flat_maps_of_services_show_as_declared() {
    let listing = same_by_text_and_netlink(&services_table());
    for line in [
        "typeof ip daddr . meta l4proto . th dport : verdict",
        "typeof ip daddr . meta l4proto . th dport . numgen random mod 4294967295 : ip daddr . th dport",
        "elements = { 10.96.0.1 . tcp . 443 : goto pick_10 }",
        "meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 10 map @endpoints",
        "meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints",
        "type nat hook prerouting priority dstnat; policy accept;",
        "ip daddr . meta l4proto . th dport vmap @services",
    ] {
        assert!(listing.contains(line), "{line}\n{listing}");
    }
}

#[test]
fn sets_of_all_kinds() {
    use DataType as T;
    let prefix = |text: &str| text.parse().unwrap();
    let mut networks = Set::new(SetSpec::of_types("networks", [T::Ipv4Addr]).interval());
    for text in ["10.0.0.0/8", "192.168.1.1/32", "11.0.0.0/32", "224.0.0.0/3"] {
        networks.insert_prefix(prefix(text));
    }
    let mut networks6 = Set::new(SetSpec::typeof_fields("networks6", [Field::Ip6Saddr]).interval());
    networks6.insert_prefix(prefix("fd00::/8"));
    let ranges = Set::with(
        SetSpec::of_types("ranges", [T::Ipv4Addr, T::InetService]).interval(),
        [(
            Value::new().ipv4([10, 0, 0, 0].into()).port(1),
            Element::until(Value::new().ipv4([10, 255, 255, 255].into()).port(1024)),
        )],
    );
    let plain = Set::with(
        SetSpec::of_types("plain", [T::InetProto]),
        [(Value::new().protocol(TCP), Element { comment: Some("why".to_owned()), ..Element::default() })],
    );
    let marks = Set::with(
        SetSpec::of_types("marks", [T::IfName]).to_types([T::Mark]),
        [(Value::new().interface("eth0"), Element::data(Value::new().number(0x4000)))],
    );
    let mut learned = SetSpec::typeof_fields("learned", [Field::IpSaddr])
        .to_typeof([Field::IpDaddr])
        .learned(Duration::from_secs(10_800), 1000);
    learned.comment = Some("clients".to_owned());
    let connections = SetSpec::typeof_fields(
        "connections",
        [Field::original(Tuple::IpDaddr), Field::original(Tuple::Protocol)],
    );
    let single: Vec<Set> = [
        Field::ThSport,
        Field::Ip6Daddr,
        Field::NfProto,
        Field::Mark,
        Field::OifName,
        Field::CtState,
        Field::CtStatus,
        Field::CtMark,
        Field::reply(Tuple::Ip6Saddr),
        Field::SocketMark,
    ]
    .into_iter()
    .enumerate()
    .map(|(index, field)| Set::new(SetSpec::typeof_fields(format!("single{index}"), [field])))
    .collect();
    let mut table = Table::new(Family::Inet, "sets")
        .set(networks)
        .set(networks6)
        .set(ranges)
        .set(plain)
        .set(marks)
        .set(Set::new(learned))
        .set(Set::new(connections))
        .set(Set::new(SetSpec::of_types("sized", [T::Ipv6Addr]).size(64)));
    table.sets.extend(single);
    same_by_text_and_netlink(&table);
}

#[test]
fn rules_of_all_kinds() {
    use Field as F;
    let number = |number| Value::new().number(number);
    let port = |port| Value::new().port(port);
    let address = |text: &str| Value::from(text.parse::<std::net::IpAddr>().unwrap());
    let mut learned = Statement::Learn {
        operation: Learn::Update,
        set: "learned".to_owned(),
        key: vec![F::IpSaddr],
        data: vec![F::IpDaddr],
        timeout: Some(Duration::from_secs(5)),
    };
    let update = Rule::new().statement(learned.clone());
    if let Statement::Learn { operation, timeout, .. } = &mut learned {
        (*operation, *timeout) = (Learn::Add, None);
    }
    let range = |negate| Statement::Range { field: F::ThDport, negate, first: port(1000), last: port(2000) };
    let filter = Chain::base("filter", ChainKind::Filter, Hook::Forward, priority::FILTER)
        .rule(Rule::new().equal(F::IpDaddr, address("10.0.0.1")).counter().drop().comment("one address"))
        .rule(Rule::new().in_prefix(F::IpSaddr, "10.0.0.0/12".parse().unwrap(), false).accept())
        .rule(Rule::new().in_prefix(F::Ip6Saddr, "fd00::/9".parse().unwrap(), true).accept())
        .rule(Rule::new().in_set([F::IpSaddr], "pods").not_in_set([F::IpDaddr], "pods").accept())
        .rule(Rule::new().any_bit(F::CtState, ct_state::ESTABLISHED | ct_state::RELATED).accept())
        .rule(Rule::new().any_bit(F::CtStatus, ct_status::DNAT).accept())
        .rule(Rule::new().no_bit(F::CtStatus, ct_status::DNAT).accept())
        .rule(Rule::new().equal(F::original(Tuple::IpDaddr), address("10.96.0.1")).accept())
        .rule(Rule::new().l4proto(TCP).equal(F::original(Tuple::ProtoDst), port(80)).accept())
        .rule(Rule::new().equal(F::CtDirection, Value::from_bytes(&[1])).accept())
        .rule(Rule::new().equal(F::IifName, Value::new().interface("eth0")).accept())
        .rule(Rule::new().not_equal(F::OifName, Value::new().interface("lo")).accept())
        .rule(Rule::new().compare(F::ThDport, Comparison::GreaterOrEqual, port(1024)).accept())
        .rule(Rule::new().compare(F::Mark, Comparison::Greater, number(0x100)).accept())
        .rule(Rule::new().statement(Statement::Compare {
            field: F::Mark,
            mask: Some(number(0xff)),
            comparison: Comparison::Equal,
            value: number(3),
        }))
        .rule(Rule::new().statement(range(false)).accept())
        .rule(Rule::new().statement(range(true)).accept())
        .rule(Rule::new().statement(Statement::OneOf {
            field: F::ThDport,
            negate: true,
            values: vec![port(53), port(443)],
        }))
        .rule(Rule::new().statement(Statement::VerdictOf {
            field: F::random(2),
            verdicts: vec![
                (number(0), Verdict::Goto("other".to_owned())),
                (number(1), Verdict::Jump("other".to_owned())),
            ],
        }))
        .rule(Rule::new().statement(Statement::SetMark(0x10)))
        .rule(Rule::new().statement(Statement::Trace))
        .rule(Rule::new().statement(Statement::Log { prefix: "seaway ".to_owned(), group: None }))
        .rule(Rule::new().statement(Statement::Log { prefix: "seaway ".to_owned(), group: Some(3) }))
        .rule(Rule::new().statement(Statement::Limit { rate: 5, per: 60, burst: 3 }).accept())
        .rule(Rule::new().l4proto(TCP).reject(Reject::TcpReset))
        .rule(Rule::new().reject(Reject::PortUnreachable))
        .rule(Rule::new().reject(Reject::AdminProhibited))
        .rule(Rule::new().reject(Reject::HostUnreachable))
        .rule(Rule::new().reject(Reject::NoRoute))
        .rule(update)
        .rule(Rule::new().statement(learned))
        .rule(Rule::new().jump("other"))
        .rule(Rule::new().return_());
    let early = Chain::base("early", ChainKind::Filter, Hook::Prerouting, priority::RAW)
        .rule(Rule::new().equal(F::FibType(FibAddress::Daddr), number(address_type::LOCAL)).return_())
        .rule(Rule::new().equal(F::FibReversePath, number(0)).drop())
        .rule(Rule::new().statement(Statement::NoTrack))
        .rule(Rule::new().equal(F::SocketMark, number(5)).accept());
    let learned = SetSpec::typeof_fields("learned", [F::IpSaddr])
        .to_typeof([F::IpDaddr])
        .learned(Duration::from_secs(60), 100);
    let table = Table::new(Family::Inet, "rules")
        .set(Set::new(SetSpec::typeof_fields("pods", [F::IpSaddr]).interval()))
        .set(Set::new(learned))
        .chain(Chain::new("other"))
        .chain(filter)
        .chain(early);
    same_by_text_and_netlink(&table);
}

#[test]
fn translations_of_all_kinds() {
    let addresses = |first: &str, last: &str, ports| NatTarget::Addresses {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
        ports,
    };
    let snat = |family, to, flags| {
        Rule::new().l4proto(TCP).statement(Statement::Nat { kind: NatKind::Source, family, to, flags })
    };
    let none = NatFlags::default();
    let map = NatTarget::Map { key: vec![Field::IpSaddr], map: "sources".to_owned(), port: false };
    let sources = SetSpec::typeof_fields("sources", [Field::IpSaddr]).to_typeof([Field::IpDaddr]);
    let persistent = NatFlags { persistent: true, ..NatFlags::FULLY_RANDOM };
    let post = Chain::base("post", ChainKind::Nat, Hook::Postrouting, priority::SRCNAT)
        .rule(snat(Family::Ip, addresses("1.2.3.4", "1.2.3.9", Some((10, 20))), NatFlags::RANDOM))
        .rule(snat(Family::Ip, addresses("1.2.3.4", "1.2.3.4", None), none))
        .rule(snat(Family::Ip, addresses("1.2.3.4", "1.2.3.4", Some((80, 80))), none))
        .rule(snat(Family::Ip6, addresses("fd00::1", "fd00::1", Some((80, 80))), none))
        .rule(Rule::new().statement(Statement::Nat {
            kind: NatKind::Source,
            family: Family::Ip,
            to: map,
            flags: none,
        }))
        .rule(
            Rule::new()
                .l4proto(TCP)
                .statement(Statement::Masquerade { ports: Some((1024, 2048)), flags: persistent }),
        )
        .rule(Rule::new().masquerade(NatFlags::FULLY_RANDOM))
        .rule(Rule::new().masquerade(none));
    let pre = Chain::base("pre", ChainKind::Nat, Hook::Prerouting, priority::DSTNAT)
        .rule(Rule::new().l4proto(TCP).statement(Statement::Redirect { port: Some(80) }))
        .rule(Rule::new().l4proto(TCP).statement(Statement::Redirect { port: None }));
    same_by_text_and_netlink(
        &Table::new(Family::Inet, "translations").set(Set::new(sources)).chain(post).chain(pre),
    );
}

#[test]
fn refusals_say_what_their_family_can_say() {
    for family in [Family::Ip, Family::Ip6] {
        let mut chain = Chain::base("filter", ChainKind::Filter, Hook::Input, priority::FILTER);
        for reject in [
            Reject::PortUnreachable,
            Reject::ProtocolUnreachable,
            Reject::AdminProhibited,
            Reject::HostUnreachable,
            Reject::NoRoute,
        ] {
            chain = chain.rule(Rule::new().reject(reject));
        }
        let mut policy_drop = Chain::base("output", ChainKind::Filter, Hook::Output, 5);
        policy_drop.base.as_mut().unwrap().accept = false;
        same_by_text_and_netlink(&Table::new(family, "rejects").chain(chain).chain(policy_drop));
    }
}
