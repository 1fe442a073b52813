//! Tests.

use super::*;

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service(port: u16) -> Object {
    let port = seaway_model::ServicePort {
        name: "".into(),
        protocol: seaway_model::Protocol::Tcp,
        port,
        node_port: None,
    };
    Object::Service(Service { ports: vec![port], ..Service::default() })
}

fn slice(of: &str) -> Object {
    let slice = EndpointSlice { service: name(of), ports: Vec::new(), endpoints: Vec::new() };
    Object::EndpointSlice(slice, Some(SystemTime::UNIX_EPOCH))
}

fn problem(object: &str) -> Problem {
    Problem {
        object: ObjectRef::new("Service", "default", object),
        field: "spec".into(),
        value: "x".into(),
        reason: "bad".into(),
    }
}

fn services(store: &mut Store) -> Vec<String> {
    let mut names: Vec<_> = store.take_changes().services.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn only_what_changed_is_told() {
    let mut store = Store::default();
    store.apply(ObjectKind::Service, name("web"), Ok(Some(service(80))));
    assert_eq!(services(&mut store), ["default/web"]);
    assert_eq!(store.snapshot().generation, 1);
    store.apply(ObjectKind::Service, name("web"), Ok(Some(service(80))));
    assert!(store.take_changes().is_empty());
    assert_eq!(store.snapshot().generation, 1);
}

#[test]
fn a_slice_makes_its_service_dirty_and_moves_with_its_label() {
    let mut store = Store::default();
    store.apply(ObjectKind::EndpointSlice, name("x"), Ok(Some(slice("web"))));
    assert_eq!(services(&mut store), ["default/web"]);
    store.apply(ObjectKind::EndpointSlice, name("x"), Ok(Some(slice("db"))));
    assert_eq!(services(&mut store), ["default/db", "default/web"]);
    assert_eq!(store.snapshot().slices_of(&name("web")).count(), 0);
    store.apply(ObjectKind::EndpointSlice, name("x"), Ok(None));
    assert_eq!(services(&mut store), ["default/db"]);
    assert!(store.snapshot().slices.is_empty());
}

#[test]
fn a_problem_leaves_the_last_good_state() {
    let mut store = Store::default();
    store.apply(ObjectKind::Service, name("web"), Ok(Some(service(80))));
    store.take_changes();
    store.apply(ObjectKind::Service, name("web"), Err(problem("web")));
    assert!(store.take_changes().is_empty());
    assert!(store.snapshot().services.contains_key(&name("web")));
    assert_eq!(store.snapshot().problems.size(), 1);
    store.apply(ObjectKind::Service, name("web"), Ok(Some(service(81))));
    assert_eq!(services(&mut store), ["default/web"]);
    assert!(store.snapshot().problems.is_empty());
}

#[test]
fn a_list_replaces_all_of_its_kind_and_tells_the_difference() {
    let mut store = Store::default();
    for (object, port) in [("a", 1), ("b", 2), ("c", 3)] {
        store.apply(ObjectKind::Service, name(object), Ok(Some(service(port))));
    }
    store.apply(ObjectKind::EndpointSlice, name("x"), Ok(Some(slice("a"))));
    store.apply(ObjectKind::Service, name("bad"), Err(problem("bad")));
    store.take_changes();
    let list = vec![
        (name("a"), Ok(Some(service(1)))),
        (name("b"), Ok(Some(service(9)))),
        (name("d"), Ok(Some(service(4)))),
    ];
    store.replace(ObjectKind::Service, list);
    assert_eq!(services(&mut store), ["default/b", "default/c", "default/d"]);
    assert!(store.snapshot().problems.is_empty());
    assert_eq!(store.snapshot().slices_of(&name("a")).count(), 1);
}
