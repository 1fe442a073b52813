//! Tests.

use futures::FutureExt;
use seaway_model::{Namespace, ObjectName};

use super::*;

fn namespace(name: &str) -> (ObjectName, Result<Option<Object>, Problem>) {
    (ObjectName::new("", name), Ok(Some(Object::Namespace(Namespace::default()))))
}

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(&[ObjectKind::Namespace, ObjectKind::Node], Duration::ZERO))
}

#[tokio::test]
async fn nothing_is_told_before_all_kinds_are_listed() {
    let hub = hub();
    let mut subscription = Subscription::new(hub.clone());
    hub.take_in(ObjectKind::Namespace, Event::Replaced(vec![namespace("a")]));
    hub.take_in(ObjectKind::Namespace, Event::Applied(Box::new(namespace("b"))));
    assert!(subscription.next().now_or_never().is_none());
    hub.take_in(ObjectKind::Node, Event::Replaced(Vec::new()));
    let update = subscription.next().now_or_never().unwrap();
    assert!(update.changes.all);
    assert_eq!(update.snapshot.namespaces.size(), 2);
    assert!(subscription.next().now_or_never().is_none());
}

#[tokio::test]
async fn each_consumer_is_told_what_it_has_not_seen() {
    let hub = hub();
    hub.take_in(ObjectKind::Node, Event::Replaced(Vec::new()));
    hub.take_in(ObjectKind::Namespace, Event::Replaced(Vec::new()));
    let mut quick = Subscription::new(hub.clone());
    let mut slow = Subscription::new(hub.clone());
    quick.next().await;
    slow.next().await;
    hub.take_in(ObjectKind::Namespace, Event::Applied(Box::new(namespace("a"))));
    assert_eq!(quick.next().await.changes.namespaces, ["a".into()].into());
    hub.take_in(ObjectKind::Namespace, Event::Applied(Box::new(namespace("a"))));
    assert!(quick.next().now_or_never().is_none(), "the same again is no change");
    hub.take_in(ObjectKind::Namespace, Event::Applied(Box::new(namespace("b"))));
    let update = slow.next().await;
    assert_eq!(update.changes.namespaces, ["a".into(), "b".into()].into());
    assert_eq!(update.snapshot.namespaces.size(), 2);
}

#[tokio::test]
async fn a_waiting_consumer_is_woken() {
    let hub = hub();
    hub.take_in(ObjectKind::Node, Event::Replaced(Vec::new()));
    hub.take_in(ObjectKind::Namespace, Event::Replaced(Vec::new()));
    let mut subscription = Subscription::new(hub.clone());
    subscription.next().await;
    let waiting = tokio::spawn(async move { subscription.next().await });
    tokio::task::yield_now().await;
    hub.take_in(ObjectKind::Namespace, Event::Applied(Box::new(namespace("a"))));
    assert_eq!(waiting.await.unwrap().snapshot.namespaces.size(), 1);
}

#[test]
fn a_lost_server_leaves_the_state_and_shows() {
    let hub = hub();
    hub.take_in(ObjectKind::Node, Event::Replaced(Vec::new()));
    hub.take_in(ObjectKind::Namespace, Event::Replaced(vec![namespace("a")]));
    hub.take_in(ObjectKind::Namespace, Event::Lost("connection refused".into()));
    let status = hub.lock().status();
    assert!(status.synced && !status.connected);
    assert_eq!(status.kinds["Namespace"].last_error.as_deref(), Some("connection refused"));
    assert_eq!(hub.lock().published.namespaces.size(), 1);
    hub.take_in(ObjectKind::Namespace, Event::Alive);
    assert!(hub.lock().status().connected);
}
