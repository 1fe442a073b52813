//! Keeps one kind of object in step with the API server: list, then watch, for ever.
//!
//! kube-runtime's `watcher` does the same job but says neither when a broken watch stands again nor that bookmarks
//! arrive, so nobody could tell the age of the state; that is why this loop exists.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::Resource;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::core::ObjectList;
use seaway_model::{ObjectName, Problem};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::store::{Object, ObjectKind};

/// Objects in one page of a list.
const PAGE_SIZE: u32 = 500;
/// Seconds that a watch may last before the server ends it, drawn anew for each: many agents must not return at once.
const WATCH_SECONDS: std::ops::Range<u32> = 240..290;
/// How long after its own end a watch that says nothing is taken for dead.
const WATCH_GRACE: Duration = Duration::from_secs(5);
/// How long one page of a list may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// A watch that lasted this long was sound: when it ends, the next begins at once.
const SOUND_WATCH: Duration = Duration::from_secs(1);
/// Refusals of a watch (as opposed to lost connections) after which the objects are listed anew.
const REFUSALS_BEFORE_LIST: u32 = 3;
/// "The resource version is too old": list again (Kubernetes API concepts).
const HTTP_GONE: u16 = 410;

/// "There is no such resource", "you may not see it": an optional kind is done without.
const HTTP_NOT_TO_BE_HAD: [u16; 2] = [404, 403];
/// How long until an optional kind that was not to be had is asked for again.
const ABSENCE: Duration = Duration::from_secs(60);

/// An object's name and what it has been converted to.
pub(crate) type Entry = (ObjectName, Result<Option<Object>, Problem>);

/// What happened to a kind.
#[derive(Debug)]
pub(crate) enum Event {
    /// A complete list.
    Replaced(Vec<Entry>),
    /// The API server does not have the kind, or does not let us see it, and it is one that can be done without.
    Absent(String),
    /// One object came or changed.
    Applied(Box<Entry>),
    /// One object is gone.
    Deleted(ObjectName),
    /// The watch stands, or a bookmark has come: the state is as fresh as it looks.
    Alive,
    /// The API server cannot be reached or refuses; the loop tries again.
    Lost(String),
}

/// An API type that the model has a counterpart of.
pub(crate) trait Reflected: Resource + Clone + Debug + DeserializeOwned + Send + 'static {
    /// Its kind.
    const KIND: ObjectKind;
    /// An API server that does not have it is no error.
    const OPTIONAL: bool = false;
    /// The model's counterpart; `None` where the object is of no concern.
    fn convert(&self) -> Result<Option<Object>, Problem>;
}

/// List and watch of one kind: the API server, or a script in tests.
pub(crate) trait ListWatch<K: Clone>: Send + Sync + 'static {
    /// One page of the list.
    fn list(&self, params: &ListParams) -> impl Future<Output = kube::Result<ObjectList<K>>> + Send;
    /// A watch from `version` on.
    fn watch(
        &self,
        params: &WatchParams,
        version: &str,
    ) -> impl Future<Output = kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>>> + Send;
}

impl<K: Reflected> ListWatch<K> for Api<K> {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        Self::list(self, params).await
    }

    async fn watch(
        &self,
        params: &WatchParams,
        version: &str,
    ) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>> {
        Self::watch(self, params, version).await.map(StreamExt::boxed)
    }
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
}

/// Delays between attempts: doubled each time, up to 5 s, with jitter.
struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self { next: Self::FIRST }
    }

    fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// The next delay: between half of it and the whole, so that many clients spread.
    fn delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(Self::LAST);
        delay
    }
}

