//! Watches: what happens to the objects of a kind, as a stream of JSON lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use seaway_apis::selector::{FieldSelector, LabelSelector};
use seaway_apis::{Resource, StatusError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::form::Shape;
use crate::metrics::Watching;
use crate::reply::Body;
use crate::store::{Change, Event, Object, Snapshot, Store, frame, line};

/// How often a quiet watch is told the current version.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// The end of a watch that names none.
const DEFAULT_SECONDS: u64 = 1800;
/// The end of any watch.
const MAX_SECONDS: u64 = 7200;

/// Which objects of a kind are meant.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) resource: Arc<Resource>,
    /// Empty for all.
    pub(crate) namespace: String,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: Option<FieldSelector>,
}

impl Filter {
    /// Whether labels and fields don't restrict anything.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_none()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        if !self.labels.is_empty() && !self.labels.matches(&object.labels) {
            return false;
        }
        let Some(fields) = &self.fields else { return true };
        if fields.name().is_some_and(|name| name != object.name()) {
            return false;
        }
        fields.matches_values(&object.fields(&self.resource))
    }

    /// What an event is to a watcher that sees only the objects that match, and whether it shows the object as it was before.
    fn change(&self, event: &Event) -> Option<(Change, bool)> {
        let before = event.previous.as_ref().is_some_and(|object| self.matches(object));
        match event.change {
            Change::Deleted => before.then_some((Change::Deleted, false)),
            Change::Added | Change::Modified => match (before, self.matches(&event.object)) {
                (true, true) => Some((Change::Modified, false)),
                (false, true) => Some((Change::Added, false)),
                (true, false) => Some((Change::Deleted, true)),
                (false, false) => None,
            },
        }
    }
}

/// How a watch begins.
pub(crate) enum Start {
    /// After a revision.
    After(u64),
    /// With what is there, as ADDED events; `marked` ends it with a bookmark that says so.
    Initial { snapshot: Snapshot, marked: bool },
    /// With an error, and that is all.
    Refused(StatusError),
}

/// A watch before it is a stream.
pub(crate) struct Watch {
    pub(crate) store: Arc<Store>,
    pub(crate) kind: String,
    pub(crate) filter: Filter,
    pub(crate) shape: Shape,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<u64>,
    pub(crate) latest: watch::Receiver<u64>,
    pub(crate) stopping: watch::Receiver<bool>,
    /// Counted while the stream lives.
    pub(crate) _counted: Watching,
}

impl Watch {
    /// The stream, as a body.
    pub(crate) fn body(self, start: Start) -> Body {
        let seconds = self.timeout.filter(|s| *s > 0).unwrap_or(DEFAULT_SECONDS).min(MAX_SECONDS);
        let mut running = Running {
            deadline: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
            bookmark: Box::pin(tokio::time::sleep(BOOKMARK_PERIOD)),
            cursor: 0,
            ready: VecDeque::new(),
            ended: false,
            headers_sent: false,
            watch: self,
        };
        running.begin(start);
        let frames = stream::unfold(running, |mut running| async {
            let bytes = running.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), running))
        });
        StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync()
    }
}

struct Running {
    watch: Watch,
    deadline: Pin<Box<Sleep>>,
    bookmark: Pin<Box<Sleep>>,
    /// Everything up to this revision has been looked at.
    cursor: u64,
    ready: VecDeque<Bytes>,
    ended: bool,
    headers_sent: bool,
}

impl Running {
    fn begin(&mut self, start: Start) {
        match start {
            Start::After(revision) => self.cursor = revision,
            Start::Refused(error) => self.fail(&error),
            Start::Initial { snapshot, marked } => {
                self.cursor = snapshot.revision;
                for object in &snapshot.objects {
                    if self.watch.filter.matches(object) {
                        let line = self.encode(Change::Added, object, None);
                        self.ready.push_back(line);
                    }
                }
                if marked {
                    let annotations = json!({"k8s.io/initial-events-end": "true"});
                    self.push_bookmark(annotations);
                }
            }
        }
    }

    /// The next line, or the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended || *self.watch.stopping.borrow() {
                return None;
            }
            self.collect();
            if !self.ready.is_empty() || self.ended {
                continue;
            }
            tokio::select! {
                changed = self.watch.latest.changed() => if changed.is_err() { return None },
                _ = self.watch.stopping.changed() => return None,
                () = &mut self.deadline => return None,
                () = &mut self.bookmark, if self.watch.bookmarks => {
                    self.bookmark.as_mut().reset(Instant::now() + BOOKMARK_PERIOD);
                    // Takes the cursor to the current revision, whatever kind that belongs to.
                    self.collect();
                    if !self.ended {
                        self.push_bookmark(Value::Null);
                    }
                }
            }
        }
    }

    /// Takes what has happened since.
    fn collect(&mut self) {
        self.watch.latest.mark_unchanged();
        match self.watch.store.since(&self.watch.kind, self.cursor) {
            Ok((events, revision)) => {
                self.cursor = revision;
                for event in events {
                    if let Some((change, before)) = self.watch.filter.change(&event) {
                        let line = self.encode_event(change, before, &event);
                        self.ready.push_back(line);
                    }
                }
            }
            Err(oldest) => self.fail(&StatusError::expired(self.cursor, oldest)),
        }
    }

    fn fail(&mut self, error: &StatusError) {
        self.ready.push_back(line("ERROR", error.to_value().to_string().as_bytes()));
        self.ended = true;
    }

    fn encode_event(&mut self, change: Change, before: bool, event: &Event) -> Bytes {
        if change == event.change && self.watch.shape.is_stored_form() {
            return event.frame();
        }
        match (&event.previous, before) {
            (Some(previous), true) => self.encode(change, previous, Some(event.object.revision)),
            _ => self.encode(change, &event.object, None),
        }
    }

    /// A line for an object, at another revision than its own if one is given.
    fn encode(&mut self, change: Change, object: &Object, revision: Option<u64>) -> Bytes {
        if revision.is_none() && self.watch.shape.is_stored_form() {
            return frame(change, &object.json);
        }
        let mut value = object.value();
        if let Some(revision) = revision {
            value["metadata"]["resourceVersion"] = revision.to_string().into();
        }
        let shaped = self.watch.shape.event_object(value, self.headers_sent);
        self.headers_sent = true;
        line(change.as_str(), shaped.to_string().as_bytes())
    }

    fn push_bookmark(&mut self, annotations: Value) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        let object = self.watch.shape.bookmark(metadata);
        self.ready.push_back(line("BOOKMARK", object.to_string().as_bytes()));
    }
}
