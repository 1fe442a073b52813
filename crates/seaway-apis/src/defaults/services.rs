//! Services, endpoints and network policies.

use serde_json::{Value, json};

use super::{any, protocols};
use crate::value::{child, default, default_text, each, text};

/// How long a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn service(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_text(spec, "sessionAffinity", "None");
    match text(spec, "/sessionAffinity") {
        "ClientIP" => {
            if let Some(client) = child(spec, "sessionAffinityConfig").and_then(|c| child(c, "clientIP")) {
                default(client, "timeoutSeconds", AFFINITY_SECONDS);
            }
        }
        _ => {
            crate::value::remove(spec, "sessionAffinityConfig");
        }
    }
    default_text(spec, "type", "ClusterIP");
    protocols(spec, "/ports");
    for port in each(spec, "/ports") {
        if matches!(port.get("targetPort"), Some(t) if *t == 0 || *t == "") {
            crate::value::remove(port, "targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", number);
        }
    }
    let kind = text(spec, "/type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && any(spec, "/externalIPs"))
    {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for ingress in each(object, "/status/loadBalancer/ingress") {
        if ingress.get("ip").is_some() {
            default_text(ingress, "ipMode", "VIP");
        }
    }
}

pub(super) fn endpoints(object: &mut Value) {
    for subset in each(object, "/subsets") {
        protocols(subset, "/ports");
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    protocols(object, "/ports");
    for port in each(object, "/ports") {
        default(port, "name", "");
    }
    for endpoint in each(object, "/endpoints") {
        default(endpoint, "conditions", json!({}));
    }
}

pub(super) fn network_policy(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default(spec, "podSelector", json!({}));
    if !any(spec, "/policyTypes") {
        spec["policyTypes"] =
            if any(spec, "/egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["/ingress", "/egress"] {
        for rule in each(spec, direction) {
            protocols(rule, "/ports");
        }
    }
}
