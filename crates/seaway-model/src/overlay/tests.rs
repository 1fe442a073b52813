//! Plans as tables, and what holds for every cluster.

use proptest::prelude::*;

use super::*;

const VXLAN: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn underlay(address: &str) -> Underlay {
    Underlay {
        link: "eth0".to_owned(),
        mtu: 1500,
        addresses: vec![net(address)],
        device_macs: BTreeMap::new(),
    }
}

fn node(cidr: &str, address: &str) -> Node {
    Node { pod_cidrs: vec![net(cidr)], internal_ips: vec![address.parse().unwrap()], ..Node::default() }
}

type Nodes = BTreeMap<Arc<str>, Arc<Node>>;

fn cluster(nodes: impl IntoIterator<Item = (String, Node)>) -> Nodes {
    nodes.into_iter().map(|(name, node)| (name.into(), Arc::new(node))).collect()
}

/// Nodes 1..=count, each having published what its own plan says.
fn published(count: u8, conf: &NetConf) -> Nodes {
    let mut nodes =
        cluster((1..=count).map(|n| {
            (format!("node-{n}"), node(&format!("10.244.{n}.0/24"), &format!("172.18.0.{}", 10 + n)))
        }));
    for n in 1..=count {
        let annotations = plan(&nodes, n, conf).annotations;
        Arc::make_mut(nodes.get_mut(format!("node-{n}").as_str()).unwrap()).annotations = annotations;
    }
    nodes
}

fn plan(nodes: &Nodes, n: u8, conf: &NetConf) -> OverlayPlan {
    OverlayPlan::new(nodes, &format!("node-{n}"), conf, &underlay(&format!("172.18.0.{}/16", 10 + n)))
}

#[test]
fn vxlan_of_two_nodes() {
    let conf = NetConf::parse(VXLAN).unwrap();
    let nodes = published(2, &conf);
    let plan = plan(&nodes, 1, &conf);
    assert_eq!((plan.mtu, plan.subnets.clone()), (1450, vec![net("10.244.1.0/24")]));
    let device = &plan.devices[0];
    assert_eq!((device.name.as_str(), device.address, device.mtu), ("seaway.1", net("10.244.1.0/32"), 1450));
    assert_eq!((device.vni, device.port, device.local.to_string()), (1, 8472, "172.18.0.11".to_owned()));
    let other = MacAddr::derived(&["vtep", "node-2", "seaway.1"]);
    let route = &plan.routes[0];
    assert_eq!(
        (route.dst, route.via.to_string(), route.onlink),
        (net("10.244.2.0/24"), "10.244.2.0".to_owned(), true)
    );
    assert_eq!(
        plan.neighbors,
        [OverlayNeighbor { device: "seaway.1".to_owned(), ip: route.via, mac: other }]
    );
    let dst = "172.18.0.12".parse().unwrap();
    assert_eq!(plan.forwards, [OverlayForward { device: "seaway.1".to_owned(), mac: other, dst }]);
    assert_eq!(plan.unreachable, []);
    let mac = MacAddr::derived(&["vtep", "node-1", "seaway.1"]);
    let annotations: Vec<(&str, String)> = vec![
        ("flannel.alpha.coreos.com/backend-data", format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)),
        ("flannel.alpha.coreos.com/backend-type", "vxlan".to_owned()),
        ("flannel.alpha.coreos.com/kube-subnet-manager", "true".to_owned()),
        ("flannel.alpha.coreos.com/public-ip", "172.18.0.11".to_owned()),
    ];
    let found: Vec<_> = plan.annotations.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    assert_eq!(found, annotations);
}

#[test]
fn host_gw_routes_through_the_nodes() {
    let conf = NetConf::parse(HOST_GW).unwrap();
    let mut nodes = published(3, &conf);
    nodes.insert("far".into(), Arc::new(node("10.244.9.0/24", "192.168.0.1")));
    let plan = plan(&nodes, 2, &conf);
    assert_eq!((plan.mtu, plan.devices.len(), plan.neighbors.len(), plan.forwards.len()), (1500, 0, 0, 0));
    let routes: Vec<_> =
        plan.routes.iter().map(|route| (route.dst, route.via.to_string(), route.onlink)).collect();
    let via = |node: &str| node.to_owned();
    assert_eq!(
        routes,
        [
            (net("10.244.1.0/24"), via("172.18.0.11"), false),
            (net("10.244.3.0/24"), via("172.18.0.13"), false)
        ]
    );
    assert_eq!(plan.unreachable.len(), 1);
    assert!(plan.unreachable[0].to_string().starts_with("Node far: "), "{}", plan.unreachable[0]);
}

