//! How long changes take until they are in the kernel.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use seaway_model::{Changes, ObjectName};

/// Which changes are not in the kernel yet, and when they began.
#[derive(Debug)]
pub(crate) struct Lateness {
    /// What began before this proxy did says nothing of it.
    started: SystemTime,
    services: HashSet<ObjectName>,
    /// Of the Services those whose EndpointSlices say when their change began.
    triggered: HashMap<ObjectName, BTreeSet<SystemTime>>,
}

impl Lateness {
    /// As many times a Service as are remembered.
    const MOST: usize = 100;

    pub(crate) fn new() -> Self {
        Self { started: SystemTime::now(), services: HashSet::new(), triggered: HashMap::new() }
    }

    pub(crate) fn follow(&mut self, changes: &Changes) {
        self.services.extend(changes.services.iter().cloned());
        for (service, times) in &changes.triggered {
            let known = self.triggered.entry(service.clone()).or_default();
            let room = Self::MOST.saturating_sub(known.len());
            known.extend(times.iter().copied().filter(|time| *time > self.started).take(room));
        }
    }

    /// How many Services wait, and how many of them for their endpoints.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.services.len(), self.triggered.len())
    }

    /// All is in the kernel: when the changes began.
    pub(crate) fn done(&mut self) -> Vec<SystemTime> {
        self.services.clear();
        self.triggered.drain().flat_map(|(_, times)| times).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_began_before_the_start_is_not_told() {
        let mut lateness = Lateness::new();
        let name = |text: &str| ObjectName::new("default", text);
        let (before, after) =
            (lateness.started - Duration::from_secs(1), lateness.started + Duration::from_secs(1));
        let changes = Changes {
            services: [name("a"), name("b")].into(),
            triggered: [(name("a"), [before, after].into())].into(),
            ..Changes::default()
        };
        lateness.follow(&changes);
        assert_eq!(lateness.waiting(), (2, 1));
        assert_eq!(lateness.done(), [after]);
        assert_eq!((lateness.waiting(), lateness.done()), ((0, 0), vec![]));
    }

    #[test]
    fn times_have_a_limit() {
        let mut lateness = Lateness::new();
        let name = ObjectName::new("default", "a");
        let times = (1..1_000).map(|second| lateness.started + Duration::from_secs(second)).collect();
        let changes = Changes { triggered: [(name, times)].into(), ..Changes::default() };
        lateness.follow(&changes);
        lateness.follow(&changes);
        assert_eq!(lateness.done().len(), Lateness::MOST);
    }
}
