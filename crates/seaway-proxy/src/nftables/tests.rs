//! Tests against the stateful fake: what is committed, and how much.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use std::time::Duration;

use seaway_model::{
    Backend, Caller, Changes, Endpoint, EndpointPort, EndpointSlice, LoadBalancerAddress, LocalSources,
    PortPlan, Refusal, Service, ServicePlan, ServicePort, ServiceType, Snapshot, TrafficPolicy,
};
use seaway_net::nft::{Data, Element, Fake, Observed, Value, Verdict};

use super::*;
use crate::ruleset::NumberedChain;

mod refused;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

/// A cluster of services `s<N>` at 10.96.x.y:80 whose endpoints are hosts of 10.244.0.0/16; the even ones are local.
struct Cluster {
    snapshot: Snapshot,
    plan: NodePlan,
    /// Services have a node port and a load balancer's address, for callers of some sources, and the even ones the Local
    /// policy.
    exposed: bool,
}

impl Cluster {
    fn new() -> Self {
        let nets = [["10.244.0.0/16".parse().unwrap()], ["10.244.1.0/24".parse().unwrap()]];
        let egress = EgressPlan::new(&nets[0], &nets[1], &[]);
        let local_sources = LocalSources::Networks(nets[0].to_vec());
        let proxy = ProxyPlan {
            local_sources,
            node_port_networks: vec!["172.18.0.11/32".parse().unwrap()],
            ..ProxyPlan::default()
        };
        let plan = NodePlan { services: ServicePlan::new("n1"), egress, proxy };
        Self { snapshot: Snapshot::default(), plan, exposed: false }
    }

    fn exposed() -> Self {
        Self { exposed: true, ..Self::new() }
    }

    fn set(&mut self, service: u16, hosts: &[u8]) -> PlanDiff {
        let [high, low] = service.to_be_bytes();
        self.set_at(service, IpAddr::from([10, 96, high, low]), hosts)
    }

