//! Endpoints, ingresses and address ranges.

use std::collections::HashSet;
use std::net::IpAddr;

use super::at::{At, Errors};
use super::names;
use crate::field_error::FieldError;

/// Limits of an EndpointSlice.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub(super) fn endpoints(object: &At<'_>, errors: &mut Errors) {
    for subset in object.items("subsets") {
        if subset.count("addresses") + subset.count("notReadyAddresses") == 0 {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in subset.items("addresses").chain(subset.items("notReadyAddresses")) {
            endpoint_ip(&address.field("ip"), errors);
        }
        let several = subset.count("ports") > 1;
        for port in subset.items("ports") {
            let name = port.field("name");
            if !name.is_empty() {
                name.form(errors, names::label_problem);
            } else if several {
                errors.push(name.required(""));
            }
            let number = port.field("port");
            errors.extend(
                names::port_number_problem(number.value.as_i64().unwrap_or(0)).map(|p| number.invalid(p)),
            );
            port.field("protocol").protocol(errors);
        }
    }
}

/// An endpoint is not the machine itself, and not reachable only on one link.
fn endpoint_ip(at: &At<'_>, errors: &mut Errors) {
    let Some(ip) = at.ip(errors) else { return };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let problem = match ip {
        ip if ip.is_unspecified() => format!("may not be unspecified ({ip})"),
        ip if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
        _ if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into(),
        ip if ip.is_multicast() => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into()
        }
        _ => return,
    };
    errors.push(at.invalid(problem));
}

pub(super) fn endpoint_slice(object: &At<'_>, errors: &mut Errors) {
    let family = object.field("addressType");
    family.one_of(errors, &["IPv4", "IPv6", "FQDN"]);
    for (field, max) in [("endpoints", MAX_ENDPOINTS), ("ports", MAX_PORTS)] {
        if object.count(field) > max {
            errors.push(FieldError::too_many(field, object.count(field), max));
        }
    }
    for endpoint in object.items("endpoints") {
        let count = endpoint.count("addresses");
        if count == 0 {
            errors.push(endpoint.field("addresses").required("must contain at least 1 address"));
        } else if count > MAX_ADDRESSES {
            errors.push(FieldError::too_many(endpoint.path_of("addresses"), count, MAX_ADDRESSES));
        }
        for address in endpoint.items("addresses") {
            slice_address(family.as_text(), &address, errors);
        }
        for (field, form) in [
            ("nodeName", names::subdomain_problem as fn(&str) -> Option<String>),
            ("hostname", names::label_problem),
        ] {
            if let Some(name) = endpoint.given(field) {
                name.form(errors, form);
            }
        }
    }
    let mut seen = HashSet::new();
    for port in object.items("ports") {
        let name = port.field("name");
        if !name.is_empty() {
            name.form(errors, names::label_problem);
        }
        if !seen.insert(name.as_text()) {
            errors.push(name.duplicate());
        }
        if let Some(number) = port.given("port") {
            errors.extend(
                names::port_number_problem(number.value.as_i64().unwrap_or(0)).map(|p| number.invalid(p)),
            );
        }
        port.field("protocol").protocol(errors);
    }
}

fn slice_address(family: &str, address: &At<'_>, errors: &mut Errors) {
    match (family, address.as_text().parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => endpoint_ip(address, errors),
        ("IPv4", _) => errors.push(address.invalid("must be a valid IPv4 address")),
        ("IPv6", _) => errors.push(address.invalid("must be a valid IPv6 address")),
        _ => address.form(errors, names::subdomain_problem),
    }
}

