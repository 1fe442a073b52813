//! The `scale` subresource: Deployments, ReplicaSets and StatefulSets seen as `autoscaling/v1` Scale.
use crate::field_error::FieldError;
use serde_json::Value;

/// The Scale of a workload object.
pub fn from_object(object: &Value) -> Value {
    object.clone()
}

/// The object with the replicas that a Scale asks for.
pub fn apply(object: &Value, scale: &Value) -> Result<Value, Vec<FieldError>> {
    let _ = scale;
    Ok(object.clone())
}
