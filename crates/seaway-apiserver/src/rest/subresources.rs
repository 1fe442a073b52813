//! scale, binding, eviction.

use jiff::Timestamp;
use seaway_apis::{StatusError, scale, status, strategy};
use serde_json::{Value, json};

use super::Request;
use super::delete::{Options, remove_object};
use super::update::{Patch, update};
use crate::app::text;
use crate::body::decode_kind;
use crate::reply::{Reply, value};
use crate::request::storage_kind;
use crate::store::{Decision, Outcome, key};

const SCALE: (&str, &str) = ("autoscaling/v1", "Scale");

pub(super) fn get_scale(request: &Request) -> Result<Reply, StatusError> {
    Ok(answer(request, &request.object()?.value()))
}

pub(super) async fn put_scale(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let wanted = decode_kind(&request.headers, body, SCALE.0, SCALE.1)?.value;
    write_scale(request, |_| Ok(wanted)).await
}

pub(super) async fn patch_scale(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let patch = match Patch::decode(request, body)? {
        // A Scale has no lists to merge: the two kinds of merge are the same.
        Patch::Strategic(patch) => Patch::Merge(patch),
        other => other,
    };
    write_scale(request, |old| patch.apply(request.resource(), &scale::from_object(old))).await
}

async fn write_scale(
    request: &Request,
    wanted: impl FnOnce(&Value) -> Result<Value, StatusError>,
) -> Result<Reply, StatusError> {
    let change = |old: &Value| {
        let scale = wanted(old)?;
        let mut new = scale::apply(old, &scale).map_err(|errors| {
            StatusError::invalid_kind("autoscaling", SCALE.1, &request.target.name, &errors)
        })?;
        for field in ["resourceVersion", "uid"] {
            let given = &scale["metadata"][field];
            if given.is_string() {
                new["metadata"][field] = given.clone();
            }
        }
        Ok((new, Vec::new()))
    };
    let (outcome, _) = update(request, change).await?;
    Ok(match outcome {
        Outcome::Stored(object) | Outcome::Deleted(object) => answer(request, &object.value()),
        Outcome::Answered(object) => answer(request, &object),
    })
}

fn answer(request: &Request, object: &Value) -> Reply {
    value(200, &scale::from_object(object), request.shape.plain())
}

/// `POST pods/NAME/binding`, or `bindings` with the pod's name in the object.
pub(super) async fn bind(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let binding = decode_kind(&request.headers, body, "v1", "Binding")?.value;
    let pods = request.app.core("pods")?;
    let name = match &*request.target.name {
        "" => text(&binding, &["metadata", "name"]),
        name => name,
    };
    let dry_run = request.dry_run()?;
    let at = key(&request.target.namespace, name);
    request
        .app
        .store
        .write(&storage_kind(pods), &at, |current, _| {
            let current = current.ok_or_else(|| StatusError::not_found(pods, name))?;
            let bound = strategy::bind(&current.value(), &binding, Timestamp::now())?;
            Ok(if dry_run { Decision::Answer(bound) } else { Decision::Put(bound) })
        })
        .await?;
    Ok(value(201, &status::success(201), request.shape.plain()))
}

/// `POST pods/NAME/eviction`: a deletion. Disruption budgets are not looked at: nothing here counts what they allow.
pub(super) async fn evict(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let eviction = decode_kind(&request.headers, body, "policy/v1", "Eviction")?.value;
    let given = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let options = Options::parse(&given, &request.query)?;
    remove_object(&request.app, request.app.core("pods")?, &request.key(), &options).await?;
    Ok(value(201, &status::success(201), request.shape.plain()))
}
