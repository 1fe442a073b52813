//! A plan as JSON and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{HealthCheck, PortPlan, ServiceAddress, ServicePlan};
use crate::ObjectName;

/// What is written: everything that the plan answers questions from, sorted, so that two plans that answer alike
/// read the same. Fields are added at times and never change their meaning.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    generation: u64,
    node: Arc<str>,
    /// Sorted by address.
    ports: Vec<Arc<PortPlan>>,
    cluster_ips: BTreeSet<IpAddr>,
    local_endpoints: BTreeSet<IpAddr>,
    /// Sorted by address.
    #[serde(default)]
    waiting: Vec<Waiting>,
    /// Sorted by Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    health_checks: Vec<Checked>,
}

/// A Service's health check.
#[derive(Serialize, Deserialize)]
struct Checked {
    service: ObjectName,
    #[serde(flatten)]
    check: HealthCheck,
}

/// Services that ask for an address that another one has.
#[derive(Serialize, Deserialize)]
struct Waiting {
    address: ServiceAddress,
    services: BTreeSet<ObjectName>,
}

impl Serialize for ServicePlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ports: BTreeMap<_, _> = self.ports().map(|port| (port.address, port.clone())).collect();
        let waiting: BTreeMap<_, _> = self.waiting.iter().collect();
        let waiting = waiting.into_iter();
        Written {
            generation: self.generation,
            node: self.node.clone(),
            ports: ports.into_values().collect(),
            cluster_ips: self.cluster_ips().collect(),
            local_endpoints: self.local_endpoints().collect(),
            waiting: waiting
                .map(|(address, services)| Waiting { address: *address, services: services.clone() })
                .collect(),
            health_checks: self
                .health_checks()
                .map(|(service, check)| Checked { service: service.clone(), check: *check })
                .collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ServicePlan {
    /// A plan that answers questions as the one that was written. It does not know which Service asked for what,
    /// so [`ServicePlan::update`] is not for it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let counted = |ips: BTreeSet<IpAddr>| ips.into_iter().map(|ip| (ip, 1)).collect();
        Ok(Self {
            generation: written.generation,
            node: written.node,
            ports: written.ports.into_iter().map(|port| (port.address, port)).collect(),
            waiting: written.waiting.into_iter().map(|it| (it.address, it.services)).collect(),
            ipv6_cluster_ips: written.cluster_ips.iter().filter(|ip| ip.is_ipv6()).count(),
            cluster_ips: counted(written.cluster_ips),
            local_endpoints: counted(written.local_endpoints),
            health_checks: written.health_checks.into_iter().map(|it| (it.service, it.check)).collect(),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{step, take};
    use super::*;
    use crate::{Backend, EgressPlan, Flow, NodePlan, Origin, Protocol, ProxyPlan, Snapshot};

    /// Flows between all addresses that a plan of `steps` can know, and some that it does not.
    fn flows() -> Vec<Flow> {
        let ips =
            ["10.96.0.0", "10.96.0.1", "10.96.0.2", "10.244.0.2", "10.244.1.3", "172.18.0.11", "192.0.2.1"];
        let ips = ips.map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut flows = Vec::new();
        for source in ips {
            for destination in ips {
                for port in [80, 81, 30080] {
                    flows.push(Flow {
                        origin: Origin::Unknown,
                        source,
                        destination,
                        protocol: Protocol::Tcp,
                        port,
                    });
                }
            }
        }
        flows
    }

    proptest! {
        #[test]
        fn read_back_answers_the_same(steps in proptest::collection::vec(step(), 0..30)) {
            let mut snapshot = Snapshot::default();
            for step in &steps {
                take(&mut snapshot, step);
            }
            let egress = EgressPlan::new(
                &["10.244.0.0/16".parse().unwrap()],
                &["10.244.1.0/24".parse().unwrap()],
                &["172.18.0.0/16".parse().unwrap()],
            );
            let proxy = ProxyPlan {
                node_port_networks: vec!["172.18.0.11/32".parse().unwrap()],
                node_addresses: vec!["172.18.0.11".parse().unwrap()],
                ..ProxyPlan::default()
            };
            let plan = NodePlan { services: ServicePlan::from_snapshot("n1", &snapshot), egress, proxy };
            let text = serde_json::to_string(&plan).unwrap();
            let back: NodePlan = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(serde_json::to_string(&back).unwrap(), text);
            prop_assert_eq!(back.services.has_ipv6(), plan.services.has_ipv6());
            for flow in flows() {
                prop_assert_eq!(back.translate(&flow), plan.translate(&flow));
                let local = plan.services.local_endpoints().map(|ip| Backend { ip, port: 8080 });
                let other = Backend { ip: "10.244.0.4".parse().unwrap(), port: 8080 };
                for chosen in local.chain([other]).map(Some).chain([None]) {
                    prop_assert_eq!(back.masquerade(&flow, chosen), plan.masquerade(&flow, chosen));
                }
            }
        }
    }

    #[test]
    fn written_like_this() {
        let text = r#"{
            "generation": 7,
            "node": "n1",
            "ports": [{
                "service": {"namespace": "default", "name": "web"},
                "portName": "http",
                "address": {"ip": "fd00::7", "protocol": "TCP", "port": 80},
                "kind": "ClusterIp",
                "policy": "Cluster",
                "backends": [{"ip": "fd01::5", "port": 8080}],
                "local": 1,
                "insideFrom": 0,
                "hasEndpoints": true,
                "terminating": false,
                "localTerminating": false,
                "affinity": {"secs": 10800, "nanos": 0},
                "sourceRanges": null
            }],
            "clusterIps": ["fd00::7"],
            "localEndpoints": ["fd01::5"],
            "waiting": [{
                "address": {"ip": "fd00::7", "protocol": "TCP", "port": 80},
                "services": [{"namespace": "default", "name": "web-2"}]
            }],
            "healthChecks": [{
                "service": {"namespace": "default", "name": "web"},
                "port": 32000,
                "localEndpoints": 1
            }]
        }"#;
        let plan: ServicePlan = serde_json::from_str(text).unwrap();
        assert!(plan.has_ipv6());
        assert_eq!(plan.waiting().count(), 1);
        let written: serde_json::Value = serde_json::to_value(&plan).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}
