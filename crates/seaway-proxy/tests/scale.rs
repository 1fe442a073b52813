//! Ten thousand services with ten endpoints each, in the kernel. Times are shown, not judged: a machine may be slow.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::net::IpAddr;
use std::time::Instant;

use common::{Cluster, Topology};
use seaway_model::{PlanDiff, Protocol};
use seaway_net::nft::{Kernel, Nft};
use seaway_proxy::{NftablesDriver, ServiceDriver};

const SERVICES: u16 = 10_000;

#[test]
fn ten_thousand_services() {
    let topology = Topology::new();
    let kernel = || topology.node.run(|| Kernel::open().unwrap()).unwrap();
    let endpoints: Vec<IpAddr> = (1..=10).map(|host| [10, 244, host % 3, host].into()).collect();
    let mut cluster = Cluster::new();
    for service in 0..SERVICES {
        let [high, low] = service.to_be_bytes();
        cluster.set(&format!("s{service}"), &format!("10.97.{high}.{low}"), Protocol::Tcp, &endpoints);
    }
    let mut driver = NftablesDriver::new(kernel());
    let started = Instant::now();
    driver.sync(&cluster.plan).unwrap();
    println!("in full: {:?}", started.elapsed());

    // One more service, one more endpoint, one endpoint fewer: as many changes as among ten services.
    let started = Instant::now();
    let diff = cluster.set("more", "10.96.0.7", Protocol::Tcp, &endpoints[..3]);
    // The service, its cluster IP and three endpoints.
    assert_eq!(driver.apply(&cluster.plan, &diff).unwrap().operations, 1 + 1 + 3);
    println!("one more service, planned and committed: {:?}", started.elapsed());
    let diff = cluster.set("more", "10.96.0.7", Protocol::Tcp, &endpoints[1..3]);
    let started = Instant::now();
    assert!(driver.apply(&cluster.plan, &diff).unwrap().operations < 8);
    println!("one endpoint fewer: {:?}", started.elapsed());

    // A restart reads it all and finds nothing to do.
    let generation = kernel().generation().unwrap();
    let started = Instant::now();
    let report = NftablesDriver::new(kernel()).apply(&cluster.plan, &PlanDiff::default()).unwrap();
    println!("adopted: {:?}", started.elapsed());
    assert_eq!((report.full, report.operations), (true, 0));
    assert_eq!(kernel().generation().unwrap(), generation);
}
