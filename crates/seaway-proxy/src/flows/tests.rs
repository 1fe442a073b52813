//! Tests.

use std::collections::BTreeMap;

use seaway_model::{
    Changes, Endpoint, EndpointPort, EndpointSlice, ObjectName, PortPlan, Service, ServicePort, Snapshot,
};

use super::*;

fn at(address: &str) -> Backend {
    let address: std::net::SocketAddr = address.parse().unwrap();
    Backend { ip: address.ip(), port: address.port() }
}

/// `dns` at 10.96.0.10:53/UDP and `web` at 10.96.0.10:80/TCP, each with one endpoint, 10.244.1.5.
fn plan() -> NodePlan {
    let mut snapshot = Snapshot::default();
    for (name, protocol, port) in [("dns", Protocol::Udp, 53), ("web", Protocol::Tcp, 80)] {
        let name = ObjectName::new("kube-system", name);
        let ports = vec![ServicePort { name: "".into(), protocol, port, node_port: None }];
        let service =
            Service { cluster_ips: vec!["10.96.0.10".parse().unwrap()], ports, ..Service::default() };
        let endpoint = Endpoint {
            addresses: vec!["10.244.1.5".parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node_name: None,
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            target: None,
        };
        let ports = vec![EndpointPort { name: "".into(), protocol, port }];
        let slice = EndpointSlice { service: name.clone(), ports, endpoints: vec![endpoint] };
        snapshot.services.insert_mut(name.clone(), Arc::new(service));
        let mut slices = snapshot.slices.get(&name).cloned().unwrap_or_default();
        slices.insert_mut("slice-1".into(), Arc::new(slice));
        snapshot.slices.insert_mut(name, slices);
    }
    let mut plan = seaway_model::ServicePlan::new("n1");
    plan.update(&snapshot, &Changes::everything());
    NodePlan { services: plan, ..NodePlan::default() }
}

/// Flows by number: protocol, where to, who answers.
#[derive(Default)]
struct Table {
    flows: BTreeMap<u32, (Protocol, Backend, Backend)>,
    /// How many of the next lists fail.
    failures: u32,
    listed: Vec<Kind>,
}

impl Flows for Table {
    type Flow = u32;

    fn list(&mut self, kind: Kind, wanted: &dyn Fn(ServiceAddress, Backend) -> bool) -> io::Result<Vec<u32>> {
        self.listed.push(kind);
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::other("no"));
        }
        let matches = |(of, to, by): &(Protocol, Backend, Backend)| {
            let address = ServiceAddress { ip: to.ip, protocol: *of, port: to.port };
            Kind::of(&address) == kind && wanted(address, *by)
        };
        Ok(self.flows.iter().filter(|(_, flow)| matches(flow)).map(|(id, _)| *id).collect())
    }

    fn delete(&mut self, flows: &[u32]) -> io::Result<usize> {
        Ok(flows.iter().filter(|id| self.flows.remove(id).is_some()).count())
    }
}

/// The flows that are left, and which kinds were listed.
fn left(work: &Pending) -> (Vec<u32>, Vec<Kind>) {
    use Protocol::{Tcp, Udp};
    let flows = [
        (1, Udp, "10.96.0.10:53", "10.244.1.5:53"),
        (2, Udp, "10.96.0.10:53", "10.244.1.4:53"),
        (3, Udp, "10.96.0.10:53", "10.96.0.10:53"),
        (4, Udp, "10.96.0.11:53", "10.244.1.4:53"),
        (5, Udp, "10.96.0.11:53", "10.96.0.11:53"),
        (6, Udp, "192.0.2.53:53", "192.0.2.53:53"),
        (7, Tcp, "10.96.0.10:80", "10.244.1.5:80"),
        (8, Tcp, "10.96.0.10:80", "10.244.1.4:80"),
        (9, Tcp, "10.96.0.10:53", "10.244.1.4:53"),
    ];
    let flows = flows.into_iter().map(|(id, of, to, by)| (id, (of, at(to), at(by)))).collect();
    let mut table = Table { flows, ..Table::default() };
    let before = table.flows.len();
    assert_eq!(clean(&mut table, work).unwrap(), before - table.flows.len());
    (table.flows.into_keys().collect(), table.listed)
}

#[test]
fn flows_that_no_endpoint_answers_go() {
    let work = Pending { all: true, plan: plan(), ..Pending::default() };
    assert_eq!(left(&work), (vec![1, 4, 5, 6, 7, 9], vec![Kind::Udp4, Kind::Unanswered]));
}

#[test]
fn only_addresses_that_changed_are_looked_at() {
    let address = |ip: &str, protocol, port| ServiceAddress { ip: ip.parse().unwrap(), protocol, port };
    let gone = address("10.96.0.11", Protocol::Udp, 53);
    let work = Pending { addresses: [gone].into(), plan: plan(), ..Pending::default() };
    assert_eq!(left(&work), (vec![1, 2, 3, 5, 6, 7, 8, 9], vec![Kind::Udp4]));
    let changed = address("10.96.0.10", Protocol::Tcp, 80);
    let work = Pending { addresses: [changed].into(), plan: plan(), ..Pending::default() };
    assert_eq!(left(&work), (vec![1, 2, 3, 4, 5, 6, 7, 9], vec![Kind::Unanswered]));
}

#[test]
fn what_failed_is_done_with_what_came_meanwhile() {
    let work = Pending { all: true, plan: plan(), ..Pending::default() };
    let mut table = Table { failures: 1, ..Table::default() };
    assert!(clean(&mut table, &work).is_err());
    let mut pending = Pending::default();
    pending.take_back(work);
    assert!(pending.all && pending.plan == plan());
    let address = ServiceAddress { ip: "10.96.0.11".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
    let services = seaway_model::ServicePlan::new("newer");
    let newer = NodePlan { services, ..NodePlan::default() };
    let mut pending = Pending { addresses: [address].into(), plan: newer.clone(), ..Pending::default() };
    pending.take_back(Pending { all: true, plan: plan(), ..Pending::default() });
    assert!(pending.all && pending.plan == newer && pending.addresses.contains(&address));
}

#[test]
fn an_address_that_only_gains_endpoints_leaves_no_flows() {
    let address = ServiceAddress { ip: "10.96.0.10".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
    let with = |backends: &[&str]| {
        let mut port = PortPlan::clone(plan().services.port(&address).unwrap());
        port.backends = backends.iter().map(|backend| at(backend)).collect();
        Some(Arc::new(port))
    };
    let (one, other) = ("10.244.1.5:53", "10.244.2.5:53");
    for (before, after, leaves) in [
        (None, with(&[one]), true),
        (with(&[]), with(&[one]), true),
        (with(&[one]), with(&[one, other]), false),
        (with(&[one]), with(&[one]), false),
        (with(&[one, other]), with(&[one]), true),
        (with(&[one]), with(&[other]), true),
        (with(&[one]), None, true),
    ] {
        assert_eq!(leaves_flows(&PortChange { address, before, after }), leaves);
    }
}
