//! A work queue: each key is worked on by one worker at a time, however often it is added, and a key that
//! failed comes back after a growing delay.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay of a key that failed; doubled with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// Longest delay of a key that goes on failing.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Keys waiting for, or under, work.
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

struct Inner<K> {
    ready: VecDeque<K>,
    /// Keys to work on: those in `ready`, and those under work that were added again meanwhile.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// Keys to add later, by time; the number keeps those of one instant apart.
    later: BTreeMap<(Instant, u64), K>,
    later_of: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                later: BTreeMap::new(),
                later_of: HashMap::new(),
                failures: HashMap::new(),
                serial: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn take_later(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.later_of.remove(&key);
            self.add(key);
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Puts a key in line, unless it is there already.
    pub fn add(&self, key: K) {
        self.inner.lock().add(key);
        self.changed.notify_one();
    }

    /// Puts a key in line after `delay`. Of several delays for one key, the one that ends first holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut inner = self.inner.lock();
        if let Some(&(earlier, serial)) = inner.later_of.get(&key) {
            if earlier <= at {
                return;
            }
            inner.later.remove(&(earlier, serial));
        }
        inner.serial += 1;
        let slot = (at, inner.serial);
        inner.later.insert(slot, key.clone());
        inner.later_of.insert(key, slot);
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits for a key. [`Queue::done`] must follow for it.
    pub async fn next(&self) -> K {
        loop {
            let wake_at = {
                let mut inner = self.inner.lock();
                inner.take_later(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.dirty.remove(&key);
                    inner.working.insert(key.clone());
                    if !inner.ready.is_empty() {
                        // `notify_one` keeps one permit only; pass it on to the next worker.
                        self.changed.notify_one();
                    }
                    return key;
                }
                inner.later.first_key_value().map(|((at, _), _)| *at)
            };
            match wake_at {
                Some(at) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Ends the work on a key. After a failure it comes back with back-off; if it was added while under
    /// work, it comes back at once.
    pub fn done(&self, key: &K, failed: bool) {
        let delay = {
            let mut inner = self.inner.lock();
            inner.working.remove(key);
            if inner.dirty.contains(key) {
                inner.ready.push_back(key.clone());
            }
            if failed {
                let failures = inner.failures.entry(key.clone()).or_insert(0);
                *failures += 1;
                Some(back_off(*failures))
            } else {
                inner.failures.remove(key);
                None
            }
        };
        match delay {
            Some(delay) => self.add_after(key.clone(), delay),
            None => self.changed.notify_one(),
        }
    }
}

/// The delay before attempt number `failures` + 1.
fn back_off(failures: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_worker_per_key() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "b", "a is under work");
        queue.done(&"a", false);
        assert_eq!(queue.next().await, "a", "added again while under work");
        queue.done(&"a", false);
        queue.done(&"b", false);
        let nothing = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
        assert!(nothing.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later() {
        let queue = Queue::default();
        queue.add(1);
        let mut last = Duration::ZERO;
        for _ in 0..5 {
            let started = Instant::now();
            assert_eq!(queue.next().await, 1);
            let waited = started.elapsed();
            assert!(waited >= last, "{waited:?} after {last:?}");
            last = waited;
            queue.done(&1, true);
        }
        assert!(last >= Duration::from_millis(40));
        assert_eq!(back_off(1), FIRST_DELAY);
        assert_eq!(back_off(100), LONGEST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_holds() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(1, Duration::from_secs(9));
        queue.add_after(1, Duration::from_secs(3));
        queue.add_after(1, Duration::from_secs(6));
        assert_eq!(queue.next().await, 1);
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&1, false);
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }
}