#[test]
fn direct_routing_tunnels_only_to_far_nodes() {
    let text = VXLAN.replace("\"vxlan\"", "\"vxlan\",\"DirectRouting\":true");
    let conf = NetConf::parse(&text).unwrap();
    let mut nodes = published(2, &conf);
    let mut far = node("10.244.9.0/24", "192.168.0.1");
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    far.annotations.insert(Family::V4.backend_data(), format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    nodes.insert("far".into(), Arc::new(far));
    let plan = plan(&nodes, 1, &conf);
    let links: Vec<_> = plan.routes.iter().map(|route| (route.node.as_ref(), route.link.as_str())).collect();
    assert_eq!(links, [("node-2", "eth0"), ("far", "seaway.1")]);
    assert_eq!((plan.neighbors.len(), plan.forwards.len()), (1, 1));
}

#[test]
fn nodes_that_cannot_be_reached_are_told() {
    let conf = NetConf::parse(VXLAN).unwrap();
    let data = Family::V4.backend_data();
    for (annotation, value, told) in [
        (
            data.as_str(),
            "",
            "metadata.annotations[flannel.alpha.coreos.com/backend-data]: \"\": expected JSON such as",
        ),
        (&data, r#"{"VNI":2,"VtepMAC":"02:00:00:00:00:01"}"#, "expected VNI 1"),
        (&data, r#"{"VNI":1,"VtepMAC":"02:00:00:00:00"}"#, "expected JSON such as"),
        (
            "flannel.alpha.coreos.com/public-ip",
            "here",
            "[flannel.alpha.coreos.com/public-ip]: \"here\": no address",
        ),
    ] {
        let mut nodes = published(2, &conf);
        let other = Arc::make_mut(nodes.get_mut("node-2").unwrap());
        other.annotations.insert(annotation.to_owned(), value.to_owned());
        let plan = plan(&nodes, 1, &conf);
        assert_eq!(plan.routes, []);
        assert!(plan.unreachable[0].to_string().contains(told), "{}", plan.unreachable[0]);
    }
    let mut nodes = published(2, &conf);
    Arc::make_mut(nodes.get_mut("node-2").unwrap()).pod_cidrs.clear();
    let plan = plan(&nodes, 1, &conf);
    assert_eq!((plan.routes.len(), plan.unreachable.len()), (0, 0));
}

#[test]
fn a_pod_cidr_belongs_to_one_node() {
    let conf = NetConf::parse(VXLAN).unwrap();
    let told = |cidrs: [&str; 2]| {
        let mut nodes = published(3, &conf);
        for (name, cidr) in ["node-2", "node-3"].into_iter().zip(cidrs) {
            Arc::make_mut(nodes.get_mut(name).unwrap()).pod_cidrs = vec![net(cidr)];
        }
        let plan = plan(&nodes, 1, &conf);
        let routes: Vec<String> = plan.routes.iter().map(|route| route.node.to_string()).collect();
        (routes, plan.unreachable.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let overlap = |node: &str, cidr: &str, holder: &str| {
        format!("Node {node}: spec.podCIDRs: \"{cidr}\": it overlaps the podCIDR of node {holder}")
    };
    for (cidrs, routes, problem) in [
        (["10.244.1.0/24", "10.244.3.0/24"], "node-3", overlap("node-2", "10.244.1.0/24", "node-1")),
        (["10.244.2.0/24", "10.244.0.0/16"], "node-2", overlap("node-3", "10.244.0.0/16", "node-1")),
        (["10.244.2.0/24", "10.244.2.0/24"], "node-2", overlap("node-3", "10.244.2.0/24", "node-2")),
    ] {
        assert_eq!(told(cidrs), (vec![routes.to_owned()], vec![problem]));
    }
}

#[test]
fn mac_is_kept() {
    let conf = NetConf::parse(VXLAN).unwrap();
    let mut nodes = published(1, &conf);
    let (known, existing) = (MacAddr([2, 0, 0, 0, 0, 7]), MacAddr([2, 0, 0, 0, 0, 8]));
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{known}"}}"#);
    Arc::make_mut(nodes.get_mut("node-1").unwrap()).annotations.insert(Family::V4.backend_data(), data);
    assert_eq!(plan(&nodes, 1, &conf).devices[0].mac, known);
    let mut facts = underlay("172.18.0.11/16");
    facts.device_macs.insert("seaway.1".to_owned(), existing);
    assert_eq!(OverlayPlan::new(&nodes, "node-1", &conf, &facts).devices[0].mac, existing);
}

#[test]
fn families_are_planned_side_by_side() {
    let text = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#;
    let conf = NetConf::parse(text).unwrap();
    let mut nodes = published(1, &conf);
    Arc::make_mut(nodes.get_mut("node-1").unwrap()).pod_cidrs.push(net("fd00:0:0:1::/64"));
    let mut facts = underlay("172.18.0.11/16");
    facts.addresses.push(net("2001:db8::11/64"));
    let plan = OverlayPlan::new(&nodes, "node-1", &conf, &facts);
    let devices: Vec<_> =
        plan.devices.iter().map(|device| (device.name.as_str(), device.address, device.mtu)).collect();
    assert_eq!(
        devices,
        [("seaway.1", net("10.244.1.0/32"), 1450), ("seaway-v6.1", net("fd00:0:0:1::/128"), 1430)]
    );
    assert_eq!(plan.mtu, 1430);
    assert!(plan.annotations.contains_key("flannel.alpha.coreos.com/backend-v6-data"));
    // Without a node address of the family there is nothing to tunnel through.
    let plan = OverlayPlan::new(&nodes, "node-1", &conf, &underlay("172.18.0.11/16"));
    assert_eq!(plan.devices.len(), 1);
}

proptest! {
    #[test]
    fn everyone_has_what_the_others_publish(count in 1u8..12, host_gw: bool) {
        let conf = NetConf::parse(if host_gw { HOST_GW } else { VXLAN }).unwrap();
        let nodes = published(count, &conf);
        let plans: Vec<_> = (1..=count).map(|n| plan(&nodes, n, &conf)).collect();
        for (i, here) in plans.iter().enumerate() {
            prop_assert_eq!(here.routes.len(), usize::from(count) - 1);
            prop_assert_eq!(&here.unreachable, &[]);
            for (j, there) in plans.iter().enumerate().filter(|(j, _)| *j != i) {
                let route = here.routes.iter().find(|route| route.dst == there.subnets[0]).unwrap();
                prop_assert_eq!(route.node.as_ref(), format!("node-{}", j + 1));
                if host_gw {
                    prop_assert_eq!(route.via.to_string(), format!("172.18.0.{}", 11 + j));
                    continue;
                }
                let device = &there.devices[0];
                prop_assert_eq!(route.via, device.address.addr());
                let neighbor = here.neighbors.iter().find(|neighbor| neighbor.ip == route.via).unwrap();
                prop_assert_eq!(neighbor.mac, device.mac);
                let forward = here.forwards.iter().find(|forward| forward.mac == device.mac).unwrap();
                prop_assert_eq!(forward.dst, device.local);
            }
        }
    }

    #[test]
    fn any_annotation_and_any_file_are_read_without_panic(text in ".{0,80}") {
        let _ = NetConf::parse(&text);
        let _ = text.parse::<MacAddr>();
        let conf = NetConf::parse(VXLAN).unwrap();
        let mut nodes = published(2, &conf);
        let other = Arc::make_mut(nodes.get_mut("node-2").unwrap());
        for value in other.annotations.values_mut() {
            value.clone_from(&text);
        }
        let _ = plan(&nodes, 1, &conf);
    }

    #[test]
    fn macs_read_back(bytes: [u8; 6]) {
        prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
    }
}

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<std::net::Ipv4Addr>(), 0..=32_u8).prop_map(|(ip, length)| IpNet::new(ip.into(), length)),
        (any::<std::net::Ipv6Addr>(), 0..=128_u8).prop_map(|(ip, length)| IpNet::new(ip.into(), length)),
    ]
    .prop_map(Result::unwrap)
}

proptest! {
    /// Whatever other nodes claim, their claims are read, and no route or entry comes of one that cannot be.
    #[test]
    fn any_nodes_are_planned_for_without_panic(
        own in prop::collection::vec(any_net(), 0..3),
        others in prop::collection::vec((prop::collection::vec(any_net(), 0..3), "[0-9a-f.:]{0,12}", "\\PC{0,40}"), 0..4),
        mac in "[0-9a-fA-F:]{10,18}",
        mtu in any::<u32>(),
    ) {
        let conf = NetConf::parse(
            r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#,
        )
        .unwrap();
        let mut nodes = cluster([("node-1".to_owned(), Node { pod_cidrs: own, ..Node::default() })]);
        for (n, (pod_cidrs, public_ip, data)) in others.into_iter().enumerate() {
            let annotations = [
                (format!("{ANNOTATIONS}/public-ip"), public_ip.clone()),
                (format!("{ANNOTATIONS}/public-ipv6"), public_ip),
                (format!("{ANNOTATIONS}/backend-data"), data),
                (format!("{ANNOTATIONS}/backend-v6-data"), format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)),
            ];
            let node = Node { pod_cidrs, annotations: annotations.into(), ..Node::default() };
            nodes.insert(format!("node-{}", n + 2).into(), Arc::new(node));
        }
        let mut underlay = underlay("172.18.0.11/16");
        underlay.addresses.push(net("fd01::1/64"));
        underlay.mtu = mtu;
        let plan = OverlayPlan::new(&nodes, "node-1", &conf, &underlay);
        prop_assert_eq!(plan.routes.len(), plan.forwards.len());
        prop_assert!(plan.routes.len() + plan.unreachable.len() <= 2 * (nodes.len() - 1));
    }
}
