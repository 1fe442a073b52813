//! Validation, with the API's own words.

mod at;
mod config;
mod containers;
mod meta;
pub(crate) mod names;
mod network;
mod pods;
mod policy;
mod services;
mod volumes;
mod workloads;

use serde_json::Value;

use crate::field_error::FieldError;
use crate::resource::Resource;
use at::{At, Errors};

pub use names::{
    label_1035_problem, label_problem, label_value_problem, path_segment_problem, qualified_name_problem,
    subdomain_problem,
};

/// What is wrong with a new object (after defaults).
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let object = At::root(object);
    meta::create(resource, &object, &mut errors);
    body(resource, &object, &mut errors);
    errors.into()
}

/// What is wrong with `new` in place of `old`; `subresource` is `status`, … or none. Writes of subresources are
/// checked for their metadata only.
pub fn update(resource: &Resource, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (new, old) = (At::root(new), At::root(old));
    meta::update(&new, &old, &mut errors);
    if matches!(subresource, None | Some("scale")) {
        body(resource, &new, &mut errors);
    }
    if subresource.is_none() {
        change(resource, &new, &old, &mut errors);
    }
    errors.into()
}

/// What holds for an object by itself.
fn body(resource: &Resource, object: &At<'_>, errors: &mut Errors) {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pods::pod(object, errors),
        ("", "PodTemplate") => pods::template(&object.field("template"), errors),
        ("", "Service") => services::service(object, errors),
        ("", "Endpoints") => network::endpoints(object, errors),
        ("", "ConfigMap") => config::config_map(object, errors),
        ("", "Secret") => config::secret(object, errors),
        ("", "Node") => config::node(object, errors),
        ("", "Event") => config::event(object, "involvedObject", errors),
        ("events.k8s.io", "Event") => config::event(object, "regarding", errors),
        ("coordination.k8s.io", "Lease") => config::lease(object, errors),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object, errors),
        ("networking.k8s.io", "NetworkPolicy") => policy::network_policy(object, errors),
        ("networking.k8s.io", "Ingress") => network::ingress(object, errors),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(object, errors),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr(object, errors),
        ("networking.k8s.io", "IPAddress") => network::ip_address(object, errors),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(object, errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => policy::role(object, errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            policy::role_binding(resource, object, errors)
        }
        ("apps", "Deployment") => workloads::deployment(object, errors),
        ("apps", "ReplicaSet") => workloads::replica_set(object, errors),
        ("apps", "DaemonSet") => workloads::daemon_set(object, errors),
        ("apps", "StatefulSet") => workloads::stateful_set(object, errors),
        ("batch", "Job") => workloads::job(object, errors),
        ("batch", "CronJob") => workloads::cron_job(object, errors),
        _ => {}
    }
}

/// What may not change.
fn change(resource: &Resource, new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let spec = |field: &str| (new.field("spec").field(field), old.field("spec").field(field));
    let mut fixed = |field: &str| {
        let (new, old) = spec(field);
        new.same(errors, &old);
    };
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => fixed("selector"),
        ("batch", "Job") => ["selector", "template", "completionMode"].into_iter().for_each(&mut fixed),
        ("networking.k8s.io", "ServiceCIDR") => fixed("cidrs"),
        ("networking.k8s.io", "IngressClass") => fixed("controller"),
        ("networking.k8s.io", "IPAddress") => fixed("parentRef"),
        ("", "Pod") => pods::change(new, old, errors),
        ("", "Service") => services::change(new, old, errors),
        ("", "ConfigMap") => config::change_config_map(new, old, errors),
        ("", "Secret") => config::change_secret(new, old, errors),
        ("", "Node") => config::change_node(new, old, errors),
        ("apps", "StatefulSet") => workloads::change_stateful_set(new, old, errors),
        ("discovery.k8s.io", "EndpointSlice") => {
            new.field("addressType").same(errors, &old.field("addressType"))
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            let (role, before) = (new.field("roleRef"), old.field("roleRef"));
            if role.value != before.value {
                errors.push(role.invalid("cannot change roleRef"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
