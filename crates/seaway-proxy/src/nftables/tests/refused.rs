//! What the kernel refuses is kept out, and the rest is in force.

use super::*;

fn table() -> TableId {
    TableId::new(IpFamily::V4.family(), TABLE)
}

/// Ten services of two endpoints, s1 to s10, and a driver that has programmed them but for those at these addresses.
fn programmed(refused: &[&str]) -> (Cluster, NftablesDriver<Fake>, Report) {
    let mut cluster = Cluster::new();
    for service in 1..=10 {
        cluster.set(service, &[1, 2]);
    }
    let mut driver = NftablesDriver::new(Fake::new());
    for ip in refused {
        driver.nft.refuse(&table(), &format!("element of set services: {ip} "), ENFILE);
    }
    let report = driver.sync(&cluster.plan).unwrap();
    (cluster, driver, report)
}

/// What the kernel says of a set that is full.
const ENFILE: i32 = 23;
/// What it says where memory is short.
const ENOMEM: i32 = 12;

fn services(report: &Report) -> Vec<String> {
    report.refused.iter().map(|refused| refused.service.name.to_string()).collect()
}

/// The addresses that have endpoints in the kernel.
fn in_force(driver: &mut NftablesDriver<Fake>) -> Vec<String> {
    let observed = driver.nft.read_table(&table()).unwrap().unwrap();
    let addresses = indices(&observed, IpFamily::V4).into_keys().map(|address| address.ip.to_string());
    let mut addresses: Vec<String> = addresses.collect();
    addresses.sort();
    addresses
}

#[test]
fn a_service_that_is_refused_keeps_none_of_the_others_out() {
    let (mut cluster, mut driver, report) = programmed(&["10.96.0.3", "10.96.0.7"]);
    assert_eq!(services(&report), ["s3", "s7"]);
    let expected = "Service default/s3: element of set services: 10.96.0.3 . tcp . 80 : goto pick_2: \
         Too many open files in system (os error 23)";
    assert_eq!(report.refused[0].to_string(), expected);
    assert_eq!(in_force(&mut driver).len(), 8);
    // Callers are refused: it is a cluster IP still.
    let observed = driver.nft.read_table(&table()).unwrap().unwrap();
    assert_eq!(observed.sets[SetId::ClusterIps.name()].elements.len(), 10);
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);

    // Others go on as ever, one transaction a change.
    let commits = driver.nft.committed.len();
    let diff = cluster.set(5, &[1, 2, 3]);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, services(&report)), (false, vec!["s3".into(), "s7".into()]));
    assert_eq!(driver.nft.committed.len(), commits + 1);
}

#[test]
fn it_is_tried_again_when_it_changes() {
    let (mut cluster, mut driver, _) = programmed(&["10.96.0.3", "10.96.0.7"]);
    // In vain, but what changes with it comes through, and nothing is read for it.
    let mut diff = cluster.set(3, &[1]);
    let other = cluster.set(4, &[9]);
    diff.ports.extend(other.ports);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, services(&report)), (false, vec!["s3".into(), "s7".into()]));
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
    // And with success.
    driver.nft.refuse_nothing();
    let diff = cluster.set(3, &[1, 5]);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, services(&report)), (false, vec!["s7".into()]));
    assert!(in_force(&mut driver).contains(&"10.96.0.3".to_owned()));
    // One that goes is not told of any more.
    let diff = cluster.remove(7);
    assert!(driver.apply(&cluster.plan, &diff).unwrap().refused.is_empty());
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
    assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 0);
}

#[test]
fn it_is_tried_again_after_a_while() {
    let (cluster, driver, _) = programmed(&["10.96.0.3"]);
    let mut driver = driver.retrying_refused_after(Duration::ZERO);
    assert_eq!(services(&driver.sync(&cluster.plan).unwrap()), ["s3"]);
    let nothing = PlanDiff::default();
    let report = driver.apply(&cluster.plan, &nothing).unwrap();
    assert_eq!((report.full, services(&report)), (false, vec!["s3".into()]));
    driver.nft.refuse_nothing();
    let report = driver.apply(&cluster.plan, &nothing).unwrap();
    assert_eq!((report.full, report.refused.len()), (false, 0));
    assert_eq!(in_force(&mut driver).len(), 10);
}

#[test]
fn one_that_comes_refused_is_kept_out_at_once() {
    let (mut cluster, mut driver, report) = programmed(&[]);
    assert!(report.refused.is_empty());
    driver.nft.refuse(&table(), "element of set endpoints: 10.96.0.11 . tcp . 80 . 1 ", ENFILE);
    let mut diff = cluster.set(11, &[1, 2]);
    diff.ports.extend(cluster.set(12, &[1]).ports);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, services(&report)), (true, vec!["s11".into()]));
    // Not a single element of it: it would answer in part.
    let observed = driver.nft.read_table(&table()).unwrap().unwrap();
    assert_eq!(observed.sets[SetId::Services.name()].elements.len(), 11);
    assert_eq!(in_force(&mut driver).len(), 11);
}

