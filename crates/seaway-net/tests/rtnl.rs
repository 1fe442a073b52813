//! rtnetlink on the real kernel, in namespaces of the tests' own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Mac, Route, RouteFilter, RouteKind, Rtnl, Scope, VethSpec, VxlanSettings, VxlanSpec};

const PATIENCE: Duration = Duration::from_secs(5);
const MAC: Mac = [0x0a, 1, 2, 3, 4, 5];
const PEER_MAC: Mac = [0x0a, 1, 2, 3, 4, 6];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What `ip` says inside the namespace.
fn shown(ns: &NetNs, arguments: &str) -> String {
    let output = ns.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap()).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace with a veth pair to another one, both up.
fn pair() -> (NetNs, Rtnl, u32, NetNs, Rtnl) {
    let (one, two) = (NetNs::new().unwrap(), NetNs::new().unwrap());
    let mut rtnl = Rtnl::open_in(&one).unwrap();
    rtnl.add_veth_pair(&VethSpec {
        name: "here",
        mac: Some(MAC),
        peer_name: "there",
        peer_ns: Some(&two),
        peer_mac: Some(PEER_MAC),
        mtu: Some(1400),
        up: true,
    })
    .unwrap();
    let index = rtnl.link_by_name("here").unwrap().unwrap().index;
    let mut peer = Rtnl::open_in(&two).unwrap();
    let there = peer.link_by_name("there").unwrap().unwrap();
    assert!(!there.up);
    peer.set_up(there.index).unwrap();
    (one, rtnl, index, two, peer)
}

#[test]
fn veth_across_namespaces() {
    let (_one, mut rtnl, index, _two, mut peer) = pair();
    let here = rtnl.link(index).unwrap().unwrap();
    let there = peer.link_by_name("there").unwrap().unwrap();
    assert_eq!((here.mac, here.mtu, here.up, here.kind.as_deref()), (Some(MAC), 1400, true, Some("veth")));
    assert_eq!((there.mac, there.mtu, there.up), (Some(PEER_MAC), 1400, true));
    assert!(rtnl.await_operational(index, PATIENCE).unwrap());
    assert!(peer.await_operational(there.index, PATIENCE).unwrap());
    peer.set_down(there.index).unwrap();
    assert!(!peer.await_operational(there.index, Duration::ZERO).unwrap());
    assert_eq!((here.peer_index, here.peer_elsewhere), (Some(there.index), true));
    let names: Vec<String> = rtnl.links().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo", "here"]);
    assert!(rtnl.delete_link(index).unwrap());
    assert!(!rtnl.delete_link(index).unwrap());
    assert!(!rtnl.delete_link_by_name("here").unwrap());
    assert_eq!(rtnl.link_by_name("here").unwrap(), None);
    assert_eq!(peer.link_by_name("there").unwrap(), None);
}

#[test]
fn links_are_changed() {
    let (one, two) = (NetNs::new().unwrap(), NetNs::new().unwrap());
    let mut rtnl = Rtnl::open_in(&one).unwrap();
    rtnl.add_bridge("br").unwrap();
    rtnl.add_veth("a", "b", None, None).unwrap();
    let bridge = rtnl.link_by_name("br").unwrap().unwrap();
    let a = rtnl.link_by_name("a").unwrap().unwrap();
    assert_eq!((bridge.kind.as_deref(), a.up, a.peer_elsewhere), (Some("bridge"), false, false));
    rtnl.set_master(a.index, Some(bridge.index)).unwrap();
    rtnl.set_up(a.index).unwrap();
    rtnl.set_mtu(a.index, 1300).unwrap();
    rtnl.set_mac(a.index, MAC).unwrap();
    let a = rtnl.link(a.index).unwrap().unwrap();
    assert_eq!((a.master, a.up, a.mtu, a.mac), (Some(bridge.index), true, 1300, Some(MAC)));
    rtnl.set_down(a.index).unwrap();
    rtnl.set_master(a.index, None).unwrap();
    rtnl.rename(a.index, "c").unwrap();
    let c = rtnl.link_by_name("c").unwrap().unwrap();
    assert_eq!((c.index, c.master, c.up), (a.index, None, false));
    rtnl.move_to(c.index, &two).unwrap();
    assert_eq!(rtnl.link_by_name("c").unwrap(), None);
    assert!(Rtnl::open_in(&two).unwrap().link_by_name("c").unwrap().is_some());
    let error = rtnl.add_bridge("br").unwrap_err();
    assert!(error.already_exists());
    assert_eq!(error.to_string(), "add bridge br: the kernel refused: File exists (os error 17)");
    let error = rtnl.add_bridge("a-name-that-is-too-long").unwrap_err().to_string();
    assert!(error.starts_with("add bridge a-name-that-is-too-long: the kernel refused: "), "{error}");
}

