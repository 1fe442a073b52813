//! What a pod may ask about itself: the downward API.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The pod's addresses and its node's, which its status may not tell yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
}

/// What the node has, which stands in for limits that a container does not set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Machine {
    /// Processors.
    pub cpus: f64,
    /// Bytes.
    pub memory: f64,
}

/// The value behind a `fieldRef`'s path; an error for a path that does not exist.
pub(crate) fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| Ok(value.clone().unwrap_or_default());
    match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => Ok(quoted_lines(meta.labels.iter().flatten())),
        "metadata.annotations" => Ok(quoted_lines(meta.annotations.iter().flatten())),
        "spec.nodeName" => Ok(spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => {
            Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default())
        }
        "status.podIP" => Ok(addresses.pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Ok(addresses.pod_ips.join(",")),
        "status.hostIP" => Ok(addresses.host_ips.first().cloned().unwrap_or_default()),
        "status.hostIPs" => Ok(addresses.host_ips.join(",")),
        _ => {
            let (map, key) = subscript(path).ok_or_else(|| format!("unknown field {path:?}"))?;
            let values = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(format!("unknown field {path:?}")),
            };
            Ok(values.as_ref().and_then(|values| values.get(key)).cloned().unwrap_or_default())
        }
    }
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let quoted = |quote| key.strip_prefix(quote).and_then(|key: &str| key.strip_suffix(quote));
    Some((map, quoted('\'').or_else(|| quoted('"'))?))
}

/// One `key="value"` a line, as downward API volumes have them.
fn quoted_lines<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let lines: Vec<String> = entries.map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A container of the pod, or an init container.
pub(crate) fn container_named<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, String> {
    let all =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut named = all.filter(|container| container.name == name);
    named.next().ok_or_else(|| format!("container {name:?} not found"))
}

/// The value of a `resourceFieldRef`, rounded up to whole divisors as kubelet does.
pub(crate) fn resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    machine: Machine,
) -> Result<String, String> {
    let resources = container.resources.as_ref();
    let of = |map: Option<&std::collections::BTreeMap<String, Quantity>>, name: &str| {
        map.and_then(|map| map.get(name)).and_then(|quantity| amount(&quantity.0))
    };
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let value = match selector.resource.as_str() {
        "limits.cpu" => of(limits, "cpu").unwrap_or(machine.cpus),
        "limits.memory" => of(limits, "memory").unwrap_or(machine.memory),
        "limits.ephemeral-storage" => of(limits, "ephemeral-storage").unwrap_or(0.0),
        "requests.cpu" => of(requests, "cpu").unwrap_or(0.0),
        "requests.memory" => of(requests, "memory").unwrap_or(0.0),
        "requests.ephemeral-storage" => of(requests, "ephemeral-storage").unwrap_or(0.0),
        other => return Err(format!("unknown resource {other:?}")),
    };
    let divisor = match selector.divisor.as_ref().map(|divisor| divisor.0.as_str()) {
        None | Some("" | "0") => 1.0,
        Some(text) => {
            amount(text).filter(|divisor| *divisor > 0.0).ok_or_else(|| format!("bad divisor {text:?}"))?
        }
    };
    // Division in binary fractions may land just above a whole number.
    Ok(((value / divisor - 1e-9).ceil().max(0.0) as u64).to_string())
}

/// A Kubernetes quantity as a number: `100m`, `1.5`, `64Mi`, `2e3`.
pub(crate) fn amount(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let (number, scale) =
        SUFFIXES.iter().find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web", "a/b": "c\"d"}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "default", "containers": []}
        }))
        .unwrap();
        let addresses = Addresses {
            pod_ips: vec!["10.0.0.2".into(), "fd00::2".into()],
            host_ips: vec!["172.18.0.11".into()],
        };
        for (path, expected) in [
            ("metadata.name", Ok("web")),
            ("metadata.labels['app']", Ok("web")),
            ("metadata.labels['none']", Ok("")),
            ("metadata.labels", Ok("a/b=\"c\\\"d\"\napp=\"web\"")),
            ("spec.nodeName", Ok("node-1")),
            ("status.podIP", Ok("10.0.0.2")),
            ("status.podIPs", Ok("10.0.0.2,fd00::2")),
            ("status.hostIP", Ok("172.18.0.11")),
            ("status.phase", Err("unknown field \"status.phase\"")),
            ("metadata.labels[app]", Err("unknown field \"metadata.labels[app]\"")),
        ] {
            let value = field(&pod, &addresses, path);
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resources_with_divisors() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}
        }))
        .unwrap();
        let machine = Machine { cpus: 2.0, memory: 1e9 };
        for (resource_name, divisor, expected) in [
            ("limits.cpu", "0", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1m", "100"),
            ("limits.memory", "1Mi", "64"),
            ("limits.memory", "0", "67108864"),
            ("requests.memory", "0", "0"),
        ] {
            let selector =
                serde_json::from_value(json!({"resource": resource_name, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&container, &selector, machine).as_deref(),
                Ok(expected),
                "{resource_name}/{divisor}"
            );
        }
    }
}
