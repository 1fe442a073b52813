//! Reading back, differences and single changes.

use std::sync::Arc;

use seaway_net::nft::*;

use crate::listing::services_table;
use crate::support::{in_namespace, listed};

/// Commits the difference between what is there and `want`, and checks that nothing is left to do then.
fn bring_to(kernel: &mut Kernel, want: &Table) -> Transaction {
    let have = kernel.read_table(&want.id).unwrap();
    let transaction = diff(have.as_ref(), want);
    kernel.commit(&transaction).unwrap_or_else(|error| panic!("{error}\n{transaction}"));
    let after = kernel.read_table(&want.id).unwrap();
    let rest = diff(after.as_ref(), want);
    let headers: Vec<_> = after.iter().flat_map(|table| &table.sets).map(|(_, set)| &set.header).collect();
    assert!(rest.is_empty(), "left to do:\n{rest}\n{headers:?}");
    transaction
}

#[test]
fn what_was_written_is_read_back_and_a_second_start_changes_nothing() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let mut want = services_table();
        let mut networks = Set::new(SetSpec::of_types("networks", [DataType::Ipv4Addr]).interval());
        for prefix in ["0.0.0.0/8", "1.0.0.0/8", "10.0.0.1/32", "10.0.0.2/32", "255.0.0.0/8"] {
            networks.insert_prefix(prefix.parse().unwrap());
        }
        let ranges = Set::with(
            SetSpec::of_types("ranges", [DataType::Ipv4Addr, DataType::InetService]).interval(),
            [(
                Value::new().ipv4([10, 0, 0, 0].into()).port(1),
                Element::until(Value::new().ipv4([10, 0, 0, 255].into()).port(80)),
            )],
        );
        want.sets.push(networks);
        want.sets.push(ranges);
        bring_to(&mut kernel, &want);

        let generation = kernel.generation().unwrap();
        let observed = Kernel::open().unwrap().read_table(&want.id).unwrap().unwrap();
        for set in &want.sets {
            assert_eq!(observed.sets[&set.spec.name].elements, set.elements, "{}", set.spec.name);
        }
        let nothing = diff(Some(&observed), &want);
        kernel.commit(&nothing).unwrap();
        assert_eq!(kernel.generation().unwrap(), generation);
        assert_eq!(kernel.read_table(&TableId::new(Family::Ip6, "seaway")).unwrap(), None);
    });
}

#[test]
fn one_element_changes_without_reading() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::create(&table)).unwrap();
        let services = Arc::clone(&table.sets[0].spec);
        let key = Value::new().ipv4([10, 96, 0, 2].into()).protocol(UDP).port(53);
        let element = Element::data(Verdict::Goto("pick_10".to_owned()));

        let mut add = Transaction::new(table.id.clone());
        add.add_element(&services, key.clone(), element.clone());
        kernel.commit(&add).unwrap();
        assert!(listed().contains("10.96.0.2 . udp . 53 : goto pick_10"));
        // The same once more is no change of contents.
        kernel.commit(&add).unwrap();

        let mut replace = Transaction::new(table.id.clone());
        replace.replace_element(&services, key.clone(), element, Element::data(Verdict::Drop));
        kernel.commit(&replace).unwrap();
        assert!(listed().contains("10.96.0.2 . udp . 53 : drop"));

        let mut delete = Transaction::new(table.id.clone());
        delete.delete_element(&services, key, Element::default());
        kernel.commit(&delete).unwrap();
        assert!(!listed().contains("10.96.0.2"));
    });
}

