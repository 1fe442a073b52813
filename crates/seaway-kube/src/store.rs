//! The Snapshot under construction, without any I/O.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use seaway_model::{
    Changes, EndpointSlice, Namespace, Node, ObjectName, ObjectRef, Pod, Problem, Service, Snapshot,
};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Service (core/v1).
    Service,
    /// EndpointSlice (discovery.k8s.io/v1).
    EndpointSlice,
    /// Node (core/v1).
    Node,
    /// ServiceCIDR (networking.k8s.io/v1).
    ServiceCidr,
    /// Namespace (core/v1).
    Namespace,
    /// Pod (core/v1).
    Pod,
}

impl ObjectKind {
    /// The kind's name, as the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
        }
    }
}

/// One object as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice, and when what made it change happened, where it says so.
    EndpointSlice(EndpointSlice, Option<SystemTime>),
    /// A Node.
    Node(Node),
    /// A ServiceCIDR's networks.
    ServiceCidr(Arc<[IpNet]>),
    /// A Namespace.
    Namespace(Namespace),
    /// A Pod.
    Pod(Pod),
}

/// Builds the Snapshot from single objects and whole lists, and notes what changed.
#[derive(Debug, Default)]
pub struct Store {
    snapshot: Snapshot,
    changes: Changes,
    /// The Service that each EndpointSlice is filed under.
    slice_service: HashMap<ObjectName, ObjectName>,
}

