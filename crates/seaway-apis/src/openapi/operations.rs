//! The paths of a resource and what can be done there.

use serde_json::{Map, Value, json};

use super::document_path;
use super::schemas::of_subresource;
use crate::resource::{Resource, Subresource, Text};
use crate::schema::{DELETE_OPTIONS, PATCH, STATUS, definitions};

/// Version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// `swagger: "2.0"`
    V2,
    /// `openapi: "3.0.0"`
    V3,
}

/// Media types of patches.
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const JSON: &str = "application/json";

const DRY_RUN: (&str, &str) = ("dryRun", "string");
const FIELD_MANAGER: (&str, &str) = ("fieldManager", "string");
const FIELD_VALIDATION: (&str, &str) = ("fieldValidation", "string");
const WRITE: &[(&str, &str)] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const DELETE: &[(&str, &str)] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// What an operation does: method, Kubernetes' name of the action, query parameters, schemas of body and answer.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    query: &'static [(&'static str, &'static str)],
    body: Option<&'a str>,
    answer: &'a str,
}

/// Adds the paths of a resource and its subresources.
pub(super) fn of_resource(resource: &Resource, version: Version, paths: &mut Map<String, Value>) {
    let root = format!("/{}", document_path(&resource.group, &resource.version));
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let kind = gvk(&resource.group, &resource.version, &resource.kind);
    let list = format!("{}List", resource.schema);
    let verbs = &resource.verbs;
    let mut add = |path: String, operations: Vec<Operation<'_>>, kind: &Value, name: &str| {
        if !operations.is_empty() {
            paths.insert(path.clone(), item(&path, &operations, kind, name, version));
        }
    };
    if resource.namespaced && has(verbs, "list") {
        let all = vec![Operation { method: "get", action: "list", query: LIST, body: None, answer: &list }];
        add(format!("{root}/{}", resource.plural), all, &kind, &format!("{}ForAllNamespaces", resource.kind));
    }
    add(collection.clone(), on_collection(verbs, &resource.schema, &list), &kind, &resource.kind);
    add(format!("{collection}/{{name}}"), on_object(verbs, &resource.schema), &kind, &resource.kind);
    for sub in &resource.subresources {
        let Some(schema) = of_subresource(resource, &sub.kind).filter(|_| !is_connect(sub)) else { continue };
        let mut operations = on_object(&sub.verbs, &schema);
        if has(&sub.verbs, "create") {
            operations.push(Operation {
                method: "post",
                action: "post",
                query: WRITE,
                body: Some(&schema),
                answer: &schema,
            });
        }
        let kind = gvk(&sub.group, &sub.version, &sub.kind);
        add(
            format!("{collection}/{{name}}/{}", sub.name),
            operations,
            &kind,
            &format!("{}_{}", resource.kind, sub.name),
        );
    }
}

/// Subresources that pass a stream through have no object in their body.
fn is_connect(sub: &Subresource) -> bool {
    matches!(sub.name.as_ref(), "attach" | "exec" | "log" | "portforward" | "proxy")
}

fn has(verbs: &[Text], verb: &str) -> bool {
    verbs.iter().any(|v| v == verb)
}

fn on_collection<'a>(verbs: &[Text], schema: &'a str, list: &'a str) -> Vec<Operation<'a>> {
    [
        ("list", Operation { method: "get", action: "list", query: LIST, body: None, answer: list }),
        (
            "create",
            Operation { method: "post", action: "post", query: WRITE, body: Some(schema), answer: schema },
        ),
        (
            "deletecollection",
            Operation {
                method: "delete",
                action: "deletecollection",
                query: LIST,
                body: Some(DELETE_OPTIONS),
                answer: STATUS,
            },
        ),
    ]
    .into_iter()
    .filter_map(|(verb, operation)| has(verbs, verb).then_some(operation))
    .collect()
}

fn on_object<'a>(verbs: &[Text], schema: &'a str) -> Vec<Operation<'a>> {
    [
        ("get", Operation { method: "get", action: "get", query: &[], body: None, answer: schema }),
        (
            "update",
            Operation { method: "put", action: "put", query: WRITE, body: Some(schema), answer: schema },
        ),
        (
            "patch",
            Operation { method: "patch", action: "patch", query: WRITE, body: Some(PATCH), answer: schema },
        ),
        (
            "delete",
            Operation {
                method: "delete",
                action: "delete",
                query: DELETE,
                body: Some(DELETE_OPTIONS),
                answer: STATUS,
            },
        ),
    ]
    .into_iter()
    .filter_map(|(verb, operation)| has(verbs, verb).then_some(operation))
    .collect()
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The path item: operations, and the parameters that are in the path.
fn item(path: &str, operations: &[Operation<'_>], kind: &Value, name: &str, version: Version) -> Value {
    let mut item = Map::new();
    for operation in operations {
        item.insert(operation.method.into(), operation.render(path, kind, name, version));
    }
    let mut parameters: Vec<Value> = ["namespace", "name"]
        .into_iter()
        .filter(|p| path.contains(&format!("{{{p}}}")))
        .map(|p| parameter(p, "string", "path", version))
        .collect();
    parameters.push(parameter("pretty", "string", "query", version));
    item.insert("parameters".into(), parameters.into());
    Value::Object(item)
}

fn parameter(name: &str, kind: &str, place: &str, version: Version) -> Value {
    let mut value = json!({"name": name, "in": place});
    if place == "path" {
        value["required"] = true.into();
    }
    match version {
        Version::V2 => {
            value["type"] = kind.into();
            value["uniqueItems"] = true.into();
        }
        Version::V3 => value["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    value
}

impl Operation<'_> {
    fn render(&self, path: &str, kind: &Value, name: &str, version: Version) -> Value {
        let group: String = path.split('/').take(4).map(capitalized).collect();
        let id = format!("{}{}{}", self.action, group.replace(['.', '-', '{', '}'], ""), name);
        let mut parameters: Vec<Value> =
            self.query.iter().map(|(name, kind)| parameter(name, kind, "query", version)).collect();
        let mut value = json!({
            "operationId": id,
            "description": format!("{} {name}", self.action),
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": kind,
        });
        let known = |schema: &str| definitions().contains_key(schema);
        let schema = |name: &str| {
            if known(name) { json!({"$ref": version.reference(name)}) } else { json!({"type": "object"}) }
        };
        let types = if self.method == "patch" { PATCH_TYPES } else { &[JSON] };
        match version {
            Version::V2 => {
                if let Some(body) = self.body {
                    let required = self.method != "delete";
                    parameters.push(
                        json!({"name": "body", "in": "body", "required": required, "schema": schema(body)}),
                    );
                    value["consumes"] = json!(types);
                }
                value["produces"] = json!([JSON]);
                value["schemes"] = json!(["https"]);
                value["responses"] = json!({"200": {"description": "OK", "schema": schema(self.answer)}});
            }
            Version::V3 => {
                if let Some(body) = self.body {
                    let content: Map<String, Value> =
                        types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema(body)}))).collect();
                    value["requestBody"] = json!({"content": content, "required": self.method != "delete"});
                }
                value["responses"] =
                    json!({"200": {"description": "OK", "content": {JSON: {"schema": schema(self.answer)}}}});
            }
        }
        if !parameters.is_empty() {
            value["parameters"] = parameters.into();
        }
        value
    }
}

fn capitalized(part: &str) -> String {
    let mut chars = part.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