#[test]
fn vxlan_device_is_as_asked() {
    let (one, mut rtnl, index, _two, _peer) = pair();
    let settings = VxlanSettings {
        vni: 1,
        local: Some(ip("172.18.0.11")),
        dev: Some(index),
        port: 8472,
        learning: false,
    };
    let spec = VxlanSpec {
        name: "seaway.1".to_owned(),
        settings: settings.clone(),
        mac: Some(MAC),
        mtu: Some(1350),
    };
    rtnl.add_vxlan(&spec).unwrap();
    let link = rtnl.link_by_name("seaway.1").unwrap().unwrap();
    assert_eq!((link.vxlan, link.mac, link.mtu), (Some(settings), Some(MAC), 1350));
    let text = shown(&one, "-d link show seaway.1");
    assert!(
        text.contains("vxlan id 1 local 172.18.0.11 dev here srcport 0 0 dstport 8472 nolearning"),
        "{text}"
    );

    rtnl.set_up(link.index).unwrap();
    for _ in 0..2 {
        rtnl.replace_fdb(link.index, PEER_MAC, ip("172.18.0.12")).unwrap();
    }
    let entries = rtnl.fdb(link.index).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].mac, entries[0].dst, entries[0].permanent),
        (PEER_MAC, Some(ip("172.18.0.12")), true)
    );
    rtnl.replace_fdb(link.index, PEER_MAC, ip("172.18.0.13")).unwrap();
    assert_eq!(rtnl.fdb(link.index).unwrap()[0].dst, Some(ip("172.18.0.13")));
    assert!(rtnl.delete_fdb(link.index, PEER_MAC, None).unwrap());
    assert!(!rtnl.delete_fdb(link.index, PEER_MAC, None).unwrap());
    assert_eq!(rtnl.fdb(link.index).unwrap(), []);
}

#[test]
fn addresses_of_both_families() {
    let (one, mut rtnl, index, _two, _peer) = pair();
    for address in ["10.1.2.3/24", "fd00::3/64"] {
        for _ in 0..2 {
            rtnl.add_address(index, net(address)).unwrap();
        }
    }
    let found = rtnl.addresses(Some(index)).unwrap();
    for address in ["10.1.2.3/24", "fd00::3/64"] {
        assert!(
            found.iter().any(|found| found.net == net(address) && found.scope == Scope::Universe),
            "{found:?}"
        );
    }
    assert!(shown(&one, "address show here").contains("inet 10.1.2.3/24 brd 10.1.2.255 scope global here"));
    assert!(rtnl.addresses(None).unwrap().iter().any(|found| found.net == net("127.0.0.1/8")));
    assert!(rtnl.delete_address(index, net("10.1.2.3/24")).unwrap());
    assert!(!rtnl.delete_address(index, net("10.1.2.3/24")).unwrap());
    assert!(rtnl.add_address(9999, net("10.0.0.1/8")).unwrap_err().not_found());
}