    fn set_at(&mut self, service: u16, vip: IpAddr, hosts: &[u8]) -> PlanDiff {
        let name = name(&format!("s{service}"));
        let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let mut object = Service { cluster_ips: vec![vip], ports: vec![port], ..Service::default() };
        if self.exposed {
            let even = service.is_multiple_of(2);
            object.kind = ServiceType::LoadBalancer;
            object.external_policy = if even { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            object.ports[0].node_port = Some(30_000 + service);
            object.load_balancer =
                vec![LoadBalancerAddress { ip: [192, 0, 2, service.to_be_bytes()[1]].into(), is_vip: true }];
            object.affinity = (service % 3 == 1).then_some(Duration::from_secs(10));
            object.source_ranges = vec!["192.0.2.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        }
        let endpoint = |host: &u8| Endpoint {
            addresses: vec![if vip.is_ipv6() {
                ip(&format!("fd00::{host}"))
            } else {
                [10, 244, 1, *host].into()
            }],
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node_name: Some(if host.is_multiple_of(2) { "n1".into() } else { "n2".into() }),
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            target: None,
        };
        let ports = vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }];
        let slice =
            EndpointSlice { service: name.clone(), ports, endpoints: hosts.iter().map(endpoint).collect() };
        self.snapshot.services.insert_mut(name.clone(), Arc::new(object));
        let mut slices = self.snapshot.slices.get(&name).cloned().unwrap_or_default();
        slices.insert_mut("x".into(), Arc::new(slice));
        self.snapshot.slices.insert_mut(name.clone(), slices);
        self.follow(name)
    }

    fn remove(&mut self, service: u16) -> PlanDiff {
        let name = name(&format!("s{service}"));
        self.snapshot.services.remove_mut(&name);
        self.follow(name)
    }

    fn follow(&mut self, name: ObjectName) -> PlanDiff {
        self.snapshot.generation += 1;
        let changes = Changes { services: [name].into(), ..Changes::default() };
        self.plan.services.update(&self.snapshot, &changes)
    }
}

fn read(fake: &mut Fake) -> Observed {
    fake.read_table(&TableId::new(seaway_net::nft::Family::Ip, "seaway")).unwrap().unwrap()
}

fn service_key(address: &ServiceAddress) -> Value {
    Value::new().address(address.ip).protocol(address.protocol.number()).port(address.port)
}

fn backend_value(backend: &Backend) -> Value {
    Value::new().address(backend.ip).port(backend.port)
}

fn key_of(port: &PortPlan) -> Value {
    let key = service_key(&port.address);
    if port.address.is_node_port() { Value::from_bytes(&key.bytes()[4..]) } else { key }
}

/// The endpoints that a packet finds by `verdict` at `key`, sorted.
fn picked(table: &Observed, endpoints: &str, key: &Value, verdict: &Element) -> Vec<Value> {
    let Some(Data::Verdict(Verdict::Goto(chain))) = &verdict.data else { panic!("{verdict:?}") };
    assert!(table.chains.contains_key(chain), "{chain} is missing");
    let Some(NumberedChain::Pick { count, from, .. }) = NumberedChain::of_name(chain) else {
        panic!("{chain}")
    };
    let backend = |index: u32| {
        let key = Value::from_bytes(&[key.bytes(), &index.to_ne_bytes()].concat());
        match &table.sets[endpoints].elements[&key].data {
            Some(Data::Value(value)) => value.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut picked: Vec<Value> = (from..from + count).map(backend).collect();
    picked.sort();
    picked
}

/// What a packet finds in the table is what the plan says.
fn assert_does(table: &Observed, plan: &NodePlan) {
    let (mut services, mut node_ports) = (0, 0);
    for port in plan.services.ports() {
        let of_node = port.address.is_node_port();
        let (maps, endpoints) = if of_node {
            (["node_ports", "node_ports_outside", "refused_node_ports"], "node_port_endpoints")
        } else {
            (["services", "services_outside", "refused"], "endpoints")
        };
        *(if of_node { &mut node_ports } else { &mut services }) += port.backends.len();
        let key = key_of(port);
        let at = |map: &str| table.sets[map].elements.get(&key);
        for caller in [Caller::Inside, Caller::Outside] {
            let outside = (caller == Caller::Outside).then(|| at(maps[1])).flatten();
            let found = outside.or_else(|| at(maps[0]));
            let mut wanted: Vec<Value> = port.candidates(caller).iter().map(backend_value).collect();
            wanted.sort();
            let is = |verdict: Verdict| found.is_some_and(|it| it.data == Some(Data::Verdict(verdict)));
            match (wanted.is_empty(), port.refusal()) {
                (false, _) => assert_eq!(picked(table, endpoints, &key, found.unwrap()), wanted, "{port:?}"),
                (true, Refusal::Drop) => assert!(is(Verdict::Drop), "{port:?}: {found:?}"),
                (true, Refusal::Reject) => {
                    assert!(found.is_none() || is(Verdict::Accept), "{port:?}: {found:?}");
                    let refused = at(maps[2]).is_some();
                    assert_eq!(refused, port.kind.is_external(), "{port:?}");
                }
            }
        }
    }
    assert_eq!(table.sets["endpoints"].elements.len(), services, "endpoints that no service leads to");
    assert_eq!(table.sets["node_port_endpoints"].elements.len(), node_ports);
}

#[test]
fn one_more_service_costs_the_same_among_many() {
    let mut costs = Vec::new();
    for size in [10, 1000] {
        let mut cluster = Cluster::new();
        for service in 0..size {
            cluster.set(service, &[1, 2, 3]);
        }
        let mut driver = NftablesDriver::new(Fake::new());
        assert!(driver.sync(&cluster.plan).unwrap().full);
        let reads = driver.nft.committed.len();
        let diff = cluster.set(size, &[1, 2, 3]);
        let more = driver.apply(&cluster.plan, &diff).unwrap();
        let diff = cluster.set(size, &[1, 3]);
        let fewer = driver.apply(&cluster.plan, &diff).unwrap();
        assert_eq!(driver.nft.committed.len(), reads + 2, "one transaction for each change");
        costs.push((more, fewer));
    }
    assert_eq!(costs[0], costs[1]);
    // A service, its cluster IP and three endpoints.
    assert_eq!(costs[0].0, Report { operations: 5, ..Report::default() });
}

#[test]
fn nothing_is_committed_where_nothing_differs() {
    let mut cluster = Cluster::new();
    for service in 0..20 {
        cluster.set(service, &[1, 2, 3, 4]);
    }
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    // History makes the kernel's order another than the plan's.
    for (service, hosts) in [(3, &[2, 4, 9][..]), (4, &[]), (5, &[1]), (3, &[1, 2, 4, 9])] {
        let diff = cluster.set(service, hosts);
        driver.apply(&cluster.plan, &diff).unwrap();
    }
    let diff = cluster.remove(7);
    driver.apply(&cluster.plan, &diff).unwrap();
    let generation = driver.nft.generation().unwrap();
    assert_eq!(driver.sync(&cluster.plan).unwrap(), Report { full: true, ..Report::default() });
    // So does a driver that starts anew.
    let mut heir = NftablesDriver::new(driver.nft);
    assert_eq!(
        heir.apply(&cluster.plan, &PlanDiff::default()).unwrap(),
        Report { full: true, ..Report::default() }
    );
    assert_eq!(heir.nft.generation().unwrap(), generation);
    assert_eq!(heir.dry_run(&cluster.plan).unwrap(), "");
}

#[test]
fn a_large_table_is_filled_before_it_has_rules() {
    let mut cluster = Cluster::new();
    for service in 0..3000 {
        cluster.set(service, &[1, 2]);
    }
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    assert_does(&read(&mut driver.nft), &cluster.plan);
    let of = |stage: &Transaction| {
        let (mut elements, mut rules) = (0, 0);
        for operation in &stage.operations {
            match operation {
                Operation::AddElements(_, added) => elements += added.len(),
                Operation::AddRule { .. } => rules += 1,
                _ => {}
            }
        }
        (elements, rules)
    };
    let stages: Vec<(usize, usize)> = driver.nft.committed.iter().map(of).collect();
    let (last, before) = stages.split_last().unwrap();
    // A service, its cluster IP and two endpoints each.
    assert!(before.len() >= 2 && before.iter().all(|stage| *stage == (AT_ONCE, 0)), "{stages:?}");
    assert!(last.0 <= AT_ONCE && last.1 > 0, "{stages:?}");
}

#[test]
fn a_flushed_table_comes_back() {
    let mut cluster = Cluster::new();
    cluster.set(1, &[1, 2]);
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    driver.nft.flush_ruleset();
    driver.mark_dirty();
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full);
    assert_does(&read(&mut driver.nft), &cluster.plan);
}

#[test]
fn what_someone_took_away_is_read_again_and_put_back_at_once() {
    let mut cluster = Cluster::new();
    cluster.set(1, &[1, 2]);
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    // Someone takes an element away behind the driver's back; to remove it is refused.
    let table = ruleset::skeleton(IpFamily::V4, &cluster.plan.egress, &cluster.plan.proxy);
    let spec = table.sets.iter().find(|set| set.spec.name == "services").unwrap().spec.clone();
    let mut theft = Transaction::new(TableId::new(seaway_net::nft::Family::Ip, "seaway"));
    let port = cluster.plan.services.ports().next().unwrap().address;
    theft.delete_element(&spec, service_key(&port), Element::default());
    driver.nft.commit(&theft).unwrap();
    let diff = cluster.set(1, &[1]);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, report.refused.len()), (true, 0));
    assert_does(&read(&mut driver.nft), &cluster.plan);
}

