//! Services.

use std::collections::HashSet;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;
use crate::strategy::families::family_of;
use crate::value::list;

/// Longest session affinity: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

pub(super) fn service(service: &At<'_>, errors: &mut Errors) {
    let spec = service.field("spec");
    let kind = spec.text("type");
    spec.field("type").one_of(errors, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    let headless = spec.text("clusterIP") == "None";
    if spec.count("ports") == 0 && !headless && kind != "ExternalName" {
        errors.push(spec.field("ports").required(""));
    }
    if kind == "ExternalName" {
        external_name(&spec, errors);
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && headless {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
    }
    ports(&spec, kind, errors);
    spec.field("selector").labels(errors);
    affinity(&spec, errors);
    addresses(&spec, errors);
    spec.field("internalTrafficPolicy").if_given_one_of(errors, &["Cluster", "Local"]);
    let external = spec.field("externalTrafficPolicy");
    external.if_given_one_of(errors, &["Cluster", "Local"]);
    if !external.is_empty() && !matches!(kind, "NodePort" | "LoadBalancer") && spec.count("externalIPs") == 0
    {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    load_balancer(&spec, kind, errors);
    spec.field("trafficDistribution").if_given_one_of(errors, &TRAFFIC_DISTRIBUTIONS);
    families(&spec, errors);
}

/// Where a Service may prefer its endpoints (KEP-3015); `PreferClose` is the old name of `PreferSameZone`.
const TRAFFIC_DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];

/// What only load balancers have.
fn load_balancer(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    for range in spec.items("loadBalancerSourceRanges") {
        range.cidr(errors);
    }
    if kind != "LoadBalancer" {
        for field in ["loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.given(field).is_some_and(|field| !field.is_empty()) {
                errors.push(spec.field(field).forbidden("may only be used when `type` is 'LoadBalancer'"));
            }
        }
    }
    let health = spec.field("healthCheckNodePort");
    if health.value.as_i64().is_some_and(|port| port != 0)
        && (kind != "LoadBalancer" || spec.text("externalTrafficPolicy") != "Local")
    {
        errors.push(
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
        );
    }
    health.not_negative(errors);
}

fn families(spec: &At<'_>, errors: &mut Errors) {
    spec.field("ipFamilyPolicy")
        .if_given_one_of(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut seen = HashSet::new();
    for family in spec.items("ipFamilies") {
        family.one_of(errors, &["IPv4", "IPv6"]);
        if !seen.insert(family.as_text()) {
            errors.push(family.duplicate());
        }
    }
}

fn external_name(spec: &At<'_>, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.given(field).is_some_and(|f| !f.is_empty()) {
            errors.push(spec.field(field).forbidden("may not be set when `type` is 'ExternalName'"));
        }
    }
    let name = spec.field("externalName");
    if name.is_empty() {
        errors.push(name.required(""));
    } else if let Some(problem) =
        names::subdomain_problem(name.as_text().strip_suffix('.').unwrap_or(name.as_text()))
    {
        errors.push(name.invalid(problem));
    }
}

fn ports(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let several = spec.count("ports") > 1;
    let (mut seen_names, mut seen_ports, mut seen_node_ports) =
        (HashSet::new(), HashSet::new(), HashSet::new());
    for port in spec.items("ports") {
        let name = port.field("name");
        if !name.is_empty() {
            name.form(errors, names::label_problem);
            if !seen_names.insert(name.as_text()) {
                errors.push(name.duplicate());
            }
        } else if several {
            errors.push(name.required(""));
        }
        let number = port.field("port");
        errors.extend(
            names::port_number_problem(number.value.as_i64().unwrap_or(0))
                .map(|p| FieldError::invalid(number.path.clone(), number.value.as_i64().unwrap_or(0), p)),
        );
        port.field("protocol").protocol(errors);
        if let Some(target) = port.given("targetPort") {
            target.port_or_name(errors);
        }
        if !seen_ports.insert((number.value.as_i64(), port.text("protocol"))) {
            errors.push(FieldError::duplicate(port.path.clone(), port.value.clone()));
        }
        let node_port = port.field("nodePort");
        if let Some(number) = node_port.value.as_i64().filter(|n| *n != 0) {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                errors.push(node_port.forbidden(&format!("may not be used when `type` is '{kind}'")));
            } else if let Some(problem) = names::port_number_problem(number) {
                errors.push(node_port.invalid(problem));
            } else if !seen_node_ports.insert((number, port.text("protocol"))) {
                errors.push(node_port.duplicate());
            }
        }
    }
}

