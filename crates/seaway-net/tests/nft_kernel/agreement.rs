//! The fake takes and refuses what the kernel takes and refuses.

use std::sync::Arc;

use proptest::prelude::*;
use seaway_net::nft::*;

use crate::support::in_namespace;

const TABLE: &str = "agreement";

fn verdicts() -> Arc<SetSpec> {
    Arc::new(SetSpec::typeof_fields("verdicts", [Field::IpDaddr, Field::L4Proto]).to_verdict())
}

fn networks() -> Arc<SetSpec> {
    Arc::new(SetSpec::of_types("networks", [DataType::Ipv4Addr]).interval())
}

fn address(number: u8) -> Value {
    Value::new().ipv4([10, 0, 0, number].into())
}

fn chain() -> impl Strategy<Value = String> {
    (0..3u8).prop_map(|number| format!("chain{number}"))
}

fn verdict_element() -> impl Strategy<Value = (Value, Element)> {
    let verdict = prop_oneof![Just(Verdict::Drop), chain().prop_map(Verdict::Goto)];
    (0..4u8, verdict).prop_map(|(number, verdict)| (address(number).protocol(TCP), Element::data(verdict)))
}

/// Ranges that are the same or apart: of some that overlap at one end the kernel makes something without a word, where
/// the fake refuses.
fn network_element() -> impl Strategy<Value = (Value, Element)> {
    (0..8u8).prop_map(|slot| (address(8 * slot), Element::until(address(8 * slot + slot))))
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        Just(Rule::new().counter()),
        Just(Rule::new().in_set([Field::IpSaddr], "networks").drop()),
        Just(Rule::new().vmap([Field::IpDaddr, Field::L4Proto], "verdicts")),
        Just(Rule::new().l4proto_in([TCP, UDP]).accept()),
        chain().prop_map(|name| Rule::new().jump(name)),
        (chain(), chain()).prop_map(|(first, second)| Rule::new().statement(Statement::VerdictOf {
            field: Field::random(2),
            verdicts: vec![
                (Value::new().number(0), Verdict::Goto(first)),
                (Value::new().number(1), Verdict::Goto(second)),
            ],
        })),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let base = Chain::base("base", ChainKind::Filter, Hook::Input, priority::FILTER);
    prop_oneof![
        2 => Just(Operation::AddTable { owner: false }),
        1 => Just(Operation::DeleteTable),
        4 => chain().prop_map(|name| Operation::AddChain(Chain::new(name))),
        1 => Just(Operation::AddChain(base)),
        2 => chain().prop_map(Operation::DeleteChain),
        2 => chain().prop_map(Operation::FlushChain),
        // Only rules that jump forward: the kernel also refuses loops.
        4 => rule().prop_map(|rule| Operation::AddRule { chain: "base".to_owned(), rule }),
        2 => Just(Operation::AddSet(verdicts())),
        2 => Just(Operation::AddSet(networks())),
        1 => Just(Operation::DeleteSet("verdicts".to_owned())),
        1 => Just(Operation::DeleteSet("networks".to_owned())),
        1 => Just(Operation::FlushSet("verdicts".to_owned())),
        4 => prop::collection::vec(verdict_element(), 1..3)
            .prop_map(|elements| Operation::AddElements(verdicts(), elements)),
        2 => prop::collection::vec(verdict_element(), 1..3)
            .prop_map(|elements| Operation::DeleteElements(verdicts(), elements)),
        4 => prop::collection::vec(network_element(), 1..3)
            .prop_map(|elements| Operation::AddElements(networks(), elements)),
        2 => prop::collection::vec(network_element(), 1..3)
            .prop_map(|elements| Operation::DeleteElements(networks(), elements)),
    ]
}

/// What of a table must agree: handles are each one's own.
fn comparable(observed: Option<Observed>) -> Option<Observed> {
    observed.map(|mut observed| {
        for rule in observed.chains.values_mut().flat_map(|chain| &mut chain.rules) {
            rule.handle = 0;
        }
        observed
    })
}

/// Older kernels (Debian's 6.1) do not say that it is the set which is missing: then the element is named that was meant
/// for it.
fn is_vaguer(kernel: Option<&Object>, fake: Option<&Object>) -> bool {
    matches!((kernel, fake), (Some(Object::Element { set, .. }), Some(Object::Set(missing))) if set == missing)
}

fn agree(transactions: &[Vec<Operation>]) {
    let id = TableId::new(Family::Ip, TABLE);
    let mut kernel = Kernel::open().unwrap();
    let mut fake = Fake::new();
    for operations in transactions {
        let transaction = Transaction { table: id.clone(), operations: operations.clone() };
        match (kernel.commit(&transaction), fake.commit(&transaction)) {
            (Ok(()), Ok(())) => {}
            (Err(kernel), Err(fake)) => {
                assert_eq!(kernel.errno(), fake.errno(), "\n{transaction}\n{kernel}\n{fake}");
                let (kernel, fake) = (kernel.object(), fake.object());
                assert!(kernel == fake || is_vaguer(kernel, fake), "{kernel:?}\n{fake:?}\n{transaction}");
            }
            (kernel, fake) => panic!("{transaction}\nkernel: {kernel:?}\nfake: {fake:?}"),
        }
        let (kernel, fake) = (kernel.read_table(&id).unwrap(), fake.read_table(&id).unwrap());
        assert_eq!(comparable(kernel), comparable(fake), "after\n{transaction}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn on_any_sequence_of_transactions(
        transactions in prop::collection::vec(prop::collection::vec(operation(), 1..6), 1..12)
    ) {
        in_namespace(|| {
            let start = [Operation::AddTable { owner: false }];
            let mut all = vec![start.to_vec()];
            all.extend(transactions);
            agree(&all);
        });
    }
}
