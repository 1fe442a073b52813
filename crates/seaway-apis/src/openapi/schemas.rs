//! Which schemas a document needs, in the form of its OpenAPI version.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operations::Version;
use crate::resource::Resource;
use crate::schema::{DELETE_OPTIONS, PATCH, REF_PREFIX, STATUS, definitions, reference};

/// Schema of a kind that a subresource reads and writes, if it has one.
pub(super) fn of_subresource(resource: &Resource, kind: &str) -> Option<String> {
    if kind == resource.kind {
        return Some(resource.schema.to_string());
    }
    let suffix = format!(".{kind}");
    definitions().keys().find(|name| name.ends_with(&suffix)).cloned()
}

/// The schemas of the resources, and all that they refer to, by name.
pub(super) fn used_by(resources: &[&Resource], version: Version) -> Map<String, Value> {
    let mut wanted: Vec<String> = vec![STATUS.into(), DELETE_OPTIONS.into(), PATCH.into()];
    for resource in resources {
        wanted.push(resource.schema.to_string());
        wanted.push(format!("{}List", resource.schema));
        wanted.extend(resource.subresources.iter().filter_map(|sub| of_subresource(resource, &sub.kind)));
    }
    let mut found = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if let Some(definition) = definitions().get(&name)
            && found.insert(name)
        {
            references(definition, &mut wanted);
        }
    }
    let render =
        |name: String| definitions().get(&name).map(|d| (name.clone(), definition(&name, d, version)));
    found.into_iter().filter_map(render).collect()
}

fn references(value: &Value, found: &mut Vec<String>) {
    if let Some(name) = reference(value) {
        found.push(name.to_owned());
    }
    match value {
        Value::Object(map) => map.values().for_each(|v| references(v, found)),
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// A definition; those that are a text or a number say so in the way of their OpenAPI version.
fn definition(name: &str, definition: &Value, version: Version) -> Value {
    let mut schema = render(definition, version);
    let Some(map) = schema.as_object_mut() else { return schema };
    if map.shift_remove("x-kubernetes-int-or-string").is_some() {
        let quantity = name.ends_with(".Quantity");
        if version == Version::V2 || quantity {
            map.insert("type".into(), "string".into());
        } else {
            map.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        if !quantity {
            map.insert("format".into(), "int-or-string".into());
        }
    }
    schema
}

/// A schema with its references in the form of the version: v3 wraps those that have more to say in `allOf`.
fn render(schema: &Value, version: Version) -> Value {
    match schema {
        Value::Object(map) => {
            let mut result = Map::new();
            for (key, value) in map.iter().filter(|(key, _)| *key != "$ref") {
                result.insert(key.clone(), render(value, version));
            }
            if let Some(name) = reference(schema) {
                let target = json!(version.reference(name));
                if version == Version::V3 && !result.is_empty() {
                    result.insert("allOf".into(), json!([{"$ref": target}]));
                } else {
                    result.insert("$ref".into(), target);
                }
            }
            Value::Object(result)
        }
        Value::Array(list) => list.iter().map(|v| render(v, version)).collect(),
        other => other.clone(),
    }
}

impl Version {
    /// How a document of the version refers to a definition.
    pub(super) fn reference(self, name: &str) -> String {
        match self {
            Version::V2 => format!("#/definitions/{name}"),
            Version::V3 => format!("{REF_PREFIX}{name}"),
        }
    }
}
