//! Which lists a strategic merge patch merges, and by which key.
//!
//! The facts are those that Kubernetes publishes as `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`
//! in its OpenAPI; k8s-openapi leaves them out, so they are here by type and field.

use serde_json::{Map, Value};

const KEY: &str = "x-kubernetes-patch-merge-key";
const STRATEGY: &str = "x-kubernetes-patch-strategy";

const CORE: &str = "io.k8s.api.core.v1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Package, type, field, merge key (empty for lists of primitives and for objects), strategy.
const FACTS: &[(&str, &str, &str, &str, &str)] = &[
    (META, "ObjectMeta", "finalizers", "", "merge"),
    (META, "ObjectMeta", "ownerReferences", "uid", "merge"),
    (CORE, "PodSpec", "containers", "name", "merge"),
    (CORE, "PodSpec", "initContainers", "name", "merge"),
    (CORE, "PodSpec", "ephemeralContainers", "name", "merge"),
    (CORE, "PodSpec", "volumes", "name", "merge,retainKeys"),
    (CORE, "PodSpec", "imagePullSecrets", "name", "merge"),
    (CORE, "PodSpec", "hostAliases", "ip", "merge"),
    (CORE, "PodSpec", "topologySpreadConstraints", "topologyKey", "merge"),
    (CORE, "PodSpec", "resourceClaims", "name", "merge,retainKeys"),
    (CORE, "PodSpec", "schedulingGates", "name", "merge"),
    (CORE, "PodStatus", "conditions", "type", "merge"),
    (CORE, "PodStatus", "podIPs", "ip", "merge"),
    (CORE, "PodStatus", "hostIPs", "ip", "merge"),
    (CORE, "PodStatus", "resourceClaimStatuses", "name", "merge,retainKeys"),
    (CORE, "Container", "ports", "containerPort", "merge"),
    (CORE, "Container", "env", "name", "merge"),
    (CORE, "Container", "volumeMounts", "mountPath", "merge"),
    (CORE, "Container", "volumeDevices", "devicePath", "merge"),
    (CORE, "EphemeralContainer", "ports", "containerPort", "merge"),
    (CORE, "EphemeralContainer", "env", "name", "merge"),
    (CORE, "EphemeralContainer", "volumeMounts", "mountPath", "merge"),
    (CORE, "EphemeralContainer", "volumeDevices", "devicePath", "merge"),
    (CORE, "ServiceSpec", "ports", "port", "merge"),
    (CORE, "ServiceStatus", "conditions", "type", "merge"),
    (CORE, "ServiceAccount", "secrets", "name", "merge"),
    (CORE, "NodeSpec", "podCIDRs", "", "merge"),
    (CORE, "NodeStatus", "addresses", "type", "merge"),
    (CORE, "NodeStatus", "conditions", "type", "merge"),
    (CORE, "NamespaceStatus", "conditions", "type", "merge"),
    ("io.k8s.api.apps.v1", "DeploymentSpec", "strategy", "", "retainKeys"),
    ("io.k8s.api.apps.v1", "DeploymentStatus", "conditions", "type", "merge"),
    ("io.k8s.api.apps.v1", "ReplicaSetStatus", "conditions", "type", "merge"),
    ("io.k8s.api.apps.v1", "DaemonSetStatus", "conditions", "type", "merge"),
    ("io.k8s.api.apps.v1", "StatefulSetStatus", "conditions", "type", "merge"),
    ("io.k8s.api.batch.v1", "JobStatus", "conditions", "type", "merge"),
    ("io.k8s.api.networking.v1", "ServiceCIDRStatus", "conditions", "type", "merge"),
    ("io.k8s.api.policy.v1", "PodDisruptionBudgetStatus", "conditions", "type", "merge"),
];

/// How a field is patched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strategy<'a> {
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// Objects drop the keys that `$retainKeys` does not name.
    pub(crate) retain_keys: bool,
    /// Key of merged lists of objects.
    pub(crate) key: Option<&'a str>,
}

/// The strategy that a field's schema states.
pub(crate) fn strategy(schema: &Value) -> Strategy<'_> {
    let text = schema.get(STRATEGY).and_then(Value::as_str).unwrap_or("");
    Strategy {
        merge: text.split(',').any(|s| s == "merge"),
        retain_keys: text.split(',').any(|s| s == "retainKeys"),
        key: schema.get(KEY).and_then(Value::as_str),
    }
}

/// Writes the facts into the definitions.
pub(super) fn mark(definitions: &mut Map<String, Value>) {
    for (package, kind, field, key, strategy) in FACTS {
        let Some(schema) = definitions
            .get_mut(&format!("{package}.{kind}"))
            .and_then(|d| d.pointer_mut(&format!("/properties/{field}")))
        else {
            continue;
        };
        schema[STRATEGY] = (*strategy).into();
        if !key.is_empty() {
            schema[KEY] = (*key).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_names_a_field() {
        for (package, kind, field, _, strategy) in FACTS {
            let name = format!("{package}.{kind}");
            let schema = crate::schema::definitions()
                .get(&name)
                .and_then(|d| d.pointer(&format!("/properties/{field}")));
            assert_eq!(schema.map(|s| &s[STRATEGY]), Some(&Value::from(*strategy)), "{name}.{field}");
        }
    }
}
