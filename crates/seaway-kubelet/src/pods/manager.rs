//! Which pods are this node's, and a worker for each.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::sandbox::Note;
use super::worker::{Update, Worker};
use crate::kubelet::Kubelet;

/// How soon what an earlier kubelet left is tried to be undone again.
const RETRY: Duration = Duration::from_secs(5);

struct Workers {
    kubelet: Arc<Kubelet>,
    updates: HashMap<String, watch::Sender<Update>>,
    running: JoinSet<String>,
}

/// Follows the API and runs the pods that are bound to this node, until it is shut down and they have ended.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let api: Api<Pod> = Api::all(kubelet.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.args.node_name));
    let mut events = Box::pin(watcher::watcher(api, config).default_backoff());
    let mut workers = Workers { kubelet, updates: HashMap::new(), running: JoinSet::new() };
    let mut listed = HashSet::new();
    let mut shutting_down = false;
    loop {
        if shutting_down && workers.running.is_empty() {
            return;
        }
        tokio::select! {
            () = workers.kubelet.shutdown.cancelled(), if !shutting_down => {
                shutting_down = true;
                workers.shut_down();
            }
            Some(ended) = workers.running.join_next(), if !workers.running.is_empty() => match ended {
                Ok(uid) => drop(workers.updates.remove(&uid)),
                Err(error) => tracing::error!(%error, "a pod's worker broke"),
            },
            event = events.next() => match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.metadata.uid.clone());
                    workers.apply(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    workers.keep_only(&listed);
                    workers.remove_unknown();
                }
                Some(Ok(Event::Apply(pod))) => workers.apply(pod),
                Some(Ok(Event::Delete(pod))) => workers.remove(pod),
                Some(Err(error)) => tracing::warn!(%error, "watching pods"),
                None => return,
            },
        }
    }
}

impl Workers {
    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        if let Some(sender) = self.updates.get(&uid) {
            sender.send_modify(|update| update.pod = pod);
            return;
        }
        if self.kubelet.shutdown.is_cancelled() {
            return;
        }
        let (sender, receiver) = watch::channel(Update { pod, gone: false, shutdown: false });
        self.updates.insert(uid.clone(), sender);
        let worker = Worker::new(self.kubelet.clone(), receiver);
        self.running.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn remove(&mut self, pod: Pod) {
        let sender = pod.metadata.uid.as_ref().and_then(|uid| self.updates.get(uid));
        if let Some(sender) = sender {
            sender.send_modify(|update| {
                update.pod = Arc::new(pod);
                update.gone = true;
            });
        }
    }

    /// All pods end; there will be no new ones.
    fn shut_down(&self) {
        for sender in self.updates.values() {
            sender.send_modify(|update| update.shutdown = true);
        }
    }

    /// Pods that were known and are not listed went while nobody watched.
    fn keep_only(&mut self, listed: &HashSet<String>) {
        for (uid, sender) in &self.updates {
            if !listed.contains(uid) {
                sender.send_modify(|update| update.gone = true);
            }
        }
    }
}

impl Workers {
    /// Removes the directories of pods that went while no kubelet ran.
    fn remove_unknown(&self) {
        let Ok(entries) = std::fs::read_dir(self.kubelet.pods_dir()) else { return };
        let is_known = |name: &OsStr| name.to_str().is_some_and(|uid| self.updates.contains_key(uid));
        for entry in entries.flatten().filter(|entry| !is_known(&entry.file_name())) {
            tokio::spawn(super::remove_dir(entry.path()));
        }
    }
}

/// Undoes what an earlier kubelet left: the networks of its pods, whose processes ended with it.
///
/// The rest of their directories, logs among it, stays for as long as the API knows the pods.
pub(crate) async fn clean_up(kubelet: &Arc<Kubelet>) {
    let Ok(entries) = std::fs::read_dir(kubelet.pods_dir()) else { return };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let Some(note) = Note::read(&dir) else { continue };
        if let Err(error) = note.undo(&kubelet.plugins).await {
            tracing::warn!(%error, pod = note.name, "undoing an earlier kubelet's pod");
            let kubelet = kubelet.clone();
            tokio::spawn(async move {
                while let Err(error) = note.undo(&kubelet.plugins).await {
                    tracing::debug!(%error, pod = note.name, "undoing an earlier kubelet's pod");
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
        Note::forget(&dir);
    }
}
