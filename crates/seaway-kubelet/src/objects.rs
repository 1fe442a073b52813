//! What the API server says of Services, ConfigMaps and Secrets, kept current.
//!
//! Services are watched all together; of ConfigMaps and Secrets only those that a pod of this node names, each for as
//! long as a pod does.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher::watch_object};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long to wait for the first word on an object.
const PATIENCE: Duration = Duration::from_secs(30);

/// All of them.
pub(crate) struct Objects {
    services: Arc<Services>,
    pub(crate) config_maps: Cache<ConfigMap>,
    pub(crate) secrets: Cache<Secret>,
}

impl Objects {
    /// Starts to watch Services.
    pub(crate) fn start(client: &Client) -> Self {
        let services = Arc::new(Services::default());
        tokio::spawn(services.clone().follow(Api::all(client.clone())));
        Self { services, config_maps: Cache::new(client.clone()), secrets: Cache::new(client.clone()) }
    }

    /// The variables of Services for a pod, once Services are known.
    pub(crate) async fn service_env(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let mut ready = self.services.ready.subscribe();
        // The sender lives as long as `self`; without Services in time the pod starts without them, as kubelet's would.
        let _ = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
        let known = self.services.known.lock();
        crate::env::service_env(known.values(), namespace, links)
    }
}

#[derive(Default)]
struct Services {
    known: Mutex<BTreeMap<Key, Service>>,
    ready: watch::Sender<bool>,
}

impl Services {
    async fn follow(self: Arc<Self>, api: Api<Service>) {
        let mut events = Box::pin(watcher::watcher(api, watcher::Config::default()).default_backoff());
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(service)) => {
                    listed.insert(key(&service), service);
                }
                Ok(Event::InitDone) => {
                    *self.known.lock() = std::mem::take(&mut listed);
                    self.ready.send_replace(true);
                }
                Ok(Event::Apply(service)) => {
                    self.known.lock().insert(key(&service), service);
                }
                Ok(Event::Delete(service)) => {
                    self.known.lock().remove(&key(&service));
                }
                Err(error) => tracing::warn!(%error, "watching Services"),
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// What is known of one object.
#[derive(Debug)]
enum Seen<K> {
    NotYet,
    Absent,
    Present(Arc<K>),
}

struct Entry<K> {
    seen: watch::Sender<Seen<K>>,
    follower: Mutex<Option<AbortHandle>>,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.lock().take() {
            follower.abort();
        }
    }
}

/// Namespace and name.
type Key = (String, String);

/// Objects of one kind, watched one by one while somebody is interested.
pub(crate) struct Cache<K> {
    client: Client,
    entries: Mutex<HashMap<Key, Weak<Entry<K>>>>,
}

/// An interest in one object; dropping the last one ends its watch.
pub(crate) struct Interest<K> {
    entry: Arc<Entry<K>>,
    receiver: watch::Receiver<Seen<K>>,
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    fn new(client: Client) -> Self {
        Self { client, entries: Mutex::new(HashMap::new()) }
    }

    /// Begins, or joins, the watch of one object.
    pub(crate) fn watch(&self, namespace: &str, name: &str) -> Interest<K> {
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| entry.strong_count() > 0);
        let key = (namespace.to_owned(), name.to_owned());
        let known = entries.get(&key).and_then(Weak::upgrade);
        let entry = known.unwrap_or_else(|| {
            let entry =
                Arc::new(Entry { seen: watch::Sender::new(Seen::NotYet), follower: Mutex::new(None) });
            let api = Api::namespaced(self.client.clone(), namespace);
            let task = tokio::spawn(follow_one(api, name.to_owned(), Arc::downgrade(&entry)));
            *entry.follower.lock() = Some(task.abort_handle());
            entries.insert(key, Arc::downgrade(&entry));
            entry
        });
        let receiver = entry.seen.subscribe();
        Interest { entry, receiver }
    }
}

async fn follow_one<K>(api: Api<K>, name: String, entry: Weak<Entry<K>>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut changes = Box::pin(watch_object(api, &name).default_backoff());
    while let Some(change) = changes.next().await {
        let Some(entry) = entry.upgrade() else { return };
        match change {
            Ok(Some(object)) => drop(entry.seen.send_replace(Seen::Present(Arc::new(object)))),
            Ok(None) => drop(entry.seen.send_replace(Seen::Absent)),
            Err(error) => tracing::debug!(%error, name, "watching an object that a pod names"),
        }
    }
}

impl<K> Interest<K> {
    /// The object as it is now; waits for the first word from the API server, then answers at once.
    pub(crate) async fn get(&mut self) -> Option<Arc<K>> {
        let first = self.receiver.wait_for(|seen| !matches!(seen, Seen::NotYet));
        // No word in time counts as absent; whoever needs the object tries again.
        let _ = tokio::time::timeout(PATIENCE, first).await;
        self.receiver.mark_unchanged();
        match &*self.entry.seen.borrow() {
            Seen::Present(object) => Some(object.clone()),
            Seen::Absent | Seen::NotYet => None,
        }
    }

    /// Waits until the object is another than at the last [`Interest::get`].
    pub(crate) async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
