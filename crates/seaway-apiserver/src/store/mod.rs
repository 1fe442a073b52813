//! All objects: in memory for readers, on disk before a write is acknowledged.
//!
//! A writer decides under one lock on what the store *will* be (`Pending`), and waits. One thread takes what has gathered, puts it on
//! the disk in one transaction, and only then makes it visible to readers and watchers: nobody ever sees what a crash could take back.

mod disk;
mod history;
mod object;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use seaway_apis::StatusError;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use disk::{Disk, Row};

pub use disk::DiskError;
pub(crate) use history::{Change, Event, History, frame, line};
pub(crate) use object::{Object, key};

/// What a writer decides.
pub(crate) enum Decision {
    /// The object shall be this.
    Put(Value),
    /// The object shall go; this is its last state.
    Delete(Value),
    /// Nothing is to be written (no change, or a dry run); this is the answer.
    Answer(Value),
}

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The object is stored.
    Stored(Arc<Object>),
    /// The object is gone.
    Deleted(Arc<Object>),
    /// Nothing was written.
    Answered(Value),
}

/// The store; cheap to share behind an `Arc`.
pub(crate) struct Store {
    pending: Mutex<Pending>,
    wake: Condvar,
    visible: RwLock<Visible>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What writers see: the visible state with what is on its way to the disk.
#[derive(Default)]
struct Pending {
    revision: u64,
    changed: HashMap<(Arc<str>, String), Arc<Event>>,
    batch: Vec<Waiting>,
    closing: bool,
    failed: Option<String>,
}

struct Waiting {
    /// Nothing where someone only waits for all that was decided before.
    write: Option<Write>,
    done: oneshot::Sender<Result<(), StatusError>>,
}

struct Write {
    kind: Arc<str>,
    event: Arc<Event>,
}

/// What readers see.
struct Visible {
    revision: u64,
    /// The revision at the start: what came before is not in any history.
    start: u64,
    kinds: HashMap<Arc<str>, Kind>,
}

struct Kind {
    objects: BTreeMap<String, Arc<Object>>,
    history: History,
    latest: watch::Sender<u64>,
}

impl Kind {
    fn new(floor: u64) -> Kind {
        Kind { objects: BTreeMap::new(), history: History::new(floor), latest: watch::Sender::new(floor) }
    }
}

/// Objects of one kind at one revision.
pub(crate) struct Snapshot {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: u64,
}

/// The objects as a writer sees them, while it decides.
pub(crate) struct View<'a> {
    pending: &'a Pending,
    visible: &'a RwLock<Visible>,
}

impl View<'_> {
    /// An object of any kind.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<Arc<Object>> {
        if let Some(event) = self.pending.changed.get(&(Arc::from(kind), key.to_owned())) {
            return (event.change != Change::Deleted).then(|| event.object.clone());
        }
        self.visible.read().kinds.get(kind)?.objects.get(key).cloned()
    }
}

impl Store {
    /// Opens `store.redb` in a directory, or makes it, and reads everything.
    pub(crate) fn open(directory: &Path) -> Result<Arc<Store>, DiskError> {
        let disk = Disk::open(&directory.join("store.redb"))?;
        let mut kinds: HashMap<Arc<str>, BTreeMap<String, Arc<Object>>> = HashMap::new();
        let mut highest = 0;
        let revision = disk.load(|kind, key, json| {
            let object = Object::from_stored(key, json)?;
            highest = highest.max(object.revision);
            kinds.entry(Arc::from(kind)).or_default().insert(key.to_owned(), Arc::new(object));
            Ok(())
        })?;
        let revision = revision.max(highest).max(1);
        let kinds = kinds
            .into_iter()
            .map(|(kind, objects)| (kind, Kind { objects, ..Kind::new(revision) }))
            .collect();
        let store = Arc::new(Store {
            pending: Mutex::new(Pending { revision, ..Pending::default() }),
            wake: Condvar::new(),
            visible: RwLock::new(Visible { revision, start: revision, kinds }),
            writer: Mutex::new(None),
        });
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn({
            let store = store.clone();
            move || store.write_batches(&disk)
        });
        let thread = thread.map_err(|source| DiskError::Directory { path: directory.to_owned(), source })?;
        *store.writer.lock() = Some(thread);
        Ok(store)
    }