#[test]
fn a_chain_stands_for_the_services_that_go_to_it() {
    let mut cluster = Cluster::new();
    let hosts: Vec<u8> = (1..=20).collect();
    cluster.set(1, &hosts);
    cluster.set(2, &hosts[..19]);
    cluster.set(3, &hosts);
    for object in ["chain pick_20", "rule of chain pick_20"] {
        let mut driver = NftablesDriver::new(Fake::new());
        driver.nft.refuse(&table(), object, ENFILE);
        let report = driver.sync(&cluster.plan).unwrap();
        assert_eq!(services(&report), ["s1", "s3"]);
        assert_eq!(in_force(&mut driver), ["10.96.0.2"]);
    }
}

#[test]
fn what_stands_for_no_service_is_an_error() {
    let mut cluster = Cluster::new();
    cluster.set(1, &[1]);
    for object in ["chain postrouting", "set services", "rule of chain pick_1", "table"] {
        let mut driver = NftablesDriver::new(Fake::new());
        driver.nft.refuse(&table(), object, ENFILE);
        // A chain that is always made is made without any Service, too.
        let error = driver.sync(&cluster.plan).unwrap_err();
        assert!(error.to_string().contains("Too many open files"), "{error}");
        assert!(driver.nft.committed.is_empty());
        driver.nft.refuse_nothing();
        driver.retrying_refused_after(Duration::ZERO).apply(&cluster.plan, &PlanDiff::default()).unwrap();
    }
}

#[test]
fn what_may_pass_leaves_all_in_force_as_it_was() {
    let (mut cluster, mut driver, _) = programmed(&[]);
    let before = driver.nft.read_table(&table()).unwrap();
    driver.nft.refuse(&table(), "element of set endpoints: 10.96.0.3 ", ENOMEM);
    let diff = cluster.set(3, &[4, 5, 6]);
    driver.apply(&cluster.plan, &diff).unwrap_err();
    assert_eq!(driver.nft.read_table(&table()).unwrap(), before);
    driver.nft.refuse_nothing();
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().refused.is_empty());
    // Nobody stays out on account of a sync that comes to nothing.
    driver.nft.flush_ruleset();
    driver.mark_dirty();
    driver.nft.refuse(&table(), "element of set endpoints: 10.96.0.3 ", ENFILE);
    driver.nft.refuse(&table(), "chain postrouting", ENFILE);
    driver.apply(&cluster.plan, &PlanDiff::default()).unwrap_err();
    driver.nft.refuse_nothing();
    assert!(driver.apply(&cluster.plan, &PlanDiff::default()).unwrap().refused.is_empty());
    assert_eq!(in_force(&mut driver).len(), 10);
}

#[test]
fn what_someone_else_put_there_is_no_reason_to_keep_a_service_out() {
    let (mut cluster, mut driver, _) = programmed(&[]);
    // An element of a Service that is about to come, with another verdict than ours.
    let spec = driver.programmed[&IpFamily::V4].spec(SetId::Services).unwrap().clone();
    let before = driver.nft.read_table(&table()).unwrap().unwrap();
    let (_, element) = before.sets[SetId::Services.name()].elements.first_key_value().unwrap();
    let diff = cluster.set(20, &[4]);
    let address = &diff.ports[0].address;
    let key = service_key(address);
    let mut theirs = Transaction::new(table());
    theirs.add_element(&spec, key, element.clone());
    driver.nft.commit(&theirs).unwrap();
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, report.refused.len()), (true, 0));
    assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_refused_the_rest_is_in_force(
        refused in prop::collection::btree_set((1..12_u16, any::<bool>()), 0..6),
        changes in prop::collection::vec((1..12_u16, 0..20_u8), 0..8),
    ) {
        let mut cluster = Cluster::exposed();
        for service in 1..12 {
            cluster.set(service, &[1, 2, 3]);
        }
        let mut driver = NftablesDriver::new(Fake::new());
        for (service, node_port) in &refused {
            let object = match node_port {
                true => format!("element of set node_ports: tcp . {} ", 30_000 + service),
                false => format!("element of set endpoints: 10.96.0.{service} . tcp . 80 . 0 "),
            };
            driver.nft.refuse(&table(), &object, ENFILE);
        }
        let mut report = driver.sync(&cluster.plan).unwrap();
        for (service, hosts) in changes {
            let diff = cluster.set(service, &(0..hosts).collect::<Vec<u8>>());
            report = driver.apply(&cluster.plan, &diff).unwrap();
            prop_assert_eq!(driver.differences(&cluster.plan).unwrap(), []);
        }
        // Just those with endpoints at a refused address are out.
        let told: BTreeSet<String> = services(&report).into_iter().collect();
        for service in 1..12_u16 {
            let address = ServiceAddress { ip: IpAddr::from([10, 96, 0, service as u8]), protocol: Protocol::Tcp, port: 80 };
            let there = cluster.plan.services.port(&address).is_some_and(|port| !port.backends.is_empty());
            let out = refused.iter().any(|(of, _)| *of == service);
            if there {
                prop_assert_eq!(told.contains(&format!("s{service}")), out, "{}", service);
            }
        }
    }
}
