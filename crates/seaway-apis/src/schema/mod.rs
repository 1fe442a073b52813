//! The types' schemas, from k8s-openapi, and the check of an object's form against them.

mod conform;
mod merge_keys;

use std::sync::LazyLock;

use k8s_openapi::api::{
    apps, authentication, authorization, autoscaling, batch, coordination, core, discovery, events,
    networking, policy, rbac,
};
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::resource::resources;

pub use conform::{FieldValidation, Report, conform};
pub(crate) use merge_keys::strategy;

/// What a reference to a definition begins with.
pub(crate) const REF_PREFIX: &str = "#/components/schemas/";

/// Name of `metav1.DeleteOptions`' schema.
pub(crate) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Name of `metav1.Status`' schema.
pub(crate) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// Name of the Patch body's schema.
pub(crate) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
/// Name of the Scale's schema.
pub(crate) const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

static DEFINITIONS: LazyLock<Map<String, Value>> = LazyLock::new(generate);

/// All definitions by name; references between them start with [`REF_PREFIX`].
pub(crate) fn definitions() -> &'static Map<String, Value> {
    &DEFINITIONS
}

/// The definition that a schema refers to, or the schema itself.
pub(crate) fn resolve(schema: &'static Value) -> &'static Value {
    match reference(schema) {
        Some(name) => definitions().get(name).unwrap_or(schema),
        None => schema,
    }
}

/// Name of the definition that a schema refers to.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REF_PREFIX)
}

macro_rules! collect {
    ($generator:ident: $($kind:ty),* $(,)?) => { $( $generator.subschema_for::<$kind>(); )* };
}

fn generate() -> Map<String, Value> {
    let mut settings = SchemaSettings::openapi3();
    settings.transforms.clear();
    let mut generator = SchemaGenerator::new(settings);
    collect!(generator:
        core::v1::Binding, core::v1::ConfigMap, core::v1::Endpoints, core::v1::Event, core::v1::Namespace, core::v1::Node,
        core::v1::Pod, core::v1::PodTemplate, core::v1::Secret, core::v1::Service, core::v1::ServiceAccount,
        apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment, apps::v1::ReplicaSet, apps::v1::StatefulSet,
        authentication::v1::SelfSubjectReview, authentication::v1::TokenRequest, authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview, authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview, authorization::v1::SubjectAccessReview,
        autoscaling::v1::Scale, batch::v1::CronJob, batch::v1::Job, coordination::v1::Lease, discovery::v1::EndpointSlice,
        events::v1::Event, networking::v1::Ingress, networking::v1::IngressClass, networking::v1::IPAddress,
        networking::v1::NetworkPolicy, networking::v1::ServiceCIDR, policy::v1::Eviction, policy::v1::PodDisruptionBudget,
        rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, rbac::v1::Role, rbac::v1::RoleBinding,
        meta::v1::DeleteOptions, meta::v1::ListMeta, meta::v1::Patch, meta::v1::Status,
    );
    let mut definitions = generator.take_definitions(false);
    for resource in resources().resources() {
        let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
        if let Some(definition) = definitions.get_mut(resource.schema.as_ref()) {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": kind}]);
        }
        if resource.stored() {
            let mut list = list_schema(&resource.schema, kind);
            list["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": resource.list_kind}]);
            definitions.insert(format!("{}List", resource.schema), list);
        }
    }
    for (name, group, kind) in [
        (SCALE, "autoscaling", "Scale"),
        ("io.k8s.api.policy.v1.Eviction", "policy", "Eviction"),
        ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "TokenRequest"),
        (STATUS, "", "Status"),
        (DELETE_OPTIONS, "", "DeleteOptions"),
    ] {
        if let Some(definition) = definitions.get_mut(name) {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": "v1", "kind": kind}]);
        }
    }
    merge_keys::mark(&mut definitions);
    definitions
}

fn list_schema(item: &str, kind: &str) -> Value {
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this representation: group/version."},
            "items": {"type": "array", "description": "The objects.", "items": {"$ref": format!("{REF_PREFIX}{item}")}},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"$ref": format!("{REF_PREFIX}{LIST_META}"), "description": "Metadata of the list."},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_its_definition() {
        for resource in resources().resources() {
            assert!(definitions().contains_key(resource.schema.as_ref()), "{}", resource.schema);
        }
        for name in [DELETE_OPTIONS, STATUS, PATCH, SCALE, LIST_META] {
            assert!(definitions().contains_key(name), "{name}");
        }
    }

    #[test]
    fn every_reference_resolves() {
        fn walk(value: &Value, seen: &mut Vec<String>) {
            if let Some(name) = reference(value) {
                seen.push(name.to_owned());
            }
            match value {
                Value::Object(map) => map.values().for_each(|v| walk(v, seen)),
                Value::Array(list) => list.iter().for_each(|v| walk(v, seen)),
                _ => {}
            }
        }
        let mut seen = Vec::new();
        definitions().values().for_each(|d| walk(d, &mut seen));
        for name in seen {
            assert!(definitions().contains_key(&name), "{name}");
        }
    }
}
