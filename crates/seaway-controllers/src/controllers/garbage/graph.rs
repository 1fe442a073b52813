//! Who owns whom, over all kinds.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::ApiResource;

use crate::store::Key;

/// The finalizer of an owner that waits for its dependents' end.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents are to be left alone.
pub const ORPHAN: &str = "orphan";

/// How many uids of deleted objects are remembered.
const REMEMBERED: usize = 8192;

/// An object, as far as ownership goes.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its uid.
    pub uid: String,
    /// Its kind.
    pub resource: Arc<ApiResource>,
    /// Its namespace and name.
    pub key: Key,
    /// Its version.
    pub version: Option<String>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether its deletion has begun.
    pub deleting: bool,
}

impl Node {
    /// The node of an object.
    pub fn of<K: Resource>(object: &K, resource: Arc<ApiResource>) -> Self {
        Self::of_meta(object.meta(), resource)
    }

    /// The node of an object's metadata.
    pub fn of_meta(meta: &ObjectMeta, resource: Arc<ApiResource>) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            resource,
            key: Key::of(meta),
            version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// Whether it has this finalizer.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|f| f == name)
    }

    /// Whether it is being deleted and waits for its dependents.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(FOREGROUND)
    }

    fn needs_a_look(&self) -> bool {
        !self.owners.is_empty()
            || (self.deleting && (self.has_finalizer(FOREGROUND) || self.has_finalizer(ORPHAN)))
    }
}

/// All objects by uid, with the edges from owners to dependents.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
}

impl Graph {
    /// The object of this uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this uid as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Whether this object is known to have been deleted, or never to have been.
    pub fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// Remembers that no object has this uid.
    pub fn mark_gone(&mut self, uid: &str) {
        if self.gone.insert(uid.to_owned()) {
            self.gone_order.push_back(uid.to_owned());
            if self.gone_order.len() > REMEMBERED
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
    }

    /// Takes an object in; gives the uids that need a look because of it.
    pub fn observe(&mut self, node: Node) -> Vec<String> {
        if self.gone.contains(&node.uid) {
            return Vec::new();
        }
        let number = |version: &Option<String>| version.as_deref().and_then(|v| v.parse::<u64>().ok());
        let known = self.nodes.get(&node.uid).and_then(|known| number(&known.version));
        if known.zip(number(&node.version)).is_some_and(|(known, new)| known > new) {
            return Vec::new();
        }
        let old = self.nodes.remove(&node.uid);
        for owner in old.iter().flat_map(|old| &old.owners) {
            self.unlink(&owner.uid, &node.uid);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(node.uid.clone());
        }
        let mut look = Vec::new();
        if node.needs_a_look() {
            look.push(node.uid.clone());
        }
        let waited = old.as_ref().is_some_and(Node::waits_for_dependents);
        if node.waits_for_dependents() && !waited {
            look.extend(self.dependents.get(&node.uid).into_iter().flatten().cloned());
        }
        // An owner that it no longer blocks or names may go on.
        look.extend(old.iter().flat_map(|old| &old.owners).filter_map(|o| self.waiting(&o.uid)));
        self.nodes.insert(node.uid.clone(), node);
        look
    }

    /// Takes an object out; gives the uids that need a look because of it.
    pub fn forget(&mut self, uid: &str) -> Vec<String> {
        self.mark_gone(uid);
        let old = self.nodes.remove(uid);
        let mut look: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in old.iter().flat_map(|old| &old.owners) {
            self.unlink(&owner.uid, uid);
            look.extend(self.waiting(&owner.uid));
        }
        look
    }

    /// The uids of a kind's objects.
    pub fn of_kind<'a>(&'a self, resource: &'a ApiResource) -> impl Iterator<Item = &'a Node> {
        self.nodes.values().filter(move |node| *node.resource == *resource)
    }

    fn waiting(&self, owner: &str) -> Option<String> {
        let node = self.nodes.get(owner)?;
        (node.deleting && node.needs_a_look()).then(|| owner.to_owned())
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