#[test]
fn routes_are_listed_as_they_were_put() {
    let (one, mut rtnl, index, _two, _peer) = pair();
    rtnl.add_address(index, net("10.1.2.3/24")).unwrap();
    rtnl.add_address(index, net("fd00::3/64")).unwrap();
    let of = |dst, change: fn(&mut Route)| {
        let mut route = Route { dev: Some(index), protocol: 83, ..Route::to(net(dst)) };
        change(&mut route);
        route
    };
    let routes = [
        of("10.244.1.0/24", |route| {
            (route.via, route.onlink) = (Some("10.244.1.0".parse().unwrap()), true);
        }),
        of("10.244.2.0/24", |route| route.via = Some("10.1.2.4".parse().unwrap())),
        of("10.244.0.5/32", |route| route.scope = Scope::Link),
        of("10.244.0.6/32", |route| {
            (route.scope, route.src, route.metric) =
                (Scope::Link, Some("10.1.2.3".parse().unwrap()), Some(7));
        }),
        of("10.9.0.0/16", |route| (route.kind, route.dev) = (RouteKind::Blackhole, None)),
        of("10.9.1.0/24", |route| (route.table, route.scope) = (1234, Scope::Link)),
        of("fd01::/64", |route| (route.via, route.onlink) = (Some("fd00::9".parse().unwrap()), true)),
        of("fd02::5/128", |_| {}),
        of("0.0.0.0/0", |route| route.via = Some("10.1.2.9".parse().unwrap())),
    ];
    for route in &routes {
        rtnl.add_route(route).unwrap();
        rtnl.replace_route(route).unwrap();
    }
    let ours = RouteFilter { protocol: Some(83), ..RouteFilter::default() };
    let mut found = rtnl.routes(ours).unwrap();
    let mut wanted = routes.to_vec();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert!(rtnl.add_route(&routes[0]).unwrap_err().already_exists());
    let in_table = RouteFilter { table: Some(1234), ..RouteFilter::default() };
    assert_eq!(rtnl.routes(in_table).unwrap(), [routes[5]]);
    assert_eq!(rtnl.routes(RouteFilter { table: Some(4321), ..in_table }).unwrap(), []);
    let text = shown(&one, "route show 10.244.1.0/24");
    assert_eq!(text.trim(), "10.244.1.0/24 via 10.244.1.0 dev here proto 83 onlink");
    let moved = Route { via: Some(ip("10.1.2.5")), ..routes[1] };
    rtnl.replace_route(&moved).unwrap();
    assert!(!rtnl.delete_route(&routes[1]).unwrap());
    assert!(rtnl.delete_route(&moved).unwrap());
    for route in routes.iter().filter(|route| route.dst != moved.dst) {
        assert!(rtnl.delete_route(route).unwrap(), "{route}");
    }
    assert_eq!(rtnl.routes(ours).unwrap(), []);
    let error =
        rtnl.add_route(&Route { via: Some(ip("192.0.2.1")), ..Route::to(net("10.0.0.0/8")) }).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("add route 10.0.0.0/8 via 192.0.2.1: the kernel refused: Network is unreachable"),
        "{text}"
    );
    assert!(text.ends_with(": Nexthop has invalid gateway"), "{text}");
}

#[test]
fn neighbours_are_permanent() {
    let (_one, mut rtnl, index, _two, _peer) = pair();
    for address in [ip("169.254.1.1"), ip("fe80::1")] {
        for _ in 0..2 {
            rtnl.replace_neighbor(index, address, MAC).unwrap();
        }
        rtnl.replace_neighbor(index, address, PEER_MAC).unwrap();
        let found = rtnl.neighbors(Some(index)).unwrap();
        assert!(
            found.iter().any(|entry| entry.ip == address && entry.mac == PEER_MAC && entry.permanent),
            "{found:?}"
        );
        assert!(rtnl.delete_neighbor(index, address).unwrap());
        assert!(!rtnl.delete_neighbor(index, address).unwrap());
    }
    assert!(rtnl.neighbors(Some(index)).unwrap().iter().all(|entry| !entry.permanent || entry.ip.is_ipv6()));
}
