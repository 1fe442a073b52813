//! The types' schemas, and the check of an object's form against them.
use crate::resource::Resource;
use serde_json::Value;

/// What an object has that its type does not allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Wrong JSON types, in the API's words (`json: cannot unmarshal string into Go struct field …`); HTTP 400 always.
    pub type_errors: Vec<String>,
    /// Paths of fields that the type does not have, such as `spec.foo`.
    pub unknown_fields: Vec<String>,
}

/// Checks an object's form.
pub fn check(resource: &Resource, object: &Value) -> Report {
    let _ = (resource, object);
    Report::default()
}
