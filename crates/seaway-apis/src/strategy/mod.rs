//! What create, update and delete keep, set and drop, by kind.

mod events;
pub mod families;
mod pods;
mod services;

use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::resource::Resource;
use crate::status::StatusError;
use crate::value::{child, copy, int, remove, text};

pub use events::{from_storage, to_storage};
pub use pods::bind;

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

/// Longest name that `generateName` makes, the suffix included.
const MAX_GENERATED: usize = 63;

/// The current time as the API writes it: seconds, UTC.
pub fn api_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Sets apiVersion, kind, namespace, name (from `generateName`), uid, creationTimestamp and generation, and drops what
/// a client may not set: resourceVersion, deletion fields, managedFields, status. Call after the defaults.
/// What is no JSON object, or is of another kind or namespace, is a bad request.
pub fn prepare_create(
    resource: &Resource,
    object: &mut Value,
    creation: &Creation<'_>,
) -> Result<(), StatusError> {
    identify(resource, object, creation.namespace)?;
    let Some(metadata) = child(object, "metadata") else {
        return Err(StatusError::bad_request("metadata must be an object"));
    };
    for key in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "generation",
    ] {
        remove(metadata, key);
    }
    let prefix = text(metadata, "/generateName");
    if text(metadata, "/name").is_empty() && !prefix.is_empty() {
        let keep = prefix.floor_char_boundary(MAX_GENERATED.saturating_sub(creation.suffix.len()));
        metadata["name"] = format!("{}{}", &prefix[..keep], creation.suffix).into();
    }
    metadata["uid"] = creation.uid.into();
    metadata["creationTimestamp"] = api_time(creation.now).into();
    if resource.generation {
        metadata["generation"] = 1.into();
    }
    fresh_status(resource, object);
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pods::prepare_create(object),
        ("", "Service") => services::prepare_create(object),
        ("", "Namespace") => prepare_namespace(object),
        ("", "Secret") => move_string_data(object),
        ("batch", "Job") => prepare_job(object),
        _ => {}
    }
    Ok(())
}

/// Fills apiVersion, kind and namespace, or refuses others.
fn identify(resource: &Resource, object: &mut Value, namespace: &str) -> Result<(), StatusError> {
    let expected = resource.api_version();
    let (version, kind) = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
    if !object.is_object() {
        return Err(StatusError::bad_request("the body of the request is no JSON object"));
    }
    if !version.is_empty() && version != expected {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(StatusError::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind
        )));
    }
    let mut ordered = Map::new();
    ordered.insert("apiVersion".into(), expected.into());
    ordered.insert("kind".into(), resource.kind.as_ref().into());
    ordered.insert("metadata".into(), remove(object, "metadata").unwrap_or_else(|| json!({})));
    if let Some(map) = object.as_object_mut() {
        for (key, value) in std::mem::take(map) {
            ordered.entry(key).or_insert(value);
        }
        *map = ordered;
    }
    let Some(metadata) = child(object, "metadata") else {
        return Err(StatusError::bad_request("metadata must be an object"));
    };
    if !resource.namespaced {
        remove(metadata, "namespace");
        return Ok(());
    }
    let given = text(metadata, "/namespace");
    if !given.is_empty() && given != namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata["namespace"] = namespace.into();
    Ok(())
}

/// A new object's status is the server's to write; a node's comes with its registration.
fn fresh_status(resource: &Resource, object: &mut Value) {
    if !resource.has_status() || resource.is("", "Node") {
        return;
    }
    object["status"] = match resource.kind.as_ref() {
        "Service" | "Ingress" => json!({"loadBalancer": {}}),
        "Namespace" => json!({"phase": "Active"}),
        "DaemonSet" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        "ReplicaSet" | "StatefulSet" => json!({"replicas": 0}),
        _ => json!({}),
    };
}

fn prepare_namespace(object: &mut Value) {
    let name = text(object, "/metadata/name").to_owned();
    if let Some(labels) = child(object, "metadata").and_then(|m| child(m, "labels")) {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
    if let Some(spec) = child(object, "spec") {
        spec["finalizers"] = json!(["kubernetes"]);
    }
}

/// `stringData` is for writing only: it moves to `data`.
fn move_string_data(object: &mut Value) {
    let Some(Value::Object(strings)) = remove(object, "stringData") else { return };
    if let Some(data) = child(object, "data") {
        for (key, value) in strings {
            data[key] = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or("")).into();
        }
    }
}

/// A job without a manual selector selects the pods labelled with its uid and name.
fn prepare_job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&true.into()) {
        return;
    }
    let (uid, name) = (text(object, "/metadata/uid").to_owned(), text(object, "/metadata/name").to_owned());
    let Some(spec) = child(object, "spec") else { return };
    spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    if let Some(labels) =
        child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"))
    {
        for (key, value) in [("controller-uid", &uid), ("job-name", &name)] {
            labels[key] = value.as_str().into();
            labels[format!("batch.kubernetes.io/{key}")] = value.as_str().into();
        }
    }
}

/// Metadata that only the server writes.
const SERVER_METADATA: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
    "resourceVersion",
];

