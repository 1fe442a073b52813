//! Network policies, disruption budgets, roles.

use ipnet::IpNet;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;
use crate::resource::Resource;

pub(super) fn network_policy(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    spec.field("podSelector").label_selector(errors);
    for kind in spec.items("policyTypes") {
        kind.one_of(errors, &["Egress", "Ingress"]);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.items(direction) {
            rule.items("ports").for_each(|port| policy_port(&port, errors));
            rule.items(peers).for_each(|p| peer(&p, errors));
        }
    }
}

fn policy_port(port: &At<'_>, errors: &mut Errors) {
    port.field("protocol").if_given_one_of(errors, &["TCP", "UDP", "SCTP"]);
    let number = port.given("port");
    if let Some(number) = &number {
        number.port_or_name(errors);
    }
    let Some(end) = port.given("endPort") else { return };
    match number.map(|n| n.value.as_i64()) {
        None => errors.push(end.invalid("may not be specified when `port` is not specified")),
        Some(None) => errors.push(end.invalid("may not be specified when `port` is non-numeric")),
        Some(Some(first)) => {
            let last = end.value.as_i64().unwrap_or(0);
            errors.extend(names::port_number_problem(last).map(|p| end.invalid(p)));
            if last < first {
                errors.push(end.invalid("must be greater than or equal to `port`"));
            }
        }
    }
}

fn peer(peer: &At<'_>, errors: &mut Errors) {
    let selectors: Vec<At<'_>> =
        ["podSelector", "namespaceSelector"].iter().filter_map(|f| peer.given(f)).collect();
    for selector in &selectors {
        selector.label_selector(errors);
    }
    let Some(block) = peer.given("ipBlock") else {
        if selectors.is_empty() {
            errors.push(peer.required("must specify a peer"));
        }
        return;
    };
    if !selectors.is_empty() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
    let cidr = block.field("cidr");
    if cidr.is_empty() {
        errors.push(cidr.required(""));
        return;
    }
    let Some(whole) = cidr.cidr(errors) else { return };
    for except in block.items("except") {
        if let Some(part) = except.cidr(errors)
            && !is_strict_subset(&part, &whole)
        {
            errors.push(except.invalid(format!("must be a strict subset of `cidr`: \"{whole}\"")));
        }
    }
}

fn is_strict_subset(part: &IpNet, whole: &IpNet) -> bool {
    whole.contains(part) && part.prefix_len() > whole.prefix_len()
}

pub(super) fn disruption_budget(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    if spec.given("minAvailable").is_some() && spec.given("maxUnavailable").is_some() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(amount) = spec.given(field) {
            super::workloads::amount(&amount, errors);
        }
    }
    spec.field("selector").label_selector(errors);
}

pub(super) fn role(object: &At<'_>, errors: &mut Errors) {
    for rule in object.items("rules") {
        if rule.count("verbs") == 0 {
            errors.push(rule.field("verbs").required("verbs must contain at least one value"));
        }
        if rule.count("nonResourceURLs") > 0 {
            if rule.count("apiGroups") + rule.count("resources") > 0 {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(rule.field("nonResourceURLs").invalid(detail));
            }
            continue;
        }
        if rule.count("apiGroups") == 0 {
            errors
                .push(rule.field("apiGroups").required("resource rules must supply at least one api group"));
        }
        if rule.count("resources") == 0 {
            errors.push(rule.field("resources").required("resource rules must supply at least one resource"));
        }
    }
}

pub(super) fn role_binding(resource: &Resource, object: &At<'_>, errors: &mut Errors) {
    let role = object.field("roleRef");
    role.field("apiGroup").if_given_one_of(errors, &["rbac.authorization.k8s.io"]);
    let kinds: &[&str] = if resource.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    role.field("kind").one_of(errors, kinds);
    role.field("name").required_form(errors, names::path_segment_problem);
    for subject in object.items("subjects") {
        subject.field("kind").one_of(errors, &["ServiceAccount", "User", "Group"]);
        if subject.text("name").is_empty() {
            errors.push(subject.field("name").required(""));
        }
        if subject.text("kind") == "ServiceAccount" && subject.text("namespace").is_empty() {
            errors.push(FieldError::required(subject.path_of("namespace"), ""));
        }
    }
}
