//! Namespaces: what each has from the start, and the end of all it has.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, ListParams};
use kube::core::Request;
use kube::{Client, Resource};
use tracing::debug;

use super::garbage::Kinds;
use crate::error::Error;
use crate::meta::deleting;
use crate::object::{Action, Object};
use crate::store::Key;

/// The ConfigMap that holds the API server's certificate authority.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The key in it.
const CA_KEY: &str = "ca.crt";
/// The service account of pods that name none.
pub const DEFAULT_ACCOUNT: &str = "default";

/// Bounds of [`recheck`].
const SOONEST_RECHECK: Duration = Duration::from_millis(500);
const LATEST_RECHECK: Duration = Duration::from_secs(30);

/// Decides what a namespace still lacks. `ca` is the certificate authority in PEM.
pub fn decide(
    namespace: &Namespace,
    account: Option<&ServiceAccount>,
    root_ca: Option<&ConfigMap>,
    ca: &str,
) -> Vec<Action> {
    if deleting(namespace) {
        return Vec::new();
    }
    let meta = |name: &str| ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    let mut actions = Vec::new();
    if account.is_none() {
        let account = ServiceAccount { metadata: meta(DEFAULT_ACCOUNT), ..ServiceAccount::default() };
        actions.push(Action::Create(Object::from(account)));
    }
    let data: BTreeMap<String, String> = [(CA_KEY.to_owned(), ca.to_owned())].into();
    match root_ca {
        None => {
            let map = ConfigMap { metadata: meta(ROOT_CA), data: Some(data), ..ConfigMap::default() };
            actions.push(Action::Create(Object::from(map)));
        }
        Some(map) if map.data.as_ref() != Some(&data) => {
            let map = ConfigMap { data: Some(data), ..map.clone() };
            actions.push(Action::Replace(Object::from(map)));
        }
        Some(_) => {}
    }
    actions
}

/// Whether the namespace is on its way out and its contents are ours to delete.
pub fn is_ending(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
    deleting(namespace) && finalizers.unwrap_or_default().iter().any(|f| f == "kubernetes")
}

/// When to look again at a namespace that is not empty yet, should no event tell: soon at first, seldom where something keeps
/// it for long.
pub fn recheck(namespace: &Namespace, now: Timestamp) -> Duration {
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let ending_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (ending_for / 10).clamp(SOONEST_RECHECK, LATEST_RECHECK)
}

/// Deletes all that is in a namespace; then, if nothing is left, lets the namespace go. Tells whether it did.
pub async fn end(client: &Client, kinds: &Kinds, namespace: &Namespace) -> Result<bool, Error> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    kinds.wait_discovered().await;
    let resources = kinds.namespaced();
    let mut counts = FuturesUnordered::new();
    for resource in &resources {
        counts.push(empty(kinds, resource, name));
    }
    let mut left = 0;
    while let Some(count) = counts.next().await {
        left += count?;
    }
    if left > 0 {
        debug!(namespace = name, left, "namespace is not empty yet");
        return Ok(false);
    }
    finalize(client, namespace).await?;
    Ok(true)
}

/// Deletes a kind's objects in a namespace; gives how many are left for now.
async fn empty(kinds: &Kinds, resource: &ApiResource, namespace: &str) -> Result<usize, Error> {
    let api = kinds.api(resource, Some(namespace));
    let failed = |operation| {
        move |source| Error::Request {
            operation,
            kind: resource.plural.clone(),
            name: format!("of namespace {namespace}"),
            source: Box::new(source),
        }
    };
    let list = |source| match source {
        // A kind that went away, or that can't be listed after all, has nothing to delete.
        kube::Error::Api(status) if matches!(status.code, 404 | 405) => Ok(Vec::new()),
        other => Err(other),
    };
    let objects = api.list_metadata(&ListParams::default()).await.map(|l| l.items).or_else(list);
    let objects = objects.map_err(failed("list"))?;
    let mut left = 0;
    for object in objects {
        let object_name = object.metadata.name.as_deref().unwrap_or_default();
        let is_going = object.metadata.deletion_timestamp.is_some();
        if is_going {
            left += 1;
            continue;
        }
        match api.delete(object_name, &DeleteParams::background()).await {
            Ok(answer) => {
                // The object itself comes back if it goes in its own time.
                let waits = |o: &kube::api::DynamicObject| o.metadata.deletion_timestamp.is_some();
                left += usize::from(answer.left().is_some_and(|object| waits(&object)));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(failed("delete")(source)),
        }
    }
    Ok(left)
}

async fn finalize(client: &Client, namespace: &Namespace) -> Result<(), Error> {
    let key = Key::of(&namespace.metadata);
    let mut namespace = namespace.clone();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|f| f != "kubernetes");
    }
    // Whatever else changed meanwhile, the finalizer goes.
    namespace.metadata.resource_version = None;
    let failed = |source| Error::Request {
        operation: "finalize",
        kind: "Namespace".into(),
        name: key.to_string(),
        source: Box::new(source),
    };
    let body = serde_json::to_vec(&namespace).map_err(|source| Error::Encode {
        kind: "Namespace".into(),
        name: key.to_string(),
        source,
    })?;
    let request = Request::new(Namespace::url_path(&(), None));
    let request = request.replace_subresource("finalize", &key.name, &Default::default(), body);
    let request = request.map_err(|e| failed(kube::Error::BuildRequest(e)))?;
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn looks_grow_rare() {
        let mut namespace = Namespace::default();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        namespace.metadata.deletion_timestamp = Some(Time(start));
        for (seconds, expected) in [(-5, 500), (0, 500), (4, 500), (60, 6_000), (86_400, 30_000)] {
            let now = Timestamp::from_second(start.as_second() + seconds).unwrap();
            assert_eq!(recheck(&namespace, now), Duration::from_millis(expected), "{seconds}");
        }
    }

    #[test]
    fn what_a_namespace_has() {
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some("web".into()), ..Default::default() },
            ..Default::default()
        };
        let actions = decide(&namespace, None, None, "PEM");
        assert_eq!(actions.len(), 2);
        let [Action::Create(Object::ServiceAccount(account)), Action::Create(Object::ConfigMap(map))] =
            &actions[..]
        else {
            panic!("{actions:?}")
        };
        assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert!(decide(&namespace, Some(account), Some(map), "PEM").is_empty());
        let actions = decide(&namespace, Some(account), Some(map), "NEW");
        assert!(matches!(&actions[..], [Action::Replace(Object::ConfigMap(_))]));
    }
}
