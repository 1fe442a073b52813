//! The pods that run here, for those who ask for logs and sessions.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::container::Container;

/// One container as the outside sees it.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// Its present or last process.
    pub container: Option<Arc<Container>>,
    /// Why it does not run, where it does not.
    pub waiting: Option<String>,
}

/// One pod.
pub(crate) struct PodEntry {
    pub uid: String,
    /// Its directory on the node.
    pub dir: PathBuf,
    pub containers: Mutex<BTreeMap<String, Known>>,
}

impl PodEntry {
    /// Where a container's logs are.
    pub(crate) fn log_dir(&self, container: &str) -> PathBuf {
        self.dir.join("logs").join(container)
    }
}

/// All pods, by namespace and name.
#[derive(Default)]
pub(crate) struct Registry {
    pods: Mutex<HashMap<(String, String), Arc<PodEntry>>>,
}

impl Registry {
    pub(crate) fn insert(&self, namespace: &str, name: &str, entry: Arc<PodEntry>) {
        self.pods.lock().insert((namespace.to_owned(), name.to_owned()), entry);
    }

    /// Forgets a pod, unless another one of its name has come.
    pub(crate) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let mut pods = self.pods.lock();
        let key = (namespace.to_owned(), name.to_owned());
        if pods.get(&key).is_some_and(|entry| entry.uid == uid) {
            pods.remove(&key);
        }
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        self.pods.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}
