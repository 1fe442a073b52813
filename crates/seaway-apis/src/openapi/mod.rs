//! OpenAPI v2 and v3 documents, as far as kubectl and client libraries use them: schemas with
//! `x-kubernetes-group-version-kind` and merge keys for `explain` and `apply`, and paths whose operations state their
//! kind and their query parameters (kubectl asks whether `fieldValidation` is among those of a PATCH).

mod operations;
mod protobuf;
mod schemas;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::resource::{Registry, Resource};
use crate::schema::definitions;
use operations::Version;
pub use protobuf::{ASKED_MEDIA_TYPE as ASKED_V2_PROTOBUF, MEDIA_TYPE as V2_PROTOBUF};

/// Kubernetes' version whose types these are.
const KUBERNETES: &str = "v1.36.0";

/// Counts changes of this module's output, which clients cache by its hash.
const REVISION: u32 = 1;

static DEFINITIONS_HASH: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for (name, definition) in definitions() {
        name.hash(&mut hasher);
        definition.to_string().hash(&mut hasher);
    }
    hasher.finish()
});

/// `GET /openapi/v3`: the index of documents, by path (`api/v1`, `apis/apps/v1`, …). The `hash` in a document's URL
/// changes with the document.
pub fn v3_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for path in group_versions(registry) {
        let mut hasher = DefaultHasher::new();
        (REVISION, *DEFINITIONS_HASH).hash(&mut hasher);
        for resource in of_path(registry, &path) {
            format!("{resource:?}").hash(&mut hasher);
        }
        let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `GET /openapi/v3/PATH`: the document of one group version; `path` as in the index.
pub fn v3_document(registry: &Registry, path: &str) -> Option<Value> {
    let resources: Vec<&Resource> = of_path(registry, path).collect();
    if resources.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for resource in &resources {
        operations::of_resource(resource, Version::V3, &mut paths);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES},
        "paths": paths,
        "components": {"schemas": schemas::used_by(&resources, Version::V3)},
    }))
}

/// `GET /openapi/v2`: everything in one swagger document.
pub fn v2_document(registry: &Registry) -> Value {
    let resources: Vec<&Resource> = registry.resources().iter().map(|r| &**r).collect();
    let mut paths = Map::new();
    for resource in &resources {
        operations::of_resource(resource, Version::V2, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES},
        "paths": paths,
        "definitions": schemas::used_by(&resources, Version::V2),
    })
}

/// `GET /openapi/v2` in protobuf ([`V2_PROTOBUF`]): the kinds there are, without their fields.
pub fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    protobuf::encode(&v2_document(registry))
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_versions(registry: &Registry) -> Vec<String> {
    let mut paths: Vec<String> =
        registry.resources().iter().map(|r| document_path(&r.group, &r.version)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn of_path<'a>(registry: &'a Registry, path: &'a str) -> impl Iterator<Item = &'a Resource> {
    registry.resources().iter().map(|r| &**r).filter(move |r| document_path(&r.group, &r.version) == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::resources;

    #[test]
    fn the_index_names_every_document() {
        let index = v3_index(resources());
        let paths = index["paths"].as_object().unwrap();
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
        for path in paths.keys() {
            assert!(v3_document(resources(), path).is_some(), "{path}");
        }
        assert_eq!(v3_document(resources(), "apis/none/v1"), None);
        assert_eq!(index, v3_index(resources()));
    }

    #[test]
    fn references_resolve_within_a_document() {
        fn walk(value: &Value, check: &dyn Fn(&str)) {
            match value {
                Value::Object(map) => map.iter().for_each(|(key, v)| match v.as_str() {
                    Some(text) if key == "$ref" => check(text),
                    _ => walk(v, check),
                }),
                Value::Array(list) => list.iter().for_each(|v| walk(v, check)),
                _ => {}
            }
        }
        for path in ["api/v1", "apis/apps/v1", "apis/policy/v1"] {
            let document = v3_document(resources(), path).unwrap();
            walk(&document, &|reference| {
                assert!(document.pointer(&reference[1..]).is_some(), "{path}: {reference}")
            });
        }
        let document = v2_document(resources());
        walk(&document, &|reference| assert!(document.pointer(&reference[1..]).is_some(), "{reference}"));
    }

    #[test]
    fn patches_state_their_kind_and_parameters() {
        let document = v3_document(resources(), "apis/apps/v1").unwrap();
        for path in [
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status",
        ] {
            let patch = &document["paths"][path]["patch"];
            assert_eq!(
                patch["x-kubernetes-group-version-kind"],
                json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
                "{path}"
            );
            let names: Vec<&str> =
                patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
            assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"), "{names:?}");
            assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
        }
    }

    #[test]
    fn schemas_have_kinds_and_merge_keys() {
        let v3 = v3_document(resources(), "apis/apps/v1").unwrap();
        let schemas = &v3["components"]["schemas"];
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
            "Deployment"
        );
        assert_eq!(
            schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["x-kubernetes-patch-merge-key"],
            "name"
        );
        let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
        assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
        let v2 = v2_document(resources());
        let spec = &v2["definitions"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
        assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    }
}
