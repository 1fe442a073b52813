//! Events have two kinds with one store: `v1` Event, as which they are stored, and `events.k8s.io/v1` Event.

use serde_json::{Map, Value};

use crate::resource::Resource;

/// Fields by their names in `events.k8s.io/v1` and in `v1`.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// An object as it is stored.
pub fn to_storage(resource: &Resource, object: Value) -> Value {
    if !resource.is("events.k8s.io", "Event") {
        return object;
    }
    rename(object, "v1", |key| NAMES.iter().find(|(new, _)| *new == key).map(|(_, old)| *old))
}

/// A stored object as the resource's kind.
pub fn from_storage(resource: &Resource, object: Value) -> Value {
    if !resource.is("events.k8s.io", "Event") {
        return object;
    }
    rename(object, "events.k8s.io/v1", |key| NAMES.iter().find(|(_, old)| *old == key).map(|(new, _)| *new))
}

fn rename(object: Value, version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = object else { return object };
    let mut result = Map::new();
    for (key, value) in map {
        let key = name(&key).map_or(key, str::to_owned);
        result.insert(key, value);
    }
    result.insert("apiVersion".into(), version.into());
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::resources;

    #[test]
    fn there_and_back() {
        let new = resources().lookup("events.k8s.io", "v1", "events").unwrap();
        let stored = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 2, "type": "Normal"});
        let seen = from_storage(new, stored.clone());
        assert_eq!(seen["note"], "m");
        assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
        assert_eq!(to_storage(new, seen), stored);
    }
}
