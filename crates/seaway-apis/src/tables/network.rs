//! Services, endpoints, ingresses, policies.

use serde_json::Value;

use super::format::{NONE, age, joined, labels, or_none, selector, some_of, strings};
use super::{AGE, NAME, Printer, SELECTOR, column};
use crate::value::{int, list, text};

/// How many endpoints, ports or hosts a cell shows.
const SHOWN: usize = 3;

fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(super) const SERVICES: Printer = Printer {
    columns: &[
        NAME,
        column("Type", "How the service is reached."),
        column("Cluster-IP", "Its address in the cluster."),
        column("External-IP", "Its addresses outside."),
        column("Port(s)", "Ports, with node ports."),
        AGE,
        SELECTOR,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "/spec/type").into(),
            or_none(text(object, "/spec/clusterIP")).into(),
            external_ips(object).into(),
            service_ports(object).into(),
            age(object, now).into(),
            labels(object, "/spec/selector").into(),
        ]
    },
};

fn external_ips(service: &Value) -> String {
    let own = list(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").into(),
        "LoadBalancer" => {
            let texts: Vec<&str> = balancer_addresses(service).chain(own).collect();
            if texts.is_empty() { "<pending>".into() } else { texts.join(",") }
        }
        _ => joined(own),
    }
}

/// Addresses, or host names, that a load balancer has.
fn balancer_addresses(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/status/loadBalancer/ingress").iter().filter_map(|ingress| {
        [text(ingress, "/ip"), text(ingress, "/hostname")].into_iter().find(|t| !t.is_empty())
    })
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int(port, "/port").unwrap_or(0), text(port, "/protocol"));
            match int(port, "/nodePort") {
                Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    or_none(&ports.join(","))
}

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[NAME, column("Endpoints", "Addresses and ports that are ready."), AGE],
    cells: |object, now| vec![name(object), endpoints(object).into(), age(object, now).into()],
};

fn endpoints(object: &Value) -> String {
    let mut found = Vec::new();
    for subset in list(object, "/subsets") {
        let addresses = || list(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            found.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = int(port, "/port").unwrap_or(0);
            found.extend(addresses().map(|ip| {
                if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
            }));
        }
    }
    or_none(&some_of(&found, SHOWN))
}

/// What an empty cell of an EndpointSlice shows.
const UNSET: &str = "<unset>";

pub(super) const ENDPOINT_SLICES: Printer = Printer {
    columns: &[
        NAME,
        column("AddressType", "Kind of the addresses."),
        column("Ports", "Ports of all endpoints."),
        column("Endpoints", "Addresses of the endpoints."),
        AGE,
    ],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "/ports")
            .iter()
            .map(|p| int(p, "/port").map_or_else(|| "*".to_owned(), |n| n.to_string()))
            .collect();
        let addresses: Vec<String> = list(object, "/endpoints")
            .iter()
            .flat_map(|e| list(e, "/addresses"))
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let cell = |texts: &[String]| if texts.is_empty() { UNSET.to_owned() } else { some_of(texts, SHOWN) };
        vec![
            name(object),
            text(object, "/addressType").into(),
            cell(&ports).into(),
            cell(&addresses).into(),
            age(object, now).into(),
        ]
    },
};

pub(super) const INGRESSES: Printer = Printer {
    columns: &[
        NAME,
        column("Class", "Class whose controller serves it."),
        column("Hosts", "Host names of the rules."),
        column("Address", "Addresses of its load balancer."),
        column("Ports", "Ports on which it is served."),
        AGE,
    ],
    cells: |object, now| {
        let mut hosts: Vec<String> = list(object, "/spec/rules")
            .iter()
            .map(|r| text(r, "/host").to_owned())
            .filter(|h| !h.is_empty())
            .collect();
        if hosts.is_empty() {
            hosts.push("*".into());
        }
        let ports = if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            or_none(text(object, "/spec/ingressClassName")).into(),
            some_of(&hosts, SHOWN).into(),
            balancer_addresses(object).collect::<Vec<_>>().join(",").into(),
            ports.into(),
            age(object, now).into(),
        ]
    },
};

pub(super) const INGRESS_CLASSES: Printer = Printer {
    columns: &[
        NAME,
        column("Controller", "Controller that serves the class."),
        column("Parameters", "Object with more settings."),
        AGE,
    ],
    cells: |object, now| {
        let parameters = object.pointer("/spec/parameters").map_or_else(
            || NONE.to_owned(),
            |p| {
                let group = text(p, "/apiGroup");
                let dot = if group.is_empty() { "" } else { "." };
                format!("{}{dot}{group}/{}", text(p, "/kind"), text(p, "/name"))
            },
        );
        vec![
            name(object),
            text(object, "/spec/controller").into(),
            parameters.into(),
            age(object, now).into(),
        ]
    },
};

pub(super) const NETWORK_POLICIES: Printer = Printer {
    columns: &[NAME, column("Pod-Selector", "Labels of the pods to which it applies."), AGE],
    cells: |object, now| {
        vec![name(object), selector(object, "/spec/podSelector").into(), age(object, now).into()]
    },
};

pub(super) const SERVICE_CIDRS: Printer = Printer {
    columns: &[NAME, column("CIDRs", "Networks from which services get addresses."), AGE],
    cells: |object, now| vec![name(object), strings(object, "/spec/cidrs").into(), age(object, now).into()],
};

pub(super) const IP_ADDRESSES: Printer = Printer {
    columns: &[NAME, column("ParentRef", "Object that has the address."), AGE],
    cells: |object, now| {
        let parent = object.pointer("/spec/parentRef").map_or_else(
            || NONE.to_owned(),
            |p| {
                let parts = ["/group", "/resource", "/namespace", "/name"].map(|f| text(p, f));
                parts.into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join("/")
            },
        );
        vec![name(object), parent.into(), age(object, now).into()]
    },
};
