//! Containers: ports, environment, mounts, probes, resources.

use std::collections::HashSet;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;
use crate::quantity;
use crate::value::{entries, text};

/// What a container's checks need to know of its pod.
pub(super) struct PodFacts<'a> {
    /// Names of the volumes.
    pub(super) volumes: HashSet<&'a str>,
    /// Whether the pod has no network of its own.
    pub(super) host_network: bool,
}

/// Fields of a pod that an environment variable may have.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The containers of a list; `seen` has the names of those before.
pub(super) fn list<'a>(
    spec: &At<'a>,
    field: &str,
    facts: &PodFacts<'_>,
    seen: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    let mut host_ports = HashSet::new();
    for container in spec.items(field) {
        let name = container.field("name");
        name.required_form(errors, names::label_problem);
        if !name.is_empty() && !seen.insert(name.as_text()) {
            errors.push(name.duplicate());
        }
        one(&container, facts, errors);
        if field == "initContainers" {
            continue;
        }
        for port in container.items("ports") {
            let number = port.int("hostPort").unwrap_or(0);
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if number != 0 && !host_ports.insert(key.clone()) {
                errors.push(FieldError::duplicate(port.path_of("hostPort"), key));
            }
        }
    }
}

fn one(container: &At<'_>, facts: &PodFacts<'_>, errors: &mut Errors) {
    let image = container.field("image");
    if image.is_empty() {
        errors.push(image.required(""));
    } else if image.as_text().trim() != image.as_text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    container.field("imagePullPolicy").if_given_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    container.field("terminationMessagePolicy").if_given_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(container, facts, errors);
    environment(container, errors);
    mounts(container, facts, errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe_at) = container.given(probe) {
            self::probe(&probe_at, probe == "readinessProbe", errors);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.field("lifecycle").given(hook) {
            handler(&hook, errors);
        }
    }
    resources(&container.field("resources"), errors);
    security(&container.field("securityContext"), errors);
}

/// What a process that can gain no privileges cannot have from the start. The names of capabilities are the runtime's.
fn security(context: &At<'_>, errors: &mut Errors) {
    let escalation = context.field("allowPrivilegeEscalation");
    if escalation.value.as_bool() != Some(false) {
        return;
    }
    if context.flag("privileged") {
        errors.push(
            escalation.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
        );
    }
    if context.field("capabilities").items("add").any(|name| name.as_text() == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.push(escalation.invalid(detail));
    }
}

fn ports(container: &At<'_>, facts: &PodFacts<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for port in container.items("ports") {
        let name = port.field("name");
        if !name.is_empty() {
            let problems = names::port_name_problems(name.as_text());
            if problems.is_empty() && !seen.insert(name.as_text()) {
                errors.push(name.duplicate());
            }
            errors.extend(problems.into_iter().map(|p| name.invalid(p)));
        }
        port.field("containerPort").port(errors);
        let host = port.field("hostPort");
        match host.value.as_i64() {
            None | Some(0) => {}
            Some(number) => {
                errors.extend(names::port_number_problem(number).map(|p| host.invalid(p)));
                if facts.host_network && port.int("containerPort") != Some(number) {
                    errors.push(
                        port.field("containerPort")
                            .invalid("must match `hostPort` when `hostNetwork` is true"),
                    );
                }
            }
        }
        port.field("protocol").protocol(errors);
    }
}

