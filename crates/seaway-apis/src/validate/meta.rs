//! `metadata` of every object.

use serde_json::Value;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;
use crate::resource::Resource;

/// Limit of all annotations' keys and values together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn create(resource: &Resource, object: &At<'_>, errors: &mut Errors) {
    let metadata = object.field("metadata");
    let name = metadata.field("name");
    if name.is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        name.form(errors, name_form(resource));
    }
    if resource.namespaced {
        metadata.field("namespace").required_form(errors, names::label_problem);
    }
    common(&metadata, errors);
}

pub(super) fn update(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (metadata, before) = (new.field("metadata"), old.field("metadata"));
    common(&metadata, errors);
    if before.given("deletionTimestamp").is_some() {
        let known: Vec<&Value> = before.items("finalizers").map(|f| f.value).collect();
        let added: Vec<String> = metadata
            .items("finalizers")
            .filter(|f| !known.contains(&f.value))
            .map(|f| f.value.to_string())
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                metadata.path_of("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
}

/// How objects of a resource are named.
fn name_form(resource: &Resource) -> fn(&str) -> Option<String> {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Namespace") => names::label_problem,
        ("", "Service") => names::label_1035_problem,
        ("rbac.authorization.k8s.io", _) => names::path_segment_problem,
        ("networking.k8s.io", "IPAddress") => ip_name_problem,
        ("batch", "CronJob") => cron_job_name_problem,
        _ => names::subdomain_problem,
    }
}

fn ip_name_problem(text: &str) -> Option<String> {
    let canonical = text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_string() == text);
    (!canonical).then(|| "must be a canonical form IP address".into())
}

/// Room for the eleven characters that a job's name adds.
fn cron_job_name_problem(text: &str) -> Option<String> {
    if text.len() > 52 {
        Some("must be no more than 52 characters".into())
    } else {
        names::subdomain_problem(text)
    }
}

fn common(metadata: &At<'_>, errors: &mut Errors) {
    metadata.field("labels").labels(errors);
    annotations(&metadata.field("annotations"), errors);
    for finalizer in metadata.items("finalizers") {
        let name = finalizer.as_text();
        if let Some(problem) = names::qualified_name_problem(name) {
            errors.push(FieldError::invalid(metadata.path_of("finalizers"), name, problem));
        } else if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(metadata.path_of("finalizers"), name, detail));
        }
    }
    for owner in metadata.items("ownerReferences") {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.push(FieldError::invalid(owner.path_of(field), "", "must not be empty"));
            }
        }
    }
    if metadata.items("ownerReferences").filter(|o| o.flag("controller")).count() > 1 {
        errors.push(
            metadata.field("ownerReferences").invalid("Only one reference can have Controller set to true"),
        );
    }
}

/// Keys as labels' keys, but in any case; the size of all is limited.
pub(super) fn annotations(annotations: &At<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.value.as_object().into_iter().flatten() {
        if let Some(problem) = names::qualified_name_problem(&key.to_lowercase()) {
            errors.push(FieldError::invalid(annotations.path.clone(), key.as_str(), problem));
        }
        size += key.len() + value.as_str().unwrap_or("").len();
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(annotations.path.clone(), MAX_ANNOTATIONS));
    }
}
