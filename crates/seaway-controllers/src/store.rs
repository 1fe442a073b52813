//! The cache of one kind: what the watch and our own writes told, whichever is newer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

/// An object's namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace, or an empty string.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// The namespace as a request's path needs it.
    pub fn scope(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What became of one key.
#[derive(Debug)]
pub struct Change<K> {
    /// The object as it was, if it was.
    pub old: Option<Arc<K>>,
    /// The object as it is, if it is.
    pub new: Option<Arc<K>>,
}

/// How many uids of deleted objects are remembered, so that the late answer to a write does not bring one back.
const REMEMBERED: usize = 4096;

/// All objects of one kind.
pub struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    by_owner: HashMap<String, BTreeSet<Key>>,
    by_group: HashMap<String, BTreeSet<Key>>,
    group: fn(&K) -> Option<&str>,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
    /// During a list: the keys listed or written since it began.
    listing: Option<HashSet<Key>>,
    synced: bool,
    trouble: Option<Instant>,
}

/// The uid of an object's controller.
pub fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

impl<K: Resource> Default for Store<K> {
    fn default() -> Self {
        Self::grouped(|_| None)
    }
}

impl<K: Resource> Store<K> {
    /// A store with an index by what `group` gives.
    pub fn grouped(group: fn(&K) -> Option<&str>) -> Self {
        Self {
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            by_group: HashMap::new(),
            group,
            gone: HashSet::new(),
            gone_order: VecDeque::new(),
            listing: None,
            synced: false,
            trouble: None,
        }
    }

    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    /// The objects of a namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects whose controller has this uid.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_owner.get(uid).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// The objects of this group (see [`Store::grouped`]).
    pub fn in_group(&self, group: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_group.get(group).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// Whether a whole list has been seen.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The watch failed: until it is back, silence means nothing.
    pub fn note_trouble(&mut self, now: Instant) {
        self.trouble = Some(now);
    }

    /// How long the watch has gone without a failure; `None` if it never failed.
    pub fn untroubled_for(&self, now: Instant) -> Option<Duration> {
        self.trouble.map(|at| now.duration_since(at))
    }

    /// A list begins; the objects it does not name are gone when it ends.
    pub fn begin_list(&mut self) {
        self.listing = Some(HashSet::new());
    }

    /// The list is complete.
    pub fn end_list(&mut self) -> Vec<Change<K>> {
        self.synced = true;
        let Some(listed) = self.listing.take() else { return Vec::new() };
        let absent: Vec<Key> = self.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
        absent
            .iter()
            .filter_map(|key| self.take(key))
            .map(|old| Change { old: Some(old), new: None })
            .collect()
    }

    /// Takes in a version of an object; `None` if a newer one, or its end, is known already.
    pub fn apply(&mut self, object: K) -> Option<Change<K>> {
        let meta = object.meta();
        let key = Key::of(meta);
        if let Some(listed) = &mut self.listing {
            listed.insert(key.clone());
        }
        let uid = meta.uid.as_deref().unwrap_or_default();
        if self.gone.contains(uid) {
            return None;
        }
        if let Some(known) = self.objects.get(&key) {
            // Also across uids: the late news of an object must not replace its successor.
            if version(known.meta()).zip(version(meta)).is_some_and(|(k, n)| k >= n) {
                return None;
            }
        }
        Some(self.put(key, object))
    }

    /// Replaces an object by our own idea of it until the API server tells a newer version.
    pub fn assume(&mut self, object: K) -> Change<K> {
        let key = Key::of(object.meta());
        self.put(key, object)
    }

    /// Removes an object that is gone for good; `None` if it was not there.
    pub fn remove(&mut self, key: &Key, uid: Option<&str>) -> Option<Change<K>> {
        if let Some(uid) = uid {
            self.remember_gone(uid);
            if self.objects.get(key)?.meta().uid.as_deref() != Some(uid) {
                return None;
            }
        }
        self.take(key).map(|old| Change { old: Some(old), new: None })
    }

    fn put(&mut self, key: Key, object: K) -> Change<K> {
        let old = self.take(&key);
        if let Some(owner) = controller_uid(object.meta()) {
            self.by_owner.entry(owner.to_owned()).or_default().insert(key.clone());
        }
        if let Some(group) = (self.group)(&object) {
            self.by_group.entry(group.to_owned()).or_default().insert(key.clone());
        }
        let new = Arc::new(object);
        self.objects.insert(key, new.clone());
        Change { old, new: Some(new) }
    }

    fn take(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        unindex(&mut self.by_owner, controller_uid(old.meta()), key);
        unindex(&mut self.by_group, (self.group)(&old), key);
        Some(old)
    }

    fn remember_gone(&mut self, uid: &str) {
        if !self.gone.insert(uid.to_owned()) {
            return;
        }
        self.gone_order.push_back(uid.to_owned());
        if self.gone_order.len() > REMEMBERED
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

fn unindex(index: &mut HashMap<String, BTreeSet<Key>>, value: Option<&str>, key: &Key) {
    let Some(value) = value else { return };
    if let Some(keys) = index.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    fn pod(name: &str, uid: &str, version: &str, node: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some(name.into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: Some(node.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn store() -> Store<Pod> {
        Store::grouped(|pod| pod.spec.as_ref()?.node_name.as_deref())
    }

    #[test]
    fn older_versions_and_the_dead_are_ignored() {
        let mut store = store();
        assert!(store.apply(pod("a", "u1", "5", "n1")).is_some());
        assert!(store.apply(pod("a", "u1", "5", "n1")).is_none(), "our own write's echo");
        assert!(store.apply(pod("a", "u1", "9", "n2")).is_some());
        assert!(store.apply(pod("a", "u1", "7", "n1")).is_none(), "10 > 9 by number, not by text");
        assert!(store.apply(pod("a", "u1", "10", "n2")).is_some());
        let key = Key::new("ns", "a");
        assert!(store.remove(&key, Some("other")).is_none());
        assert!(store.remove(&key, Some("u1")).is_some());
        assert!(store.apply(pod("a", "u1", "6", "n1")).is_none(), "the answer to a write, after the end");
        assert!(store.apply(pod("a", "u2", "11", "n1")).is_some(), "a new object of that name");
    }

    #[test]
    fn indexes_follow() {
        let mut store = store();
        store.apply(pod("a", "u1", "1", "n1"));
        store.apply(pod("b", "u2", "2", "n1"));
        assert_eq!(store.in_group("n1").count(), 2);
        store.apply(pod("a", "u1", "3", "n2"));
        assert_eq!(store.in_group("n1").count(), 1);
        assert_eq!(store.in_group("n2").count(), 1);
        store.remove(&Key::new("ns", "a"), None);
        assert_eq!(store.in_group("n2").count(), 0);
        assert_eq!(store.in_namespace("ns").count(), 1);
        assert_eq!(store.in_namespace("n").count(), 0);
    }

    #[test]
    fn a_new_list_removes_what_it_does_not_name() {
        let mut store = store();
        store.apply(pod("a", "u1", "1", "n1"));
        store.apply(pod("b", "u2", "2", "n1"));
        assert!(!store.synced());
        store.begin_list();
        store.apply(pod("b", "u2", "2", "n1"));
        store.apply(pod("c", "u3", "9", "n1"));
        let changes = store.end_list();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].old.as_ref().map(|o| o.meta().uid.clone()), Some(Some("u1".into())));
        assert!(store.synced());
        assert_eq!(store.iter().count(), 2);
    }
}
