//! What every service driver does, whatever it programs: the same questions to all that there are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Cluster, ip};
use seaway_model::{ObjectName, PlanDiff, Protocol};
use seaway_net::netns::NetNs;
use seaway_net::nft::{Elements, Fake, Family, Kernel, Nft, NftError, Observed, TableId, Transaction};
use seaway_proxy::{DriverError, FakeDriver, NftablesDriver, ServiceDriver, TABLE};

/// A cluster of ten Services of two endpoints.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    for number in 1..=10 {
        set(&mut cluster, number, 2);
    }
    cluster
}

fn set(cluster: &mut Cluster, number: u8, endpoints: u8) -> PlanDiff {
    let endpoints: Vec<_> = (1..=endpoints).map(|host| ip(&format!("10.244.2.{host}"))).collect();
    cluster.set(&format!("s{number}"), &format!("10.96.0.{number}"), Protocol::Tcp, &endpoints)
}

fn each_driver(mut check: impl FnMut(&str, &mut dyn ServiceDriver)) {
    check("fake", &mut FakeDriver::new());
    check("nftables with a fake", &mut NftablesDriver::new(Fake::new()));
    let ns = NetNs::new().unwrap();
    check("nftables", &mut NftablesDriver::new(ns.run(|| Kernel::open().unwrap()).unwrap()));
}

#[test]
fn first_everything_then_changes_alone() {
    each_driver(|name, driver| {
        let mut cluster = cluster();
        assert!(!driver.dry_run(&cluster.plan).unwrap().is_empty(), "{name}");
        let report = driver.apply(&cluster.plan, &PlanDiff::default()).unwrap();
        assert!(report.full && report.operations >= 10 && report.refused.is_empty(), "{name}: {report:?}");
        assert_eq!(driver.dry_run(&cluster.plan).unwrap(), "", "{name}");
        for (number, endpoints) in [(3, 5), (3, 0), (11, 1), (4, 3)] {
            let diff = set(&mut cluster, number, endpoints);
            assert!(!driver.differences(&cluster.plan).unwrap().is_empty(), "{name}");
            let report = driver.apply(&cluster.plan, &diff).unwrap();
            assert!(!report.full && report.operations > 0, "{name}: {report:?}");
            assert_eq!(driver.differences(&cluster.plan).unwrap(), [], "{name}");
        }
        let diff = cluster.remove("s5");
        assert!(!driver.apply(&cluster.plan, &diff).unwrap().full, "{name}");
        assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 0, "{name}");
    });
}

#[test]
fn what_holds_for_all_services_and_what_others_did_takes_a_look_at_everything() {
    each_driver(|name, driver| {
        let mut cluster = cluster();
        driver.sync(&cluster.plan).unwrap();
        driver.mark_dirty();
        assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full, "{name}");
        assert!(!driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full, "{name}");
        cluster.plan.egress.pod_networks.push(common::net("10.245.0.0/16"));
        assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full, "{name}");
    });
}

/// A fake that the test can still talk to.
struct Shared(Arc<Mutex<Fake>>);

impl Nft for Shared {
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError> {
        self.0.lock().unwrap().read_table(table)
    }

    fn read_elements(&mut self, table: &TableId, set: &str) -> Result<Option<Elements>, NftError> {
        self.0.lock().unwrap().read_elements(table, set)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.0.lock().unwrap().commit(transaction)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.0.lock().unwrap().generation()
    }
}

/// The first Service is refused; then it is not.
fn keeps_out_one(driver: &mut dyn ServiceDriver, stop_refusing: impl FnOnce()) {
    let mut cluster = cluster();
    let report = driver.sync(&cluster.plan).unwrap();
    let told: Vec<String> = report.refused.iter().map(|refused| refused.service.to_string()).collect();
    assert_eq!(told, ["default/s1"]);
    let diff = set(&mut cluster, 2, 4);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert!(!report.full && report.refused.len() == 1);
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
    stop_refusing();
    let diff = set(&mut cluster, 1, 4);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert!(!report.full && report.refused.is_empty());
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
}

#[test]
fn a_service_that_is_refused_is_told_and_kept_out() {
    let fake = FakeDriver::new();
    let name = ObjectName::new("default", "s1");
    fake.refuse(name.clone(), true);
    keeps_out_one(&mut fake.clone(), || fake.refuse(name, false));
    assert_eq!((fake.programmed().len(), fake.calls()), (10, (1, 2)));

    let nft = Arc::new(Mutex::new(Fake::new()));
    let table = TableId::new(Family::Ip, TABLE);
    nft.lock().unwrap().refuse(&table, "element of set services: 10.96.0.1 ", 22);
    keeps_out_one(&mut NftablesDriver::new(Shared(nft.clone())), || nft.lock().unwrap().refuse_nothing());
}

#[test]
fn after_an_error_everything_is_compared() {
    let fake = FakeDriver::new();
    let mut driver = fake.clone();
    let mut cluster = cluster();
    driver.sync(&cluster.plan).unwrap();
    fake.fail(Some("no kernel"));
    let lost = set(&mut cluster, 1, 7);
    let error: DriverError = driver.apply(&cluster.plan, &lost).unwrap_err();
    assert_eq!(error.to_string(), "no kernel");
    fake.fail(None);
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().full);
    // A diff that leaves something out is found out.
    set(&mut cluster, 2, 7);
    let error = driver.apply(&cluster.plan, &PlanDiff::default()).unwrap_err();
    assert!(error.to_string().starts_with("the diff does not lead to the plan"), "{error}");
    // And so is what someone took away.
    driver.sync(&cluster.plan).unwrap();
    let address = *fake.programmed().keys().next().unwrap();
    fake.take_away(&address);
    assert_eq!(driver.differences(&cluster.plan).unwrap().len(), 1);
    assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 1);
}
