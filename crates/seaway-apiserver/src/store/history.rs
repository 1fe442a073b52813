//! What happened to the objects of one kind lately, for watches.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Object;

/// Events kept for each kind: a watcher that is further behind has to list again.
const KEPT: usize = 2048;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is new.
    Added,
    /// It has another content.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    /// `type` of a watch event.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) change: Change,
    /// The object after the change; of a deletion, the last state with the deletion's revision.
    pub(crate) object: Arc<Object>,
    /// The object before the change.
    pub(crate) previous: Option<Arc<Object>>,
    frame: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(change: Change, object: Arc<Object>, previous: Option<Arc<Object>>) -> Event {
        Event { change, object, previous, frame: OnceLock::new() }
    }

    /// The event as a line of a watch stream, made once for all watchers.
    pub(crate) fn frame(&self) -> Bytes {
        self.frame.get_or_init(|| frame(self.change, &self.object.json)).clone()
    }
}

/// A line of a watch stream.
pub(crate) fn frame(change: Change, json: &[u8]) -> Bytes {
    line(change.as_str(), json)
}

/// A line of a watch stream of any type.
pub(crate) fn line(kind: &str, json: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(json.len() + kind.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(json);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// The last events of a kind, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<Arc<Event>>,
    /// Every event after this revision is held.
    floor: u64,
}

impl History {
    /// An empty history that begins after a revision.
    pub(crate) fn new(floor: u64) -> History {
        History { events: VecDeque::new(), floor }
    }

    pub(crate) fn push(&mut self, event: Arc<Event>) {
        if self.events.len() == KEPT
            && let Some(oldest) = self.events.pop_front()
        {
            self.floor = oldest.object.revision;
        }
        self.events.push_back(event);
    }

    /// The oldest revision from which a watch can go on.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// All events after a revision, or nothing when some of them are no longer held.
    pub(crate) fn since(&self, revision: u64) -> Option<Vec<Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        let from = self.events.partition_point(|event| event.object.revision <= revision);
        Some(self.events.range(from..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(revision: u64) -> Arc<Event> {
        let object = Object::new("a/b", revision, json!({"metadata": {"name": "b"}})).unwrap();
        Arc::new(Event::new(Change::Added, Arc::new(object), None))
    }

    #[test]
    fn forgets_the_oldest() {
        let mut history = History::new(5);
        assert!(history.since(4).is_none());
        assert_eq!(history.since(5).unwrap().len(), 0);
        for revision in 6..6 + KEPT as u64 {
            history.push(event(revision));
        }
        assert_eq!(history.since(5).unwrap().len(), KEPT);
        history.push(event(10_000));
        assert_eq!(history.floor(), 6);
        assert!(history.since(5).is_none());
        assert_eq!(history.since(6).unwrap().len(), KEPT);
        assert_eq!(history.since(9_999).unwrap().len(), 1);
    }

    #[test]
    fn frames_are_lines() {
        let line = event(7).frame();
        assert_eq!(
            &line[..],
            b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"b\",\"resourceVersion\":\"7\"}}}\n"
        );
    }
}
