//! What create and update keep, set and drop, by kind.
use crate::field_error::FieldError;
use crate::resource::Resource;
use jiff::Timestamp;
use serde_json::Value;

/// What the server adds to a new object.
#[derive(Clone, Debug)]
pub struct Creation<'a> {
    /// Now.
    pub now: Timestamp,
    /// A fresh uid.
    pub uid: &'a str,
    /// Five random characters of `bcdfghjklmnpqrstvwxz2456789`, for `generateName`.
    pub suffix: &'a str,
    /// The request's namespace; empty for cluster-scoped resources.
    pub namespace: &'a str,
}

/// Sets apiVersion, kind, namespace, name (from `generateName`), uid, creationTimestamp and generation; drops what a client may not set:
/// resourceVersion, deletion fields, managedFields, status. The error is the message of a 400 (namespace differs, …).
pub fn prepare_create(
    resource: &Resource,
    object: &mut Value,
    creation: &Creation<'_>,
) -> Result<(), String> {
    let _ = (resource, object, creation);
    Ok(())
}

/// Prepares `new` to replace `old`: carries over what is immutable or the server's, keeps the old status on a main-resource
/// update and everything but the status on an update of `status` (`subresource`), and counts the generation up when what is desired changed.
pub fn prepare_update(resource: &Resource, subresource: Option<&str>, old: &Value, new: &mut Value) {
    let _ = (resource, subresource, old, new);
}

/// Whether an update changed nothing, so that the server need not write it.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    old == new
}

/// The grace period in seconds with which a deletion begins; 0 deletes at once (if no finalizers are left).
pub fn grace_period(resource: &Resource, object: &Value, requested: Option<i64>) -> i64 {
    let _ = (resource, object, requested);
    0
}

/// Binds a pod to a node as `pods/binding` does: `spec.nodeName` and the `PodScheduled` condition.
pub fn bind(pod: &Value, binding: &Value, now: Timestamp) -> Result<Value, Vec<FieldError>> {
    let _ = (binding, now);
    Ok(pod.clone())
}

/// An object as it is stored (the Event kinds are stored as v1 Event).
pub fn to_storage(resource: &Resource, object: Value) -> Value {
    let _ = resource;
    object
}

/// A stored object as the resource's kind.
pub fn from_storage(resource: &Resource, object: Value) -> Value {
    let _ = resource;
    object
}
