//! The plugin on the real kernel: one node, its pods. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::{address_of, assert_ping, call, config, run};
use seaway_cni::ipam::Ipam;
use seaway_cni::plugin::{Code, host_interface};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{RouteFilter, Rtnl};
use seaway_net::sysctl;
use serde_json::json;

fn node() -> NetNs {
    let node = NetNs::new().unwrap();
    node.run(|| {
        sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.add_veth("eth0", "other", None, None).unwrap();
        let index = rtnl.link_by_name("eth0").unwrap().unwrap().index;
        rtnl.add_address(index, common::net("172.18.0.11/16")).unwrap();
        rtnl.add_address(index, common::net("2001:db8::11/64")).unwrap();
        for name in ["eth0", "other"] {
            let index = rtnl.link_by_name(name).unwrap().unwrap().index;
            rtnl.set_up(index).unwrap();
        }
    })
    .unwrap();
    node
}

#[test]
fn pods_of_a_node_reach_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (node, one, two) = (node(), NetNs::new().unwrap(), NetNs::new().unwrap());
    let config = config(dir.path(), &["10.244.1.0/24", "fd00:1::/64"], 1450);
    let first = call(&node, "ADD", "one", Some(&one), &config).unwrap();
    let second = call(&node, "ADD", "two", Some(&two), &config).unwrap();
    assert_eq!(first["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(first["ips"][1]["address"], "fd00:1::2/128");
    assert_eq!(second["ips"][0]["address"], "10.244.1.3/32");
    assert_eq!(first["interfaces"][0]["name"], host_interface("one", "eth0"));
    assert_eq!(first["interfaces"][1]["sandbox"], common::path_of(&one));

    for (from, to) in [(&one, &second), (&two, &first)] {
        for n in 0..2 {
            assert_ping(from, &address_of(to, n).to_string(), "");
        }
        assert_ping(from, "172.18.0.11", "");
        assert_ping(&node, &address_of(to, 0).to_string(), "");
        assert_ping(&node, &address_of(to, 1).to_string(), "");
    }
    let (routes, _) = run(&one, "ip -4 route show");
    assert_eq!(
        routes,
        "default via 169.254.1.1 dev eth0 proto static onlink \n169.254.1.1 dev eth0 proto static scope link \n"
    );
    let (link, _) = run(&one, "ip link show eth0");
    assert!(link.contains(" mtu 1450 "), "{link}");
    assert!(link.contains(first["interfaces"][1]["mac"].as_str().unwrap()), "{link}");
    let (neighbors, _) = run(&node, "ip -4 neigh show 10.244.1.2");
    assert!(neighbors.contains("PERMANENT"), "{neighbors}");
    // A pod cannot send from another one's address.
    run(&one, "ip address add 10.244.1.3/32 dev eth0");
    let (text, ok) = run(&one, "ping -n -c 1 -W 1 -I 10.244.1.3 172.18.0.11");
    assert!(!ok, "{text}");
}

#[test]
fn del_takes_all_away_and_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let (node, pod) = (node(), NetNs::new().unwrap());
    let config = config(dir.path(), &["10.244.1.0/24"], 1450);
    let links = |ns| Rtnl::open_in(ns).unwrap().links().unwrap().len();
    let (before, before_pod) = (links(&node), links(&pod));
    for _ in 0..3 {
        call(&node, "ADD", "c", Some(&pod), &config).unwrap();
        assert_eq!(links(&node), before + 1);
        for _ in 0..2 {
            assert_eq!(call(&node, "DEL", "c", Some(&pod), &config).unwrap(), json!(null));
        }
        assert_eq!((links(&node), links(&pod)), (before, before_pod));
    }
    assert_eq!(Ipam::new(dir.path(), "seaway").owners().unwrap(), []);
    let ours = RouteFilter { protocol: Some(seaway_cni::POD_ROUTE_PROTOCOL), ..RouteFilter::default() };
    assert_eq!(Rtnl::open_in(&node).unwrap().routes(ours).unwrap(), []);
    // The pod's namespace may be gone before DEL.
    call(&node, "ADD", "c", Some(&pod), &config).unwrap();
    drop(pod);
    call(&node, "DEL", "c", None, &config).unwrap();
    assert_eq!(Ipam::new(dir.path(), "seaway").owners().unwrap(), []);
    // Never added.
    call(&node, "DEL", "unknown", None, &config).unwrap();
}

#[test]
fn a_failed_add_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (node, pod) = (node(), NetNs::new().unwrap());
    let settings = config(dir.path(), &["10.244.1.0/24"], 1450);
    let mut inside = Rtnl::open_in(&pod).unwrap();
    inside.add_bridge("eth0").unwrap();
    let names = || -> Vec<String> {
        let links = Rtnl::open_in(&node).unwrap().links().unwrap();
        links.into_iter().map(|link| link.name).collect()
    };
    let before = names();
    let error = call(&node, "ADD", "c", Some(&pod), &settings).unwrap_err();
    assert_eq!(error.code, Code::Io);
    assert!(error.message.contains("File exists"), "{error}");
    assert_eq!(names(), before);
    assert_eq!(Ipam::new(dir.path(), "seaway").owners().unwrap(), []);
    assert!(inside.link_by_name("eth0").unwrap().is_some());
    // An address in the pod's way: the link is there already when that shows.
    inside.delete_link_by_name("eth0").unwrap();
    let large = config(dir.path(), &["10.244.1.0/24", "fd00:1::/64"], 1000);
    let error = call(&node, "ADD", "c", Some(&pod), &large).unwrap_err();
    assert!(error.message.starts_with("add address fd00:1::2/128"), "{error}");
    assert_eq!(names(), before);
    assert_eq!(inside.link_by_name("eth0").unwrap(), None);
    assert_eq!(Ipam::new(dir.path(), "seaway").owners().unwrap(), []);

    let error = call(&node, "ADD", "c", None, &settings).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::Environment, "CNI_NETNS is not set"));
    call(&node, "ADD", "c", Some(&pod), &settings).unwrap();
    let error = call(&node, "ADD", "c", Some(&pod), &settings).unwrap_err();
    assert_eq!(error.message, "container c has address 10.244.1.4 for eth0 already: DEL it first");
    // The first attachment is as it was.
    assert_ping(&node, "10.244.1.4", "");
}

#[test]
fn other_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (node, settings) = (NetNs::new().unwrap(), config(dir.path(), &["10.244.1.0/24"], 1450));
    let answer = call(&node, "VERSION", "c", None, &settings).unwrap();
    assert_eq!(
        answer,
        json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
    );
    let error = call(&node, "CHECK", "c", None, &settings).unwrap_err();
    let wanted = json!({
        "cniVersion": "1.1.0", "code": 4,
        "msg": "CNI_COMMAND \"CHECK\" is not supported: expected ADD, DEL or VERSION",
    });
    assert_eq!(error.to_json(None), wanted);
}