fn affinity(spec: &At<'_>, errors: &mut Errors) {
    let affinity = spec.field("sessionAffinity");
    affinity.one_of(errors, &["ClientIP", "None"]);
    let seconds = spec.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds");
    if affinity.as_text() == "ClientIP"
        && !seconds.value.as_i64().is_some_and(|s| (1..=MAX_AFFINITY_SECONDS).contains(&s))
    {
        errors.push(seconds.invalid(format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")));
    }
}

fn addresses(spec: &At<'_>, errors: &mut Errors) {
    let first = spec.items("clusterIPs").next();
    if let Some(first) = &first
        && first.as_text() != spec.text("clusterIP")
    {
        errors.push(spec.field("clusterIPs").invalid("first value must match `clusterIP`"));
    }
    cluster_ips(spec, errors);
    for ip in spec.items("externalIPs") {
        let Some(address) = ip.ip(errors) else { continue };
        let problem = match address {
            a if a.is_unspecified() => "may not be unspecified (0.0.0.0)",
            a if a.is_loopback() => "may not be in the loopback range (127.0.0.0/8)",
            a if a.is_multicast() => "may not be in the multicast range",
            _ => continue,
        };
        errors.push(ip.invalid(problem));
    }
}

/// None, one, or one of each family, in the order of `ipFamilies`.
fn cluster_ips(spec: &At<'_>, errors: &mut Errors) {
    let field = spec.field("clusterIPs");
    let (families, mut seen, before) = (list(spec.value, "/ipFamilies"), HashSet::new(), errors.len());
    for (at, ip) in spec.items("clusterIPs").enumerate() {
        if ip.as_text() == "None" {
            if spec.count("clusterIPs") > 1 {
                errors.push(field.invalid("'None' must be the first and only value"));
            }
            continue;
        }
        let Some(address) = ip.ip(errors) else { continue };
        seen.insert(address.is_ipv4());
        match families.get(at).and_then(serde_json::Value::as_str) {
            Some(family) if matches!(family, "IPv4" | "IPv6") && family != family_of(address) => {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
                errors.push(ip.invalid(detail));
            }
            _ => {}
        }
    }
    let count = spec.count("clusterIPs");
    if count > 2 {
        errors.push(field.invalid("may only hold up to 2 values"));
    } else if count == 2 && seen.len() < 2 && errors.len() == before {
        errors.push(field.invalid("may specify no more than one IP for each IP family"));
    }
}

/// A service keeps its first address and family while it has one; the second one may come and go with the policy.
pub(super) fn change(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    if spec.text("type") == "ExternalName" || before.text("type") == "ExternalName" {
        return;
    }
    let first =
        |at: &At<'_>, field: &str| at.items(field).next().map_or("", |value| value.as_text()).to_owned();
    let (ip, old_ip) = (spec.text("clusterIP"), before.text("clusterIP"));
    if !old_ip.is_empty() && ip != old_ip {
        let ips = spec.field("clusterIPs").value.clone();
        errors.push(FieldError::invalid("spec.clusterIPs[0]", ips, UNCHANGEABLE));
    }
    let headless = ip == "None" && old_ip == "None";
    let (family, old_family) = (first(&spec, "ipFamilies"), first(&before, "ipFamilies"));
    if !headless && !family.is_empty() && !old_family.is_empty() && family != old_family {
        errors.push(FieldError::invalid("spec.ipFamilies[0]", family, UNCHANGEABLE));
    }
    let (second, old_second) = (spec.items("clusterIPs").nth(1), before.items("clusterIPs").nth(1));
    if let (Some(second), Some(old)) = (second, old_second)
        && second.value != old.value
    {
        errors.push(second.invalid(UNCHANGEABLE));
    }
    if spec.text("type") == "LoadBalancer" && before.text("type") == "LoadBalancer" {
        spec.field("loadBalancerClass").same(errors, &before.field("loadBalancerClass"));
        let (health, old) = (spec.field("healthCheckNodePort"), before.field("healthCheckNodePort"));
        if !health.is_empty() && !old.is_empty() && spec.text("externalTrafficPolicy") == "Local" {
            health.same(errors, &old);
        }
    }
}

/// What the API says of an address that is changed.
const UNCHANGEABLE: &str = "may not change once set";
