//! The cluster at one moment.

use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::{EndpointSlice, Namespace, Node, ObjectName, Pod, Service};

/// The cluster at one moment, immutable. A changed copy shares what did not change, so that one more Service
/// costs the same at ten as at ten thousand.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the changes; a plan carries the generation that it was made from.
    pub generation: u64,
    /// Services by name.
    pub services: HashTrieMapSync<ObjectName, Arc<Service>>,
    /// EndpointSlices by the Service that they belong to, then by the slice's own name.
    pub slices: HashTrieMapSync<ObjectName, RedBlackTreeMapSync<Arc<str>, Arc<EndpointSlice>>>,
    /// Nodes by name.
    pub nodes: RedBlackTreeMapSync<Arc<str>, Arc<Node>>,
    /// Namespaces by name.
    pub namespaces: HashTrieMapSync<Arc<str>, Arc<Namespace>>,
    /// Pods by name; only where the watcher was asked for pods.
    pub pods: HashTrieMapSync<ObjectName, Arc<Pod>>,
}

impl Snapshot {
    /// All EndpointSlices of `service`, in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.values())
    }
}
