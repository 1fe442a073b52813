//! The difference, made on a model of the kernel, leads to the plan from anywhere.

use std::sync::Arc;

use proptest::prelude::*;
use seaway_model::{NetConf, Node, Underlay};

use super::*;

#[test]
fn own_devices_by_name() {
    for (name, own) in [
        ("seaway.1", true),
        ("seaway-v6.16777215", true),
        ("seaway.", false),
        ("seaway.x", false),
        ("seaway", false),
        ("flannel.1", false),
        ("eth0", false),
    ] {
        assert_eq!(is_own_device(name), own, "{name}");
    }
}

/// Makes a change as the kernel would; panics where the kernel would refuse.
fn make(kernel: &mut Observed, change: &Change) {
    let index =
        |kernel: &Observed, name: &str| *kernel.links.get(name).unwrap_or_else(|| panic!("no link {name}"));
    match change.clone() {
        Change::DeleteDevice { name, .. } => {
            let index = kernel.links.remove(&name).unwrap();
            kernel.devices.remove(&name).unwrap();
            kernel.routes.retain(|route| route.dev != Some(index));
        }
        Change::CreateDevice(wanted) => {
            let settings = VxlanSettings {
                vni: wanted.vni,
                local: Some(wanted.local),
                dev: Some(index(kernel, &wanted.link)),
                port: wanted.port,
                learning: false,
            };
            let number = kernel.links.values().max().unwrap() + 1;
            assert_eq!(kernel.links.insert(wanted.name.clone(), number), None);
            let made = ObservedDevice {
                settings,
                mac: Some(wanted.mac),
                mtu: wanted.mtu,
                up: false,
                addresses: Vec::new(),
                neighbors: Vec::new(),
                forwards: Vec::new(),
            };
            kernel.devices.insert(wanted.name, made);
        }
        Change::SetMtu { device, mtu } => kernel.devices.get_mut(&device).unwrap().mtu = mtu,
        Change::SetMac { device, mac } => kernel.devices.get_mut(&device).unwrap().mac = Some(mac),
        Change::SetUp { device } => kernel.devices.get_mut(&device).unwrap().up = true,
        Change::AddAddress { device, address } => {
            kernel.devices.get_mut(&device).unwrap().addresses.push(address)
        }
        Change::DeleteAddress { device, address } => {
            kernel.devices.get_mut(&device).unwrap().addresses.retain(|other| *other != address);
        }
        Change::SetNeighbor(OverlayNeighbor { device, ip, mac }) => {
            let index = index(kernel, &device);
            let device = kernel.devices.get_mut(&device).unwrap();
            assert!(device.up);
            device.neighbors.retain(|other| other.ip != ip);
            device.neighbors.push(Neighbor { index, ip, mac: mac.0, permanent: true });
        }
        Change::DeleteNeighbor { device, ip } => {
            kernel.devices.get_mut(&device).unwrap().neighbors.retain(|other| other.ip != ip);
        }
        Change::SetForward(OverlayForward { device, mac, dst }) => {
            let index = index(kernel, &device);
            let device = kernel.devices.get_mut(&device).unwrap();
            device.forwards.retain(|other| other.mac != mac.0);
            device.forwards.push(FdbEntry { index, mac: mac.0, dst: Some(dst), permanent: true });
        }
        Change::DeleteForward { device, mac, .. } => {
            kernel.devices.get_mut(&device).unwrap().forwards.retain(|other| other.mac != mac.0);
        }
        Change::SetRoute(route) => {
            assert!(
                kernel.devices.get(&route.link).is_none_or(|device| device.up),
                "a route needs its link up"
            );
            let made = kernel_route(&route, index(kernel, &route.link));
            kernel.routes.retain(|other| (other.dst, other.metric) != (made.dst, made.metric));
            kernel.routes.push(made);
        }
        Change::DeleteRoute(route) => {
            let before = kernel.routes.len();
            kernel.routes.retain(|other| *other != route);
            assert_eq!(kernel.routes.len() + 1, before, "{route} was not there");
        }
        Change::SetSysctl { name, value } => {
            kernel.sysctls.insert(name, value);
        }
    }
}

/// A cluster as one of its nodes sees it: which other nodes there are, with what addresses, over what backend.
fn plan(others: &[(u8, u8)], backend: u8, own: u8, mtu: u32) -> OverlayPlan {
    let backend = [
        r#"{"Type":"vxlan"}"#,
        r#"{"Type":"vxlan","Port":4789}"#,
        r#"{"Type":"vxlan","VNI":2,"DirectRouting":true}"#,
        r#"{"Type":"host-gw"}"#,
    ][usize::from(backend)];
    let conf = NetConf::parse(&format!(r#"{{"Network":"10.0.0.0/8","Backend":{backend}}}"#)).unwrap();
    let vni = if backend.contains("\"VNI\":2") { 2 } else { 1 };
    let mut nodes: BTreeMap<Arc<str>, Arc<Node>> = BTreeMap::new();
    let mut add = |name: String, subnet: u8, address: u8| {
        let data = format!(r#"{{"VNI":{vni},"VtepMAC":"02:00:00:00:00:{subnet:02x}"}}"#);
        let node = Node {
            pod_cidrs: vec![format!("10.1.{subnet}.0/24").parse().unwrap()],
            internal_ips: vec![format!("172.18.0.{address}").parse().unwrap()],
            annotations: [("flannel.alpha.coreos.com/backend-data".to_owned(), data)].into(),
            ..Node::default()
        };
        nodes.insert(name.into(), Arc::new(node));
    };
    add("self".to_owned(), 100 + own, 11);
    for (n, address) in others {
        add(format!("node-{n}"), *n, *address);
    }
    let underlay = Underlay {
        link: "eth0".to_owned(),
        mtu,
        addresses: vec!["172.18.0.11/25".parse().unwrap()],
        device_macs: BTreeMap::new(),
    };
    OverlayPlan::new(&nodes, "self", &conf, &underlay)
}

fn any_plan() -> impl Strategy<Value = OverlayPlan> {
    let others = proptest::collection::btree_map(1u8..8, 12u8.., 0..6);
    (others, 0u8..4, 0u8..3, prop_oneof![Just(1500), Just(9000)]).prop_map(|(others, backend, own, mtu)| {
        plan(&others.into_iter().collect::<Vec<_>>(), backend, own, mtu)
    })
}

proptest! {
    #[test]
    fn any_plan_is_reached_from_any_other(plans in proptest::collection::vec(any_plan(), 1..5)) {
        let mut kernel = Observed::default();
        kernel.links.insert("eth0".to_owned(), 2);
        for plan in &plans {
            for change in changes(&kernel, plan) {
                make(&mut kernel, &change);
            }
            prop_assert_eq!(changes(&kernel, plan), vec![]);
            let devices: Vec<&String> = kernel.devices.keys().collect();
            prop_assert_eq!(devices, plan.devices.iter().map(|device| &device.name).collect::<Vec<_>>());
            prop_assert_eq!(kernel.routes.len(), plan.routes.len());
            let neighbors: usize = kernel.devices.values().map(|device| device.neighbors.len()).sum();
            let forwards: usize = kernel.devices.values().map(|device| device.forwards.len()).sum();
            prop_assert_eq!((neighbors, forwards), (plan.neighbors.len(), plan.forwards.len()));
        }
    }
}
