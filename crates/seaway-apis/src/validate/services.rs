//! Services.

use std::collections::HashSet;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;

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
    for range in spec.items("loadBalancerSourceRanges") {
        range.cidr(errors);
    }
    spec.field("ipFamilyPolicy")
        .if_given_one_of(errors, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    for family in spec.items("ipFamilies") {
        family.one_of(errors, &["IPv4", "IPv6"]);
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
    for ip in spec.items("clusterIPs") {
        if ip.as_text() == "None" {
            if spec.count("clusterIPs") > 1 {
                errors.push(spec.field("clusterIPs").invalid("'None' must be the first and only value"));
            }
        } else {
            ip.ip(errors);
        }
    }
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

/// A service keeps its address while it has one.
pub(super) fn change(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    if spec.text("type") == "ExternalName" || before.text("type") == "ExternalName" {
        return;
    }
    let (ip, old_ip) = (spec.text("clusterIP"), before.text("clusterIP"));
    if !old_ip.is_empty() && ip != old_ip {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            spec.field("clusterIPs").value.clone(),
            "may not change once set",
        ));
    }
}
