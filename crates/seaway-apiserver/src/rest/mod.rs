//! The verbs on resources.

mod create;
mod delete;
mod page;
mod read;
mod reviews;
mod subresources;
mod tokens;
mod update;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Incoming;
use seaway_apis::{Resource, StatusError};
use serde_json::Value;

use crate::app::App;
use crate::auth::User;
use crate::body;
use crate::form::Shape;
use crate::negotiate::Accepted;
use crate::proxy;
use crate::reply::Reply;
use crate::request::{Query, Target};
use crate::store::{Object, Outcome, View, key};

pub(crate) use page::Pages;

/// A request to a resource, but for its body.
pub(crate) struct Request {
    pub(crate) app: Arc<App>,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) user: Arc<User>,
    pub(crate) shape: Shape,
}

/// Answers a request to a resource.
pub(crate) async fn handle(
    app: Arc<App>,
    target: Target,
    verb: &'static str,
    query: Query,
    user: Arc<User>,
    request: http::Request<Incoming>,
) -> Result<Reply, StatusError> {
    if !target.allows(verb) {
        return Err(StatusError::method_not_allowed());
    }
    if matches!(&*target.sub, "exec" | "attach" | "portforward" | "log") {
        return proxy::pod(&app, &target, &query, request).await;
    }
    let accepted = Accepted::of(request.headers())?;
    let shape = Shape::new(&target.resource, accepted, &query);
    let (parts, incoming) = request.into_parts();
    let request = Request { app, target, query, headers: parts.headers, user, shape };
    match (verb, &*request.target.sub) {
        ("get", "") => read::get(&request),
        ("get", "scale") => subresources::get_scale(&request),
        ("get", _) => read::get(&request),
        ("list", _) => read::list(&request),
        ("watch", _) => read::watch(&request),
        ("delete", _) => delete::delete(&request, &body::read(incoming).await?).await,
        ("deletecollection", _) => delete::delete_collection(&request, &body::read(incoming).await?).await,
        ("create", _) => post(&request, body::read(incoming).await?).await,
        ("update", "scale") => subresources::put_scale(&request, &body::read(incoming).await?).await,
        ("patch", "scale") => subresources::patch_scale(&request, &body::read(incoming).await?).await,
        ("update", _) => update::put(&request, &body::read(incoming).await?).await,
        ("patch", _) => update::patch(&request, &body::read(incoming).await?).await,
        _ => Err(StatusError::method_not_allowed()),
    }
}

async fn post(request: &Request, body: Bytes) -> Result<Reply, StatusError> {
    let resource = &request.target.resource;
    match (&*resource.plural, &*request.target.sub) {
        ("pods", "binding") | ("bindings", "") => subresources::bind(request, &body).await,
        ("pods", "eviction") => subresources::evict(request, &body).await,
        ("serviceaccounts", "token") => tokens::request(request, &body),
        (_, "") if resource.stored() => create::create(request, &body).await,
        (_, "") => reviews::review(request, &body),
        _ => Err(StatusError::method_not_allowed()),
    }
}

impl Request {
    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.target.resource
    }

    /// The store's key of the object that the URL names.
    pub(crate) fn key(&self) -> String {
        key(&self.target.namespace, &self.target.name)
    }

    pub(crate) fn not_found(&self) -> StatusError {
        StatusError::not_found(self.resource(), &self.target.name)
    }

    /// The object that the URL names.
    pub(crate) fn object(&self) -> Result<Arc<Object>, StatusError> {
        self.app.store.get(&self.target.kind(), &self.key()).ok_or_else(|| self.not_found())
    }

    /// `dryRun=All`: everything is checked, nothing is written.
    pub(crate) fn dry_run(&self) -> Result<bool, StatusError> {
        match self.query.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(StatusError::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    /// The answer to a write.
    pub(crate) fn written(&self, code: u16, outcome: Outcome) -> Reply {
        match outcome {
            Outcome::Stored(object) | Outcome::Deleted(object) => self.shape.stored(code, &object),
            Outcome::Answered(value) => self.shape.object(code, value),
        }
    }
}

/// Objects come into a namespace that is there and stays (admission plugin NamespaceLifecycle).
fn check_namespace(request: &Request, name: &str, view: &View<'_>) -> Result<(), StatusError> {
    let namespace = &request.target.namespace;
    if !request.resource().namespaced {
        return Ok(());
    }
    let namespaces = request.app.core("namespaces")?;
    let Some(found) = view.get("/namespaces", &key("", namespace)) else {
        return Err(StatusError::not_found(namespaces, namespace));
    };
    let value = found.value();
    if value["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    Err(StatusError::namespace_terminating(request.resource(), name, namespace))
}

/// The list under `metadata.finalizers`.
fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map_or_else(Vec::new, |list| list.iter().filter_map(Value::as_str).collect())
}
