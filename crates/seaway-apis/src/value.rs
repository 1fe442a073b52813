//! Reading and defaulting fields of JSON objects.

use serde_json::{Map, Value};

/// The text at a JSON pointer, or the empty text.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a JSON pointer.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The flag at a JSON pointer; false when it is absent.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer; empty when it is absent.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of the object at a JSON pointer; none when it is absent.
pub(crate) fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

/// The objects of the list at a JSON pointer, to change.
pub(crate) fn each<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The object at `key`, made when it is absent; `None` when `value` or what is there is no object.
pub(crate) fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let entry = value.as_object_mut()?.entry(key).or_insert_with(|| Value::Object(Map::new()));
    entry.is_object().then_some(entry)
}

/// Sets `key` of an object when it is absent or null.
pub(crate) fn default(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets `key` of an object when it is absent, null or the empty text.
pub(crate) fn default_text(value: &mut Value, key: &str, default: &str) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).is_none_or(|v| v.is_null() || v == "")
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Removes `key` of an object.
pub(crate) fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut()?.shift_remove(key)
}

/// Makes `key` of `to` what it is in `from`, absent included.
pub(crate) fn copy(from: &Value, to: &mut Value, key: &str) {
    match from.get(key) {
        Some(value) => {
            if let Some(map) = to.as_object_mut() {
                map.insert(key.to_owned(), value.clone());
            }
        }
        None => {
            remove(to, key);
        }
    }
}
