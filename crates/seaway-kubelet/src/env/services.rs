//! The variables that tell a container of Services.
//!
//! Kubernetes' own (`NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`) and those of Docker's container links
//! (`NAME_PORT_80_TCP_ADDR`), which kubelet has always given along.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;

/// Where the API server's Service is.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// The variables for a pod of `namespace`: those of the API server's Service, and with `links` those of all Services of the
/// namespace. Services without a cluster IP have none.
pub(crate) fn service_env<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(in_namespace)) = (&service.metadata.name, &service.metadata.namespace) else {
            continue;
        };
        let is_api = (in_namespace.as_str(), name.as_str()) == API_SERVICE;
        if links && in_namespace == namespace {
            chosen.insert(name, service);
        } else if is_api {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut env = BTreeMap::new();
    for (name, service) in chosen {
        add(&mut env, name, service);
    }
    env
}

fn add(env: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let name = variable(name);
    env.insert(format!("{name}_SERVICE_HOST"), ip.to_string());
    env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{name}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
        }
    }
    let url = |protocol: &str, port: i32| {
        let address = SocketAddr::new(ip, u16::try_from(port).unwrap_or_default());
        format!("{}://{address}", protocol.to_lowercase())
    };
    env.insert(format!("{name}_PORT"), url(first.protocol.as_deref().unwrap_or("TCP"), first.port));
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{prefix}_PORT"), port.port.to_string());
        env.insert(format!("{prefix}_ADDR"), ip.to_string());
        env.insert(prefix, url(protocol, port.port));
    }
}

/// A name as part of a variable's: upper case, dashes as underscores.
fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: serde_json::Value) -> Service {
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}});
        serde_json::from_value(object).unwrap()
    }

    fn cluster() -> Vec<Service> {
        vec![
            service("default", "kubernetes", "10.96.0.1", json!([{"name": "https", "port": 443}])),
            service(
                "shop",
                "web-front",
                "10.96.0.9",
                json!([{"port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
            ),
            service("shop", "headless", "None", json!([{"port": 80}])),
            service("other", "db", "10.96.0.7", json!([{"port": 5432}])),
            service("shop", "six", "fd00::1", json!([{"port": 80}])),
        ]
    }

    #[test]
    fn links_bring_the_namespace_and_the_api_server() {
        let env = service_env(&cluster(), "shop", true);
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
            ("KUBERNETES_PORT_443_TCP_PORT", "443"),
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
            ("WEB_FRONT_SERVICE_HOST", "10.96.0.9"),
            ("WEB_FRONT_SERVICE_PORT", "80"),
            ("WEB_FRONT_SERVICE_PORT_DNS", "53"),
            ("WEB_FRONT_PORT_53_UDP", "udp://10.96.0.9:53"),
            ("SIX_PORT", "tcp://[fd00::1]:80"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("HEADLESS_SERVICE_HOST"));
        assert!(!env.contains_key("DB_SERVICE_HOST"));
    }

    #[test]
    fn without_links_only_the_api_server() {
        let env = service_env(&cluster(), "shop", false);
        assert!(env.keys().all(|name| name.starts_with("KUBERNETES_")), "{env:?}");
        assert_eq!(env.len(), 8);
    }
}
