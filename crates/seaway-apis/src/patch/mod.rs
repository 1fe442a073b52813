//! Strategic merge patches and JSON merge patches.
//!
//! A strategic merge patch knows the type of what it patches: lists whose type names a merge key are merged entry by
//! entry. Directives in the patch: `$patch` (`replace`, `delete`, `merge`), `$retainKeys`, `$setElementOrder/LIST`,
//! `$deleteFromPrimitiveList/LIST`; null deletes a key.

mod lists;

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::schema::{definitions, resolve, strategy};

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed (HTTP 400).
    #[error("{0}")]
    Malformed(String),
    /// The resource's type is not known well enough; other kinds of patches work (HTTP 415).
    #[error("strategic merge patches are not supported for {0}")]
    Unsupported(String),
}

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// The type of a value, as far as it is known.
type Schema = Option<&'static Value>;

/// Applies a strategic merge patch (`application/strategic-merge-patch+json`) to an object of the resource's kind.
pub fn strategic_merge(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(schema) = definitions().get(resource.schema.as_ref()) else {
        return Err(PatchError::Unsupported(resource.qualified()));
    };
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::Malformed("a strategic merge patch must be a JSON object".into()));
    };
    merge_objects(current.clone(), patch, Some(schema)).map(Value::Object)
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

/// The type of an object's field.
fn field(schema: Schema, key: &str) -> Schema {
    let schema = resolve(schema?);
    schema
        .get("properties")
        .and_then(|p| p.get(key))
        .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
}

fn merge_objects(
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Schema,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or("")) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut replaced = patch.clone();
            replaced.shift_remove(DIRECTIVE);
            return Ok(replaced);
        }
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return Err(PatchError::Malformed(format!(
                "unrecognized patch directive: {DIRECTIVE}: \"{other}\""
            )));
        }
    }
    retain_keys(&mut current, patch)?;
    delete_primitives(&mut current, patch)?;
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        if value.is_null() {
            current.shift_remove(key);
            continue;
        }
        let of = field(schema, key);
        let order = patch.get(&format!("{ELEMENT_ORDER}{key}"));
        let merged = merge_values(current.get(key), value, of, order)?;
        current.insert(key.clone(), merged);
    }
    order_unpatched(&mut current, patch, schema)?;
    Ok(current)
}

fn merge_values(
    current: Option<&Value>,
    patch: &Value,
    schema: Schema,
    order: Option<&Value>,
) -> Result<Value, PatchError> {
    match (current, patch) {
        (Some(Value::Object(current)), Value::Object(patch)) => {
            merge_objects(current.clone(), patch, schema).map(Value::Object)
        }
        (_, Value::Object(patch)) => merge_objects(Map::new(), patch, schema).map(Value::Object),
        (current, Value::Array(patch)) => {
            let strategy = schema.map(strategy).unwrap_or_default();
            if !strategy.merge {
                return Ok(Value::Array(lists::without_directives(patch)));
            }
            let current = current.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let items = schema.and_then(|s| resolve(s).get("items"));
            lists::merge(current, patch, strategy.key, items, order).map(Value::Array)
        }
        (_, other) => Ok(other.clone()),
    }
}

/// `$retainKeys` lists all keys that the object may keep.
fn retain_keys(current: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(keys) = keys.as_array() else {
        return Err(PatchError::Malformed(format!("{RETAIN_KEYS} must be a list of keys")));
    };
    let keeps = |key: &str| keys.iter().any(|k| k == key);
    if let Some((key, _)) =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !keeps(key))
    {
        return Err(PatchError::Malformed(format!(
            "{RETAIN_KEYS} does not list the key \"{key}\" that the patch sets"
        )));
    }
    current.retain(|key, _| keeps(key));
    Ok(())
}

fn delete_primitives(current: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    for (key, gone) in patch {
        let Some(name) = key.strip_prefix(DELETE_PRIMITIVES) else { continue };
        let Some(gone) = gone.as_array() else {
            return Err(PatchError::Malformed(format!("{key} must be a list")));
        };
        if let Some(list) = current.get_mut(name).and_then(Value::as_array_mut) {
            list.retain(|item| !gone.contains(item));
        }
    }
    Ok(())
}

/// `$setElementOrder` for lists that the patch does not otherwise change.
fn order_unpatched(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Schema,
) -> Result<(), PatchError> {
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(ELEMENT_ORDER) else { continue };
        if !order.is_array() {
            return Err(PatchError::Malformed(format!("{key} must be a list")));
        }
        if patch.contains_key(name) {
            continue;
        }
        let of = field(schema, name);
        let strategy = of.map(strategy).unwrap_or_default();
        if let Some(Value::Array(list)) = current.get(name)
            && strategy.merge
        {
            let items = of.and_then(|s| resolve(s).get("items"));
            let ordered = lists::merge(list, &[], strategy.key, items, Some(order))?;
            current.insert(name.to_owned(), Value::Array(ordered));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
