//! Volumes of a pod.

use std::collections::HashSet;

use super::at::{At, Errors};
use super::containers::relative_path;
use super::names;
use crate::field_error::FieldError;

/// Largest mode of a file.
const MAX_MODE: i64 = 0o777;

/// Checks the volumes and gives their names.
pub(super) fn list<'a>(spec: &At<'a>, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for volume in spec.items("volumes") {
        let name = volume.field("name");
        name.required_form(errors, names::label_problem);
        if !name.is_empty() && !seen.insert(name.as_text()) {
            errors.push(name.duplicate());
        }
        sources(&volume, errors);
    }
    seen
}

fn sources(volume: &At<'_>, errors: &mut Errors) {
    let kinds: Vec<&str> = volume
        .value
        .as_object()
        .into_iter()
        .flat_map(|m| m.keys())
        .map(String::as_str)
        .filter(|k| *k != "name")
        .collect();
    if kinds.is_empty() {
        errors.push(volume.required("must specify a volume type"));
    }
    for (at, kind) in kinds.iter().enumerate() {
        let source = volume.field(kind);
        if at > 0 {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        match *kind {
            "hostPath" => host_path(&source, errors),
            "secret" => files(&source, "secretName", errors),
            "configMap" => files(&source, "name", errors),
            "downwardAPI" => downward(&source, errors),
            "projected" => projected(&source, errors),
            "persistentVolumeClaim" if source.text("claimName").is_empty() => {
                errors.push(source.field("claimName").required(""));
            }
            _ => {}
        }
    }
}

fn host_path(source: &At<'_>, errors: &mut Errors) {
    let path = source.field("path");
    if path.is_empty() {
        errors.push(path.required(""));
    } else if path.as_text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
    let kinds =
        ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    source.field("type").if_given_one_of(errors, &kinds);
}

/// Files out of a ConfigMap or Secret.
fn files(source: &At<'_>, name: &str, errors: &mut Errors) {
    let name = source.field(name);
    if name.is_empty() {
        errors.push(name.required(""));
    }
    mode(&source.field("defaultMode"), errors);
    items(source, errors);
}

fn items(source: &At<'_>, errors: &mut Errors) {
    for item in source.items("items") {
        for field in ["key", "path"] {
            if item.text(field).is_empty() {
                errors.push(item.field(field).required(""));
            }
        }
        relative_path(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
    }
}

fn mode(mode: &At<'_>, errors: &mut Errors) {
    if mode.value.as_i64().is_some_and(|m| !(0..=MAX_MODE).contains(&m)) {
        errors.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn downward(source: &At<'_>, errors: &mut Errors) {
    mode(&source.field("defaultMode"), errors);
    for item in source.items("items") {
        if item.text("path").is_empty() {
            errors.push(item.field("path").required(""));
        }
        relative_path(&item.field("path"), errors);
        match (item.given("fieldRef"), item.given("resourceFieldRef")) {
            (None, None) => errors.push(item.required("one of fieldRef and resourceFieldRef is required")),
            (Some(_), Some(_)) => {
                errors.push(item.invalid("fieldRef and resourceFieldRef can not be specified simultaneously"))
            }
            (Some(reference), None) if reference.text("fieldPath").is_empty() => {
                errors.push(reference.field("fieldPath").required(""));
            }
            _ => {}
        }
    }
}

fn projected(source: &At<'_>, errors: &mut Errors) {
    mode(&source.field("defaultMode"), errors);
    for part in source.items("sources") {
        let given: Vec<&str> =
            part.value.as_object().into_iter().flat_map(|m| m.keys()).map(String::as_str).collect();
        if given.len() > 1 {
            errors.push(part.forbidden("may not specify more than 1 volume type"));
        }
        match given.first().copied() {
            Some(kind @ ("secret" | "configMap")) => {
                let part = part.field(kind);
                if part.text("name").is_empty() {
                    errors.push(part.field("name").required(""));
                }
                items(&part, errors);
            }
            Some(kind @ "downwardAPI") => downward(&part.field(kind), errors),
            Some(kind @ "serviceAccountToken") => token(&part.field(kind), errors),
            Some(_) => {}
            None => errors.push(FieldError::required(part.path.clone(), "must specify a volume type")),
        }
    }
}

fn token(token: &At<'_>, errors: &mut Errors) {
    let seconds = token.field("expirationSeconds");
    if seconds.value.as_i64().is_some_and(|s| s < 600) {
        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if token.text("path").is_empty() {
        errors.push(token.field("path").required(""));
    }
    relative_path(&token.field("path"), errors);
}
