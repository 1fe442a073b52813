//! Differences between any two tables, on the kernel and on the fake.

use proptest::prelude::*;
use seaway_net::nft::*;

use crate::support::in_namespace;

/// A table of some of the chains, sets, rules and elements that fit together.
fn table() -> impl Strategy<Value = Table> {
    let chains = prop::collection::btree_set(0..4u8, 0..4);
    let elements = prop::collection::btree_map(0..6u8, 0..5u8, 0..6);
    let rules = prop::collection::vec((0..6u8, 0..4u8), 0..5);
    (chains, elements, rules, 0..3u8, -2..2i32).prop_map(|(chains, elements, rules, kind, priority)| {
        let chains: Vec<String> = chains.into_iter().map(|number| format!("chain{number}")).collect();
        let verdicts = elements.iter().map(|(key, data)| {
            let verdict =
                chains.get(usize::from(*data)).map_or(Verdict::Drop, |name| Verdict::Goto(name.clone()));
            (Value::new().ipv4([10, 0, 0, *key].into()).protocol(TCP), Element::data(verdict))
        });
        let key = [Field::IpDaddr, Field::L4Proto];
        let mut table = Table::new(Family::Ip, "any")
            .set(Set::with(SetSpec::typeof_fields("verdicts", key).to_verdict(), verdicts));
        // The other set is absent, or one of two kinds.
        if kind > 0 {
            let spec = SetSpec::of_types("networks", [DataType::Ipv4Addr]);
            let spec = if kind == 1 { spec.interval() } else { spec };
            let networks = elements.keys().map(|key| {
                let end = (kind == 1).then(|| Value::new().ipv4([10, *key, *key, 255].into()));
                let start = Value::new().ipv4([10, *key, 0, 0].into());
                (start, Element { key_end: end, ..Element::default() })
            });
            table.sets.push(Set::with(spec, networks));
        }
        for (index, name) in chains.iter().enumerate() {
            let rules = rules.iter().filter(|(_, chain)| usize::from(*chain) == index);
            let chain =
                Chain { rules: rules.map(|(rule, _)| leaf_rule(*rule, kind)).collect(), ..Chain::new(name) };
            table.chains.push(chain);
        }
        let mut base = Chain::base("base", ChainKind::Filter, Hook::Input, priority.max(0));
        base.rules = rules
            .iter()
            .map(|(rule, chain)| match chains.get(usize::from(*chain)) {
                Some(name) if *rule == 5 => Rule::new().jump(name),
                _ => leaf_rule(*rule, kind),
            })
            .collect();
        table.chain(base)
    })
}

/// A rule that goes to no chain by itself.
fn leaf_rule(number: u8, networks: u8) -> Rule {
    match number {
        0 => Rule::new().counter(),
        1 => Rule::new().l4proto_in([TCP, UDP]).accept(),
        2 if networks > 0 => Rule::new().in_set([Field::IpSaddr], "networks").drop(),
        _ => Rule::new().counter().comment(format!("rule {number}")),
    }
}

/// Brings a table to another and back, checking that it gets there and then stays.
fn walk(nft: &mut dyn Nft, tables: &[&Table]) {
    for want in tables {
        let have = nft.read_table(&want.id).unwrap();
        let transaction = diff(have.as_ref(), want);
        nft.commit(&transaction).unwrap_or_else(|error| panic!("{error}\n{transaction}"));
        let rest = diff(nft.read_table(&want.id).unwrap().as_ref(), want);
        assert!(rest.is_empty(), "after\n{transaction}\nthere is left\n{rest}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_table_becomes_any_other(first in table(), second in table(), third in table()) {
        let tables = [&first, &second, &third, &first];
        walk(&mut Fake::new(), &tables);
        in_namespace(|| walk(&mut Kernel::open().unwrap(), &tables));
    }
}