#[test]
fn ipv6_has_a_table_when_it_is_used() {
    let id = TableId::new(seaway_net::nft::Family::Ip6, "seaway");
    let mut cluster = Cluster::new();
    cluster.set(1, &[1]);
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    assert_eq!(driver.nft.read_table(&id).unwrap(), None);
    let diff = cluster.set_at(2, ip("fd00:10::2"), &[1, 2]);
    driver.apply(&cluster.plan, &diff).unwrap();
    let table = driver.nft.read_table(&id).unwrap().unwrap();
    assert_eq!(table.sets["endpoints"].elements.len(), 2);
    let diff = cluster.remove(2);
    driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!(driver.nft.read_table(&id).unwrap(), None);
}

#[test]
fn idle_chains_stay_within_bounds() {
    let mut cluster = Cluster::new();
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    let hosts: Vec<u8> = (1..=150).collect();
    for count in (1..hosts.len()).chain((1..hosts.len()).rev()) {
        let diff = cluster.set(1, &hosts[..count]);
        driver.apply(&cluster.plan, &diff).unwrap();
    }
    let chains = read(&mut driver.nft).chains;
    let picks = chains.keys().filter(|name| name.starts_with("pick_")).count();
    assert!(picks <= 2 * 16 + 64 + 1, "{picks}");
    assert!((1..=16).all(|count| chains.contains_key(&format!("pick_{count}"))), "{:?}", chains.keys());
    assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 0);
}