/// Runs for ever; every event goes to `tell`.
pub(crate) async fn reflect<K: Reflected>(
    source: impl ListWatch<K>,
    selection: Selection,
    tell: impl Fn(ObjectKind, Event) + Send,
) {
    let mut backoff = Backoff::new();
    let mut version: Option<String> = None;
    let mut refusals = 0;
    loop {
        let failure = match version.take() {
            None => match list(&source, &selection).await {
                Ok((entries, listed)) => {
                    tell(K::KIND, Event::Replaced(entries));
                    version = Some(listed);
                    refusals = 0;
                    continue;
                }
                Err(failure) => failure,
            },
            Some(from) => {
                let started = Instant::now();
                let mut at = from;
                match watch(&source, &selection, &mut at, &tell).await {
                    Ok(()) if started.elapsed() >= SOUND_WATCH => {
                        version = Some(at);
                        backoff.reset();
                        refusals = 0;
                        continue;
                    }
                    Ok(()) => {
                        version = Some(at);
                        Failure::Lost("the watch ended at once".into())
                    }
                    Err(Failure::Gone) => Failure::Gone,
                    Err(failure @ Failure::NotToBeHad(_)) if K::OPTIONAL => failure,
                    Err(Failure::Refused(reason) | Failure::NotToBeHad(reason)) => {
                        refusals += 1;
                        version = (refusals < REFUSALS_BEFORE_LIST).then_some(at);
                        Failure::Refused(reason)
                    }
                    Err(Failure::Lost(reason)) => {
                        version = Some(at);
                        if started.elapsed() >= SOUND_WATCH {
                            backoff.reset();
                        }
                        Failure::Lost(reason)
                    }
                }
            }
        };
        match failure {
            Failure::Gone => {
                tracing::debug!(kind = K::KIND.name(), "the watch's version is too old: listing again")
            }
            Failure::NotToBeHad(reason) if K::OPTIONAL => {
                tell(K::KIND, Event::Absent(reason));
                version = None;
                tokio::time::sleep(ABSENCE).await;
                continue;
            }
            Failure::Lost(reason) | Failure::Refused(reason) | Failure::NotToBeHad(reason) => {
                tell(K::KIND, Event::Lost(reason));
            }
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// Why a list or a watch came to nothing.
#[derive(Debug)]
enum Failure {
    /// The version is no longer known: list.
    Gone,
    /// The API server answered with an error.
    Refused(String),
    /// The API server answered that there is no such thing, or that we may not see it.
    NotToBeHad(String),
    /// No answer, or a broken connection.
    Lost(String),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == HTTP_GONE => Self::Gone,
            kube::Error::Api(status) if HTTP_NOT_TO_BE_HAD.contains(&status.code) => {
                Self::NotToBeHad(status.to_string())
            }
            kube::Error::Api(status) => Self::Refused(status.to_string()),
            other => Self::Lost(with_causes(&other)),
        }
    }
}

/// An error's text followed by those of its causes that add something.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The whole list, page by page, and the version that a watch goes on from.
async fn list<K: Reflected>(
    source: &impl ListWatch<K>,
    selection: &Selection,
) -> Result<(Vec<Entry>, String), Failure> {
    let mut entries = Vec::new();
    let mut params = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        limit: Some(PAGE_SIZE),
        ..ListParams::default()
    };
    loop {
        let page = tokio::time::timeout(LIST_TIMEOUT, source.list(&params)).await;
        let page =
            page.map_err(|_| Failure::Lost(format!("no answer to a list within {LIST_TIMEOUT:?}")))??;
        entries.extend(page.items.iter().map(entry));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let version =
                    version.ok_or_else(|| Failure::Refused("a list without resourceVersion".into()))?;
                return Ok((entries, version));
            }
        }
    }
}

/// Follows one watch to its end; `version` keeps up with it.
async fn watch<K: Reflected>(
    source: &impl ListWatch<K>,
    selection: &Selection,
    version: &mut String,
    tell: &(impl Fn(ObjectKind, Event) + Send),
) -> Result<(), Failure> {
    let seconds = rand::random_range(WATCH_SECONDS);
    let params = WatchParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        timeout: Some(seconds),
        bookmarks: true,
        send_initial_events: false,
    };
    let silence = Duration::from_secs(u64::from(seconds)) + WATCH_GRACE;
    let dead = || Failure::Lost(format!("the watch was silent for {silence:?}"));
    let stream = tokio::time::timeout(LIST_TIMEOUT, source.watch(&params, version)).await;
    let mut stream =
        stream.map_err(|_| Failure::Lost(format!("no answer to a watch within {LIST_TIMEOUT:?}")))??;
    tell(K::KIND, Event::Alive);
    while let Some(event) = tokio::time::timeout(silence, stream.try_next()).await.map_err(|_| dead())?? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                advance(version, &object);
                tell(K::KIND, Event::Applied(Box::new(entry(&object))));
            }
            WatchEvent::Deleted(object) => {
                advance(version, &object);
                tell(K::KIND, Event::Deleted(name_of(&object)));
            }
            WatchEvent::Bookmark(bookmark) => {
                version.clone_from(&bookmark.metadata.resource_version);
                tell(K::KIND, Event::Alive);
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        }
    }
    Ok(())
}

fn advance<K: Resource>(version: &mut String, object: &K) {
    if let Some(seen) = &object.meta().resource_version {
        version.clone_from(seen);
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    let meta = object.meta();
    ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn entry<K: Reflected>(object: &K) -> Entry {
    (name_of(object), object.convert())
}

#[cfg(test)]
mod tests;