    /// Ends the writer after what is waiting; later writes are refused.
    pub(crate) fn close(&self) {
        self.pending.lock().closing = true;
        self.wake.notify_all();
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// The revision of the last visible write.
    pub(crate) fn revision(&self) -> u64 {
        self.visible.read().revision
    }

    /// One object.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<Arc<Object>> {
        self.visible.read().kinds.get(kind)?.objects.get(key).cloned()
    }

    /// All objects of a kind, or those of one namespace, in the order of their keys.
    pub(crate) fn list(&self, kind: &str, namespace: Option<&str>) -> Snapshot {
        self.visible.read().snapshot(kind, namespace)
    }

    /// A channel that changes with every write to a kind.
    pub(crate) fn follow(&self, kind: &str) -> watch::Receiver<u64> {
        if let Some(kind) = self.visible.read().kinds.get(kind) {
            return kind.latest.subscribe();
        }
        let mut visible = self.visible.write();
        let start = visible.start;
        visible.kinds.entry(Arc::from(kind)).or_insert_with(|| Kind::new(start)).latest.subscribe()
    }

    /// The events of a kind after a revision, with the revision up to which they reach; `Err` is the oldest revision to go on from.
    pub(crate) fn since(&self, kind: &str, revision: u64) -> Result<(Vec<Arc<Event>>, u64), u64> {
        let visible = self.visible.read();
        let Some(kind) = visible.kinds.get(kind) else {
            return if revision < visible.start {
                Err(visible.start)
            } else {
                Ok((Vec::new(), visible.revision))
            };
        };
        let events = kind.history.since(revision).ok_or_else(|| kind.history.floor())?;
        Ok((events, visible.revision.max(revision)))
    }

