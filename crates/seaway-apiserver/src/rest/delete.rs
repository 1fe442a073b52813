//! delete and deletecollection: at once, after a grace period, or when the finalizers are gone.

use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use seaway_apis::{FieldError, Resource, StatusError, status, strategy};
use serde_json::{Value, json};

use super::read::{list_metadata, matching};
use super::{Request, finalizers};
use crate::app::App;
use crate::body::decode;
use crate::reply::{Reply, value};
use crate::request::{Query, storage_kind};
use crate::store::{Decision, Object, Outcome};

/// The finalizer that keeps an owner until its dependents are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an owner until its dependents are let go.
const ORPHAN: &str = "orphan";

/// What to do with an owner's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    version: Option<String>,
    dry_run: bool,
}

impl Options {
    /// From a body (which may be empty), else from the query.
    pub(super) fn parse(options: &Value, query: &Query) -> Result<Options, StatusError> {
        let grace = match &options["gracePeriodSeconds"] {
            Value::Null => query.number("gracePeriodSeconds")?,
            number => Some(number.as_i64().ok_or_else(|| {
                StatusError::bad_request("DeleteOptions: gracePeriodSeconds is not a number")
            })?),
        };
        let propagation = match options["propagationPolicy"].as_str().or(query.get("propagationPolicy")) {
            None => match options["orphanDependents"].as_bool() {
                Some(true) => Some(Propagation::Orphan),
                Some(false) => Some(Propagation::Background),
                None => None,
            },
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let error = FieldError::not_supported(
                    "propagationPolicy",
                    other,
                    &["Background", "Foreground", "Orphan"],
                );
                return Err(StatusError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &[error]));
            }
        };
        if let Some(negative) = grace.filter(|grace| *grace < 0) {
            let error =
                FieldError::invalid("gracePeriodSeconds", negative, "must be greater than or equal to 0");
            return Err(StatusError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let precondition = |name: &str| options["preconditions"][name].as_str().map(str::to_owned);
        let dry = options["dryRun"].as_array().is_some_and(|list| list.iter().any(|v| v == "All"));
        Ok(Options {
            grace,
            propagation,
            uid: precondition("uid"),
            version: precondition("resourceVersion"),
            dry_run: dry || query.get("dryRun") == Some("All"),
        })
    }

    fn of(request: &Request, body: &[u8]) -> Result<Options, StatusError> {
        let options = if body.is_empty() { Value::Null } else { decode(&request.headers, body)?.value };
        Options::parse(&options, &request.query)
    }
}

/// `DELETE` of an object.
pub(super) async fn delete(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let options = Options::of(request, body)?;
    let resource = request.resource();
    let name = request.target.name.as_str();
    if resource.is("", "Namespace") && IMMORTAL.contains(&name) {
        return Err(StatusError::forbidden(resource, name, "this namespace may not be deleted"));
    }
    let outcome = remove_object(&request.app, resource, &request.key(), &options).await?;
    let gone = match &outcome {
        Outcome::Deleted(object) if !answers_object(resource) => object,
        _ => return Ok(request.written(200, outcome)),
    };
    let status = status::deleted(resource, gone.name(), &gone.uid);
    Ok(value(200, &status, request.shape.plain()))
}

/// Namespaces that can't be deleted (admission plugin NamespaceLifecycle).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The kinds whose deletion answers with the object, as in the real API.
fn answers_object(resource: &Resource) -> bool {
    resource.group.is_empty()
        && matches!(
            &*resource.plural,
            "pods" | "services" | "serviceaccounts" | "podtemplates" | "resourcequotas"
        )
}

