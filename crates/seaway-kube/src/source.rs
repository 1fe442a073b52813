//! The watched cluster: who wants to know of it subscribes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use kube::{Api, Client};
use seaway_model::{Changes, Problem, Snapshot};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::convert;
use crate::reflect::{Event, Reflected, Selection, reflect};
use crate::store::{Object, ObjectKind, Store};

/// Which pods to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodScope {
    /// None.
    #[default]
    None,
    /// Those of one node.
    OnNode(String),
    /// All.
    All,
}

/// Which Services and EndpointSlices to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceScope {
    /// None.
    None,
    /// All, headless ones too.
    #[default]
    All,
    /// Those of a service proxy: not headless, and not another proxy's.
    Proxied,
}

/// What to watch. By default Services with their EndpointSlices and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Services and EndpointSlices.
    pub services: ServiceScope,
    /// Nodes.
    pub nodes: bool,
    /// ServiceCIDRs; an API without them (Kubernetes before 1.33), or one that does not let us see them, has none.
    pub service_cidrs: bool,
    /// Namespaces.
    pub namespaces: bool,
    /// Pods.
    pub pods: PodScope,
    /// The least time between two Updates of a subscription; zero tells every change at once.
    pub min_sync: Duration,
}

/// `service.kubernetes.io/headless` marks what has no address to proxy, `service-proxy-name` what belongs to
/// another proxy (kube-proxy's own selector).
const PROXIED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

impl Wanted {
    fn kinds(&self) -> Vec<ObjectKind> {
        let services = self.services != ServiceScope::None;
        [
            (ObjectKind::Service, services),
            (ObjectKind::EndpointSlice, services),
            (ObjectKind::Node, self.nodes),
            (ObjectKind::ServiceCidr, self.service_cidrs),
            (ObjectKind::Namespace, self.namespaces),
            (ObjectKind::Pod, self.pods != PodScope::None),
        ]
        .into_iter()
        .filter_map(|(kind, wanted)| wanted.then_some(kind))
        .collect()
    }

    fn selection(&self, kind: ObjectKind) -> Selection {
        match (kind, &self.pods) {
            (ObjectKind::Service | ObjectKind::EndpointSlice, _)
                if self.services == ServiceScope::Proxied =>
            {
                Selection { labels: Some(PROXIED.into()), fields: None }
            }
            (ObjectKind::Pod, PodScope::OnNode(node)) => {
                Selection { labels: None, fields: Some(format!("spec.nodeName={node}")) }
            }
            _ => Selection::default(),
        }
    }
}

/// How the watch of one kind fares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// Listed completely at least once.
    pub synced: bool,
    /// The watch stands.
    pub connected: bool,
    /// When the API server was last heard of: an event, a bookmark or a list.
    pub last_event: Option<Timestamp>,
    /// The last failure, kept after it is over.
    pub last_error: Option<String>,
    /// Complete lists so far.
    pub lists: u64,
    /// Events so far, bookmarks not counted.
    pub events: u64,
    /// Objects that came, changed or went so far: all of a list's, and one an event.
    pub changes: u64,
}

/// How the watches fare.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// All kinds have been listed completely at least once.
    pub synced: bool,
    /// All watches stand.
    pub connected: bool,
    /// The Snapshot's generation.
    pub generation: u64,
    /// By kind.
    pub kinds: BTreeMap<String, KindStatus>,
    /// Objects that cannot be used as they are.
    pub problems: Vec<Problem>,
}

/// The cluster's state, and what changed in it since the subscription's last Update.
#[derive(Clone, Debug)]
pub struct Update {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// What changed; everything in a subscription's first Update.
    pub changes: Changes,
}

/// Watches the API server for as long as it lives. Without an API server the last Snapshot stays.
#[derive(Debug)]
pub struct Source {
    hub: Arc<Hub>,
    /// Aborted when dropped.
    _reflectors: JoinSet<()>,
}

