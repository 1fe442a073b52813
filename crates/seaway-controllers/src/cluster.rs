//! The cache of the cluster and the queues that its changes feed.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

use crate::controllers::garbage::{Graph, Node as GraphNode};
use crate::object::{Stores, Watched};
use crate::queue::Queue;
use crate::routes::Routed;
use crate::store::{Change, Key};

/// A queue for each controller.
#[derive(Default)]
pub struct Queues {
    /// Namespaces by name.
    pub namespaces: Queue<String>,
    /// Deployments.
    pub deployments: Queue<Key>,
    /// ReplicaSets.
    pub replica_sets: Queue<Key>,
    /// DaemonSets.
    pub daemon_sets: Queue<Key>,
    /// Jobs.
    pub jobs: Queue<Key>,
    /// Pods that wait for a node.
    pub scheduling: Queue<Key>,
    /// Services, for their EndpointSlices.
    pub slices: Queue<Key>,
    /// Services, for their Endpoints.
    pub endpoints: Queue<Key>,
    /// Endpoints to mirror into EndpointSlices.
    pub mirrors: Queue<Key>,
    /// Nodes by name, for their pod CIDRs.
    pub node_cidrs: Queue<String>,
    /// Nodes by name, for their health.
    pub node_health: Queue<String>,
    /// Nodes by name, for what the cloud knows of them.
    pub cloud_nodes: Queue<String>,
    /// Pods, for eviction and clean-up.
    pub evictions: Queue<Key>,
    /// Objects by uid, for the garbage collector.
    pub garbage: Queue<String>,
}

/// What is known of the cluster.
#[derive(Default)]
pub struct Cluster {
    stores: RwLock<Stores>,
    graph: RwLock<Graph>,
    /// The controllers' queues.
    pub queues: Queues,
    synced: Notify,
}

impl Cluster {
    /// An empty cache.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The stores, to read. Not to be held across an await.
    pub fn stores(&self) -> RwLockReadGuard<'_, Stores> {
        self.stores.read()
    }

    /// The owners' graph, to read. Not to be held across an await.
    pub fn graph(&self) -> RwLockReadGuard<'_, Graph> {
        self.graph.read()
    }

    pub(crate) fn graph_mut(&self) -> RwLockWriteGuard<'_, Graph> {
        self.graph.write()
    }

    /// Waits until each kind has been listed.
    pub async fn wait_synced(&self) {
        loop {
            let notified = self.synced.notified();
            if self.stores.read().synced() {
                return;
            }
            notified.await;
        }
    }

    /// Takes in a version of an object and wakes whom it concerns.
    pub fn observe<K: Routed>(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        let node = GraphNode::of(&object, Arc::new(K::KIND.resource()));
        let mut stores = self.stores.write();
        let Some(change) = K::store_mut(&mut stores).apply(object) else { return };
        K::changed(&self.queues, &stores, &change);
        drop(stores);
        let replaced = change.old.as_ref().and_then(|old| old.meta().uid.as_deref());
        if replaced.is_some_and(|uid| uid != node.uid) {
            self.forget_node(&change);
        }
        self.observe_node(node);
    }

    /// Takes in an object's end.
    pub fn forget<K: Routed>(&self, key: &Key, uid: Option<&str>) {
        let mut stores = self.stores.write();
        if let Some(change) = K::store_mut(&mut stores).remove(key, uid) {
            K::changed(&self.queues, &stores, &change);
            drop(stores);
            self.forget_node(&change);
        }
    }

    /// Takes in our own idea of an object until the API server tells a newer version.
    pub fn assume<K: Routed>(&self, decide: impl FnOnce(&Stores) -> Option<K>) -> Option<Arc<K>> {
        let mut stores = self.stores.write();
        let object = decide(&stores)?;
        let change = K::store_mut(&mut stores).assume(object);
        K::changed(&self.queues, &stores, &change);
        change.new
    }

    /// A watch failed.
    pub fn note_trouble<K: Routed>(&self) {
        K::store_mut(&mut self.stores.write()).note_trouble(Instant::now());
    }

    /// A list begins.
    pub fn begin_list<K: Routed>(&self) {
        K::store_mut(&mut self.stores.write()).begin_list();
    }

    /// A list is complete: what it did not name is gone.
    pub fn end_list<K: Routed>(&self) {
        let mut stores = self.stores.write();
        let changes = K::store_mut(&mut stores).end_list();
        for change in &changes {
            K::changed(&self.queues, &stores, change);
        }
        drop(stores);
        for change in &changes {
            self.forget_node(change);
        }
        self.synced.notify_waiters();
    }

    /// Takes an object into the owners' graph.
    pub(crate) fn observe_node(&self, node: GraphNode) {
        for uid in self.graph.write().observe(node) {
            self.queues.garbage.add(uid);
        }
    }

    fn forget_node<K: Watched>(&self, change: &Change<K>) {
        if let Some(uid) = change.old.as_ref().and_then(|old| old.meta().uid.as_deref()) {
            self.forget_uid(uid);
        }
    }

    /// Takes an object out of the owners' graph.
    pub(crate) fn forget_uid(&self, uid: &str) {
        for dependent in self.graph.write().forget(uid) {
            self.queues.garbage.add(dependent);
        }
    }
}
