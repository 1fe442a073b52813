//! Validation, with the API's own words.
use crate::field_error::FieldError;
use crate::resource::Resource;
use serde_json::Value;

/// What is wrong with a new object (after defaults).
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let _ = (resource, object);
    Vec::new()
}

/// What is wrong with `new` in place of `old`; `subresource` is `status`, … or none.
pub fn update(resource: &Resource, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (resource, subresource, new, old);
    Vec::new()
}
