//! Which change wakes which keys of which controllers.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cluster::Queues;
use crate::controllers::mirror;
use crate::controllers::namespace::DEFAULT_ACCOUNT;
use crate::controllers::scheduler;
use crate::controllers::slices::{CONTROLLER, MANAGED_BY, SERVICE_NAME, topology};
use crate::meta::{deleting, pod_finished, pod_node, pod_ready, selects, service_selects};
use crate::object::{Stores, Watched};
use crate::store::{Change, Key, controller_uid};

/// A kind whose changes wake controllers.
pub trait Routed: Watched {
    /// Wakes the keys that a change concerns. The stores hold the new state already.
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>);
}

impl<K: Watched> Change<K> {
    /// The object as it is, or as it was if it is gone.
    fn any(&self) -> Option<&K> {
        self.new.as_deref().or(self.old.as_deref())
    }

    fn key(&self) -> Key {
        self.any().map(|object| Key::of(object.meta())).unwrap_or_default()
    }
}

impl Routed for Namespace {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        queues.namespaces.add(change.key().name);
    }
}

impl Routed for ServiceAccount {
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>) {
        let key = change.key();
        if change.new.is_none() {
            wake_ending_namespace(queues, stores, &key.namespace);
            if key.name == DEFAULT_ACCOUNT {
                queues.namespaces.add(key.namespace);
            }
        }
    }
}

impl Routed for ConfigMap {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        queues.namespaces.add(change.key().namespace);
    }
}

impl Routed for Lease {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        let key = change.key();
        if key.namespace == NODE_LEASES {
            queues.node_health.add(key.name);
        }
    }
}

/// The namespace of the nodes' leases.
pub const NODE_LEASES: &str = "kube-node-lease";

impl Routed for Node {
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>) {
        let name = change.key().name;
        queues.node_cidrs.add(name.clone());
        queues.node_health.add(name.clone());
        queues.cloud_nodes.add(name.clone());
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        let spec = |node: Option<&Node>| node.map(|n| (n.metadata.labels.clone(), n.spec.clone()));
        let ready = |node: Option<&Node>| {
            let condition = node.and_then(|n| crate::controllers::node_health::condition(n, "Ready"));
            condition.map(|c| c.status.clone())
        };
        let room = |node: Option<&Node>| node.and_then(|n| n.status.as_ref()?.allocatable.clone());
        if spec(old) == spec(new) && ready(old) == ready(new) && room(old) == room(new) {
            return;
        }
        wake_unscheduled(queues, stores);
        for (key, _) in stores.daemon_sets.iter() {
            queues.daemon_sets.add(key.clone());
        }
        if old.is_some() && new.is_none() {
            // Its part of the pod network is free for one that got none.
            stores.nodes.iter().for_each(|(key, _)| queues.node_cidrs.add(key.name.clone()));
        }
        // The zones' parts of all processors are others now.
        for (key, _) in stores.services.iter().filter(|(_, service)| topology::is_asked_for(service)) {
            queues.slices.add(key.clone());
        }
        for pod in stores.pods.in_group(&name) {
            queues.evictions.add(Key::of(&pod.metadata));
            wake_services(queues, stores, &pod.metadata);
        }
    }
}

impl Routed for Pod {
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        // Services first: this is the way on which connections move.
        for pod in [old, new].into_iter().flatten() {
            wake_services(queues, stores, &pod.metadata);
        }
        for pod in [old, new].into_iter().flatten() {
            wake_owner(queues, stores, pod);
        }
        let key = change.key();
        let took_room = |pod: &Pod| pod_node(pod).is_some() && !pod_finished(pod);
        if old.is_some_and(took_room) && !new.is_some_and(took_room) {
            wake_unscheduled(queues, stores);
        }
        let Some(new) = new else {
            wake_ending_namespace(queues, stores, &key.namespace);
            return;
        };
        if scheduler::is_waiting(new) {
            queues.scheduling.add(key.clone());
        }
        let was_bound = old.and_then(pod_node);
        match pod_node(new) {
            Some(node) => {
                if was_bound.is_none() {
                    queues.evictions.add(key);
                }
                if pod_ready(new) && (was_bound.is_none() || !old.is_some_and(pod_ready)) {
                    queues.node_health.add(node.to_owned());
                }
            }
            None if deleting(new) => queues.evictions.add(key),
            None => {}
        }
    }
}

