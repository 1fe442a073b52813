//! Texts that several kinds' cells share.

use jiff::Timestamp;
use serde_json::Value;

use crate::duration;
use crate::selector::LabelSelector;
use crate::value::{entries, list, text};

/// What an empty cell shows.
pub(super) const NONE: &str = "<none>";

/// Time since the object was created.
pub(super) fn age(object: &Value, now: Timestamp) -> String {
    since(text(object, "/metadata/creationTimestamp"), now)
}

/// Time since an instant that is written as the API does; `<unknown>` when it is empty.
pub(super) fn since(instant: &str, now: Timestamp) -> String {
    match instant.parse::<Timestamp>() {
        Ok(instant) => duration::human(now.duration_since(instant).as_secs()),
        Err(_) => "<unknown>".into(),
    }
}

/// The text, or `<none>` for the empty one.
pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// The texts with commas between them, or `<none>`.
pub(super) fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    or_none(&texts.into_iter().collect::<Vec<_>>().join(","))
}

/// The strings of the list at a pointer, or `<none>`.
pub(super) fn strings(value: &Value, pointer: &str) -> String {
    joined(list(value, pointer).iter().filter_map(Value::as_str))
}

/// At most `max` of the texts, and how many more there are.
pub(super) fn some_of(texts: &[String], max: usize) -> String {
    let shown = texts.iter().take(max).cloned().collect::<Vec<_>>().join(",");
    if texts.len() > max { format!("{shown} + {} more...", texts.len() - max) } else { shown }
}

/// Labels sorted by key: `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: &Value, pointer: &str) -> String {
    let mut pairs: Vec<String> = entries(value, pointer)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    pairs.sort_unstable();
    or_none(&pairs.join(","))
}

/// A label selector as text, or `<none>`.
pub(super) fn selector(value: &Value, pointer: &str) -> String {
    let Some(Ok(selector)) = value.pointer(pointer).map(LabelSelector::from_value) else {
        return NONE.into();
    };
    let mut parts: Vec<String> = selector.requirements().iter().map(ToString::to_string).collect();
    parts.sort_unstable();
    or_none(&parts.join(","))
}

/// A field of each container of the pod spec at a pointer.
pub(super) fn containers(value: &Value, spec: &str, field: &str) -> String {
    let texts: Vec<&str> =
        list(value, &format!("{spec}/containers")).iter().map(|c| text(c, field)).collect();
    texts.join(",")
}

/// The number or text at a pointer as a cell.
pub(super) fn number(value: &Value, pointer: &str) -> Value {
    value.pointer(pointer).filter(|v| v.is_number()).cloned().unwrap_or_else(|| 0.into())
}
