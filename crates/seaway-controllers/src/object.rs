//! The kinds that the controllers work with, and what a decision can ask for.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, ObjectReference, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::ApiResource;
use serde_json::Value;

use crate::store::{Key, Store};

/// A kind that is watched whole and kept in the cache.
pub trait Watched:
    Resource<DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + serde::Serialize
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Its entry in [`Kind`].
    const KIND: Kind;
    /// Its store.
    fn store(stores: &Stores) -> &Store<Self>;
    /// Its store, to change.
    fn store_mut(stores: &mut Stores) -> &mut Store<Self>;
}

/// Calls a macro with the table of watched kinds: kind, field of [`Stores`], and the store's group.
macro_rules! with_watched_kinds {
    ($callback:ident) => {
        $callback! {
            ConfigMap root_cas |_| None;
            DaemonSet daemon_sets |_| None;
            Deployment deployments |_| None;
            EndpointSlice slices crate::object::slice_service;
            Endpoints endpoints |_| None;
            Job jobs |_| None;
            Lease leases |_| None;
            Namespace namespaces |_| None;
            Node nodes |_| None;
            Pod pods crate::object::pod_node;
            ReplicaSet replica_sets |_| None;
            Service services |_| None;
            ServiceAccount service_accounts |_| None;
        }
    };
}
pub(crate) use with_watched_kinds;

/// The node that a pod is bound to; an empty string for none, so that the unbound can be found.
pub(crate) fn pod_node(pod: &Pod) -> Option<&str> {
    Some(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default())
}

/// The service that a slice belongs to, by its label.
pub(crate) fn slice_service(slice: &EndpointSlice) -> Option<&str> {
    Some(slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?.as_str())
}

macro_rules! define_kinds {
    ($($kind:ident $field:ident $group:expr;)*) => {
        /// A kind of object that the controllers watch and write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = concat!("The kind `", stringify!($kind), "`.")] $kind,)*
        }

        /// An object of one of those kinds.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("An object of kind `", stringify!($kind), "`.")] $kind(Box<$kind>),)*
        }

        /// The cache: a store of each kind.
        pub struct Stores {
            $(#[doc = concat!("The objects of kind `", stringify!($kind), "`.")] pub $field: Store<$kind>,)*
        }

        impl Default for Stores {
            fn default() -> Self {
                Self { $($field: Store::grouped($group),)* }
            }
        }

        impl Stores {
            /// Whether each kind has been listed.
            pub fn synced(&self) -> bool {
                true $(&& self.$field.synced())*
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Object::$kind(Box::new(object))
            }
        }

        impl Watched for $kind {
            const KIND: Kind = Kind::$kind;
            fn store(stores: &Stores) -> &Store<Self> {
                &stores.$field
            }
            fn store_mut(stores: &mut Stores) -> &mut Store<Self> {
                &mut stores.$field
            }
        })*

        impl Kind {
            /// The kind's names in the API.
            pub fn resource(self) -> ApiResource {
                match self {
                    $(Kind::$kind => ApiResource::erase::<$kind>(&()),)*
                }
            }
        }
    };
}
with_watched_kinds!(define_kinds);

/// The object that an action is about, as it was seen when the decision was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: Key,
    /// Its uid: the action fails on another object of that name.
    pub uid: Option<String>,
    /// Its version: a patch fails if the object has changed since.
    pub version: Option<String>,
}

impl Target {
    /// An object that must not have changed since it was seen.
    pub fn unchanged<K: Watched>(object: &K) -> Self {
        Self { version: object.meta().resource_version.clone(), ..Self::of(object) }
    }

    /// An object in whatever version.
    pub fn of<K: Watched>(object: &K) -> Self {
        let meta = object.meta();
        Self { kind: K::KIND, key: Key::of(meta), uid: meta.uid.clone(), version: None }
    }
}

/// A subresource that has a patch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object without its status.
    Main,
    /// `status`.
    Status,
}

/// What a controller tells those who look at an object's events.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object.
    pub about: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: NoticeKind,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The component, such as `default-scheduler`.
    pub source: &'static str,
}

/// An event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// As things should go.
    Normal,
    /// Someone may have to do something.
    Warning,
}

impl Notice {
    /// A notice about an object.
    pub fn new<K: Watched>(
        object: &K,
        kind: NoticeKind,
        source: &'static str,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { about: object.object_ref(&()), kind, reason, message, source }
    }
}

/// One write that a decision asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the object (with `generateName`, the server names it).
    Create(Object),
    /// Put the object in place of the version it carries.
    Replace(Object),
    /// Put the object's status in place of that of the version it carries.
    ReplaceStatus(Object),
    /// Apply a JSON merge patch (RFC 7386).
    Patch(Target, Part, Value),
    /// Delete; seconds of grace if not the object's own.
    Delete(Target, Option<u32>),
    /// Bind a pod to the node of this name.
    Bind(Target, String),
    /// Record an event. Its loss is of no consequence.
    Notify(Notice),
}

/// What a controller decided for a key: what to do now, and when to look again.
#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    /// The writes, in order.
    pub actions: Vec<Action>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
}

impl Decision {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }

    /// Looks again after `delay`, or earlier if that was asked for already.
    pub fn look_again(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |known| known.min(delay)));
    }
}

impl From<Vec<Action>> for Decision {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, again_after: None }
    }
}
