//! Services: families and addresses, and what a change of type takes along.

use serde_json::{Value, json};

use crate::value::{child, copy, list, remove, text};

/// Whether a type has node ports.
fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

pub(super) fn prepare_create(service: &mut Value) {
    same_address(service);
    no_families_for_names(service);
}

/// `clusterIPs` is the list of which `clusterIP` is the first.
fn same_address(service: &mut Value) {
    let Some(spec) = child(service, "spec") else { return };
    let ip = text(spec, "/clusterIP").to_owned();
    let first = list(spec, "/clusterIPs").first().and_then(Value::as_str).unwrap_or("").to_owned();
    if text(spec, "/type") == "ExternalName" {
        return;
    }
    if !ip.is_empty() && first.is_empty() {
        spec["clusterIPs"] = json!([ip]);
    } else if ip.is_empty() && !first.is_empty() {
        spec["clusterIP"] = first.into();
    }
}

/// A name has no addresses, hence no families; those of all others are settled with their addresses ([`super::families`]).
fn no_families_for_names(service: &mut Value) {
    if text(service, "/spec/type") != "ExternalName" {
        return;
    }
    if let Some(spec) = child(service, "spec") {
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            remove(spec, key);
        }
    }
}

/// Whether node ports are given to the Service, as long as it does not say otherwise.
fn gets_node_ports(spec: &Value) -> bool {
    let kind = text(spec, "/type");
    kind == "NodePort"
        || (kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)))
}

/// Whether a load balancer asks each node whether it has endpoints.
fn has_health_check(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer" && text(spec, "/externalTrafficPolicy") == "Local"
}

/// Takes over the allocated address and node ports that an update leaves out, and drops those that the new type
/// has no use for.
pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    let (old_type, new_type) = (text(old, "/spec/type").to_owned(), text(new, "/spec/type").to_owned());
    let Some(from) = old.get("spec") else { return };
    if let Some(spec) = child(new, "spec") {
        if new_type == "ExternalName" {
            if old_type != "ExternalName" && text(spec, "/clusterIP") == text(from, "/clusterIP") {
                for key in ["clusterIP", "clusterIPs"] {
                    remove(spec, key);
                }
            }
        } else if old_type != "ExternalName" {
            carry_addresses(from, spec);
        }
        if gets_node_ports(from) && gets_node_ports(spec) {
            carry_node_ports(from, spec);
        }
        if has_node_ports(&old_type) && !has_node_ports(&new_type) {
            drop_node_ports(from, spec);
        }
        if has_health_check(from) && has_health_check(spec) {
            if is_zero(spec, "healthCheckNodePort") {
                copy(from, spec, "healthCheckNodePort");
            }
        } else if has_health_check(from) {
            drop_repeated(from, spec, &["healthCheckNodePort"]);
        }
        if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
            drop_repeated(from, spec, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
        }
    }
    same_address(new);
    no_families_for_names(new);
    if old_type == "LoadBalancer"
        && new_type != "LoadBalancer"
        && let Some(status) = child(new, "status")
    {
        status["loadBalancer"] = json!({});
    }
}

/// Whether a port is absent or 0, which is the same to the API.
fn is_zero(spec: &Value, key: &str) -> bool {
    spec.get(key).is_none_or(|port| port.is_null() || *port == 0)
}

/// Fields that have no use any more go when the update only repeats them; what it sets anew is an error for validation.
fn drop_repeated(from: &Value, spec: &mut Value, keys: &[&str]) {
    for key in keys {
        if spec.get(*key) == from.get(*key) {
            remove(spec, key);
        }
    }
}

fn carry_addresses(from: &Value, spec: &mut Value) {
    if text(spec, "/clusterIP").is_empty() && list(spec, "/clusterIPs").is_empty() {
        copy(from, spec, "clusterIP");
        copy(from, spec, "clusterIPs");
    } else if text(spec, "/clusterIP").is_empty() {
        copy(from, spec, "clusterIP");
    } else if list(spec, "/clusterIPs").is_empty() && text(spec, "/clusterIP") == text(from, "/clusterIP") {
        copy(from, spec, "clusterIPs");
    }
}

/// The port of the same protocol and number in `from`.
fn counterpart<'a>(from: &'a Value, port: &Value) -> Option<&'a Value> {
    list(from, "/ports")
        .iter()
        .find(|p| p.get("port") == port.get("port") && p.get("protocol") == port.get("protocol"))
}

fn carry_node_ports(from: &Value, spec: &mut Value) {
    let taken: Vec<Value> = list(spec, "/ports").iter().filter_map(|p| p.get("nodePort").cloned()).collect();
    for port in crate::value::each(spec, "/ports") {
        if port.get("nodePort").is_some_and(|n| *n != 0) {
            continue;
        }
        if let Some(node_port) =
            counterpart(from, port).and_then(|p| p.get("nodePort")).filter(|n| !taken.contains(n))
        {
            port["nodePort"] = node_port.clone();
        }
    }
}

/// Node ports and the external policy go when the update only repeats the old ones.
fn drop_node_ports(from: &Value, spec: &mut Value) {
    for port in crate::value::each(spec, "/ports") {
        if counterpart(from, port).is_some_and(|p| p.get("nodePort") == port.get("nodePort")) {
            remove(port, "nodePort");
        }
    }
    if list(spec, "/externalIPs").is_empty() {
        drop_repeated(from, spec, &["externalTrafficPolicy"]);
    }
}
