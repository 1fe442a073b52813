//! OpenAPI v2 and v3 documents.
use crate::resource::Registry;
use serde_json::{Value, json};

/// `GET /openapi/v3`: the index of documents, by path (`api/v1`, `apis/apps/v1`, …).
pub fn v3_index(registry: &Registry) -> Value {
    let _ = registry;
    json!({"paths": {}})
}

/// `GET /openapi/v3/PATH`: the document of one group version; `path` as in the index.
pub fn v3_document(registry: &Registry, path: &str) -> Option<Value> {
    let _ = (registry, path);
    None
}

/// `GET /openapi/v2`: everything in one swagger document.
pub fn v2_document(registry: &Registry) -> Value {
    let _ = registry;
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.32.0"}, "paths": {}, "definitions": {}})
}