impl Source {
    /// Begins to watch. Must be called inside a tokio runtime.
    pub fn start(client: Client, wanted: Wanted) -> Self {
        let kinds = wanted.kinds();
        let hub = Arc::new(Hub::new(&kinds, wanted.min_sync));
        let mut reflectors = JoinSet::new();
        for kind in kinds {
            let selection = wanted.selection(kind);
            let (client, hub) = (client.clone(), hub.clone());
            let tell = move |kind, event| hub.take_in(kind, event);
            match kind {
                ObjectKind::Service => {
                    reflectors.spawn(reflect::<core::Service>(Api::all(client), selection, tell));
                }
                ObjectKind::EndpointSlice => {
                    reflectors.spawn(reflect::<discovery::EndpointSlice>(Api::all(client), selection, tell));
                }
                ObjectKind::Node => {
                    reflectors.spawn(reflect::<core::Node>(Api::all(client), selection, tell));
                }
                ObjectKind::ServiceCidr => {
                    reflectors.spawn(reflect::<networking::ServiceCIDR>(Api::all(client), selection, tell));
                }
                ObjectKind::Namespace => {
                    reflectors.spawn(reflect::<core::Namespace>(Api::all(client), selection, tell));
                }
                ObjectKind::Pod => {
                    reflectors.spawn(reflect::<core::Pod>(Api::all(client), selection, tell));
                }
            }
        }
        Self { hub, _reflectors: reflectors }
    }

    /// A new consumer. Its first Update comes when all kinds have been listed.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.hub.clone())
    }

    /// How the watches fare.
    pub fn status(&self) -> SourceStatus {
        self.hub.lock().status()
    }

    /// The newest Snapshot; `None` until all kinds have been listed.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let state = self.hub.lock();
        state.synced().then(|| state.published.clone())
    }
}

/// A consumer's end.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    slot: Arc<Slot>,
    last: Option<Instant>,
}

impl Subscription {
    fn new(hub: Arc<Hub>) -> Self {
        let slot = Arc::new(Slot { pending: Mutex::new(Changes::everything()), wake: Notify::new() });
        hub.lock().slots.push(Arc::downgrade(&slot));
        Self { hub, slot, last: None }
    }

    /// The next Update, as soon as there is something to tell. Changes that came in the meantime are told as one.
    /// Cancel-safe: what was not returned is told the next time.
    pub async fn next(&mut self) -> Update {
        if let (Some(last), false) = (self.last, self.hub.min_sync.is_zero()) {
            tokio::time::sleep_until(last + self.hub.min_sync).await;
        }
        loop {
            let woken = self.slot.wake.notified();
            if let Some(update) = self.take() {
                self.last = Some(Instant::now());
                return update;
            }
            woken.await;
        }
    }

    fn take(&self) -> Option<Update> {
        let state = self.hub.lock();
        if !state.synced() {
            return None;
        }
        let changes = std::mem::take(&mut *lock(&self.slot.pending));
        (!changes.is_empty()).then(|| Update { snapshot: state.published.clone(), changes })
    }
}

#[derive(Debug)]
struct Slot {
    pending: Mutex<Changes>,
    wake: Notify,
}

/// Where the reflectors and the subscriptions meet.
#[derive(Debug)]
struct Hub {
    state: Mutex<State>,
    min_sync: Duration,
}

#[derive(Debug)]
struct State {
    store: Store,
    published: Arc<Snapshot>,
    kinds: BTreeMap<ObjectKind, KindStatus>,
    slots: Vec<Weak<Slot>>,
}

/// A panic elsewhere cannot leave these states half-written in a way that matters more than going on does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    fn new(kinds: &[ObjectKind], min_sync: Duration) -> Self {
        let state = State {
            store: Store::default(),
            published: Arc::default(),
            kinds: kinds.iter().map(|kind| (*kind, KindStatus::default())).collect(),
            slots: Vec::new(),
        };
        Self { state: Mutex::new(state), min_sync }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn take_in(&self, kind: ObjectKind, event: Event) {
        self.lock().take_in(kind, event);
    }
}

