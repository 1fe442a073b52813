//! Pods: quality of service, binding.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api_time;
use crate::quantity;
use crate::resource::resources;
use crate::status::StatusError;
use crate::value::{child, copy, entries, list, text};

pub(super) fn prepare_create(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
}

/// Ephemeral containers come through their subresource only.
pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    if let (Some(from), Some(spec)) = (old.get("spec"), child(new, "spec")) {
        copy(from, spec, "ephemeralContainers");
    }
}

/// Guaranteed when every container limits CPU and memory and requests no less; BestEffort when none asks for anything.
fn qos_class(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let amounts = |kind: &str| -> BTreeMap<String, quantity::Quantity> {
            entries(container, &format!("/resources/{kind}"))
                .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
                .filter_map(|(name, value)| Some((name.clone(), quantity::parse(value.as_str()?).ok()?)))
                .filter(|(_, amount)| amount.millis() > 0)
                .collect()
        };
        let (requests, limits) = (amounts("requests"), amounts("limits"));
        any |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == 2
            && requests.iter().all(|(name, r)| limits.get(name).is_some_and(|l| l.millis() == r.millis()));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Binds a pod to a node as `pods/binding` does: `spec.nodeName`, the binding's labels and annotations, and the
/// `PodScheduled` condition.
pub fn bind(pod: &Value, binding: &Value, now: Timestamp) -> Result<Value, StatusError> {
    let name = text(pod, "/metadata/name");
    let node = text(binding, "/target/name");
    let conflict = |why: String| {
        let mut error = match resources().lookup("", "v1", "pods") {
            Some(pods) => StatusError::conflict(pods, name, &why),
            None => StatusError::new(409, "Conflict", why.clone()),
        };
        error.message = format!("Operation cannot be fulfilled on pods/binding \"{name}\": {why}");
        error
    };
    if !matches!(text(binding, "/target/kind"), "" | "Node") || node.is_empty() {
        return Err(StatusError::bad_request("target.kind must be Node and target.name must be set"));
    }
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(pod, "/metadata/uid") {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(pod, "/metadata/uid")
        )));
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let assigned = text(pod, "/spec/nodeName");
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node \"{assigned}\"")));
    }
    let mut pod = pod.clone();
    if let Some(spec) = child(&mut pod, "spec") {
        spec["nodeName"] = node.into();
    }
    for field in ["labels", "annotations"] {
        for (key, value) in entries(binding, &format!("/metadata/{field}")) {
            if let Some(map) = child(&mut pod, "metadata").and_then(|m| child(m, field)) {
                map[key] = value.clone();
            }
        }
    }
    set_scheduled(&mut pod, now);
    Ok(pod)
}

fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let Some(status) = child(pod, "status") else { return };
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": api_time(now),
    });
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => status["conditions"] = json!([condition]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service() {
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}}]),
                "Guaranteed",
            ),
            (json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {}]), "Burstable"),
        ];
        for (containers, class) in cases {
            assert_eq!(qos_class(&json!({"spec": {"containers": containers}})), class);
        }
    }

    #[test]
    fn binds_once() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Pending"}});
        let binding = json!({"target": {"kind": "Node", "name": "n1"}});
        let bound = bind(&pod, &binding, now).unwrap();
        assert_eq!(bound["spec"]["nodeName"], "n1");
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
        let error = bind(&bound, &binding, now).unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
        );
        assert_eq!(error.code, 409);
    }
}
