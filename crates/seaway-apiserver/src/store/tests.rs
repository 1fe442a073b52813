use super::*;
use serde_json::json;

const PODS: &str = "/pods";

fn put(name: &str, value: i64) -> Value {
    json!({"metadata": {"name": name}, "value": value})
}

async fn create(store: &Store, name: &str) -> Arc<Object> {
    match store.write(PODS, &key("default", name), |_, _| Ok(Decision::Put(put(name, 0)))).await.unwrap() {
        Outcome::Stored(object) => object,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writes_are_visible_and_survive() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let a = create(&store, "a").await;
    create(&store, "b").await;
    assert_eq!(store.get(PODS, "default/a").unwrap().revision, a.revision);
    let deleted =
        store.write(PODS, "default/a", |current, _| Ok(Decision::Delete(current.unwrap().value()))).await;
    let Ok(Outcome::Deleted(gone)) = deleted else { panic!("not deleted") };
    assert_eq!(gone.revision, a.revision + 2);
    let revision = store.revision();
    store.close();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.revision(), revision);
    assert!(store.get(PODS, "default/a").is_none());
    assert_eq!(store.list(PODS, None).objects.len(), 1);
    // What came before the start is not held.
    assert_eq!(store.since(PODS, revision - 1).unwrap_err(), revision);
    assert!(store.since(PODS, revision).unwrap().0.is_empty());
    assert!(store.since("/never", revision - 1).is_err());
    store.close();
    assert!(store.write(PODS, "default/c", |_, _| Ok(Decision::Put(put("c", 0)))).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    create(&store, "n").await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let add = |current: Option<&Arc<Object>>, _: &View<'_>| {
                    let value = current.unwrap().value()["value"].as_i64().unwrap();
                    Ok(Decision::Put(put("n", value + 1)))
                };
                store.write(PODS, "default/n", add).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get(PODS, "default/n").unwrap().value()["value"], 64);
    let (events, upto) = store.since(PODS, 1).unwrap();
    assert_eq!(events.len(), 65);
    assert_eq!(upto, store.revision());
    assert!(events.windows(2).all(|w| w[0].object.revision < w[1].object.revision));
    store.close();
}

#[tokio::test]
async fn namespaces_do_not_leak_into_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for at in ["a/x", "a-b/x", "a0/x", "a/y"] {
        store.write(PODS, at, |_, _| Ok(Decision::Put(put("x", 0)))).await.unwrap();
    }
    let names: Vec<_> = store.list(PODS, Some("a")).objects.iter().map(|o| o.key.clone()).collect();
    assert_eq!(names, ["a/x", "a/y"]);
    store.close();
}

/// An answer without a write tells of the writes before it, too: these must be on the disk by then.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_that_a_crash_could_take_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for n in 0..100 {
        let mut write =
            std::pin::pin!(store.write(PODS, "default/n", move |_, _| Ok(Decision::Put(put("n", n)))));
        // In line from the first poll on.
        let _ = futures::poll!(write.as_mut());
        if n % 2 == 0 {
            let same = |current: Option<&Arc<Object>>, _: &View<'_>| {
                Ok(Decision::Answer(current.unwrap().value()["value"].clone()))
            };
            let Outcome::Answered(seen) = store.write(PODS, "default/n", same).await.unwrap() else {
                panic!()
            };
            assert_eq!(seen, n);
        } else {
            let refuse = |current: Option<&Arc<Object>>, _: &View<'_>| {
                assert!(current.is_some());
                Err(StatusError::bad_request("it is there"))
            };
            assert_eq!(store.write(PODS, "default/n", refuse).await.unwrap_err().code, 400);
        }
        assert_eq!(store.get(PODS, "default/n").unwrap().value()["value"], n);
        write.await.unwrap();
    }
    store.close();
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.failure(), None);
    store.fail(Vec::new(), "the disk is gone");
    assert_eq!(store.failure().as_deref(), Some("the disk is gone"));
    let refused = store.write(PODS, "default/a", |_, _| Ok(Decision::Put(put("a", 0)))).await;
    assert_eq!(refused.unwrap_err().code, 500);
    store.close();
}