    /// Changes one object: `decide` sees it as it will be once all earlier writes are done, and no other write comes between.
    /// Returns when the change is on the disk and visible; where there is none to make, when all is that was decided on.
    pub(crate) async fn write(
        &self,
        kind: &str,
        key: &str,
        decide: impl FnOnce(Option<&Arc<Object>>, &View<'_>) -> Result<Decision, StatusError>,
    ) -> Result<Outcome, StatusError> {
        let (outcome, done) = self.enqueue(kind, key, decide)?;
        if let Some(done) = done {
            done.await.unwrap_or_else(|_| Err(StatusError::internal("the server is stopping")))?;
        }
        outcome
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.pending.lock().failed.clone()
    }

    fn enqueue(
        &self,
        kind: &str,
        key: &str,
        decide: impl FnOnce(Option<&Arc<Object>>, &View<'_>) -> Result<Decision, StatusError>,
    ) -> Result<Queued, StatusError> {
        let mut pending = self.pending.lock();
        if pending.closing {
            return Err(StatusError::new(503, "ServiceUnavailable", "the server is stopping"));
        }
        if let Some(reason) = &pending.failed {
            return Err(StatusError::internal(format!("the store cannot be written: {reason}")));
        }
        let view = View { pending: &pending, visible: &self.visible };
        let current = view.get(kind, key);
        let (value, delete) = match decide(current.as_ref(), &view) {
            Ok(Decision::Put(value)) => (value, false),
            Ok(Decision::Delete(value)) => (value, true),
            Ok(Decision::Answer(value)) => {
                return Ok((Ok(Outcome::Answered(value)), self.wait_for_all(pending)));
            }
            Err(error) => return Ok((Err(error), self.wait_for_all(pending))),
        };
        let revision = pending.revision + 1;
        let object = Object::new(key, revision, value).map_err(|e| StatusError::internal(e.to_string()))?;
        pending.revision = revision;
        let change = match (delete, current.is_some()) {
            (true, _) => Change::Deleted,
            (false, true) => Change::Modified,
            (false, false) => Change::Added,
        };
        let event = Arc::new(Event::new(change, Arc::new(object), current));
        let kind: Arc<str> = Arc::from(kind);
        pending.changed.insert((kind.clone(), key.to_owned()), event.clone());
        let outcome = match event.change {
            Change::Deleted => Outcome::Deleted(event.object.clone()),
            Change::Added | Change::Modified => Outcome::Stored(event.object.clone()),
        };
        Ok((Ok(outcome), Some(self.put_in_line(pending, Some(Write { kind, event })))))
    }

    /// What was decided on may not be on the disk yet: nobody shall hear of it before.
    fn wait_for_all(&self, pending: MutexGuard<'_, Pending>) -> Option<Done> {
        (!pending.changed.is_empty()).then(|| self.put_in_line(pending, None))
    }

    fn put_in_line(&self, mut pending: MutexGuard<'_, Pending>, write: Option<Write>) -> Done {
        let (sender, done) = oneshot::channel();
        pending.batch.push(Waiting { write, done: sender });
        drop(pending);
        self.wake.notify_one();
        done
    }

    /// The writer's thread: everything that gathered while the last transaction was written goes into the next.
    fn write_batches(&self, disk: &Disk) {
        loop {
            let batch = {
                let mut pending = self.pending.lock();
                while pending.batch.is_empty() && !pending.closing {
                    self.wake.wait(&mut pending);
                }
                std::mem::take(&mut pending.batch)
            };
            if batch.is_empty() {
                return;
            }
            let writes = || batch.iter().filter_map(|waiting| waiting.write.as_ref());
            let rows: Vec<Row<'_>> = writes()
                .map(|Write { kind, event }| Row {
                    kind,
                    key: &event.object.key,
                    json: (event.change != Change::Deleted).then_some(&event.object.json[..]),
                })
                .collect();
            let written = match writes().next_back() {
                Some(last) => disk.write(&rows, Some(last.event.object.revision)),
                None => Ok(()),
            };
            match written {
                Ok(()) => self.publish(batch),
                Err(error) => return self.fail(batch, &error.to_string()),
            }
        }
    }

    fn publish(&self, batch: Vec<Waiting>) {
        let mut touched: Vec<Arc<str>> = Vec::new();
        let mut visible = self.visible.write();
        let writes = || batch.iter().filter_map(|waiting| waiting.write.as_ref());
        for Write { kind, event } in writes() {
            visible.apply(kind, event);
            if !touched.contains(kind) {
                touched.push(kind.clone());
            }
        }
        for kind in &touched {
            if let Some(kind) = visible.kinds.get(kind) {
                kind.latest.send_replace(visible.revision);
            }
        }
        drop(visible);
        let mut pending = self.pending.lock();
        for Write { kind, event } in writes() {
            let at = (kind.clone(), event.object.key.clone());
            if pending.changed.get(&at).is_some_and(|latest| Arc::ptr_eq(latest, event)) {
                pending.changed.remove(&at);
            }
        }
        drop(pending);
        for waiting in batch {
            // Whoever asked may have gone away; the write stands.
            let _ = waiting.done.send(Ok(()));
        }
    }

    /// After a failed transaction the file's state is unknown: nothing more is written until the server starts again.
    fn fail(&self, batch: Vec<Waiting>, reason: &str) {
        tracing::error!(reason, "the store cannot be written; restart the server when the cause is mended");
        let mut pending = self.pending.lock();
        pending.failed = Some(reason.to_owned());
        pending.changed.clear();
        let later = std::mem::take(&mut pending.batch);
        drop(pending);
        for waiting in batch.into_iter().chain(later) {
            let error = StatusError::internal(format!("the store cannot be written: {reason}"));
            let _ = waiting.done.send(Err(error));
        }
    }
}

/// Tells when what someone waits for is on the disk.
type Done = oneshot::Receiver<Result<(), StatusError>>;
/// What a writer will hear, and what it has to wait for before.
type Queued = (Result<Outcome, StatusError>, Option<Done>);

impl Visible {
    fn apply(&mut self, kind: &Arc<str>, event: &Arc<Event>) {
        let start = self.start;
        self.revision = event.object.revision;
        let kind = self.kinds.entry(kind.clone()).or_insert_with(|| Kind::new(start));
        match event.change {
            Change::Deleted => kind.objects.remove(&event.object.key),
            Change::Added | Change::Modified => {
                kind.objects.insert(event.object.key.clone(), event.object.clone())
            }
        };
        kind.history.push(event.clone());
    }

    fn snapshot(&self, kind: &str, namespace: Option<&str>) -> Snapshot {
        let objects = match (self.kinds.get(kind), namespace) {
            (None, _) => Vec::new(),
            (Some(kind), None) => kind.objects.values().cloned().collect(),
            (Some(kind), Some(namespace)) => {
                // '0' follows '/'.
                let range =
                    (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0")));
                kind.objects.range::<String, _>(range).map(|(_, object)| object.clone()).collect()
            }
        };
        Snapshot { objects, revision: self.revision }
    }
}

#[cfg(test)]
mod tests;
