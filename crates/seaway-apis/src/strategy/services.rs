//! Services: families and addresses, and what a change of type takes along.

use serde_json::{Value, json};

use crate::value::{child, copy, default, list, remove, text};

/// Whether a type has node ports.
fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

pub(super) fn prepare_create(service: &mut Value) {
    same_address(service);
    families(service);
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

/// The cluster is of one family unless a cluster IP says otherwise.
fn families(service: &mut Value) {
    let Some(spec) = child(service, "spec") else { return };
    if text(spec, "/type") == "ExternalName" {
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            remove(spec, key);
        }
        return;
    }
    let of = |ip: &Value| if ip.as_str().is_some_and(|ip| ip.contains(':')) { "IPv6" } else { "IPv4" };
    let mut found: Vec<&str> =
        list(spec, "/clusterIPs").iter().filter(|ip| *ip != "None" && *ip != "").map(of).collect();
    if found.is_empty() {
        found.push("IPv4");
    }
    let found = json!(found);
    default(spec, "ipFamilies", found);
    default(spec, "ipFamilyPolicy", "SingleStack");
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
            for key in ["ipFamilies", "ipFamilyPolicy"] {
                if spec.get(key).is_none() {
                    copy(from, spec, key);
                }
            }
        }
        if has_node_ports(&old_type) && has_node_ports(&new_type) {
            carry_node_ports(from, spec);
        }
        if has_node_ports(&old_type) && !has_node_ports(&new_type) {
            drop_node_ports(from, spec);
        }
        if has_node_ports(&old_type) && has_node_ports(&new_type) && spec.get("healthCheckNodePort").is_none()
        {
            copy(from, spec, "healthCheckNodePort");
        }
    }
    same_address(new);
    families(new);
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

/// Node ports, the external policy and the health check's port go when the update only repeats the old ones.
fn drop_node_ports(from: &Value, spec: &mut Value) {
    for port in crate::value::each(spec, "/ports") {
        if counterpart(from, port).is_some_and(|p| p.get("nodePort") == port.get("nodePort")) {
            remove(port, "nodePort");
        }
    }
    for key in ["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"] {
        if spec.get(key) == from.get(key) {
            remove(spec, key);
        }
    }
}
