//! get, list, watch.

use std::sync::Arc;
use std::time::Instant;

use seaway_apis::StatusError;
use seaway_apis::selector::{FieldSelector, LabelSelector, SelectorError};
use serde_json::{Value, json};

use super::Request;
use super::page::Continue;
use crate::reply::{Reply, reply};
use crate::store::{Object, Snapshot};
use crate::watch::{Filter, Start, Watch};

/// `GET` of one object.
pub(super) fn get(request: &Request) -> Result<Reply, StatusError> {
    Ok(request.shape.stored(200, &*request.object()?))
}

/// What labels and fields a list or watch asks for.
pub(super) fn filter(request: &Request) -> Result<Filter, StatusError> {
    let resource = request.resource();
    let refused = |e: SelectorError| StatusError::bad_request(e.to_string());
    let labels = match request.query.get("labelSelector") {
        Some(text) => LabelSelector::parse(text).map_err(refused)?,
        None => LabelSelector::default(),
    };
    let mut fields = match request.query.get("fieldSelector") {
        Some(text) => Some(FieldSelector::parse(resource, text).map_err(refused)?),
        None => None,
    };
    if !request.target.name.is_empty() {
        // A watch of one object, by the path.
        let text = format!("metadata.name={}", request.target.name);
        fields = Some(FieldSelector::parse(resource, &text).map_err(refused)?);
    }
    Ok(Filter { resource: resource.clone(), namespace: request.target.namespace.clone(), labels, fields })
}

fn namespace(request: &Request) -> Option<&str> {
    Some(request.target.namespace.as_str()).filter(|namespace| !namespace.is_empty())
}

/// The `resourceVersion` parameter: none, or a number.
fn version(request: &Request) -> Result<Option<u64>, StatusError> {
    let Some(text) = request.query.get("resourceVersion") else { return Ok(None) };
    let wrong = || {
        StatusError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: invalid syntax"
        ))
    };
    text.parse().map(Some).map_err(|_| wrong())
}

/// `GET` of a collection.
pub(super) fn list(request: &Request) -> Result<Reply, StatusError> {
    let filter = filter(request)?;
    let kind = request.target.kind();
    let limit = match request.query.number("limit")? {
        Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let scope = format!("{kind} {}", request.target.namespace);
    let (all, revision, after) = match request.query.get("continue") {
        Some(token) => {
            let token = Continue::decode(token).ok_or_else(|| {
                StatusError::bad_request("continue key is not valid: it was not made by this server")
            })?;
            if version(request)?.is_some_and(|version| version != 0) {
                return Err(StatusError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let kept = request.app.pages.lock().find(&scope, token.revision, Instant::now());
            (kept.ok_or_else(StatusError::continue_expired)?, token.revision, token.after)
        }
        None => {
            let snapshot = request.app.store.list(&kind, namespace(request));
            check_version(request, snapshot.revision)?;
            (Arc::new(snapshot.objects), snapshot.revision, String::new())
        }
    };
    let from = all.partition_point(|object| object.key <= after);
    let (objects, rest) = page(&all[from..], &filter, limit);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (Some(last), true) = (objects.last(), rest > 0) {
        metadata["continue"] = Continue { revision, after: last.key.clone() }.encode().into();
        if filter.is_everything() {
            metadata["remainingItemCount"] = rest.into();
        }
        request.app.pages.lock().keep(&scope, revision, all.clone(), Instant::now());
    }
    Ok(request.shape.list(&objects, &metadata))
}

/// The first `limit` objects that match, and how many are left to look at.
fn page(objects: &[Arc<Object>], filter: &Filter, limit: usize) -> (Vec<Arc<Object>>, usize) {
    let mut taken = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        if taken.len() == limit {
            return (taken, objects.len() - at);
        }
        if filter.matches(object) {
            taken.push(object.clone());
        }
    }
    (taken, 0)
}

/// `resourceVersion` and `resourceVersionMatch` of a list: only the current version can be shown.
fn check_version(request: &Request, current: u64) -> Result<(), StatusError> {
    let wanted = version(request)?;
    match (request.query.get("resourceVersionMatch"), wanted) {
        (None, None | Some(0)) | (Some("NotOlderThan"), Some(0)) => Ok(()),
        (Some(_), None) => Err(StatusError::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some("Exact"), Some(0)) => Err(StatusError::bad_request(
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("Exact"), Some(version)) if version < current => Err(StatusError::expired(version, current)),
        (None | Some("NotOlderThan" | "Exact"), Some(version)) if version > current => {
            Err(StatusError::too_large_resource_version(version, current))
        }
        (None | Some("NotOlderThan" | "Exact"), Some(_)) => Ok(()),
        (Some(other), _) => Err(StatusError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

/// `GET` of a collection with `watch=true`.
pub(super) fn watch(request: &Request) -> Result<Reply, StatusError> {
    let filter = filter(request)?;
    let kind = request.target.kind();
    let bookmarks = request.query.flag("allowWatchBookmarks") == Some(true);
    let timeout = request.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let version = version(request)?;
    let initial = request.query.flag("sendInitialEvents");
    check_initial_events(request, initial)?;
    let latest = request.app.store.follow(&kind);
    let start = match (initial, version) {
        (Some(true), _) | (None, None | Some(0)) => {
            let snapshot = request.app.store.list(&kind, namespace(request));
            match version {
                Some(version) if version > snapshot.revision => {
                    Start::Refused(StatusError::too_large_resource_version(version, snapshot.revision))
                }
                _ => Start::Initial { snapshot, marked: initial == Some(true) && bookmarks },
            }
        }
        (_, None | Some(0)) => Start::After(request.app.store.revision()),
        (_, Some(version)) => Start::After(version),
    };
    let watch = Watch {
        store: request.app.store.clone(),
        kind,
        filter,
        shape: request.shape.clone().for_watch(),
        bookmarks,
        timeout,
        latest,
        stopping: request.app.stopping.clone(),
        _counted: request.app.metrics.watching(),
    };
    let mut response = reply(200, "application/json", watch.body(start));
    response.headers_mut().insert(http::header::VARY, http::HeaderValue::from_static("accept"));
    Ok(response)
}

/// KEP-3157: `sendInitialEvents` goes with `resourceVersionMatch=NotOlderThan`, and neither without the other.
fn check_initial_events(request: &Request, initial: Option<bool>) -> Result<(), StatusError> {
    let wrong = |detail: &str| {
        let error = seaway_apis::FieldError::forbidden("resourceVersionMatch", detail);
        Err(StatusError::invalid_kind("meta.k8s.io", "ListOptions", "", &[error]))
    };
    match (request.query.get("resourceVersionMatch"), initial) {
        (None, Some(_)) => wrong("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        (Some("NotOlderThan"), Some(_)) | (None, None) => Ok(()),
        (Some(_), Some(_)) => {
            wrong("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (Some(_), None) => {
            wrong("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        }
    }
}

/// All objects of a request's collection that match its selectors.
pub(super) fn matching(request: &Request) -> Result<Vec<Arc<Object>>, StatusError> {
    let filter = filter(request)?;
    let Snapshot { mut objects, .. } = request.app.store.list(&request.target.kind(), namespace(request));
    objects.retain(|object| filter.matches(object));
    Ok(objects)
}

/// `metadata` of a list at the current version.
pub(super) fn list_metadata(request: &Request) -> Value {
    json!({"resourceVersion": request.app.store.revision().to_string()})
}
