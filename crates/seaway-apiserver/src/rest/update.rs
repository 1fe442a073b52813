//! update and patch.

use std::sync::Arc;

use seaway_apis::patch::PatchError;
use seaway_apis::{Resource, StatusError, defaults, patch as patches, strategy, validate};
use serde_json::Value;

use super::Request;
use super::delete::is_done;
use crate::app::text;
use crate::body::{conform, decode_kind};
use crate::negotiate::{media_type, yaml};
use crate::reply::{Reply, warn};
use crate::store::{Decision, Object, Outcome};

/// Operations in one JSON patch, as kube-apiserver limits them.
const MAX_OPERATIONS: usize = 10_000;

/// `PUT` of an object or of a subresource of the same kind.
pub(super) async fn put(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let resource = request.resource();
    let decoded = decode_kind(&request.headers, body, &resource.api_version(), &resource.kind)?;
    let mut new = decoded.value;
    check_identity(request, &mut new)?;
    let warnings = conform(resource, &mut new, &decoded.duplicates, &request.query)?;
    let outcome = update(request, |_| Ok((new, Vec::new()))).await?.0;
    let mut response = request.written(200, outcome);
    warn(&mut response, &warnings);
    Ok(response)
}

/// The name and namespace of a body must be the URL's.
fn check_identity(request: &Request, new: &mut Value) -> Result<(), StatusError> {
    let target = &request.target;
    let name = text(new, &["metadata", "name"]);
    if name.is_empty() {
        return Err(StatusError::bad_request("name must be provided"));
    }
    if name != target.name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let namespace = text(new, &["metadata", "namespace"]);
    if namespace.is_empty() && request.resource().namespaced {
        new["metadata"]["namespace"] = target.namespace.as_str().into();
    } else if namespace != target.namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Replaces the request's object by what `change` makes of it; also returns the warnings of `change`.
pub(super) async fn update(
    request: &Request,
    change: impl FnOnce(&Value) -> Result<(Value, Vec<String>), StatusError>,
) -> Result<(Outcome, Vec<String>), StatusError> {
    let (resource, name) = (request.resource(), &request.target.name);
    let dry_run = request.dry_run()?;
    let at = request.key();
    let mut warnings = Vec::new();
    let outcome = request
        .app
        .store
        .write(&request.target.kind(), &at, |current, _| {
            let current = current.ok_or_else(|| request.not_found())?;
            let old = strategy::from_storage(resource, current.value());
            let (mut new, found) = change(&old)?;
            warnings = found;
            check_preconditions(resource, name, current, &new)?;
            defaults::set_defaults(resource, &mut new);
            strategy::prepare_update(resource, request.target.subresource(), &old, &mut new)?;
            let mut allocator = request.app.allocator.lock();
            let is_service = resource.is("", "Service") && request.target.sub.is_empty();
            let mut errors =
                if is_service { allocator.assign(&at, Some(&old), &mut new) } else { Vec::new() };
            if errors.is_empty() {
                errors = validate::update(resource, request.target.subresource(), &new, &old);
            }
            if !errors.is_empty() {
                return Err(StatusError::invalid(resource, name, &errors));
            }
            let goes = is_done(resource, &new);
            if dry_run || (strategy::unchanged(&old, &new) && !goes) {
                return Ok(Decision::Answer(new));
            }
            if is_service {
                allocator.replace(&at, Some(&old), (!goes).then_some(&new));
            }
            let new = strategy::to_storage(resource, new);
            Ok(if goes { Decision::Delete(new) } else { Decision::Put(new) })
        })
        .await?;
    Ok((outcome, warnings))
}

/// Optimistic concurrency: a version or uid that is given must be the stored one's.
fn check_preconditions(
    resource: &Resource,
    name: &str,
    current: &Arc<Object>,
    new: &Value,
) -> Result<(), StatusError> {
    let uid = text(new, &["metadata", "uid"]);
    if !uid.is_empty() && uid != current.uid {
        return Err(StatusError::precondition(resource, name, "UID", uid, &current.uid));
    }
    let version = text(new, &["metadata", "resourceVersion"]);
    if version.is_empty() || version == "0" || version == current.revision.to_string() {
        return Ok(());
    }
    if version.parse::<u64>().is_err() {
        let error = seaway_apis::FieldError::invalid("metadata.resourceVersion", version, "must be a number");
        return Err(StatusError::invalid(resource, name, &[error]));
    }
    Err(StatusError::stale(resource, name))
}

/// `copy` operations in one JSON patch, and what the object may have grown to after each: copies of copies double it.
const MAX_COPIES: usize = 100;
const MAX_PATCHED_BYTES: usize = 3 << 20;

/// A patch of any of the understood types.
#[derive(Debug)]
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Decodes a body by its Content-Type.
    pub(super) fn decode(request: &Request, body: &[u8]) -> Result<Patch, StatusError> {
        let malformed =
            |e: &dyn std::fmt::Display| StatusError::bad_request(format!("error decoding patch: {e}"));
        let object = |body: &[u8]| match serde_json::from_slice(body) {
            Ok(value @ Value::Object(_)) => Ok(value),
            Ok(_) => Err(malformed(&"it is not an object")),
            Err(_) => {
                yaml(body).ok().filter(Value::is_object).ok_or_else(|| malformed(&"it is not a JSON object"))
            }
        };
        match media_type(&request.headers) {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(|e| malformed(&e))?;
                if patch.0.len() > MAX_OPERATIONS {
                    return Err(StatusError::new(
                        413,
                        "RequestEntityTooLarge",
                        format!(
                            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                            patch.0.len()
                        ),
                    ));
                }
                Ok(Patch::Json(patch))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(object(body)?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object(body)?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(StatusError::new(
                415,
                "UnsupportedMediaType",
                "server-side apply is not supported by this server; use client-side apply (kubectl apply without \
                 --server-side), application/json-patch+json, application/merge-patch+json or \
                 application/strategic-merge-patch+json",
            )),
            _ => Err(StatusError::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ])),
        }
    }

    /// The patched value.
    pub(super) fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, StatusError> {
        match self {
            Patch::Json(patch) => apply_json(patch, old),
            Patch::Merge(patch) => Ok(patches::merge(old, patch)),
            Patch::Strategic(patch) => patches::strategic_merge(resource, old, patch).map_err(|e| match e {
                PatchError::Malformed(message) => StatusError::bad_request(message),
                unsupported @ PatchError::Unsupported(_) => {
                    StatusError::new(415, "UnsupportedMediaType", unsupported.to_string())
                }
            }),
        }
    }
}

