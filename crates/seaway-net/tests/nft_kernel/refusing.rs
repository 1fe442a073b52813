//! What the kernel refuses changes nothing, and the error names it.

use std::sync::Arc;

use seaway_net::nft::*;

use crate::listing::services_table;
use crate::support::{in_namespace, listed};

fn vip(last: u8) -> Value {
    Value::new().ipv4([10, 96, 0, last].into()).protocol(TCP).port(80)
}

#[test]
fn one_refused_operation_leaves_all_as_it_was() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::create(&table)).unwrap();
        let before = listed();
        let services = Arc::clone(&table.sets[0].spec);

        let mut transaction = Transaction::new(table.id.clone());
        transaction.add_chain(&Chain::new("pick_3"));
        for last in 1..=20 {
            let chain = if last == 13 { "nowhere" } else { "pick_3" };
            transaction.add_element(&services, vip(last), Element::data(Verdict::Goto(chain.to_owned())));
        }
        transaction.add_rule("pick_3", Rule::new().drop());
        let error = kernel.commit(&transaction).unwrap_err();
        assert!(error.not_found(), "{error}");
        assert_eq!(
            error.object(),
            Some(&Object::Element {
                set: "services".to_owned(),
                element: "10.96.0.13 . tcp . 80 : goto nowhere".to_owned()
            })
        );
        assert_eq!(
            error.to_string(),
            "table ip seaway: add element of set services: 10.96.0.13 . tcp . 80 : goto nowhere: \
             No such file or directory (os error 2)"
        );
        assert_eq!(before, listed());
        // The socket is good for the next transaction.
        kernel.commit(&Transaction::replace(&table)).unwrap();
    });
}

#[test]
fn of_very_many_refusals_the_first_is_named() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::create(&table)).unwrap();
        let mut transaction = Transaction::new(table.id.clone());
        for number in 0..50_000 {
            transaction.delete_chain(format!("missing{number}"));
        }
        let error = kernel.commit(&transaction).unwrap_err();
        assert!(error.not_found(), "{error}");
        assert_eq!(error.object(), Some(&Object::Chain("missing0".to_owned())), "{error}");
        kernel.commit(&Transaction::remove(table.id)).unwrap();
    });
}

#[test]
fn errors_have_kinds_and_objects() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::create(&table)).unwrap();
        let services = Arc::clone(&table.sets[0].spec);
        let mut refused = |build: &dyn Fn(&mut Transaction)| {
            let mut transaction = Transaction::new(table.id.clone());
            build(&mut transaction);
            kernel.commit(&transaction).unwrap_err()
        };

        let error = refused(&|it| it.add_chain(&Chain::new("pick_10")));
        assert!(error.already_exists(), "{error}");
        assert_eq!(error.object(), Some(&Object::Chain("pick_10".to_owned())));

        let error = refused(&|it| it.delete_chain("pick_10"));
        assert!(error.busy(), "{error}");

        let error = refused(&|it| it.delete_set("endpoints"));
        assert!(error.busy(), "{error}");
        assert_eq!(error.object(), Some(&Object::Set("endpoints".to_owned())));

        let error = refused(&|it| it.delete_element(&services, vip(99), Element::default()));
        assert!(error.not_found(), "{error}");
        assert!(matches!(error.object(), Some(Object::Element { .. })), "{error}");

        let error = refused(&|it| it.add_rule("pick_10", Rule::new().in_set([Field::IpSaddr], "nothing")));
        assert!(error.not_found(), "{error}");
        assert!(matches!(error.object(), Some(Object::Rule { .. })), "{error}");

        let error = refused(&|it| it.add_element(&services, vip(1), Element::default()));
        assert!(matches!(error, NftError::Invalid { .. }), "{error}");

        let short = Value::new().port(1);
        let error = refused(&|it| it.add_element(&services, short.clone(), Element::data(Verdict::Drop)));
        assert!(matches!(error, NftError::Invalid { .. }), "{error}");

        let missing = TableId::new(Family::Ip6, "missing");
        let mut transaction = Transaction::new(missing);
        transaction.add_chain(&Chain::new("x"));
        let error = kernel.commit(&transaction).unwrap_err();
        assert!(error.not_found(), "{error}");
    });
}

#[test]
fn an_owned_table_is_closed_to_others_and_goes_with_its_socket() {
    in_namespace(|| {
        let mut table = Table::new(Family::Inet, "mine").chain(Chain::new("x"));
        table.owner = true;
        let mut owner = Kernel::open().unwrap();
        owner.commit(&Transaction::create(&table)).unwrap();
        assert!(owner.read_table(&table.id).unwrap().unwrap().owner);
        assert!(diff(owner.read_table(&table.id).unwrap().as_ref(), &table).is_empty());

        let mut other = Kernel::open().unwrap();
        let mut intrusion = Transaction::new(table.id.clone());
        intrusion.add_chain(&Chain::new("y"));
        let error = other.commit(&intrusion).unwrap_err();
        assert_eq!(error.errno(), Some(EPERM), "{error}");
        drop(owner);
        assert_eq!(other.read_table(&table.id).unwrap(), None);
    });
}

/// errno(3): not allowed
const EPERM: i32 = 1;

#[test]
fn one_by_one_every_refused_element_is_named() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let mut fake = Fake::new();
        let table = services_table();
        let services = Arc::clone(&table.sets[0].spec);
        let mut transaction = Transaction::new(table.id.clone());
        for last in 1..=20 {
            let chain = if last % 7 == 0 { "nowhere" } else { "pick_10" };
            transaction.add_element(&services, vip(last), Element::data(Verdict::Goto(chain.to_owned())));
        }
        let transaction = transaction.one_by_one();
        let nfts: [&mut dyn Nft; 2] = [&mut kernel, &mut fake];
        for nft in nfts {
            nft.commit(&Transaction::create(&table)).unwrap();
            let error = nft.commit(&transaction).unwrap_err();
            let named: Vec<String> = error.objects().map(ToString::to_string).collect();
            let expected = [7, 14]
                .map(|last| format!("element of set services: 10.96.0.{last} . tcp . 80 : goto nowhere"));
            assert_eq!(named, expected);
            assert!(error.to_string().ends_with("(and 1 more refused)"), "{error}");
        }
    });
}
