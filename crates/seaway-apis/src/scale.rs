//! The `scale` subresource: Deployments, ReplicaSets and StatefulSets seen as `autoscaling/v1` Scale.

use serde_json::{Map, Value, json};

use crate::field_error::FieldError;
use crate::selector::LabelSelector;
use crate::value::{child, int, remove};

/// Metadata that a Scale shares with its object.
const SHARED: &[&str] = &["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];

/// The Scale of a workload object.
pub fn from_object(object: &Value) -> Value {
    let mut metadata = Map::new();
    for key in SHARED {
        if let Some(value) = object.pointer(&format!("/metadata/{key}")) {
            metadata.insert((*key).to_owned(), value.clone());
        }
    }
    let selector = object.pointer("/spec/selector").map(LabelSelector::from_value);
    let mut status = json!({"replicas": int(object, "/status/replicas").unwrap_or(0)});
    if let Some(Ok(selector)) = selector
        && !selector.is_empty()
    {
        status["selector"] = selector.to_string().into();
    }
    let mut spec = json!({"replicas": int(object, "/spec/replicas").unwrap_or(0)});
    if spec["replicas"] == 0 {
        remove(&mut spec, "replicas");
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The object with the replicas that a Scale asks for. Its `metadata.resourceVersion` is the Scale's, so that a stale
/// Scale is a conflict.
pub fn apply(object: &Value, scale: &Value) -> Result<Value, Vec<FieldError>> {
    let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
    match replicas.as_i64() {
        Some(n) if (0..=i64::from(i32::MAX)).contains(&n) => {}
        _ => {
            return Err(vec![FieldError::invalid(
                "spec.replicas",
                replicas,
                "must be greater than or equal to 0",
            )]);
        }
    }
    let mut new = object.clone();
    if let Some(spec) = child(&mut new, "spec") {
        spec["replicas"] = replicas;
    }
    if let (Some(metadata), Some(version)) =
        (child(&mut new, "metadata"), scale.pointer("/metadata/resourceVersion"))
    {
        metadata["resourceVersion"] = version.clone();
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "d", "resourceVersion": "7"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 1},
        });
        let mut scale = from_object(&object);
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=web"}));
        assert_eq!(apply(&object, &scale).unwrap(), object);
        scale["spec"]["replicas"] = 5.into();
        assert_eq!(apply(&object, &scale).unwrap()["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = (-1).into();
        assert_eq!(
            apply(&object, &scale).unwrap_err()[0].to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