/// `DELETE` of a collection.
pub(super) async fn delete_collection(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let options = Options::of(request, body)?;
    let objects = matching(request)?;
    let deletions =
        objects.iter().map(|object| remove_object(&request.app, request.resource(), &object.key, &options));
    let mut gone: Vec<Arc<Object>> = Vec::new();
    for (outcome, object) in join_all(deletions).await.into_iter().zip(&objects) {
        match outcome {
            Ok(Outcome::Deleted(object) | Outcome::Stored(object)) => gone.push(object),
            Ok(Outcome::Answered(_)) => gone.push(object.clone()),
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(request.shape.list(&gone, &list_metadata(request)))
}

/// Deletes an object, or marks it for deletion.
pub(crate) async fn remove_object(
    app: &App,
    resource: &Arc<Resource>,
    at: &str,
    options: &Options,
) -> Result<Outcome, StatusError> {
    let now = Timestamp::now();
    app.store
        .write(&storage_kind(resource), at, |current, _| {
            let name = at.split_once('/').map_or(at, |(_, name)| name);
            let current = current.ok_or_else(|| StatusError::not_found(resource, name))?;
            check_preconditions(resource, name, current, options)?;
            let old = current.value();
            let new = mark(resource, &old, options, now);
            let done = is_done(resource, &new);
            if options.dry_run || (!done && new == old) {
                return Ok(Decision::Answer(strategy::from_storage(resource, new)));
            }
            if done {
                if resource.is("", "Service") {
                    app.allocator.lock().replace(at, Some(&old), None);
                }
                // What goes at once was never marked.
                let last = if old["metadata"]["deletionTimestamp"].is_null() { old } else { new };
                return Ok(Decision::Delete(last));
            }
            Ok(Decision::Put(new))
        })
        .await
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    current: &Object,
    options: &Options,
) -> Result<(), StatusError> {
    if let Some(uid) = options.uid.as_ref().filter(|uid| **uid != current.uid) {
        return Err(StatusError::precondition(resource, name, "UID", uid, &current.uid));
    }
    let version = current.revision.to_string();
    if let Some(wanted) = options.version.as_ref().filter(|wanted| **wanted != version) {
        return Err(StatusError::precondition(resource, name, "ResourceVersion", wanted, &version));
    }
    Ok(())
}

/// The object as marked for deletion; an earlier mark can only be shortened.
fn mark(resource: &Resource, old: &Value, options: &Options, now: Timestamp) -> Value {
    let mut new = old.clone();
    set_finalizers(&mut new, options.propagation);
    strategy::begin_deletion(resource, &new, now, strategy::grace_period(resource, old, options.grace))
}

/// The garbage collector's finalizers follow the propagation policy.
fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut list: Vec<String> = finalizers(object)
        .into_iter()
        .filter(|f| *f != FOREGROUND && *f != ORPHAN)
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => list.push(FOREGROUND.to_owned()),
        Propagation::Orphan => list.push(ORPHAN.to_owned()),
    }
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if list.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(list));
    }
}

/// Whether a marked object has nothing left to wait for.
pub(super) fn is_done(resource: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    if metadata["deletionTimestamp"].is_null() || !finalizers(object).is_empty() {
        return false;
    }
    if resource.is("", "Namespace")
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
    {
        return false;
    }
    metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use seaway_apis::resources;

    fn options(text: &str) -> Result<Options, StatusError> {
        Options::parse(&serde_json::from_str(text).unwrap(), &Query::default())
    }

    #[test]
    fn finalizers_keep_what_is_marked() {
        let configmaps = resources().lookup("", "v1", "configmaps").unwrap();
        let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        let now = Timestamp::UNIX_EPOCH;
        let marked = mark(configmaps, &object, &options("{}").unwrap(), now);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "1970-01-01T00:00:00Z");
        assert!(!is_done(configmaps, &marked));
        let mut free = marked.clone();
        free["metadata"]["finalizers"] = json!([]);
        assert!(is_done(configmaps, &free));
        // Marking again changes nothing.
        assert_eq!(mark(configmaps, &marked, &options("{}").unwrap(), now), marked);
    }

    #[test]
    fn propagation_sets_finalizers() {
        let deployments = resources().lookup("apps", "v1", "deployments").unwrap();
        let object = json!({"metadata": {"name": "a", "generation": 1}});
        let cases = [
            (r#"{"propagationPolicy":"Foreground"}"#, vec![FOREGROUND], false),
            (r#"{"orphanDependents":true}"#, vec![ORPHAN], false),
            (r#"{"propagationPolicy":"Background"}"#, vec![], true),
        ];
        for (text, wanted, done) in cases {
            let marked = mark(deployments, &object, &options(text).unwrap(), Timestamp::UNIX_EPOCH);
            assert_eq!(finalizers(&marked), wanted);
            assert_eq!(is_done(deployments, &marked), done);
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        for text in
            [r#"{"gracePeriodSeconds":-1}"#, r#"{"gracePeriodSeconds":"x"}"#, r#"{"propagationPolicy":"x"}"#]
        {
            assert!(options(text).is_err(), "{text}");
        }
    }
}
