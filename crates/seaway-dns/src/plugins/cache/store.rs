//! The cache's entries, in shards so that two queries seldom wait for each other.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use super::{Settings, cap_ttls};
use crate::message::{Query, Reply};

const SHARDS: usize = 64;
/// Entries of a full shard that are looked at for one that may go: a large cache is not searched for each new entry.
const LOOK_AT: usize = 32;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Box<str>,
    record_type: RecordType,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    pub(super) fn of(query: &Query) -> Self {
        Self {
            name: query.lower.clone(),
            record_type: query.record_type,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled,
        }
    }
}

/// A reply that is kept.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    reply: Arc<Reply>,
    pub(super) ttl: Duration,
    pub(super) expires: Instant,
    asked: Arc<Mutex<Asked>>,
}

#[derive(Debug)]
struct Asked {
    count: u32,
    last: Instant,
    renewing: bool,
}

impl Entry {
    pub(super) fn new(reply: Reply, ttl: Duration, now: Instant) -> Self {
        let asked = Asked { count: 0, last: now, renewing: false };
        Self { reply: Arc::new(reply), ttl, expires: now + ttl, asked: Arc::new(Mutex::new(asked)) }
    }

    /// The reply, good for `left` more.
    pub(super) fn reply(&self, settings: &Settings, left: Duration) -> Reply {
        let mut reply = (*self.reply).clone();
        // CoreDNS says so of what it keeps: some clients take nothing else.
        reply.authoritative = true;
        if !settings.keep_ttl {
            cap_ttls(&mut reply, left);
        }
        reply
    }

    /// Counts a query; true where there were `amount` or more with no pause longer than `window`, and nothing newer is on its
    /// way.
    pub(super) fn asked_often(&self, amount: u32, window: Duration) -> bool {
        let mut asked = lock(&self.asked);
        let now = Instant::now();
        asked.count = if now - asked.last > window { 1 } else { asked.count.saturating_add(1) };
        asked.last = now;
        asked.count >= amount && !asked.renewing
    }

    /// True for who shall ask for what comes after this entry.
    pub(super) fn begin_renewal(&self) -> bool {
        !std::mem::replace(&mut lock(&self.asked).renewing, true)
    }

    /// What was asked for is there, or is not to be had now.
    pub(super) fn end_renewal(&self) {
        lock(&self.asked).renewing = false;
    }
}

/// The entries of one kind.
#[derive(Debug)]
pub(super) struct Store {
    shards: Vec<Mutex<HashMap<Key, Entry>>>,
    hasher: RandomState,
    capacity_each: usize,
}

/// What another thread left behind in a panic is a whole map still.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            capacity_each: capacity.div_ceil(SHARDS),
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Entry>> {
        let hash = self.hasher.hash_one(key);
        // The remainder is below SHARDS, whatever the width of usize.
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.shard(key).get(key).cloned()
    }

    pub(super) fn remove(&self, key: &Key) {
        self.shard(key).remove(key);
    }

    /// Keeps `entry`; in a full shard another one goes for it: of some, one that has run out, else any.
    pub(super) fn put(&self, key: Key, entry: Entry) {
        let mut shard = self.shard(&key);
        if shard.len() >= self.capacity_each && !shard.contains_key(&key) {
            let now = Instant::now();
            let mut some = shard.iter().take(LOOK_AT);
            let out = some.find(|(_, entry)| entry.expires <= now).or_else(|| shard.iter().next());
            if let Some(key) = out.map(|(key, _)| key.clone()) {
                shard.remove(&key);
            }
        }
        shard.insert(key, entry);
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}
