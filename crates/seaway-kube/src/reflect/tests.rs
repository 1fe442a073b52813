//! Tests: a script stands for the API server, and the clock is paused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::stream;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::core::Status;
use kube::core::metadata::{ListMeta, TypeMeta};
use kube::core::watch::{Bookmark, BookmarkMeta};

use super::*;

enum Answer {
    List(Vec<&'static str>, &'static str, Option<&'static str>),
    Watch(Vec<kube::Result<WatchEvent<Namespace>>>),
    /// A watch that stays open.
    Quiet,
    Fail(u16),
}

/// Answers in order, and writes down what was asked.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn next(&self, asked: String) -> Answer {
        self.asked.lock().unwrap().push(asked);
        self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Quiet)
    }
}

fn failure(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status { code, ..Status::failure("no", "No") }))
}

fn namespace(name: &str, version: &str) -> Namespace {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.into());
    namespace.metadata.resource_version = Some(version.into());
    namespace
}

impl ListWatch<Namespace> for Script {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<Namespace>> {
        let token = params.continue_token.as_deref().unwrap_or_default();
        match self.next(format!("list {token}").trim_end().into()) {
            Answer::List(names, version, token) => Ok(ObjectList {
                types: TypeMeta::default(),
                metadata: ListMeta {
                    resource_version: Some(version.into()),
                    continue_: token.map(Into::into),
                    ..ListMeta::default()
                },
                items: names.into_iter().map(|name| namespace(name, version)).collect(),
            }),
            Answer::Fail(code) => Err(failure(code)),
            _ => std::future::pending().await,
        }
    }

    async fn watch(
        &self,
        _: &WatchParams,
        version: &str,
    ) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<Namespace>>>> {
        match self.next(format!("watch {version}")) {
            Answer::Watch(events) => Ok(stream::iter(events).boxed()),
            Answer::Fail(code) => Err(failure(code)),
            _ => Ok(stream::pending().boxed()),
        }
    }
}

/// What is told and what is asked when the server answers so, until it falls silent.
async fn run(answers: Vec<Answer>) -> (Vec<String>, Vec<String>) {
    let script = Script { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() };
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = {
        let told = told.clone();
        move |_, event| {
            let line = match event {
                Event::Replaced(entries) => {
                    let names: Vec<_> = entries.iter().map(|(name, _)| name.name.to_string()).collect();
                    format!("replaced {}", names.join(","))
                }
                Event::Applied(entry) => format!("applied {}", entry.0.name),
                Event::Deleted(name) => format!("deleted {}", name.name),
                Event::Alive => "alive".into(),
                Event::Absent(_) => "absent".into(),
                Event::Lost(_) => "lost".into(),
            };
            told.lock().unwrap().push(line);
        }
    };
    let reflector = reflect::<Namespace>(script.clone(), Selection::default(), tell);
    let _ = tokio::time::timeout(Duration::from_secs(60), reflector).await;
    let lines = |lines: &Arc<Mutex<Vec<String>>>| lines.lock().unwrap().clone();
    (lines(&told), lines(&script.asked))
}

#[tokio::test(start_paused = true)]
async fn lists_by_pages_and_then_watches() {
    let bookmark = WatchEvent::Bookmark(Bookmark {
        types: TypeMeta::default(),
        metadata: BookmarkMeta { resource_version: "9".into(), annotations: Default::default() },
    });
    let events = vec![
        Ok(WatchEvent::Added(namespace("c", "7"))),
        Ok(WatchEvent::Deleted(namespace("a", "8"))),
        Ok(bookmark),
    ];
    let (told, asked) = run(vec![
        Answer::List(vec!["a"], "5", Some("more")),
        Answer::List(vec!["b"], "5", None),
        Answer::Watch(events),
    ])
    .await;
    assert_eq!(told[..5], ["replaced a,b", "alive", "applied c", "deleted a", "alive"]);
    assert_eq!(asked[..4], ["list", "list more", "watch 5", "watch 9"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_makes_a_list() {
    let (told, asked) =
        run(vec![Answer::List(vec!["a"], "5", None), Answer::Fail(410), Answer::List(vec!["b"], "50", None)])
            .await;
    assert_eq!(asked, ["list", "watch 5", "list", "watch 50"]);
    assert_eq!(told, ["replaced a", "replaced b", "alive"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_event_says_that_the_version_is_too_old() {
    let gone = Box::new(Status { code: 410, ..Status::failure("no", "Expired") });
    let events = vec![Ok(WatchEvent::Added(namespace("c", "7"))), Ok(WatchEvent::Error(gone))];
    let (_, asked) = run(vec![
        Answer::List(vec!["a"], "5", None),
        Answer::Watch(events),
        Answer::List(vec![], "50", None),
    ])
    .await;
    assert_eq!(asked, ["list", "watch 5", "list", "watch 50"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_make_a_list_in_the_end() {
    let mut answers = vec![Answer::List(vec!["a"], "5", None)];
    answers.extend([500, 500, 500].map(Answer::Fail));
    answers.push(Answer::List(vec!["a"], "3", None));
    let (told, asked) = run(answers).await;
    assert_eq!(asked, ["list", "watch 5", "watch 5", "watch 5", "list", "watch 3"]);
    assert_eq!(told, ["replaced a", "lost", "lost", "lost", "replaced a", "alive"]);
}

#[test]
fn delays_grow_to_a_bound_and_spread() {
    let mut backoff = Backoff::new();
    for round in 0..20 {
        let whole = Backoff::FIRST * 2_u32.pow(round.min(10));
        let delay = backoff.delay();
        assert!(
            delay <= whole.min(Backoff::LAST) && delay >= whole.min(Backoff::LAST) / 2,
            "{round}: {delay:?}"
        );
    }
}

/// An API server that has no ServiceCIDRs until it is asked a third time.
struct NoServiceCidrs(Arc<Mutex<u32>>);

impl ListWatch<ServiceCIDR> for NoServiceCidrs {
    async fn list(&self, _: &ListParams) -> kube::Result<ObjectList<ServiceCIDR>> {
        let mut asked = self.0.lock().unwrap();
        *asked += 1;
        match *asked {
            1 => Err(failure(404)),
            2 => Err(failure(403)),
            _ => Ok(ObjectList {
                types: TypeMeta::default(),
                metadata: ListMeta { resource_version: Some("5".into()), ..ListMeta::default() },
                items: Vec::new(),
            }),
        }
    }

    async fn watch(
        &self,
        _: &WatchParams,
        _: &str,
    ) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<ServiceCIDR>>>> {
        // The kind was taken away again.
        Err(failure(404))
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_can_be_done_without_is_looked_for_again() {
    let told: Arc<Mutex<Vec<&str>>> = Arc::default();
    let tell = {
        let told = told.clone();
        move |_, event| {
            told.lock().unwrap().push(match event {
                Event::Absent(_) => "absent",
                Event::Replaced(_) => "replaced",
                _ => "other",
            });
        }
    };
    let reflector = reflect::<ServiceCIDR>(NoServiceCidrs(Arc::default()), Selection::default(), tell);
    let _ = tokio::time::timeout(3 * ABSENCE - Duration::from_secs(1), reflector).await;
    assert_eq!(*told.lock().unwrap(), ["absent", "absent", "replaced", "absent"]);
}
