//! The monitor.

use seaway_net::nft::*;

use crate::listing::services_table;
use crate::support::{in_namespace, load};

#[test]
fn a_flushed_ruleset_is_noticed() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        monitor.set_nonblocking(true).unwrap();
        assert!(monitor.next_changes().unwrap_err().retry());
        monitor.set_nonblocking(false).unwrap();

        let mut kernel = Kernel::open().unwrap();
        let table = services_table();
        kernel.commit(&Transaction::create(&table)).unwrap();
        let own = kernel.generation().unwrap();
        let mut seen = Vec::new();
        while !seen.contains(&Change::Generation(own)) {
            seen.extend(monitor.next_changes().unwrap());
        }
        assert!(!seen.contains(&Change::TableDeleted(table.id.clone())), "{seen:?}");
        assert!(seen.contains(&Change::TableChanged(table.id.clone())), "{seen:?}");

        load(
            "add table ip other; add set ip other s { type ipv4_addr; }; add element ip other s { 192.0.2.1 }",
        );
        let other = TableId::new(Family::Ip, "other");
        let mut seen = Vec::new();
        while !matches!(seen.last(), Some(Change::Generation(_))) {
            seen.extend(monitor.next_changes().unwrap());
        }
        seen.pop();
        let others = |change: &Change| *change == Change::TableChanged(other.clone());
        assert!(!seen.is_empty() && seen.iter().all(others), "a change tells whose it is: {seen:?}");

        load("flush ruleset");
        let mut seen = Vec::new();
        while !seen.iter().any(|change| matches!(change, Change::Generation(_))) {
            seen.extend(monitor.next_changes().unwrap());
        }
        assert!(seen.contains(&Change::TableDeleted(table.id.clone())), "{seen:?}");
    });
}
