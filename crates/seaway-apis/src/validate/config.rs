//! ConfigMaps, Secrets, nodes, events, leases.

use super::at::{At, Errors, IMMUTABLE};
use super::names;
use crate::field_error::FieldError;
use crate::value::entries;

/// Largest sum of an object's values, in bytes.
const MAX_SIZE: usize = 1024 * 1024;

/// Keys that a type of Secret needs.
const NEEDED: &[(&str, &[&str])] = &[
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

/// Checks the keys of a map and adds up the size of its values.
fn keys(object: &At<'_>, field: &str, errors: &mut Errors) -> usize {
    let mut size = 0;
    for (key, value) in entries(object.value, &format!("/{field}")) {
        if let Some(problem) = names::config_key_problem(key) {
            errors.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), problem));
        }
        size += value.as_str().map_or(0, str::len);
    }
    size
}

pub(super) fn config_map(object: &At<'_>, errors: &mut Errors) {
    // Binary data is written in base64, four characters for three bytes.
    let size = keys(object, "data", errors) + keys(object, "binaryData", errors) / 4 * 3;
    for (key, _) in entries(object.value, "/data") {
        if object.field("binaryData").value.get(key).is_some() {
            let detail = format!("duplicate of key present in {}", "binaryData");
            errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), detail));
        }
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("", MAX_SIZE));
    }
}

pub(super) fn secret(object: &At<'_>, errors: &mut Errors) {
    if keys(object, "data", errors) / 4 * 3 > MAX_SIZE {
        errors.push(FieldError::too_long("data", MAX_SIZE));
    }
    let kind = object.text("type");
    for key in NEEDED.iter().filter(|(k, _)| *k == kind).flat_map(|(_, keys)| *keys) {
        if object.field("data").value.get(key).is_none() {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    }
}

/// An immutable object stays immutable, and as it is.
fn immutable(new: &At<'_>, old: &At<'_>, fields: &[&str], errors: &mut Errors) {
    if !old.flag("immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        errors.push(new.field("immutable").forbidden(detail));
    }
    for field in fields {
        if new.field(field).value != old.field(field).value {
            errors.push(new.field(field).forbidden(detail));
        }
    }
}

pub(super) fn change_config_map(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    immutable(new, old, &["data", "binaryData"], errors);
}

pub(super) fn change_secret(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    if new.text("type") != old.text("type") {
        errors.push(new.field("type").invalid(IMMUTABLE));
    }
    immutable(new, old, &["data"], errors);
}

pub(super) fn node(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    for cidr in spec.items("podCIDRs") {
        cidr.cidr(errors);
    }
    for taint in spec.items("taints") {
        taint.field("key").required_form(errors, names::qualified_name_problem);
        taint.field("effect").one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

pub(super) fn change_node(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (cidrs, before) = (new.field("spec").field("podCIDRs"), old.field("spec").field("podCIDRs"));
    if !before.is_empty() && cidrs.value != before.value {
        errors.push(cidrs.forbidden("node updates may not change podCIDR except from \"\" to valid"));
    }
    let (id, before) = (new.field("spec").field("providerID"), old.field("spec").field("providerID"));
    if !before.is_empty() && id.value != before.value {
        errors.push(id.forbidden("node updates may not change providerID except from \"\" to valid"));
    }
}

/// An event is in the namespace of what it is about; events of cluster-scoped objects are in `default` or `kube-system`.
pub(super) fn event(object: &At<'_>, subject: &str, errors: &mut Errors) {
    let namespace = object.field("metadata").text("namespace");
    let about = object.field(subject).field("namespace");
    let fits = if about.is_empty() {
        matches!(namespace, "" | "default" | "kube-system")
    } else {
        about.as_text() == namespace
    };
    if !fits {
        errors.push(FieldError::invalid(
            format!("{subject}.namespace"),
            about.as_text(),
            "does not match event.namespace",
        ));
    }
}

pub(super) fn lease(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    let seconds = spec.field("leaseDurationSeconds");
    if seconds.value.as_i64().is_some_and(|s| s <= 0) {
        errors.push(seconds.invalid("must be greater than 0"));
    }
    spec.field("leaseTransitions").not_negative(errors);
}
