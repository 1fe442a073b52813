//! Validation, with the API's own words.

pub(crate) mod names;

use serde_json::Value;

use crate::field_error::FieldError;
use crate::resource::Resource;

pub use names::{
    label_1035_problem, label_problem, label_value_problem, path_segment_problem, qualified_name_problem,
    subdomain_problem,
};

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
