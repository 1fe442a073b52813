//! Merging of lists by key, and the order of what comes out.

use serde_json::{Map, Value};

use super::{DIRECTIVE, PatchError, Schema, merge_objects};

/// Merges a patch's list into the current one. `key` is the merge key; without one the entries are compared whole.
/// `order` is the value of `$setElementOrder`, in place of the patch's own order.
pub(super) fn merge(
    current: &[Value],
    patch: &[Value],
    key: Option<&str>,
    items: Schema,
    order: Option<&Value>,
) -> Result<Vec<Value>, PatchError> {
    if patch
        .iter()
        .any(|item| directive(item) == Some("replace") && item.as_object().is_some_and(|m| m.len() == 1))
    {
        return Ok(without_directives(patch));
    }
    let mut merged: Vec<Value> = current.to_vec();
    let mut own_order: Vec<Value> = Vec::new();
    for item in patch {
        let identity = identity(item, key)?;
        let at = merged.iter().position(|m| same(m, &identity, key));
        match directive(item) {
            Some("delete") => merged.retain(|m| !same(m, &identity, key)),
            None | Some("merge" | "replace") => {
                let value = merge_entry(at.map(|at| &merged[at]), item, items)?;
                match at {
                    Some(at) => merged[at] = value,
                    None => merged.push(value),
                }
                own_order.push(identity);
            }
            Some(other) => {
                return Err(PatchError::Malformed(format!(
                    "unrecognized patch directive: {DIRECTIVE}: \"{other}\""
                )));
            }
        }
    }
    let order = match order.and_then(Value::as_array) {
        Some(order) => order.iter().map(|item| identity(item, key)).collect::<Result<Vec<_>, _>>()?,
        None => own_order,
    };
    Ok(ordered(merged, &order, current, key))
}

fn merge_entry(current: Option<&Value>, patch: &Value, items: Schema) -> Result<Value, PatchError> {
    match (current, patch) {
        (Some(Value::Object(current)), Value::Object(patch)) => {
            merge_objects(current.clone(), patch, items).map(Value::Object)
        }
        (None, Value::Object(patch)) => merge_objects(Map::new(), patch, items).map(Value::Object),
        (_, other) => Ok(other.clone()),
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or(""))
}

/// What tells an entry from others: the merge key's value, or the entry itself.
fn identity(item: &Value, key: Option<&str>) -> Result<Value, PatchError> {
    let Some(key) = key else { return Ok(item.clone()) };
    if !item.is_object() {
        return Err(PatchError::Malformed(format!("{item} must be an object with the merge key \"{key}\"")));
    }
    item.get(key).cloned().ok_or_else(|| {
        PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
    })
}

fn same(item: &Value, identity: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => item.get(key) == Some(identity),
        None => item == identity,
    }
}

/// Entries that `order` names come in that order; the others keep their place relative to those that were there before.
fn ordered(merged: Vec<Value>, order: &[Value], current: &[Value], key: Option<&str>) -> Vec<Value> {
    let rank = |item: &Value| order.iter().position(|o| same(item, o, key));
    let before = |item: &Value| {
        current.iter().position(|c| match key {
            Some(key) => c.get(key) == item.get(key),
            None => c == item,
        })
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| rank(item).is_some());
    named.sort_by_key(&rank);
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let take_named = match (named.peek(), others.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(n), Some(o)) => matches!((before(n), before(o)), (Some(n), Some(o)) if n < o),
        };
        result.extend(if take_named { named.next() } else { others.next() });
    }
}

/// A list that replaces another, without entries that only give directives.
pub(super) fn without_directives(list: &[Value]) -> Vec<Value> {
    list.iter()
        .filter(|item| {
            !matches!(directive(item), Some("delete"))
                && !item.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(DIRECTIVE))
        })
        .map(|item| match item {
            Value::Object(map) => {
                let mut map = map.clone();
                map.shift_remove(DIRECTIVE);
                Value::Object(map)
            }
            other => other.clone(),
        })
        .collect()
}
