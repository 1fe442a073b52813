//! Large transactions. What they cost is the business of bench/services.

use seaway_net::nft::*;

use crate::support::in_namespace;

#[test]
fn a_hundred_and_fifty_thousand_elements_in_one_transaction() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let spec = SetSpec::typeof_fields("endpoints", [Field::IpDaddr, Field::random(u32::MAX)])
            .to_typeof([Field::IpDaddr, Field::ThDport]);
        let elements = (0..150_000u32).map(|number| {
            let key = Value::new().ipv4([10, 96, 0, 1].into()).number(number);
            (key, Element::data(Value::new().ipv4(number.into()).port(80)))
        });
        let table = Table::new(Family::Ip, "large").set(Set::with(spec, elements));
        kernel.commit(&Transaction::create(&table)).unwrap();
        let observed = kernel.read_table(&table.id).unwrap();
        let rest = diff(observed.as_ref(), &table).to_string();
        assert!(rest.is_empty(), "{}", &rest[..rest.len().min(1000)]);

        // One that is wrong in the middle is named.
        let spec = std::sync::Arc::clone(&table.sets[0].spec);
        let mut transaction = Transaction::replace(&table);
        let wrong = Value::new().ipv4([10, 96, 0, 1].into()).number(77_777);
        let other = Element::data(Value::new().ipv4([1, 1, 1, 1].into()).port(1));
        if let Some(Operation::AddElements(_, elements)) = transaction.operations.last_mut() {
            elements.insert(140_000, (wrong.clone(), other.clone()));
        }
        let error = kernel.commit(&transaction).unwrap_err();
        let element = spec.element_text(&wrong, &other).to_string();
        assert_eq!(
            error.object(),
            Some(&Object::Element { set: "endpoints".to_owned(), element }),
            "{error}"
        );
    });
}
