//! What is wrong with an object of the API.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An object of the API, of any kind; shown as `Kind namespace/name`, or `Kind name` where it has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The kind, as the API spells it.
    pub kind: Arc<str>,
    /// The namespace; empty where the kind has none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// The `kind` called `name` in `namespace` (empty for none).
    pub fn new(kind: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A value in an object that cannot be used. The object's last good state stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{object}: {field}: {value:?}: {reason}")]
pub struct Problem {
    /// The object.
    pub object: ObjectRef,
    /// The field's path, such as `spec.clusterIPs[1]`.
    pub field: String,
    /// The value found there.
    pub value: String,
    /// What was expected.
    pub reason: String,
}
