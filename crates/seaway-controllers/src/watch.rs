//! The watches: one per kind, into the cache.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tracing::{debug, warn};

use crate::cluster::Cluster;
use crate::routes::Routed;
use crate::store::Key;

/// The delays of a watch that lost its server: quick at first, so that a restart is hardly noticed.
#[derive(Debug)]
pub(crate) struct Reconnect {
    next: Duration,
}

impl Reconnect {
    const FIRST: Duration = Duration::from_millis(50);
    /// Shorter than any sensible grace period of nodes, whose silence counts from the last failed attempt.
    const LONGEST: Duration = Duration::from_secs(2);
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Iterator for Reconnect {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.next;
        self.next = (delay * 2).min(Self::LONGEST);
        // A quarter of chance keeps the watches of many clients apart.
        Some(delay.mul_f64(1.0 + rand::random::<f64>() / 4.0))
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// Watches all objects of a kind that `config` selects, for ever.
pub async fn pump<K: Routed>(cluster: Arc<Cluster>, client: Client, config: watcher::Config) {
    let api = Api::<K>::all(client);
    let mut events = pin!(watcher(api, config).backoff(Reconnect::default()));
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => cluster.begin_list::<K>(),
            Ok(Some(Event::InitApply(object) | Event::Apply(object))) => cluster.observe(object),
            Ok(Some(Event::InitDone)) => cluster.end_list::<K>(),
            Ok(Some(Event::Delete(object))) => {
                cluster.forget::<K>(&Key::of(object.meta()), object.meta().uid.as_deref());
            }
            Ok(None) => return,
            Err(error) => {
                cluster.note_trouble::<K>();
                match error {
                    watcher::Error::WatchError(_) => {
                        debug!(kind = ?K::KIND, %error, "watch ended; list again")
                    }
                    _ => warn!(kind = ?K::KIND, %error, "watch failed; try again"),
                }
            }
        }
    }
}
