//! The kinds that the API server has, and watches of the metadata of those that no controller watches whole.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::graph::Node;
use crate::cluster::Cluster;
use crate::watch::Reconnect;

/// A kind that the API server has.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its names.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it can be listed and deleted.
    pub deletable: bool,
    /// Whether it can be watched too.
    pub watchable: bool,
}

/// The kinds that the API server has, as of the last discovery.
pub struct Kinds {
    client: Client,
    served: RwLock<Vec<Served>>,
    discovered: watch::Sender<bool>,
}

impl Kinds {
    /// No kinds yet; see [`Kinds::discover`].
    pub fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, served: RwLock::default(), discovered: watch::Sender::new(false) })
    }

    /// Waits until the kinds are known: before, there seem to be none, and everything looks empty and nobody's.
    pub async fn wait_discovered(&self) {
        // The sender lives as long as this.
        let _ = self.discovered.subscribe().wait_for(|discovered| *discovered).await;
    }

    /// Asks the API server anew.
    pub async fn discover(&self) -> Result<Vec<Served>, kube::Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let mut served = Vec::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let can = |verb| capabilities.supports_operation(verb);
                let deletable = can(verbs::LIST) && can(verbs::DELETE);
                let namespaced = capabilities.scope == Scope::Namespaced;
                let watchable = deletable && can(verbs::WATCH);
                served.push(Served { resource, namespaced, deletable, watchable });
            }
        }
        self.served.write().clone_from(&served);
        self.discovered.send_replace(true);
        Ok(served)
    }

    /// The namespaced kinds whose objects can be listed and deleted.
    pub fn namespaced(&self) -> Vec<ApiResource> {
        let served = self.served.read();
        served.iter().filter(|s| s.namespaced && s.deletable).map(|s| s.resource.clone()).collect()
    }

    /// The kind of this name, and whether it is namespaced. Versions of a group are one and the same kind.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<(ApiResource, bool)> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let served = self.served.read();
        let found = served.iter().find(|s| s.resource.group == group && s.resource.kind == kind)?;
        Some((found.resource.clone(), found.namespaced))
    }

    /// A client of the kind.
    pub fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }
}

/// Kinds of which every object is short-lived or that would only make noise.
fn is_noise(resource: &ApiResource) -> bool {
    matches!(
        (resource.group.as_str(), resource.kind.as_str()),
        ("" | "events.k8s.io", "Event") | ("", "ComponentStatus")
    )
}

/// Keeps a watch on the metadata of each kind that the API server has and that `whole` does not name.
/// Kinds are discovered anew whenever a custom resource definition changes.
pub async fn watch_other_kinds(cluster: Arc<Cluster>, kinds: Arc<Kinds>, whole: Vec<ApiResource>) {
    let mut watches: HashMap<String, AbortOnDropHandle<()>> = HashMap::new();
    let (again_in, mut again) = tokio::sync::mpsc::channel::<()>(1);
    let mut back_off = Reconnect::default();
    loop {
        match kinds.discover().await {
            Ok(served) => {
                back_off = Reconnect::default();
                watches.retain(|plural, _| served.iter().any(|s| &id(&s.resource) == plural));
                let same = |a: &ApiResource, b: &ApiResource| a.group == b.group && a.kind == b.kind;
                for Served { resource, .. } in served.into_iter().filter(|s| s.watchable) {
                    let known = whole.iter().any(|w| same(w, &resource));
                    if !known && !is_noise(&resource) {
                        watches.entry(id(&resource)).or_insert_with(|| {
                            let again =
                                (resource.kind == "CustomResourceDefinition").then(|| again_in.clone());
                            let watch = watch_metadata(cluster.clone(), kinds.clone(), resource, again);
                            AbortOnDropHandle::new(tokio::spawn(watch))
                        });
                    }
                }
                // The definition's change comes before the server serves the kind: give it a moment.
                let _ = again.recv().await;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            Err(error) => {
                warn!(%error, "discovery failed; try again");
                if let Some(delay) = back_off.next() {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

fn id(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

async fn watch_metadata(
    cluster: Arc<Cluster>,
    kinds: Arc<Kinds>,
    resource: ApiResource,
    again: Option<tokio::sync::mpsc::Sender<()>>,
) {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(kinds.client.clone(), &resource);
    let resource = Arc::new(resource);
    let config = watcher::Config::default();
    let mut events = pin!(watcher(api, config).backoff(Reconnect::default()));
    // Known when a list began, and not in it so far. What becomes known meanwhile may be newer than the list.
    let mut unlisted: HashSet<String> = HashSet::new();
    loop {
        let event = events.try_next().await;
        if let (Ok(Some(Event::Apply(_) | Event::Delete(_))), Some(again)) = (&event, &again) {
            // A full channel means that a discovery is due already.
            let _ = again.try_send(());
        }
        match event {
            Ok(Some(Event::Init)) => {
                unlisted = cluster.graph().of_kind(&resource).map(|node| node.uid.clone()).collect();
            }
            Ok(Some(Event::InitApply(object) | Event::Apply(object))) => {
                unlisted.remove(object.metadata.uid.as_deref().unwrap_or_default());
                cluster.observe_node(Node::of_meta(&object.metadata, resource.clone()));
            }
            Ok(Some(Event::InitDone)) => {
                for uid in unlisted.drain() {
                    cluster.forget_uid(&uid);
                }
            }
            Ok(Some(Event::Delete(object))) => {
                cluster.forget_uid(object.metadata.uid.as_deref().unwrap_or_default());
            }
            Ok(None) => return,
            Err(error) => debug!(kind = resource.kind, %error, "watch of metadata ended; list again"),
        }
    }
}
