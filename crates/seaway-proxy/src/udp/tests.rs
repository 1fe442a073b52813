//! Tests.

use std::collections::BTreeMap;

use seaway_model::{
    Changes, Endpoint, EndpointPort, EndpointSlice, ObjectName, Service, ServicePort, Snapshot,
};

use super::*;

fn at(address: &str) -> Backend {
    let address: std::net::SocketAddr = address.parse().unwrap();
    Backend { ip: address.ip(), port: address.port() }
}

/// `dns` at 10.96.0.10:53/UDP with one endpoint, 10.244.1.5:53.
fn plan() -> ServicePlan {
    let name = ObjectName::new("kube-system", "dns");
    let port = ServicePort { name: "".into(), protocol: Protocol::Udp, port: 53, node_port: None };
    let service =
        Service { cluster_ips: vec!["10.96.0.10".parse().unwrap()], ports: vec![port], ..Service::default() };
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
    let ports = vec![EndpointPort { name: "".into(), protocol: Protocol::Udp, port: 53 }];
    let slice = EndpointSlice { service: name.clone(), ports, endpoints: vec![endpoint] };
    let mut snapshot = Snapshot::default();
    snapshot.services.insert_mut(name.clone(), Arc::new(service));
    let mut slices = snapshot.slices.get(&name).cloned().unwrap_or_default();
    slices.insert_mut("dns-1".into(), Arc::new(slice));
    snapshot.slices.insert_mut(name, slices);
    let mut plan = ServicePlan::new("n1");
    plan.update(&snapshot, &Changes::everything());
    plan
}

struct Table(BTreeMap<u32, (Backend, Backend)>);

impl UdpFlows for Table {
    type Flow = u32;

    fn list(&mut self, wanted: &dyn Fn(Backend, Backend) -> bool) -> io::Result<Vec<u32>> {
        let flows = self.0.iter().filter(|(_, (destination, answerer))| wanted(*destination, *answerer));
        Ok(flows.map(|(id, _)| *id).collect())
    }

    fn delete(&mut self, flows: &[u32]) -> io::Result<usize> {
        Ok(flows.iter().filter(|id| self.0.remove(id).is_some()).count())
    }
}

fn left(work: &Pending) -> Vec<u32> {
    let flows = [
        (1, ("10.96.0.10:53", "10.244.1.5:53")),
        (2, ("10.96.0.10:53", "10.244.1.4:53")),
        (3, ("10.96.0.10:53", "10.96.0.10:53")),
        (4, ("10.96.0.11:53", "10.244.1.4:53")),
        (5, ("10.96.0.11:53", "10.96.0.11:53")),
        (6, ("192.0.2.53:53", "192.0.2.53:53")),
    ];
    let mut table = Table(flows.into_iter().map(|(id, (to, by))| (id, (at(to), at(by)))).collect());
    let before = table.0.len();
    assert_eq!(clean(&mut table, work).unwrap(), before - table.0.len());
    table.0.into_keys().collect()
}

#[test]
fn flows_that_no_endpoint_answers_go() {
    assert_eq!(left(&Pending { all: true, plan: plan(), ..Pending::default() }), [1, 4, 5, 6]);
}

#[test]
fn only_addresses_that_changed_are_looked_at() {
    let gone = ServiceAddress { ip: "10.96.0.11".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
    let work = Pending { addresses: [gone].into(), plan: plan(), ..Pending::default() };
    assert_eq!(left(&work), [1, 2, 3, 5, 6]);
}
