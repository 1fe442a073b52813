//! Watches the Kubernetes API and turns what it sees into Snapshots.
//!
//! [`connect`] makes a client, [`Source::start`] watches what is [`Wanted`], and each [`Subscription`] is told of every
//! new [`Snapshot`](seaway_model::Snapshot) together with what changed in it since the subscription last looked.
//!
//! Architecture invariant: beyond this crate nothing of the data path sees Kubernetes' wire types. An object that
//! cannot be used keeps its last good state and is listed in the Snapshot's problems.

mod client;
mod convert;
mod events;
mod reflect;
mod source;
mod store;

pub use client::{ConnectError, client, configuration, connect};
pub use convert::{
    Convert, convert_endpoint_slice, convert_namespace, convert_node, convert_pod, convert_service,
};
pub use events::{Recorder, Severity};
pub use kube::Client;
pub use source::{KindStatus, PodScope, ServiceScope, Source, SourceStatus, Subscription, Update, Wanted};
pub use store::{Object, ObjectKind, Store};