impl State {
    fn synced(&self) -> bool {
        self.kinds.values().all(|status| status.synced)
    }

    fn take_in(&mut self, kind: ObjectKind, event: Event) {
        let was_synced = self.synced();
        let Some(status) = self.kinds.get_mut(&kind) else { return };
        if let Event::Lost(reason) = event {
            if status.connected || status.last_error.as_ref() != Some(&reason) {
                tracing::warn!(kind = kind.name(), %reason, "API server lost; the last state stays in force");
            }
            status.connected = false;
            status.last_error = Some(reason);
            return;
        }
        if let Event::Absent(reason) = &event
            && status.last_error.as_ref() != Some(reason)
        {
            tracing::info!(kind = kind.name(), %reason, "not to be had from this API server: going on without");
            status.last_error = Some(reason.clone());
        }
        status.connected = true;
        status.last_event = Some(Timestamp::now());
        match event {
            Event::Replaced(list) => {
                status.synced = true;
                status.lists += 1;
                status.changes += list.len() as u64;
                self.store.replace(kind, list);
            }
            Event::Absent(_) => {
                status.synced = true;
                self.store.replace(kind, Vec::new());
            }
            Event::Applied(entry) => {
                let (name, content) = *entry;
                status.events += 1;
                status.changes += 1;
                self.store.apply(kind, name, content);
            }
            Event::Deleted(name) => {
                status.events += 1;
                status.changes += 1;
                self.store.delete(kind, &name);
            }
            Event::Alive | Event::Lost(_) => return,
        }
        self.publish(was_synced);
    }

    /// Makes the changes visible; before all kinds are listed they only gather.
    fn publish(&mut self, was_synced: bool) {
        if !self.synced() {
            return;
        }
        let changes = self.store.take_changes();
        if changes.is_empty() && was_synced {
            return;
        }
        self.published = Arc::new(self.store.snapshot().clone());
        self.slots.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            lock(&slot.pending).merge(&changes);
            slot.wake.notify_one();
            true
        });
    }

    fn status(&self) -> SourceStatus {
        SourceStatus {
            synced: self.synced(),
            connected: self.kinds.values().all(|status| status.connected),
            generation: self.published.generation,
            kinds: self.kinds.iter().map(|(kind, status)| (kind.name().to_owned(), status.clone())).collect(),
            problems: self.store.snapshot().problems.values().map(|problem| (**problem).clone()).collect(),
        }
    }
}

impl Reflected for core::Service {
    const KIND: ObjectKind = ObjectKind::Service;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        convert::convert_service(self).map(|service| Some(Object::Service(service)))
    }
}

impl Reflected for discovery::EndpointSlice {
    const KIND: ObjectKind = ObjectKind::EndpointSlice;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        let triggered = convert::triggered(self);
        convert::convert_endpoint_slice(self)
            .map(|slice| slice.map(|slice| Object::EndpointSlice(slice, triggered)))
    }
}

impl Reflected for core::Node {
    const KIND: ObjectKind = ObjectKind::Node;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        convert::convert_node(self).map(|node| Some(Object::Node(node)))
    }
}

impl Reflected for networking::ServiceCIDR {
    const KIND: ObjectKind = ObjectKind::ServiceCidr;
    const OPTIONAL: bool = true;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        convert::convert_service_cidr(self).map(|networks| Some(Object::ServiceCidr(networks)))
    }
}

impl Reflected for core::Namespace {
    const KIND: ObjectKind = ObjectKind::Namespace;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        convert::convert_namespace(self).map(|namespace| Some(Object::Namespace(namespace)))
    }
}

impl Reflected for core::Pod {
    const KIND: ObjectKind = ObjectKind::Pod;
    fn convert(&self) -> Result<Option<Object>, Problem> {
        convert::convert_pod(self).map(|pod| Some(Object::Pod(pod)))
    }
}

#[cfg(test)]
mod tests;