impl Store {
    /// The Snapshot as it stands.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What changed since the last call; where anything did, the Snapshot gets its next generation.
    pub fn take_changes(&mut self) -> Changes {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.snapshot.generation += 1;
        }
        changes
    }

    /// Takes in what the object called `name` (namespace empty for cluster-wide kinds) has become: an object,
    /// `None` if it is of no concern, or a problem, which leaves its last good state in force.
    pub fn apply(&mut self, kind: ObjectKind, name: ObjectName, content: Result<Option<Object>, Problem>) {
        match content {
            Ok(object) => {
                self.clear_problem(kind, &name);
                match object {
                    Some(object) => self.insert(name, object),
                    None => self.remove(kind, &name),
                }
            }
            Err(problem) => self.note_problem(problem),
        }
    }

    /// Forgets an object that was deleted.
    pub fn delete(&mut self, kind: ObjectKind, name: &ObjectName) {
        self.clear_problem(kind, name);
        self.remove(kind, name);
    }

    /// Takes in a whole list: everything of `kind` that is not in it is gone.
    pub fn replace(&mut self, kind: ObjectKind, list: Vec<(ObjectName, Result<Option<Object>, Problem>)>) {
        let listed: HashSet<ObjectName> = list.iter().map(|(name, _)| name.clone()).collect();
        for name in self.names(kind).into_iter().filter(|name| !listed.contains(name)) {
            self.delete(kind, &name);
        }
        for (name, content) in list {
            self.apply(kind, name, content);
        }
    }

    /// The names of all objects of `kind`, the ones that are nothing but a problem included.
    fn names(&self, kind: ObjectKind) -> Vec<ObjectName> {
        let cluster_wide = |name: &Arc<str>| ObjectName::new("", name.clone());
        let mut names: Vec<ObjectName> = match kind {
            ObjectKind::Service => self.snapshot.services.keys().cloned().collect(),
            ObjectKind::EndpointSlice => self.slice_service.keys().cloned().collect(),
            ObjectKind::Node => self.snapshot.nodes.keys().map(cluster_wide).collect(),
            ObjectKind::ServiceCidr => self.snapshot.service_cidrs.keys().map(cluster_wide).collect(),
            ObjectKind::Namespace => self.snapshot.namespaces.keys().map(cluster_wide).collect(),
            ObjectKind::Pod => self.snapshot.pods.keys().cloned().collect(),
        };
        let problems = self.snapshot.problems.keys().filter(|object| &*object.kind == kind.name());
        names.extend(problems.map(|object| ObjectName::new(object.namespace.clone(), object.name.clone())));
        names
    }

    fn insert(&mut self, name: ObjectName, object: Object) {
        let snapshot = &mut self.snapshot;
        match object {
            Object::Service(service) => {
                if snapshot.services.get(&name).is_none_or(|old| **old != service) {
                    snapshot.services.insert_mut(name.clone(), Arc::new(service));
                    self.changes.services.insert(name);
                }
            }
            Object::EndpointSlice(slice, triggered) => self.insert_slice(name, slice, triggered),
            Object::Node(node) => {
                if snapshot.nodes.get(&name.name).is_none_or(|old| **old != node) {
                    snapshot.nodes.insert_mut(name.name.clone(), Arc::new(node));
                    self.changes.nodes.insert(name.name);
                }
            }
            Object::ServiceCidr(networks) => {
                if snapshot.service_cidrs.get(&name.name) != Some(&networks) {
                    snapshot.service_cidrs.insert_mut(name.name.clone(), networks);
                    self.changes.service_cidrs.insert(name.name);
                }
            }
            Object::Namespace(namespace) => {
                if snapshot.namespaces.get(&name.name).is_none_or(|old| **old != namespace) {
                    snapshot.namespaces.insert_mut(name.name.clone(), Arc::new(namespace));
                    self.changes.namespaces.insert(name.name);
                }
            }
            Object::Pod(pod) => {
                if snapshot.pods.get(&name).is_none_or(|old| **old != pod) {
                    snapshot.pods.insert_mut(name.clone(), Arc::new(pod));
                    self.changes.pods.insert(name);
                }
            }
        }
    }

    fn insert_slice(&mut self, name: ObjectName, slice: EndpointSlice, triggered: Option<SystemTime>) {
        if self.slice_service.get(&name).is_some_and(|service| *service != slice.service) {
            self.remove_slice(&name);
        }
        let service = slice.service.clone();
        let mut slices = self.snapshot.slices.get(&service).cloned().unwrap_or_default();
        if slices.get(&name.name).is_some_and(|old| **old == slice) {
            return;
        }
        slices.insert_mut(name.name.clone(), Arc::new(slice));
        self.snapshot.slices.insert_mut(service.clone(), slices);
        self.slice_service.insert(name, service.clone());
        if let Some(time) = triggered {
            self.changes.triggered.entry(service.clone()).or_default().insert(time);
        }
        self.changes.services.insert(service);
    }

    fn remove(&mut self, kind: ObjectKind, name: &ObjectName) {
        let snapshot = &mut self.snapshot;
        match kind {
            ObjectKind::Service => {
                if snapshot.services.remove_mut(name) {
                    self.changes.services.insert(name.clone());
                }
            }
            ObjectKind::EndpointSlice => self.remove_slice(name),
            ObjectKind::Node => {
                if snapshot.nodes.remove_mut(&name.name) {
                    self.changes.nodes.insert(name.name.clone());
                }
            }
            ObjectKind::ServiceCidr => {
                if snapshot.service_cidrs.remove_mut(&name.name) {
                    self.changes.service_cidrs.insert(name.name.clone());
                }
            }
            ObjectKind::Namespace => {
                if snapshot.namespaces.remove_mut(&name.name) {
                    self.changes.namespaces.insert(name.name.clone());
                }
            }
            ObjectKind::Pod => {
                if snapshot.pods.remove_mut(name) {
                    self.changes.pods.insert(name.clone());
                }
            }
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_service.remove(name) else { return };
        let Some(mut slices) = self.snapshot.slices.get(&service).cloned() else { return };
        slices.remove_mut(&name.name);
        if slices.is_empty() {
            self.snapshot.slices.remove_mut(&service);
        } else {
            self.snapshot.slices.insert_mut(service.clone(), slices);
        }
        self.changes.services.insert(service);
    }

    fn note_problem(&mut self, problem: Problem) {
        if self.snapshot.problems.get(&problem.object).is_some_and(|old| **old == problem) {
            return;
        }
        tracing::warn!(%problem, "object cannot be used; its last good state stays in force");
        self.snapshot.problems.insert_mut(problem.object.clone(), Arc::new(problem));
    }

    fn clear_problem(&mut self, kind: ObjectKind, name: &ObjectName) {
        if self.snapshot.problems.is_empty() {
            return;
        }
        let object = ObjectRef::new(kind.name(), name.namespace.clone(), name.name.clone());
        if self.snapshot.problems.remove_mut(&object) {
            tracing::info!(%object, "object can be used again");
        }
    }
}

#[cfg(test)]
mod tests;
