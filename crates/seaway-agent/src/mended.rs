//! What someone else changed and the agent put right: kept for a while, for those who wonder what happened.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use seaway_model::{Difference, Mended};

/// How long something is kept.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// As much as is kept: of a table that was emptied the first will do.
const MOST: usize = 200;

/// The log.
#[derive(Default)]
pub(crate) struct MendedLog {
    entries: Mutex<VecDeque<Mended>>,
}

impl MendedLog {
    /// Writes down what was put right just now.
    pub(crate) fn note(&self, differences: Vec<Difference>) {
        self.note_at(now(), differences);
    }

    /// What was put right in the last five minutes, the latest last.
    pub(crate) fn recent(&self) -> Vec<Mended> {
        self.recent_at(now())
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Mended>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_at(&self, time: u64, differences: Vec<Difference>) {
        let mut entries = self.entries();
        entries.extend(differences.into_iter().take(MOST).map(|difference| Mended { time, difference }));
        let surplus = entries.len().saturating_sub(MOST);
        entries.drain(..surplus);
    }

    fn recent_at(&self, now: u64) -> Vec<Mended> {
        let mut entries = self.entries();
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        entries.retain(|entry| now.saturating_sub(entry.time) <= kept);
        entries.iter().cloned().collect()
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use seaway_model::PlanPart;

    use super::*;

    fn difference(object: &str) -> Difference {
        Difference {
            part: PlanPart::Services,
            object: object.to_owned(),
            address: None,
            what: "gone".to_owned(),
            kernel: "table ip seaway".to_owned(),
            planned: None,
            actual: None,
        }
    }

    #[test]
    fn keeps_the_latest_for_five_minutes() {
        let log = MendedLog::default();
        log.note_at(1_000, vec![difference("first")]);
        log.note_at(2_000, vec![difference("second")]);
        let objects = |now| -> Vec<String> {
            log.recent_at(now).into_iter().map(|entry| entry.difference.object).collect()
        };
        assert_eq!(objects(301_000), ["first", "second"]);
        assert_eq!(objects(301_001), ["second"]);
        let many = (0..MOST + 50).map(|n| difference(&n.to_string())).collect();
        log.note_at(303_000, many);
        assert_eq!(objects(303_000).len(), MOST);
        log.note_at(303_001, vec![difference("latest")]);
        assert_eq!(objects(303_001).last().unwrap(), "latest");
        assert_eq!(objects(303_001).len(), MOST);
    }
}