fn environment(container: &At<'_>, errors: &mut Errors) {
    for variable in container.items("env") {
        variable.field("name").required_form(errors, names::env_name_problem);
        if let Some(source) = variable.given("valueFrom") {
            value_source(&variable, &source, errors);
        }
    }
    for source in container.items("envFrom") {
        let prefix = source.field("prefix");
        if !prefix.is_empty() {
            prefix.form(errors, names::env_name_problem);
        }
        match (source.given("configMapRef"), source.given("secretRef")) {
            (None, None) => errors.push(FieldError::invalid(
                source.path.clone(),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            (Some(_), Some(_)) => {
                errors.push(FieldError::invalid(
                    source.path.clone(),
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
            (Some(one), None) | (None, Some(one)) => {
                one.field("name").required_form(errors, names::subdomain_problem)
            }
        }
    }
}

fn value_source(variable: &At<'_>, source: &At<'_>, errors: &mut Errors) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
    let given: Vec<At<'_>> = kinds.iter().filter_map(|k| source.given(k)).collect();
    if given.is_empty() {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.push(FieldError::invalid(source.path.clone(), "", detail));
    } else if !variable.text("value").is_empty() {
        errors.push(FieldError::invalid(
            source.path.clone(),
            "",
            "may not be specified when `value` is not empty",
        ));
    } else if given.len() > 1 {
        errors.push(FieldError::invalid(
            source.path.clone(),
            "",
            "may not have more than one field specified at a time",
        ));
    }
    if let Some(reference) = source.given("fieldRef") {
        let path = reference.field("fieldPath");
        let subscripted = path.as_text().starts_with("metadata.labels['")
            || path.as_text().starts_with("metadata.annotations['");
        if !subscripted {
            path.one_of(errors, ENV_FIELDS);
        }
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = source.given(kind) {
            reference.field("name").required_form(errors, names::subdomain_problem);
            reference.field("key").required_form(errors, names::config_key_problem);
        }
    }
}

fn mounts(container: &At<'_>, facts: &PodFacts<'_>, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for mount in container.items("volumeMounts") {
        let name = mount.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !facts.volumes.contains(name.as_text()) {
            errors.push(FieldError::not_found(name.path.clone(), name.as_text()));
        }
        let path = mount.field("mountPath");
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !paths.insert(path.as_text()) {
            errors.push(path.invalid("must be unique"));
        }
        for field in ["subPath", "subPathExpr"] {
            relative_path(&mount.field(field), errors);
        }
    }
}

/// A path within a volume: relative, and not out of it.
pub(super) fn relative_path(path: &At<'_>, errors: &mut Errors) {
    if path.as_text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    if path.as_text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

fn probe(probe: &At<'_>, readiness: bool, errors: &mut Errors) {
    handler(probe, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        probe.field(field).not_negative(errors);
    }
    let threshold = probe.field("successThreshold");
    if !readiness && !matches!(threshold.value.as_i64(), None | Some(0 | 1)) {
        errors.push(threshold.invalid("must be 1"));
    }
}

/// Exactly one of what a probe or hook does.
fn handler(handler: &At<'_>, errors: &mut Errors) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.given(kind) else { continue };
        count += 1;
        if count > 1 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match kind {
            "exec" if action.count("command") == 0 => errors.push(action.field("command").required("")),
            "httpGet" => {
                if action.text("path").is_empty() {
                    errors.push(action.field("path").required(""));
                }
                action.field("port").port_or_name(errors);
                action.field("scheme").one_of(errors, &["HTTP", "HTTPS"]);
                for header in action.items("httpHeaders") {
                    if header.text("name").is_empty() {
                        errors.push(header.field("name").required(""));
                    }
                }
            }
            "tcpSocket" | "grpc" => action.field("port").port_or_name(errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(handler.required("must specify a handler type"));
    }
}

fn resources(resources: &At<'_>, errors: &mut Errors) {
    for kind in ["limits", "requests"] {
        for (name, amount) in entries(resources.value, &format!("/{kind}")) {
            let path = format!("{}.{kind}[{name}]", resources.path);
            if let Some(problem) = names::qualified_name_problem(name) {
                errors.push(FieldError::invalid(path.clone(), name.as_str(), problem));
            }
            match amount.as_str().map(quantity::parse) {
                Some(Ok(amount_of)) if amount_of.is_negative() => {
                    errors.push(FieldError::invalid(path, amount.clone(), super::at::NEGATIVE));
                }
                Some(Ok(_)) => {}
                _ => errors.push(FieldError::invalid(
                    path,
                    amount.clone(),
                    quantity::QuantityError.to_string(),
                )),
            }
        }
    }
    for (name, request) in entries(resources.value, "/requests") {
        let limit = text(resources.value, &format!("/limits/{}", name.replace('~', "~0").replace('/', "~1")));
        let (Ok(wanted), Ok(most)) =
            (quantity::parse(request.as_str().unwrap_or("")), quantity::parse(limit))
        else {
            continue;
        };
        if wanted > most {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(format!("{}.requests", resources.path), request.clone(), detail));
        }
    }
}
