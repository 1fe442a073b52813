//! The defaults that the API sets on what a client leaves out.

mod pods;
mod services;
mod workloads;

use serde_json::Value;

use crate::resource::Resource;
use crate::value::{child, default, default_text, each, list};

/// Sets the defaults of the resource's kind; idempotent.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => {
            if let Some(spec) = child(object, "spec") {
                pods::spec(spec);
            }
            crate::admission::pod_defaults(object);
        }
        ("", "PodTemplate") => pods::template(object),
        ("", "Service") => services::service(object),
        ("", "Endpoints") => services::endpoints(object),
        ("discovery.k8s.io", "EndpointSlice") => services::endpoint_slice(object),
        ("", "Secret") => default_text(object, "type", "Opaque"),
        ("apps", "Deployment") => workloads::deployment(object),
        ("apps", "ReplicaSet") => workloads::replica_set(object),
        ("apps", "DaemonSet") => workloads::daemon_set(object),
        ("apps", "StatefulSet") => workloads::stateful_set(object),
        ("batch", "Job") => workloads::job(object),
        ("batch", "CronJob") => workloads::cron_job(object),
        ("networking.k8s.io", "NetworkPolicy") => services::network_policy(object),
        ("networking.k8s.io", "IngressClass") => {
            if let Some(parameters) = object.pointer_mut("/spec/parameters") {
                default(parameters, "scope", "Cluster");
            }
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => role_binding(object),
        _ => {}
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn role_binding(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef") {
        default_text(role, "apiGroup", RBAC);
    }
    for subject in each(object, "/subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            default_text(subject, "apiGroup", RBAC);
        }
    }
}

/// Sets `protocol: TCP` on each port of a list.
fn protocols(object: &mut Value, pointer: &str) {
    for port in each(object, pointer) {
        default_text(port, "protocol", "TCP");
    }
}

/// Whether the list at a pointer has an entry.
fn any(object: &Value, pointer: &str) -> bool {
    !list(object, pointer).is_empty()
}

#[cfg(test)]
mod tests;
