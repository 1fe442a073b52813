//! What holds for every question about every world.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use seaway_lab::CloudPlan;
use seaway_model::{
    EgressPlan, Endpoint, EndpointPort, EndpointSlice, LocalSources, NetConf, Node, NodePlan, ObjectName,
    OverlayPlan, Protocol, ProxyPlan, Service, ServicePlan, ServicePort, ServiceType, Snapshot,
    TrafficPolicy, Underlay,
};

use super::*;
use crate::hop::Hop;
use crate::world::{AppliedFacts, HostFacts, NodeFacts, PodFacts, ServiceFacts};

const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// What a world is made of. Anything may be missing, contradict the rest, or belong to nobody.
#[derive(Clone, Debug)]
struct Recipe {
    nodes: u8,
    vxlan: bool,
    /// Nodes whose agents have published what the others need.
    published: u8,
    /// Nodes whose agents answer.
    asked: u8,
    /// Nodes whose agents do not tell the links of pods, by a bit for each; the lowest: nor their own.
    noted: u8,
    cloud: u8,
    hosts: bool,
    pods: Vec<Seed>,
    /// Of each Service: which pods are its endpoints, by a bit for each.
    services: Vec<u8>,
}

/// A pod's node, last byte and whether it has its node's network.
#[derive(Clone, Debug)]
struct Seed {
    node: u8,
    last: u8,
    host_network: bool,
    ready: bool,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let seed = (1_u8..=4, 0_u8..8, any::<bool>(), any::<bool>());
    let seed = seed.prop_map(|(node, last, host_network, ready)| Seed { node, last, host_network, ready });
    let head = (0_u8..=3, any::<bool>(), 0_u8..=3, any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>());
    (head, proptest::collection::vec(seed, 0..6), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(
        |((nodes, vxlan, published, asked, noted, cloud, hosts), pods, services)| Recipe {
            nodes,
            vxlan,
            published,
            asked,
            noted,
            cloud,
            hosts,
            pods,
            services,
        },
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node_ip(n: u8) -> IpAddr {
    ip(&format!("172.18.0.{}", 10 + n))
}

fn underlay(n: u8) -> Underlay {
    Underlay {
        link: "eth0".to_owned(),
        mtu: 1500,
        addresses: vec![format!("{}/16", node_ip(n)).parse().unwrap()],
        device_macs: BTreeMap::new(),
    }
}

impl Seed {
    fn address(&self) -> IpAddr {
        if self.host_network {
            node_ip(self.node)
        } else {
            ip(&format!("10.244.{}.{}", self.node, self.last))
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            addresses: vec![self.address()],
            ready: self.ready,
            serving: self.ready,
            terminating: false,
            hostname: None,
            node_name: Some(format!("node-{}", self.node).into()),
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            target: None,
        }
    }
}

impl Recipe {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (n, members) in self.services.iter().enumerate() {
            let name = ObjectName::new("default", format!("service-{n}"));
            let port = ServicePort {
                name: "web".into(),
                protocol: Protocol::Tcp,
                port: if members & 64 == 0 { 80 } else { 8080 },
                node_port: Some(30_080 + u16::try_from(n).unwrap()),
            };
            let policy = |bit| if members & bit == 0 { TrafficPolicy::Cluster } else { TrafficPolicy::Local };
            let service = Service {
                kind: ServiceType::NodePort,
                cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
                ports: vec![port],
                // A node's own address: endpoints with the node's network may be called by it again and again.
                external_ips: vec![ip("192.0.2.200"), node_ip(1 + u8::try_from(n).unwrap())],
                internal_policy: policy(16),
                external_policy: policy(32),
                ..Service::default()
            };
            snapshot.services.insert_mut(name.clone(), Arc::new(service));
            let members = self.pods.iter().enumerate().filter(|(bit, _)| members & (1 << bit) != 0);
            let slice = EndpointSlice {
                service: name.clone(),
                ports: vec![EndpointPort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
                endpoints: members.map(|(_, pod)| pod.endpoint()).collect(),
            };
            let slices = rpds::RedBlackTreeMapSync::default().insert("slice".into(), Arc::new(slice));
            snapshot.slices.insert_mut(name, slices);
        }
        snapshot
    }

    /// What the node's plugin noted; of pods that the API server does not know as well.
    fn links(&self, node: u8) -> BTreeMap<IpAddr, String> {
        let own = self.pods.iter().filter(|pod| pod.node == node && !pod.host_network);
        let known = own.map(|pod| (pod.address(), format!("sw{}", pod.last)));
        known.chain([(ip(&format!("10.244.{node}.7")), "sw7".to_owned())]).collect()
    }

    fn overlays(&self) -> Vec<OverlayPlan> {
        let conf = NetConf::parse(if self.vxlan { VXLAN } else { HOST_GW }).unwrap();
        let net = |n: u8| format!("10.244.{n}.0/24").parse().unwrap();
        let node = |n| Node { pod_cidrs: vec![net(n)], internal_ips: vec![node_ip(n)], ..Node::default() };
        let mut nodes: BTreeMap<Arc<str>, Arc<Node>> =
            (1..=self.nodes).map(|n| (format!("node-{n}").into(), Arc::new(node(n)))).collect();
        let plan = |nodes: &BTreeMap<_, _>, n: u8| {
            OverlayPlan::new(nodes, &format!("node-{n}"), &conf, &underlay(n))
        };
        for n in 1..=self.nodes.min(self.published) {
            let annotations = plan(&nodes, n).annotations;
            if let Some(node) = nodes.get_mut(format!("node-{n}").as_str()) {
                Arc::make_mut(node).annotations = annotations;
            }
        }
        (1..=self.nodes).map(|n| plan(&nodes, n)).collect()
    }

    fn cloud(&self) -> Option<CloudPlan> {
        let nats = match self.cloud % 4 {
            0 => return None,
            1 => serde_json::json!([]),
            2 => serde_json::json!([
                {"nodes": ["172.18.0.11"], "addresses": ["203.0.113.10", "203.0.113.11"], "inbound": false}]),
            _ => serde_json::json!([
                {"nodes": ["172.18.0.11"], "addresses": ["203.0.113.11"], "inbound": true},
                {"nodes": ["172.18.0.12"], "addresses": ["203.0.113.12"], "inbound": true}]),
        };
        let nodes = (1..=self.nodes)
            .map(|n| serde_json::json!({"name": format!("node-{n}"), "addresses": [node_ip(n)]}));
        let plan = serde_json::json!({
            "networks": ["172.18.0.0/16"], "mtu": 1500, "gateways": ["172.18.0.1"], "gatewaysPublic": ["203.0.113.1"],
            "controlPlane": ["172.18.0.2"], "nodes": nodes.collect::<Vec<_>>(), "sourceNat": nats,
        });
        Some(serde_json::from_value(plan).unwrap())
    }

    fn world(&self) -> World {
        let (snapshot, overlays) = (self.snapshot(), self.overlays());
        let pod_network = vec!["10.244.0.0/16".parse().unwrap()];
        let nodes = (1..=self.nodes).zip(overlays).map(|(n, overlay)| {
            let name = format!("node-{n}");
            let own = vec![format!("10.244.{n}.0/24").parse().unwrap()];
            let facts = AppliedFacts {
                node: NodePlan {
                    services: ServicePlan::from_snapshot(name.as_str(), &snapshot),
                    egress: EgressPlan::new(&pod_network, &own, &[]),
                    proxy: ProxyPlan {
                        local_sources: LocalSources::Networks(pod_network.clone()),
                        node_addresses: vec![node_ip(n)],
                        node_port_networks: vec![node_ip(n).into()],
                        ..ProxyPlan::default()
                    },
                },
                overlay: Some(overlay),
                underlay: (self.noted & 1 == 0).then(|| underlay(n)),
                pods: (self.noted & (1 << n) == 0).then(|| self.links(n)),
            };
            let plan = if self.asked & (1 << n) == 0 { Ok(facts) } else { Err("no answer".to_owned()) };
            (name.clone(), NodeFacts { name, addresses: vec![node_ip(n)], plan, kubelet: Some(10250) })
        });
        let pods = self.pods.iter().enumerate().map(|(n, pod)| {
            let facts = PodFacts {
                node: format!("node-{}", pod.node),
                addresses: if pod.last == 0 { Vec::new() } else { vec![pod.address()] },
                host_network: pod.host_network,
                ready: pod.ready,
                ports: vec![(Protocol::Tcp, 8080)],
            };
            (ObjectName::new("default", format!("pod-{n}")), facts)
        });
        let services = (0..self.services.len()).map(|n| {
            let facts = ServiceFacts {
                cluster_ips: vec![ip(&format!("10.96.0.{n}"))],
                ports: vec![(Protocol::Tcp, 80, "web".to_owned())],
            };
            (ObjectName::new("default", format!("service-{n}")), facts)
        });
        let host = HostFacts {
            name: "partner.example".to_owned(),
            addresses: vec!["198.51.100.40".parse().unwrap()],
            allow: Some(vec!["203.0.113.10/31".parse().unwrap()]),
            resolver: false,
        };
        World {
            nodes: nodes.collect(),
            pods: pods.collect(),
            services: services.collect(),
            cloud: self.cloud(),
            hosts: if self.hosts { vec![host] } else { Vec::new() },
        }
    }
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![
        4 => (0_u8..6).prop_map(|n| Caller::Pod(ObjectName::new("default", format!("pod-{n}")))),
        2 => (1_u8..=4).prop_map(|n| Caller::Node(format!("node-{n}"))),
        1 => Just(Caller::Host("partner.example".to_owned())),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let pod = (1_u8..=4, 0_u8..8).prop_map(|(node, last)| ip(&format!("10.244.{node}.{last}")));
    let known = [
        "172.18.0.1",
        "172.18.0.2",
        "172.18.0.11",
        "172.18.0.12",
        "172.18.9.9",
        "203.0.113.1",
        "203.0.113.10",
        "203.0.113.11",
        "203.0.113.12",
        "198.51.100.40",
        "198.51.100.99",
        "192.0.2.200",
        "127.0.0.1",
        "2001:db8::1",
        "::1",
    ];
    prop_oneof![
        4 => (0_u8..5).prop_map(|n| ip(&format!("10.96.0.{n}"))),
        4 => pod,
        4 => proptest::sample::select(known.map(ip).to_vec()),
        1 => any::<IpAddr>(),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    let proto = proptest::sample::select(vec![Proto::Tcp, Proto::Tcp, Proto::Udp, Proto::Icmp]);
    let port = proptest::sample::select(vec![0, 53, 80, 8080, 30080, 30081, 10250, 6443, u16::MAX]);
    (caller(), proto, port).prop_map(|(caller, proto, port)| Question {
        lab: "lab".to_owned(),
        caller,
        to: "it".to_owned(),
        proto,
        port,
    })
}

fn destinations<'a>(hops: impl Iterator<Item = &'a Hop>) -> BTreeSet<String> {
    hops.flat_map(|hop| hop.before.iter().chain(&hop.after))
        .flat_map(|state| state.destination.clone())
        .collect()
}

proptest! {
    #[test]
    fn every_way_ends_and_is_told(
        recipe in recipe(),
        question in question(),
        addresses in proptest::collection::btree_set(address(), 1..3),
    ) {
        let world = recipe.world();
        let resolved = Resolved { addresses: addresses.clone(), ..Resolved::default() };
        let prediction = predict(&world, &question, &resolved);
        prop_assert_eq!(&predict(&world, &question, &resolved).ways, &prediction.ways);
        let trace = prediction.trace(&question);
        serde_json::to_value(&trace).unwrap();

        for way in &prediction.ways {
            prop_assert!(way.hops.len() <= 32, "{} hops", way.hops.len());
            let family = way.choice.address.map(|ip| ip.is_ipv4());
            for source in &way.end.sources {
                prop_assert_eq!(Some(source.is_ipv4()), family);
                prop_assert!(trace.source_seen_by_destination.contains(source));
            }
            // A fault is never passed: what follows it is at most that no answer comes back.
            let faults = way.hops.iter().filter(|hop| hop.fault).count();
            prop_assert!(faults <= 1 || way.end.verdict != Verdict::Delivered);
            prop_assert!(faults == 0 || way.end.verdict != Verdict::Delivered, "{:?}", way);
            for hop in &way.hops {
                let told = trace.hops.iter().any(|it| it.kind == hop.kind && it.place == hop.place);
                prop_assert!(told, "{:?} at {} is not told", hop.kind, hop.place);
            }
            let missing: Vec<String> =
                destinations(way.hops.iter()).difference(&destinations(trace.hops.iter())).cloned().collect();
            prop_assert!(missing.is_empty(), "not told: {:?}", missing);
            // What was chosen finds its own way back.
            prop_assert_eq!(prediction.chosen(way.choice).map(|it| it.choice), Some(way.choice));
        }
        let all: BTreeSet<IpAddr> = prediction.ways.iter().flat_map(|way| way.end.sources.clone()).collect();
        prop_assert_eq!(all, trace.source_seen_by_destination);
    }
}
