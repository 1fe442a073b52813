//! Objects and lists in the form that was asked for: as they are, as a Table, as metadata alone.

use std::sync::Arc;

use jiff::Timestamp;
use seaway_apis::tables::{self, Include};
use seaway_apis::{Resource, strategy};
use serde_json::{Value, json};

use crate::negotiate::{Accepted, Encoding, Form};
use crate::reply::{Reply, json_bytes, value};
use crate::request::Query;
use crate::store::Object;

/// How the objects of a resource are to be answered.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    resource: Arc<Resource>,
    accepted: Accepted,
    include: Include,
}

impl Shape {
    pub(crate) fn new(resource: &Arc<Resource>, accepted: Accepted, query: &Query) -> Shape {
        let include = match query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        Shape { resource: resource.clone(), accepted, include }
    }

    /// Whether stored JSON can be sent as it is.
    pub(crate) fn is_stored_form(&self) -> bool {
        self.accepted == Accepted::JSON && self.is_storage_kind()
    }

    fn is_storage_kind(&self) -> bool {
        self.resource.storage() == (&*self.resource.group, &*self.resource.plural)
    }

    /// An answer with one stored object.
    pub(crate) fn stored(&self, code: u16, object: &Object) -> Reply {
        if self.is_stored_form() {
            return json_bytes(code, object.json.clone());
        }
        self.object(code, strategy::from_storage(&self.resource, object.value()))
    }

    /// An answer with one object of the resource's kind.
    pub(crate) fn object(&self, code: u16, object: Value) -> Reply {
        value(code, &self.single(object, true), self.accepted)
    }

    fn single(&self, object: Value, headers: bool) -> Value {
        match self.accepted.form {
            Form::Plain | Form::Discovery(_) => object,
            Form::Partial(version) => partial(&object, version),
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.table([&object], metadata, headers, version)
            }
        }
    }

    fn table<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Value>,
        metadata: Value,
        headers: bool,
        version: &str,
    ) -> Value {
        let options =
            tables::Options { include: self.include, no_headers: !headers, now: Timestamp::now(), metadata };
        let mut table = tables::table(&self.resource, objects, &options);
        table["apiVersion"] = format!("meta.k8s.io/{version}").into();
        table
    }

    /// The object of a watch event; a Table names its columns in the first event only.
    pub(crate) fn event_object(&self, stored: Value, headers_sent: bool) -> Value {
        self.single(strategy::from_storage(&self.resource, stored), !headers_sent)
    }

    /// The object of a bookmark.
    pub(crate) fn bookmark(&self, metadata: Value) -> Value {
        match self.accepted.form {
            Form::Plain | Form::Discovery(_) => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Form::Partial(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
            }
            Form::Table(version) => self.table([], metadata, false, version),
        }
    }

    /// An answer with a list of stored objects.
    pub(crate) fn list(&self, objects: &[Arc<Object>], metadata: &Value) -> Reply {
        if self.is_stored_form() {
            return json_bytes(200, self.plain_list(objects, metadata));
        }
        let values: Vec<Value> =
            objects.iter().map(|object| strategy::from_storage(&self.resource, object.value())).collect();
        let list = match self.accepted.form {
            Form::Plain | Form::Discovery(_) => json!({
                "kind": self.resource.list_kind,
                "apiVersion": self.resource.api_version(),
                "metadata": metadata,
                "items": values,
            }),
            Form::Partial(version) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": values.iter().map(|object| partial(object, version)).collect::<Vec<_>>(),
            }),
            Form::Table(version) => self.table(&values, metadata.clone(), true, version),
        };
        value(200, &list, self.accepted)
    }

    /// A list of stored JSON, put together without parsing it.
    fn plain_list(&self, objects: &[Arc<Object>], metadata: &Value) -> Vec<u8> {
        let head = json!({
            "kind": self.resource.list_kind,
            "apiVersion": self.resource.api_version(),
            "metadata": metadata,
        });
        let size: usize = objects.iter().map(|object| object.json.len() + 1).sum();
        let mut list = head.to_string().into_bytes();
        list.reserve(size + 16);
        list.pop();
        list.extend_from_slice(b",\"items\":[");
        for (at, object) in objects.iter().enumerate() {
            if at > 0 {
                list.push(b',');
            }
            list.extend_from_slice(&object.json);
        }
        list.extend_from_slice(b"]}\n");
        list
    }

    /// Whether errors and Status answers are JSON (they are in any form but YAML).
    pub(crate) fn plain(&self) -> Accepted {
        Accepted { form: Form::Plain, encoding: self.accepted.encoding }
    }

    /// Watches are JSON only.
    pub(crate) fn for_watch(mut self) -> Shape {
        self.accepted.encoding = Encoding::Json;
        self
    }
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}