pub(super) fn ingress(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    if spec.count("rules") == 0 && spec.given("defaultBackend").is_none() {
        errors.push(FieldError::invalid(
            "spec",
            spec.value.clone(),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if let Some(backend) = spec.given("defaultBackend") {
        self::backend(&backend, errors);
    }
    if let Some(class) = spec.given("ingressClassName") {
        class.form(errors, names::subdomain_problem);
    }
    for tls in spec.items("tls") {
        tls.items("hosts").for_each(|host| self::host(&host, errors));
    }
    for rule in spec.items("rules") {
        let host = rule.field("host");
        if !host.is_empty() {
            self::host(&host, errors);
        }
        let Some(http) = rule.given("http") else { continue };
        if http.count("paths") == 0 {
            errors.push(http.field("paths").required(""));
        }
        for path in http.items("paths") {
            ingress_path(&path, errors);
            self::backend(&path.field("backend"), errors);
        }
    }
}

/// A host name, with a wildcard as its first label or without.
fn host(host: &At<'_>, errors: &mut Errors) {
    let text = host.as_text();
    if text.parse::<IpAddr>().is_ok() {
        errors.push(host.invalid("must be a DNS name, not an IP address"));
    } else if let Some(problem) = names::subdomain_problem(text.strip_prefix("*.").unwrap_or(text)) {
        errors.push(host.invalid(problem));
    }
}

fn ingress_path(path: &At<'_>, errors: &mut Errors) {
    let kind = path.field("pathType");
    if kind.is_empty() {
        errors.push(kind.required("pathType must be specified"));
        return;
    }
    kind.if_given_one_of(errors, &["Exact", "ImplementationSpecific", "Prefix"]);
    let text = path.field("path");
    let absolute = text.as_text().starts_with('/');
    if !absolute && (kind.as_text() != "ImplementationSpecific" || !text.is_empty()) {
        errors.push(FieldError::invalid(text.path.clone(), text.as_text(), "must be an absolute path"));
    }
    if kind.as_text() != "ImplementationSpecific" {
        for part in ["//", "/./", "/../", "%2f", "%2F"] {
            if text.as_text().contains(part) {
                errors.push(text.invalid(format!("must not contain '{part}'")));
            }
        }
    }
}

fn backend(backend: &At<'_>, errors: &mut Errors) {
    match (backend.given("service"), backend.given("resource")) {
        (Some(_), Some(_)) => errors.push(backend.invalid("cannot set both resource and service backends")),
        (None, Some(_)) => {}
        (service, None) => {
            let service = service.unwrap_or_else(|| backend.field("service"));
            service.field("name").required_form(errors, names::label_1035_problem);
            let (name, number) = (service.field("port").field("name"), service.field("port").field("number"));
            match (name.is_empty(), number.value.as_i64().unwrap_or(0)) {
                (true, 0) => errors.push(service.field("port").required("port name or number is required")),
                (false, 0) => errors
                    .extend(names::port_name_problems(name.as_text()).into_iter().map(|p| name.invalid(p))),
                (true, port) => errors.extend(names::port_number_problem(port).map(|p| number.invalid(p))),
                (false, _) => {
                    errors.push(service.field("port").invalid("cannot set both port name & port number"))
                }
            }
        }
    }
}

pub(super) fn ingress_class(object: &At<'_>, errors: &mut Errors) {
    let controller = object.field("spec").field("controller");
    if controller.is_empty() {
        errors.push(controller.required(""));
    }
}

pub(super) fn service_cidr(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    match spec.count("cidrs") {
        0 => errors.push(spec.field("cidrs").required("at least one CIDR required")),
        1 | 2 => {}
        _ => errors.push(spec.field("cidrs").invalid("may only hold up to 2 values")),
    }
    for cidr in spec.items("cidrs") {
        cidr.cidr(errors);
    }
}

pub(super) fn ip_address(object: &At<'_>, errors: &mut Errors) {
    let parent = object.field("spec").field("parentRef");
    if parent.value.is_null() {
        errors.push(parent.required(""));
        return;
    }
    for field in ["resource", "name"] {
        if parent.text(field).is_empty() {
            errors.push(parent.field(field).required(""));
        }
    }
}
