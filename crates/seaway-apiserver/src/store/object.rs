//! A stored object: its JSON as it goes over the wire, and the few facts that are asked of it often.

use std::borrow::Cow;
use std::sync::OnceLock;

use bytes::Bytes;
use seaway_apis::selector::FieldValues;
use seaway_apis::{Resource, strategy};
use serde_json::Value;

/// One version of one object; immutable, shared between the store, the history and the watchers.
#[derive(Debug)]
pub(crate) struct Object {
    /// `NAMESPACE/NAME`; the namespace is empty for cluster-scoped resources.
    pub(crate) key: String,
    /// `metadata.resourceVersion`.
    pub(crate) revision: u64,
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.labels`, or null.
    pub(crate) labels: Value,
    /// The whole object, apiVersion and kind included.
    pub(crate) json: Bytes,
    /// What selectors have asked for: every node's kubelet asks of every pod on which node it is.
    fields: OnceLock<FieldValues>,
}

impl Object {
    /// From an object's value; `revision` becomes its `metadata.resourceVersion`.
    pub(crate) fn new(key: &str, revision: u64, mut value: Value) -> Result<Object, serde_json::Error> {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        }
        let json = serde_json::to_vec(&value)?;
        Ok(Self::with_json(key, revision, &value, json.into()))
    }

    /// From JSON as it was stored.
    pub(crate) fn from_stored(key: &str, json: &[u8]) -> Result<Object, String> {
        let value: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let revision = value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or("it has no metadata.resourceVersion")?;
        Ok(Self::with_json(key, revision, &value, Bytes::copy_from_slice(json)))
    }

    fn with_json(key: &str, revision: u64, value: &Value, json: Bytes) -> Object {
        Object {
            key: key.to_owned(),
            revision,
            uid: value["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            labels: value["metadata"]["labels"].clone(),
            json,
            fields: OnceLock::new(),
        }
    }

    /// The object's value, parsed anew.
    pub(crate) fn value(&self) -> Value {
        // What is stored was serialized from a value or parsed once already.
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// What selectors of `resource` may ask for. One kind's objects are of one resource, or of two that name their fields
    /// otherwise.
    pub(crate) fn fields(&self, resource: &Resource) -> Cow<'_, FieldValues> {
        let values = || FieldValues::of(resource, &strategy::from_storage(resource, self.value()));
        if resource.is("events.k8s.io", "Event") {
            return Cow::Owned(values());
        }
        Cow::Borrowed(self.fields.get_or_init(values))
    }

    /// The namespace; empty for cluster-scoped resources.
    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }
}

/// The key of an object within its kind; neither namespaces nor names can have a slash.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