proptest! {
    #[test]
    fn by_steps_and_at_once_give_the_same(
        steps in proptest::collection::vec((0..5_u16, proptest::option::of(proptest::collection::btree_set(1..9_u8, 0..6))), 1..30),
    ) {
        let mut cluster = Cluster::exposed();
        let mut driver = NftablesDriver::new(Fake::new());
        driver.sync(&cluster.plan).unwrap();
        for (service, hosts) in steps {
            let diff = match hosts {
                Some(hosts) => cluster.set(service, &hosts.into_iter().collect::<Vec<_>>()),
                None => cluster.remove(service),
            };
            prop_assert!(!driver.apply(&cluster.plan, &diff).unwrap().full);
            let table = read(&mut driver.nft);
            assert_does(&table, &cluster.plan);
            // Each has its local endpoints first.
            for port in cluster.plan.services.ports().filter(|port| !port.backends.is_empty()) {
                let slots = &driver.programmed[&IpFamily::V4].slots()[&port.address];
                let local: std::collections::BTreeSet<_> = port.local_backends().iter().collect();
                prop_assert!(slots[..port.local].iter().all(|backend| local.contains(backend)));
            }
            let ips: Vec<IpAddr> = cluster.plan.services.cluster_ips().collect();
            prop_assert_eq!(table.sets["cluster_ips"].elements.len(), ips.len());
            prop_assert_eq!(table.sets["hairpin"].elements.len(), cluster.plan.services.local_endpoints().count());
            prop_assert_eq!(driver.dry_run(&cluster.plan).unwrap(), "");
        }
    }

    /// What is told and what is done: the one is empty just where the other is.
    #[test]
    fn differences_are_told_where_a_sync_would_make_changes(
        first in proptest::collection::vec(proptest::collection::btree_set(1..9_u8, 0..6), 4),
        second in proptest::collection::vec(proptest::collection::btree_set(1..9_u8, 0..6), 4),
        thefts in proptest::collection::vec(0..9_usize, 0..3),
    ) {
        let mut cluster = Cluster::exposed();
        let set = |cluster: &mut Cluster, all: Vec<std::collections::BTreeSet<u8>>| {
            for (service, hosts) in (0..).zip(all) {
                cluster.set(service, &hosts.into_iter().collect::<Vec<_>>());
            }
        };
        set(&mut cluster, first);
        let mut driver = NftablesDriver::new(Fake::new());
        driver.sync(&cluster.plan).unwrap();
        let table = ruleset::skeleton(IpFamily::V4, &cluster.plan.egress, &cluster.plan.proxy);
        let spec = table.sets.iter().find(|set| set.spec.name == "endpoints").unwrap().spec.clone();
        for theft in thefts {
            let there = read(&mut driver.nft).sets["endpoints"].elements.clone();
            if let Some((key, element)) = there.into_iter().nth(theft) {
                let mut transaction = Transaction::new(TableId::new(seaway_net::nft::Family::Ip, "seaway"));
                transaction.delete_element(&spec, key, element);
                driver.nft.commit(&transaction).unwrap();
                let told = driver.differences(&cluster.plan).unwrap();
                prop_assert!(told.iter().all(|one| one.actual.is_none()), "{:?}", told);
            }
        }
        for round in 0..2 {
            let told = driver.differences(&cluster.plan).unwrap();
            prop_assert_eq!(told.is_empty(), driver.dry_run(&cluster.plan).unwrap().is_empty(), "{:?}", told);
            if round == 0 {
                set(&mut cluster, second.clone());
            }
        }
        driver.sync(&cluster.plan).unwrap();
        prop_assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
    }
}

#[test]
fn the_ruleset_reads_like_this() {
    let mut cluster = Cluster::exposed();
    cluster.set(7, &[1, 2]);
    cluster.set(8, &[]);
    cluster.set(10, &[1, 2]);
    let text = NftablesDriver::new(Fake::new()).dry_run(&cluster.plan).unwrap();
    insta::assert_snapshot!(text);
}