/// Applies a JSON patch (RFC 6902), all of it or nothing.
fn apply_json(patch: &json_patch::Patch, old: &Value) -> Result<Value, StatusError> {
    let refused = |why: &dyn std::fmt::Display| {
        let message = format!("the server rejected our request due to an error in our request: {why}");
        StatusError::new(422, "Invalid", message)
    };
    let mut new = old.clone();
    let mut copies = 0;
    for (at, operation) in patch.0.iter().enumerate() {
        json_patch::patch(&mut new, std::slice::from_ref(operation))
            .map_err(|e| refused(&format!("operation {at}: {}", e.kind)))?;
        if matches!(operation, json_patch::PatchOperation::Copy(_)) {
            copies += 1;
            if copies > MAX_COPIES || new.to_string().len() > MAX_PATCHED_BYTES {
                return Err(refused(&"it copies too much"));
            }
        }
    }
    Ok(new)
}

/// `PATCH` of an object or of a subresource of the same kind.
pub(super) async fn patch(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let resource = request.resource();
    let patch = Patch::decode(request, body)?;
    let change = |old: &Value| {
        let mut new = patch.apply(resource, old)?;
        if !new.is_object() {
            return Err(StatusError::bad_request("the patch does not leave an object"));
        }
        let (got_version, got_kind) = (text(&new, &["apiVersion"]), text(&new, &["kind"]));
        if got_version != resource.api_version() || got_kind != resource.kind {
            return Err(StatusError::bad_request("the apiVersion and kind of an object cannot be patched"));
        }
        check_identity(request, &mut new)?;
        let warnings = conform(resource, &mut new, &[], &request.query)?;
        Ok((new, warnings))
    };
    let (outcome, warnings) = update(request, change).await?;
    let mut response = request.written(200, outcome);
    warn(&mut response, &warnings);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_are_all_or_nothing_and_bounded() {
        let patch = |value: Value| serde_json::from_value::<json_patch::Patch>(value).unwrap();
        let old = json!({"data": {"a": "b"}});
        let add = json!({"op": "add", "path": "/data/c", "value": 1});
        let wrong = json!({"op": "test", "path": "/data/a", "value": "x"});
        assert_eq!(apply_json(&patch(json!([add])), &old).unwrap()["data"]["c"], 1);
        assert_eq!(apply_json(&patch(json!([add, wrong])), &old).unwrap_err().code, 422);
        // Each copy doubles the object.
        let doubling: Vec<Value> =
            (0..40).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/n{n}")})).collect();
        assert_eq!(apply_json(&patch(doubling.into()), &old).unwrap_err().code, 422);
    }
}
