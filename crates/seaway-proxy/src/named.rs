//! Which element of the tables a decision about a flow follows from, as nft shows it: what `seaway trace` names.

use seaway_model::{AddressKind, Caller, PortPlan};
use seaway_net::nft::{Element, Set, Value};

use crate::ruleset::{IpFamily, SetId, TABLE, cluster_ip, of_port};

/// What is decided about a flow to a service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Among which endpoints one is chosen for this caller, or that it is dropped as there is none.
    Choose(Caller),
    /// That it is answered with an error.
    Refuse,
    /// That not everyone may call.
    Admit,
    /// Whether the source is replaced.
    Masquerade,
    /// That it is remembered where a client went.
    Remember,
}

/// The element that decides so about flows to `port`, such as
/// `element tcp . 30080 of node_ports in table ip seaway: goto pick_node_2`; `None` where no element does.
pub fn element_for(port: &PortPlan, decision: Decision) -> Option<String> {
    let node_port = port.kind == AddressKind::NodePort;
    let of = |of_service, of_node| if node_port { of_node } else { of_service };
    let set = match decision {
        Decision::Choose(Caller::Outside) if port.tells_callers_apart() => {
            of(SetId::ServicesOutside, SetId::NodePortsOutside)
        }
        Decision::Choose(_) => of(SetId::Services, SetId::NodePorts),
        Decision::Refuse if port.kind == AddressKind::ClusterIp => SetId::ClusterIps,
        Decision::Refuse => of(SetId::Refused, SetId::RefusedNodePorts),
        Decision::Admit => of(SetId::Ranged, SetId::RangedNodePorts),
        Decision::Masquerade => of(SetId::External, SetId::ExternalNodePorts),
        Decision::Remember => of(SetId::Sticky, SetId::StickyNodePorts),
    };
    if set == SetId::ClusterIps {
        let (key, element) = cluster_ip(port.address.ip);
        return Some(text(port, set, &key, &element));
    }
    let placed = of_port(port, &port.backends);
    placed.iter().find(|(at, ..)| *at == set).map(|(_, key, element)| text(port, set, key, element))
}

fn text(port: &PortPlan, id: SetId, key: &Value, element: &Element) -> String {
    let family = IpFamily::of(&port.address.ip);
    let set = Set::new(id.spec(family));
    let shown = set.spec.element_text(key, element).to_string();
    let (key, verdict) = match shown.split_once(" : ") {
        Some((key, verdict)) => (key, format!(": {verdict}")),
        None => (shown.as_str(), String::new()),
    };
    let table = match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    };
    format!("element {key} of {} in table {table} {TABLE}{verdict}", id.name())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use seaway_model::{Backend, ObjectName, Protocol, ServiceAddress, TrafficPolicy};

    use super::*;

    fn port(kind: AddressKind, address: ServiceAddress, policy: TrafficPolicy) -> PortPlan {
        let backend = |last: u8| Backend { ip: [10, 244, 1, last].into(), port: 8080 };
        PortPlan {
            service: ObjectName::new("default", "web"),
            port_name: "".into(),
            address,
            kind,
            policy,
            backends: vec![backend(1), backend(2)],
            local: 1,
            inside_from: 0,
            has_endpoints: true,
            terminating: false,
            local_terminating: false,
            affinity: Some(Duration::from_secs(10)),
            source_ranges: Some(vec!["192.0.2.0/24".parse().unwrap()]),
        }
    }

    #[test]
    fn elements_by_what_they_decide() {
        use Decision::{Admit, Choose, Masquerade, Refuse, Remember};
        let node_port = ServiceAddress::node_port(false, Protocol::Tcp, 30080);
        let ip = ServiceAddress { ip: [10, 96, 0, 7].into(), protocol: Protocol::Udp, port: 80 };
        let node = port(AddressKind::NodePort, node_port, TrafficPolicy::Local);
        let cluster = port(AddressKind::ClusterIp, ip, TrafficPolicy::Cluster);
        let balancer = port(AddressKind::LoadBalancer, ip, TrafficPolicy::Cluster);
        let without = PortPlan { backends: vec![], local: 0, has_endpoints: false, ..balancer.clone() };
        let far = PortPlan { local: 0, ..node.clone() };
        for (port, decision, expected) in [
            (
                &cluster,
                Choose(Caller::Outside),
                "10.96.0.7 . udp . 80 of services in table ip seaway: goto pick_sticky_2",
            ),
            (&cluster, Refuse, "10.96.0.7 of cluster_ips in table ip seaway"),
            (
                &node,
                Choose(Caller::Inside),
                "tcp . 30080 of node_ports in table ip seaway: goto pick_node_sticky_2",
            ),
            (
                &node,
                Choose(Caller::Outside),
                "tcp . 30080 of node_ports_outside in table ip seaway: goto pick_node_sticky_1",
            ),
            (&far, Choose(Caller::Outside), "tcp . 30080 of node_ports_outside in table ip seaway: drop"),
            (&node, Admit, "tcp . 30080 of ranged_node_ports in table ip seaway"),
            (&node, Masquerade, "tcp . 30080 of external_node_ports in table ip seaway: goto masquerade_own"),
            (
                &balancer,
                Masquerade,
                "10.96.0.7 . udp . 80 of external in table ip seaway: goto masquerade_external",
            ),
            (&balancer, Remember, "10.96.0.7 . udp . 80 of sticky in table ip seaway: goto learn_10"),
            (&without, Refuse, "10.96.0.7 . udp . 80 of refused in table ip seaway: goto refuse"),
        ] {
            let expected = format!("element {expected}");
            assert_eq!(element_for(port, decision).as_deref(), Some(expected.as_str()), "{decision:?}");
        }
        assert_eq!(element_for(&cluster, Masquerade), None);
    }
}
