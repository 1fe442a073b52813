//! Services that the kernel refuses, on the real kernel: it names the element, and all others are reachable.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Cluster, Server, Topology, VIP, ask_tcp, at, ip, vip};
use seaway_model::Protocol;
use seaway_net::nft::{
    Data, Element, Elements, Kernel, Nft, NftError, Observed, Operation, TableId, Transaction, Value, Verdict,
};
use seaway_proxy::{NftablesDriver, ServiceDriver};

/// The kernel, which is given a chain that does not exist for one service's address as long as it is to refuse it.
struct Poisoned {
    kernel: Kernel,
    refuse: Arc<AtomicBool>,
}

impl Poisoned {
    fn poison(&self, operation: &mut Operation) {
        let Operation::AddElements(_, elements) = operation else { return };
        let key = |key: &Value| key.bytes().starts_with(&[10, 96, 0, 7]);
        for (_, element) in elements.iter_mut().filter(|(of, _)| key(of)) {
            if matches!(element.data, Some(Data::Verdict(_))) {
                *element = Element::data(Verdict::Goto("nowhere".to_owned()));
            }
        }
    }
}

impl Nft for Poisoned {
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError> {
        self.kernel.read_table(table)
    }

    fn read_elements(&mut self, table: &TableId, set: &str) -> Result<Option<Elements>, NftError> {
        self.kernel.read_elements(table, set)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        let mut transaction = transaction.clone();
        if self.refuse.load(Ordering::Relaxed) {
            transaction.operations.iter_mut().for_each(|operation| self.poison(operation));
        }
        self.kernel.commit(&transaction)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.kernel.generation()
    }
}

#[test]
fn all_but_what_the_kernel_refuses_is_in_force() {
    let mut topology = Topology::new();
    let client = topology.add_pod("10.244.1.2");
    let server = topology.add_pod("10.244.1.5");
    let _server = Server::tcp(topology.pod(server), at(server));
    let mut cluster = Cluster::new();
    cluster.set("refused", VIP, Protocol::Tcp, &[server]);
    let others = ["10.96.0.6", "10.96.0.8"].map(|vip| SocketAddr::new(ip(vip), 80));
    for (index, other) in others.iter().enumerate() {
        cluster.set(&format!("other-{index}"), &other.ip().to_string(), Protocol::Tcp, &[server]);
    }
    let refuse = Arc::new(AtomicBool::new(true));
    let kernel = topology.node.run(|| Kernel::open().unwrap()).unwrap();
    let mut driver = NftablesDriver::new(Poisoned { kernel, refuse: refuse.clone() });
    let report = driver.sync(&cluster.plan).unwrap();
    let told: Vec<String> = report.refused.iter().map(ToString::to_string).collect();
    let expected = "Service default/refused: element of set services: 10.96.0.7 . tcp . 80 : goto nowhere: \
         No such file or directory (os error 2)";
    assert_eq!(told, [expected]);
    let pod = topology.pod(client);
    let refused = || assert_eq!(ask_tcp(pod, vip()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    for other in others {
        assert_eq!(ask_tcp(pod, other).unwrap(), (server, client));
    }
    refused();
    // Others change as ever; this one is tried in vain, and then not.
    let diff = cluster.set("other-0", "10.96.0.6", Protocol::Tcp, &[]);
    assert!(!driver.apply(&cluster.plan, &diff).unwrap().full);
    assert!(ask_tcp(pod, others[0]).is_err());
    let diff = cluster.set("refused", VIP, Protocol::Tcp, &[server, ip("10.244.1.6")]);
    assert_eq!(driver.apply(&cluster.plan, &diff).unwrap().refused.len(), 1);
    refused();
    refuse.store(false, Ordering::Relaxed);
    let diff = cluster.set("refused", VIP, Protocol::Tcp, &[server]);
    let report = driver.apply(&cluster.plan, &diff).unwrap();
    assert_eq!((report.full, report.refused.len()), (false, 0));
    assert_eq!(ask_tcp(pod, vip()).unwrap(), (server, client));
    assert_eq!(driver.sync(&cluster.plan).unwrap().operations, 0);
}
