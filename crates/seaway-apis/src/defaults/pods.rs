//! Pods and their templates.

use serde_json::{Value, json};

use super::protocols;
use crate::value::{child, default, default_text, each, flag, text};

/// Mode of files from volumes: 0644.
const FILE_MODE: i64 = 0o644;

/// Defaults of the pod template at `template` of an object.
pub(super) fn template(object: &mut Value) {
    if let Some(spec) = child(object, "template").and_then(|t| child(t, "spec")) {
        spec_defaults(spec, false);
    }
}

/// Defaults of a pod's spec.
pub(super) fn spec(spec: &mut Value) {
    spec_defaults(spec, true);
}

fn spec_defaults(spec: &mut Value, pod: bool) {
    default_text(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    default_text(spec, "schedulerName", "default-scheduler");
    if pod {
        default(spec, "enableServiceLinks", true);
    }
    let account = text(spec, "/serviceAccountName").to_owned();
    let old_name = text(spec, "/serviceAccount").to_owned();
    if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    } else if !old_name.is_empty() {
        spec["serviceAccountName"] = old_name.into();
    }
    let host_network = flag(spec, "/hostNetwork");
    for kind in ["/containers", "/initContainers", "/ephemeralContainers"] {
        for container in each(spec, kind) {
            container_defaults(container);
            if pod && kind != "/ephemeralContainers" {
                resolve_container(container, host_network);
            }
        }
    }
    for volume in each(spec, "/volumes") {
        volume_defaults(volume);
    }
}

fn container_defaults(container: &mut Value) {
    let policy = if is_latest(text(container, "/image")) { "Always" } else { "IfNotPresent" };
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    protocols(container, "/ports");
    for env in each(container, "/env") {
        if let Some(reference) = env.pointer_mut("/valueFrom/fieldRef") {
            default_text(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|p| p.is_object()) {
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            if let Some(grpc) = probe.get_mut("grpc") {
                default(grpc, "service", "");
            }
            handler(probe);
        }
    }
    for name in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        if let Some(hook) = container.pointer_mut(name) {
            handler(hook);
        }
    }
}

/// What only a pod gets, its template not: ports of the host's network, and requests for what is limited.
fn resolve_container(container: &mut Value, host_network: bool) {
    for port in each(container, "/ports").filter(|_| host_network) {
        if let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    requests_from_limits(container);
}

fn handler(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let Some(requests) = child(container, "resources").and_then(|r| child(r, "requests")) else { return };
    for (name, amount) in limits {
        default(requests, &name, amount);
    }
}

/// Whether an image reference names the tag `latest`, or none.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn volume_defaults(volume: &mut Value) {
    if let Some(map) = volume.as_object()
        && map.keys().all(|k| k == "name")
    {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|s| s.is_object()) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host) = volume.get_mut("hostPath") {
        default(host, "type", "");
    }
    field_references(volume, "/downwardAPI/items");
    for source in each(volume, "/projected/sources") {
        field_references(source, "/downwardAPI/items");
        if let Some(token) = source.get_mut("serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
    }
}

fn field_references(value: &mut Value, pointer: &str) {
    for item in each(value, pointer) {
        if let Some(reference) = item.get_mut("fieldRef") {
            default_text(reference, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn tags() {
        let cases = [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("reg:5000/nginx", true),
            ("reg:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
        ];
        for (image, latest) in cases {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
