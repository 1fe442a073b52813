//! The cluster at one moment.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::{EndpointSlice, Namespace, Node, ObjectName, ObjectRef, Pod, Problem, Service};

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
    /// The networks that cluster IPs come from, by the name of their ServiceCIDR; only where the watcher was asked for
    /// them and the API has them.
    pub service_cidrs: RedBlackTreeMapSync<Arc<str>, Arc<[IpNet]>>,
    /// Namespaces by name.
    pub namespaces: HashTrieMapSync<Arc<str>, Arc<Namespace>>,
    /// Pods by name; only where the watcher was asked for pods.
    pub pods: HashTrieMapSync<ObjectName, Arc<Pod>>,
    /// Objects that could not be used as they are; what stands above is their last good state, if they had one.
    pub problems: RedBlackTreeMapSync<ObjectRef, Arc<Problem>>,
}

impl Snapshot {
    /// All EndpointSlices of `service`, in the order of their names.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.values())
    }
}

/// What differs between two Snapshots, by name: enough for a consumer to look at nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may have changed, whatever the sets say: a consumer's first Snapshot.
    pub all: bool,
    /// Services that changed, came or went, or whose EndpointSlices did.
    pub services: HashSet<ObjectName>,
    /// Nodes that changed, came or went.
    pub nodes: BTreeSet<Arc<str>>,
    /// ServiceCIDRs that changed, came or went.
    pub service_cidrs: BTreeSet<Arc<str>>,
    /// Namespaces that changed, came or went.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Pods that changed, came or went.
    pub pods: HashSet<ObjectName>,
    /// When what made Services' endpoints change happened, as the EndpointSlices say
    /// (`endpoints.kubernetes.io/last-change-trigger-time`); for the Services among `services` alone.
    pub triggered: HashMap<ObjectName, BTreeSet<SystemTime>>,
}

impl Changes {
    /// Anything may have changed.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.all
            && self.services.is_empty()
            && self.nodes.is_empty()
            && self.service_cidrs.is_empty()
            && self.namespaces.is_empty()
            && self.pods.is_empty()
    }

    /// Adds `later`, so that both changes are told as one.
    pub fn merge(&mut self, later: &Self) {
        self.all |= later.all;
        self.services.extend(later.services.iter().cloned());
        self.nodes.extend(later.nodes.iter().cloned());
        self.service_cidrs.extend(later.service_cidrs.iter().cloned());
        self.namespaces.extend(later.namespaces.iter().cloned());
        self.pods.extend(later.pods.iter().cloned());
        for (service, times) in &later.triggered {
            self.triggered.entry(service.clone()).or_default().extend(times);
        }
    }
}
