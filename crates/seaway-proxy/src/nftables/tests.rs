//! Tests against the stateful fake: what is committed, and how much.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use seaway_model::{
    Backend, Changes, Endpoint, EndpointPort, EndpointSlice, Service, ServicePlan, ServicePort, Snapshot,
};
use seaway_net::nft::{Data, Fake, Observed, Value, Verdict};

use super::*;

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
}

impl Cluster {
    fn new() -> Self {
        let nets = [["10.244.0.0/16".parse().unwrap()], ["10.244.1.0/24".parse().unwrap()]];
        let egress = EgressPlan::new(&nets[0], &nets[1], &[]);
        Self { snapshot: Snapshot::default(), plan: NodePlan { services: ServicePlan::new("n1"), egress } }
    }

    fn set(&mut self, service: u16, hosts: &[u8]) -> PlanDiff {
        let [high, low] = service.to_be_bytes();
        self.set_at(service, IpAddr::from([10, 96, high, low]), hosts)
    }

    fn set_at(&mut self, service: u16, vip: IpAddr, hosts: &[u8]) -> PlanDiff {
        let name = name(&format!("s{service}"));
        let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let object = Service { cluster_ips: vec![vip], ports: vec![port], ..Service::default() };
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

/// The backends that the table gives to each address, as a packet would find them.
fn found(table: &Observed) -> BTreeMap<Value, Vec<Value>> {
    let endpoints = &table.sets["endpoints"].elements;
    let mut found = BTreeMap::new();
    for (address, element) in &table.sets["services"].elements {
        let Some(Data::Verdict(Verdict::Goto(chain))) = &element.data else { panic!("{element:?}") };
        assert!(table.chains.contains_key(chain), "{chain} is missing");
        let count = ruleset::pick_count(chain).unwrap();
        let backend = |index: u32| {
            let key = Value::from_bytes(&[address.bytes(), &index.to_ne_bytes()].concat());
            match &endpoints[&key].data {
                Some(Data::Value(value)) => value.clone(),
                other => panic!("{other:?}"),
            }
        };
        found.insert(address.clone(), (0..count).map(backend).collect());
    }
    let total: usize = found.values().map(Vec::len).sum();
    assert_eq!(total, endpoints.len(), "endpoints that no service leads to");
    found
}

fn planned(plan: &NodePlan) -> BTreeMap<Value, Vec<Value>> {
    let value = |backend: &Backend| Value::new().address(backend.ip).port(backend.port);
    let ports = plan.services.ports().filter(|port| !port.backends.is_empty());
    ports
        .map(|port| (ruleset::service_key(&port.address), port.backends.iter().map(value).collect()))
        .collect()
}

fn sorted(mut map: BTreeMap<Value, Vec<Value>>) -> BTreeMap<Value, Vec<Value>> {
    map.values_mut().for_each(|backends| backends.sort());
    map
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
    assert_eq!(costs[0].0, Report { full: false, operations: 5 });
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
    assert_eq!(driver.sync(&cluster.plan).unwrap(), Report { full: true, operations: 0 });
    // So does a driver that starts anew.
    let mut heir = NftablesDriver::new(driver.nft);
    assert_eq!(
        heir.apply(&cluster.plan, &PlanDiff::default()).unwrap(),
        Report { full: true, operations: 0 }
    );
    assert_eq!(heir.nft.generation().unwrap(), generation);
    assert_eq!(heir.dry_run(&cluster.plan).unwrap(), "");
}

#[test]
fn a_flushed_table_comes_back() {
    let mut cluster = Cluster::new();
    cluster.set(1, &[1, 2]);
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    let before = found(&read(&mut driver.nft));
    driver.nft.flush_ruleset();
    driver.mark_dirty();
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full);
    assert_eq!(found(&read(&mut driver.nft)), before);
}

#[test]
fn a_refusal_names_the_service_and_the_next_call_compares_everything() {
    let mut cluster = Cluster::new();
    cluster.set(1, &[1, 2]);
    let mut driver = NftablesDriver::new(Fake::new());
    driver.sync(&cluster.plan).unwrap();
    // Someone takes an element away behind the driver's back; to remove it is refused.
    let table = ruleset::skeleton(IpFamily::V4, &cluster.plan.egress);
    let spec = table.sets.iter().find(|set| set.spec.name == "services").unwrap().spec.clone();
    let mut theft = Transaction::new(TableId::new(seaway_net::nft::Family::Ip, "seaway"));
    let port = cluster.plan.services.ports().next().unwrap().address;
    theft.delete_element(&spec, ruleset::service_key(&port), ruleset::service_data(2));
    driver.nft.commit(&theft).unwrap();
    let diff = cluster.set(1, &[1]);
    let error = driver.apply(&cluster.plan, &diff).unwrap_err();
    assert_eq!(error.service(), Some(&name("s1")), "{error}");
    assert!(error.to_string().starts_with("Service default/s1: table ip seaway: delete"), "{error}");
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full);
    assert_eq!(found(&read(&mut driver.nft)), planned(&cluster.plan));
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
    assert!(picks <= 16 + 64 + 1, "{picks}");
    assert!((1..=16).all(|count| chains.contains_key(&format!("pick_{count}"))), "{:?}", chains.keys());
    assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 0);
}

proptest! {
    #[test]
    fn by_steps_and_at_once_give_the_same(
        steps in proptest::collection::vec((0..5_u16, proptest::option::of(proptest::collection::btree_set(1..9_u8, 0..6))), 1..30),
    ) {
        let mut cluster = Cluster::new();
        let mut driver = NftablesDriver::new(Fake::new());
        driver.sync(&cluster.plan).unwrap();
        for (service, hosts) in steps {
            let diff = match hosts {
                Some(hosts) => cluster.set(service, &hosts.into_iter().collect::<Vec<_>>()),
                None => cluster.remove(service),
            };
            prop_assert!(!driver.apply(&cluster.plan, &diff).unwrap().full);
            let table = read(&mut driver.nft);
            prop_assert_eq!(sorted(found(&table)), sorted(planned(&cluster.plan)));
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
        let mut cluster = Cluster::new();
        let set = |cluster: &mut Cluster, all: Vec<std::collections::BTreeSet<u8>>| {
            for (service, hosts) in (0..).zip(all) {
                cluster.set(service, &hosts.into_iter().collect::<Vec<_>>());
            }
        };
        set(&mut cluster, first);
        let mut driver = NftablesDriver::new(Fake::new());
        driver.sync(&cluster.plan).unwrap();
        let table = ruleset::skeleton(IpFamily::V4, &cluster.plan.egress);
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
    let mut cluster = Cluster::new();
    cluster.set(7, &[1, 2]);
    let text = NftablesDriver::new(Fake::new()).dry_run(&cluster.plan).unwrap();
    insta::assert_snapshot!(text);
}