#[test]
fn a_difference_is_only_what_differs() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let mut want = services_table();
        bring_to(&mut kernel, &want);

        // A new element that goes to a new chain.
        let key = Value::new().ipv4([10, 96, 0, 2].into()).protocol(TCP).port(80);
        want.chains.insert(0, Chain::new("pick_2").rule(Rule::new().drop()));
        want.sets[0].insert(key.clone(), Element::data(Verdict::Goto("pick_2".to_owned())));
        let transaction = bring_to(&mut kernel, &want);
        assert_eq!(
            transaction.to_string(),
            "add chain ip seaway pick_2\n\
             add element ip seaway services { 10.96.0.2 . tcp . 80 : goto pick_2 }\n\
             add rule ip seaway pick_2 drop\n"
        );

        // The element changes, the chain goes.
        want.chains.remove(0);
        want.sets[0].insert(key.clone(), Element::data(Verdict::Goto("pick_10".to_owned())));
        let transaction = bring_to(&mut kernel, &want);
        assert_eq!(
            transaction.to_string(),
            "flush chain ip seaway pick_2\n\
             delete element ip seaway services { 10.96.0.2 . tcp . 80 : goto pick_2 }\n\
             add element ip seaway services { 10.96.0.2 . tcp . 80 : goto pick_10 }\n\
             delete chain ip seaway pick_2\n"
        );

        // A rule in the middle changes: what comes before it stays.
        let chain = want.chains.iter_mut().find(|chain| chain.name == "pick_10").unwrap();
        chain.rules[1] = Rule::new().counter();
        let transaction = bring_to(&mut kernel, &want);
        assert_eq!(transaction.operations.len(), 4, "{transaction}");

        // A map is declared otherwise: it is made anew, with the rules that look into it.
        let mut spec = (*want.sets[1].spec).clone();
        spec.size = Some(1000);
        want.sets[1].spec = Arc::new(spec);
        bring_to(&mut kernel, &want);
        assert!(listed().contains("size 1000"));

        // A set is new, another goes with the rule that uses it.
        want.sets.push(Set::new(SetSpec::typeof_fields("hairpin", [Field::IpSaddr, Field::IpDaddr])));
        want.sets.remove(0);
        for chain in &mut want.chains {
            chain.rules.retain(|rule| !rule.to_string().contains("@services"));
        }
        bring_to(&mut kernel, &want);

        // A chain is attached elsewhere.
        let base = want.chains.iter_mut().find(|chain| chain.base.is_some()).unwrap();
        base.base.as_mut().unwrap().priority = -90;
        bring_to(&mut kernel, &want);
        assert!(listed().contains("priority dstnat + 10"));
    });
}

#[test]
fn a_foreign_rule_or_element_in_an_owned_table_goes() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let want = services_table();
        bring_to(&mut kernel, &want);
        let before = listed();
        crate::support::load(
            "insert rule ip seaway prerouting counter\n\
             add chain ip seaway stranger\n\
             add set ip seaway strangers { type ipv4_addr; }\n\
             add element ip seaway services { 1.1.1.1 . tcp . 1 : goto pick_10 }\n",
        );
        bring_to(&mut kernel, &want);
        assert_eq!(before, listed());
    });
}

#[test]
fn a_table_is_replaced_or_removed_whether_or_not_it_is_there() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::replace(&table)).unwrap();
        let first = listed();
        kernel.commit(&Transaction::replace(&table)).unwrap();
        assert_eq!(first, listed());
        kernel.commit(&Transaction::remove(table.id.clone())).unwrap();
        kernel.commit(&Transaction::remove(table.id.clone())).unwrap();
        assert_eq!(listed(), "");
    });
}

#[test]
fn elements_that_rules_learned_stay() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let learned = SetSpec::typeof_fields("learned", [Field::IpSaddr])
            .learned(std::time::Duration::from_secs(3600), 100);
        let mut want = Table::new(Family::Ip, "learning").set(Set::new(learned));
        bring_to(&mut kernel, &want);
        crate::support::load("add element ip learning learned { 10.0.0.1 }");
        want.chains.push(Chain::new("more"));
        bring_to(&mut kernel, &want);
        let elements = kernel.read_elements(&want.id, "learned").unwrap().unwrap();
        assert_eq!(
            elements.into_keys().collect::<Vec<_>>(),
            [Value::from(std::net::Ipv4Addr::new(10, 0, 0, 1))]
        );
        assert_eq!(kernel.read_elements(&want.id, "nothing").unwrap(), None);
    });
}