/// The pods that wait for a node may find one now.
fn wake_unscheduled(queues: &Queues, stores: &Stores) {
    for pod in stores.pods.in_group("").filter(|pod| scheduler::is_waiting(pod)) {
        queues.scheduling.add(Key::of(&pod.metadata));
    }
}

fn wake_services(queues: &Queues, stores: &Stores, pod: &ObjectMeta) {
    let namespace = pod.namespace.as_deref().unwrap_or_default();
    for service in stores.services.in_namespace(namespace) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if service_selects(selector, pod.labels.as_ref()) {
            queues.slices.add(Key::of(&service.metadata));
        }
    }
}

/// Wakes the pod's controller, or those that may adopt it; and the Deployment behind a ReplicaSet.
fn wake_owner(queues: &Queues, stores: &Stores, pod: &Pod) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let Some(owner) = owner else {
        for set in stores.replica_sets.in_namespace(&namespace) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref())) {
                queues.replica_sets.add(Key::of(&set.metadata));
            }
        }
        return;
    };
    let key = Key::new(namespace, owner.name.clone());
    match owner.kind.as_str() {
        "ReplicaSet" => {
            if let Some(set) = stores.replica_sets.get(&key) {
                wake_deployment(queues, stores, &set.metadata);
            }
            queues.replica_sets.add(key);
        }
        "DaemonSet" => queues.daemon_sets.add(key),
        "Job" => queues.jobs.add(key),
        _ => {}
    }
}

fn wake_deployment(queues: &Queues, stores: &Stores, set: &ObjectMeta) {
    let namespace = set.namespace.as_deref().unwrap_or_default();
    let owner = controller_uid(set);
    for deployment in stores.deployments.in_namespace(namespace) {
        let selected = || {
            let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
            selector.is_some_and(|selector| selects(selector, set.labels.as_ref()))
        };
        if owner.map_or_else(selected, |owner| deployment.metadata.uid.as_deref() == Some(owner)) {
            queues.deployments.add(Key::of(&deployment.metadata));
        }
    }
}

fn wake_ending_namespace(queues: &Queues, stores: &Stores, namespace: &str) {
    let ending = stores.namespaces.get(&Key::new("", namespace)).is_some_and(|n| deleting(&**n));
    if ending {
        queues.namespaces.add(namespace.to_owned());
    }
}

impl Routed for ReplicaSet {
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>) {
        queues.replica_sets.add(change.key());
        for set in [change.old.as_deref(), change.new.as_deref()].into_iter().flatten() {
            wake_deployment(queues, stores, &set.metadata);
        }
    }
}

impl Routed for Deployment {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        queues.deployments.add(change.key());
    }
}

impl Routed for DaemonSet {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        queues.daemon_sets.add(change.key());
    }
}

impl Routed for Job {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        queues.jobs.add(change.key());
    }
}

impl Routed for Service {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        let key = change.key();
        queues.slices.add(key.clone());
        queues.mirrors.add(key);
    }
}

impl Routed for Endpoints {
    fn changed(queues: &Queues, stores: &Stores, change: &Change<Self>) {
        let key = change.key();
        // Endpoints may come before their Service: only a Service's end ends them.
        if stores.services.get(&key).is_some() {
            queues.endpoints.add(key.clone());
        }
        queues.mirrors.add(key);
    }
}

impl Routed for EndpointSlice {
    fn changed(queues: &Queues, _: &Stores, change: &Change<Self>) {
        for slice in [change.old.as_deref(), change.new.as_deref()].into_iter().flatten() {
            let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name));
            let Some(service) = label(SERVICE_NAME) else { continue };
            let key = Key::new(slice.metadata.namespace.clone().unwrap_or_default(), service.clone());
            match label(MANAGED_BY).map(String::as_str) {
                Some(CONTROLLER) => queues.slices.add(key),
                Some(mirror::CONTROLLER) => queues.mirrors.add(key),
                _ => {}
            }
        }
    }
}