/// Prepares `new` to replace `old`: carries over what is immutable or the server's (`resourceVersion` too, so compare
/// it before), keeps the old status on a main-resource update and everything but the status on an update of `status`,
/// and counts the generation up when what is desired changed. Call after the defaults.
pub fn prepare_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
) -> Result<(), StatusError> {
    identify(resource, new, text(old, "/metadata/namespace"))?;
    let (name, old_name) = (text(new, "/metadata/name").to_owned(), text(old, "/metadata/name"));
    if !name.is_empty() && name != old_name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({old_name})"
        )));
    }
    let (uid, old_uid) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
    if !uid.is_empty() && uid != old_uid {
        return Err(StatusError::precondition(resource, old_name, "UID", uid, old_uid));
    }
    if let (Some(from), Some(metadata)) = (old.get("metadata"), child(new, "metadata")) {
        for key in SERVER_METADATA {
            copy(from, metadata, key);
        }
        remove(metadata, "managedFields");
        metadata["name"] = old_name.into();
    }
    match subresource {
        None => main_update(resource, old, new),
        Some(sub) => sub_update(resource, sub, old, new),
    }
    if subresource != Some("status") {
        count_generation(resource, old, new);
    }
    Ok(())
}

fn main_update(resource: &Resource, old: &Value, new: &mut Value) {
    if resource.has_status() {
        copy(old, new, "status");
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Service") => services::prepare_update(old, new),
        ("", "Namespace") => copy(old, new, "spec"),
        ("", "Secret") => move_string_data(new),
        ("", "Pod") => pods::prepare_update(old, new),
        _ => {}
    }
}

/// An update of a subresource takes only its part of `new`; a status may bring labels and annotations for the kinds
/// whose owners (kubelet, node controller) write them that way.
fn sub_update(resource: &Resource, sub: &str, old: &Value, new: &mut Value) {
    let mut result = old.clone();
    match sub {
        "status" => {
            copy(new, &mut result, "status");
            // The Deployment controller notes the revision so: it is nothing that anyone asked for, no new generation.
            if resource.is("apps", "Deployment")
                && let (Some(from), Some(metadata)) = (new.get("metadata"), child(&mut result, "metadata"))
            {
                copy(from, metadata, "annotations");
            }
            if matches!(resource.kind.as_ref(), "Pod" | "Node" | "Service" | "Namespace")
                && resource.group.is_empty()
            {
                let owners = old.pointer("/metadata/ownerReferences").cloned();
                copy(new, &mut result, "metadata");
                if let Some(metadata) = child(&mut result, "metadata") {
                    remove(metadata, "ownerReferences");
                    if let Some(owners) = owners {
                        metadata["ownerReferences"] = owners;
                    }
                }
            }
        }
        "finalize" => {
            if let Some(spec) = child(&mut result, "spec") {
                copy(new.get("spec").unwrap_or(&Value::Null), spec, "finalizers");
            }
        }
        _ => return,
    }
    *new = result;
}

fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.generation {
        return;
    }
    let desired = |v: &Value| {
        let mut map = v.as_object().cloned().unwrap_or_default();
        map.shift_remove("metadata");
        map.shift_remove("status");
        map
    };
    let mut changed = desired(old) != desired(new);
    if resource.is("apps", "Deployment") {
        changed |= old.pointer("/metadata/annotations") != new.pointer("/metadata/annotations");
    }
    if changed {
        new["metadata"]["generation"] = (int(old, "/metadata/generation").unwrap_or(0) + 1).into();
    }
}

/// Whether an update changed nothing, so that the server need not write it.
pub fn unchanged(old: &Value, new: &Value) -> bool {
    old == new
}

/// The grace period in seconds with which a deletion begins; 0 deletes at once (if no finalizers are left).
/// `requested` is `gracePeriodSeconds` of the request.
pub fn grace_period(resource: &Resource, object: &Value, requested: Option<i64>) -> i64 {
    if !resource.is("", "Pod") {
        return 0;
    }
    let ended = matches!(text(object, "/status/phase"), "Failed" | "Succeeded");
    if ended || text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    let wanted = requested.or_else(|| int(object, "/spec/terminationGracePeriodSeconds")).unwrap_or(30);
    // A negative period is the shortest.
    if wanted < 0 { 1 } else { wanted }
}

/// Marks an object as being deleted: `deletionTimestamp` is when the grace period ends. A deletion that is already
/// going on can only become shorter.
pub fn begin_deletion(resource: &Resource, object: &Value, now: Timestamp, grace_seconds: i64) -> Value {
    let mut object = object.clone();
    let Some(metadata) = child(&mut object, "metadata") else { return object };
    let going_on = metadata.get("deletionTimestamp").is_some();
    if going_on && int(metadata, "/deletionGracePeriodSeconds").unwrap_or(0) <= grace_seconds {
        return object;
    }
    let end = now.saturating_add(jiff::SignedDuration::from_secs(grace_seconds)).unwrap_or(now);
    metadata["deletionTimestamp"] = api_time(end).into();
    metadata["deletionGracePeriodSeconds"] = grace_seconds.into();
    if resource.generation {
        metadata["generation"] = (int(metadata, "/generation").unwrap_or(0) + 1).into();
    }
    if resource.is("", "Namespace")
        && let Some(status) = child(&mut object, "status")
    {
        status["phase"] = "Terminating".into();
    }
    object
}

#[cfg(test)]
mod tests;
