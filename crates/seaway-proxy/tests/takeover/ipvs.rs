//! The IPVS mode. Many kernels have no IPVS, so these are run by `make test-vm`, on Debian's.

use std::net::{IpAddr, SocketAddr};

use seaway_net::netlink::{Attributes, Protocol, Socket, Writer};
use seaway_net::sysctl;
use seaway_proxy::ServiceDriver;

use crate::common::{NODE_IP, VIP, driver, eventually, ip, output, vip};
use crate::layouts::{IPVS_RULES, Mode, feed, install_others, saved};
use crate::talk::Flood;
use crate::{Site, all_talk, find, remove};

/// NLA_F_NET_BYTEORDER, which IP sets insist on.
const NET_BYTEORDER: u16 = 1 << 14;

/// Sends a request, with what `body` writes, and gives the first answer's payload.
fn ask(protocol: Protocol, kind: u16, header: [u8; 4], body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut socket = Socket::open(protocol).unwrap();
    let mut writer = Writer::default();
    // NLM_F_ACK, NLM_F_CREATE
    writer.begin(kind, 0x404, 1);
    writer.bytes(&header);
    body(&mut writer);
    writer.end();
    let mut answer = Vec::new();
    let result = socket.exchange(writer.as_slice(), 1, |message| {
        answer = message.payload.to_vec();
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{kind:#x} {header:?}: {error}"));
    answer
}

/// IPVS's number in generic netlink; asking for it by its name loads the module.
fn family() -> u16 {
    let answer = ask(Protocol::Generic, 0x10, [3, 1, 0, 0], |writer| writer.string(2, "IPVS"));
    let id = Attributes::new(&answer[4..]).flatten().find(|attribute| attribute.kind == 1).unwrap();
    u16::from_ne_bytes(id.value.try_into().unwrap())
}

/// A service `rr` with two destinations that are reached by translation.
fn add_service(at: SocketAddr, protocol: u16, destinations: [IpAddr; 2]) {
    let family = family();
    let address = |writer: &mut Writer, kind: u16, ip: IpAddr| {
        let IpAddr::V4(ip) = ip else { panic!("{ip}") };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&ip.octets());
        writer.attribute(kind, &bytes);
    };
    let service = |writer: &mut Writer| {
        writer.nested(1, |writer| {
            writer.attribute(1, &2_u16.to_ne_bytes());
            writer.attribute(2, &protocol.to_ne_bytes());
            address(writer, 3, at.ip());
            writer.attribute(4, &at.port().to_be_bytes());
            writer.string(6, "rr");
            writer.attribute(7, &[0; 8]);
            writer.attribute(8, &[0; 4]);
            writer.attribute(9, &[255; 4]);
        });
    };
    ask(Protocol::Generic, family, [1, 1, 0, 0], service);
    for ip in destinations {
        ask(Protocol::Generic, family, [5, 1, 0, 0], |writer| {
            service(writer);
            writer.nested(2, |writer| {
                address(writer, 1, ip);
                writer.attribute(2, &8080_u16.to_be_bytes());
                for (kind, value) in [(3, 0_u32), (4, 1), (5, 0), (6, 0)] {
                    writer.attribute(kind, &value.to_ne_bytes());
                }
            });
        });
    }
}

/// A set, with one element of a port and, of `hash:ip,port`, an address.
fn add_set(name: &str, kind: &str, ip: Option<&str>, port: u16) {
    const SUBSYSTEM: u16 = 6 << 8;
    let header = [2, 0, 0, 0];
    let begin = |writer: &mut Writer| {
        writer.attribute(1, &[6]);
        writer.string(2, name);
    };
    ask(Protocol::Netfilter, SUBSYSTEM | 2, header, |writer| {
        begin(writer);
        writer.string(3, kind);
        writer.attribute(4, &[1]);
        writer.attribute(5, &[if ip.is_some() { 2 } else { 0 }]);
        writer.nested(7, |writer| {
            if ip.is_none() {
                writer.attribute(4 | NET_BYTEORDER, &0_u16.to_be_bytes());
                writer.attribute(5 | NET_BYTEORDER, &u16::MAX.to_be_bytes());
            }
        });
    });
    ask(Protocol::Netfilter, SUBSYSTEM | 9, header, |writer| {
        begin(writer);
        writer.nested(7, |writer| {
            if let Some(IpAddr::V4(ip)) = ip.map(crate::common::ip) {
                writer.nested(1, |writer| writer.attribute(1 | NET_BYTEORDER, &ip.octets()));
                writer.attribute(7, &[6]);
            }
            writer.attribute(4 | NET_BYTEORDER, &port.to_be_bytes());
        });
    });
}

#[test]
fn sets_of_kube_proxys_go_and_others_stay() {
    let ns = seaway_net::netns::NetNs::new().unwrap();
    let sets = || -> Vec<String> {
        let list = || seaway_net::ipset::IpSets::open().unwrap().unwrap().list().unwrap();
        ns.run(list).unwrap().into_keys().collect()
    };
    ns.run(|| {
        add_set("KUBE-CLUSTER-IP", "hash:ip,port", Some(VIP), 80);
        add_set("KUBE-NODE-PORT-TCP", "bitmap:port", None, 30080);
        // kube-router's.
        add_set("KUBE-SRC-ABCDEFGHIJKLMNOP", "bitmap:port", None, 1);
        let listed = seaway_net::ipset::IpSets::open().unwrap().unwrap().list().unwrap();
        assert_eq!(listed["KUBE-CLUSTER-IP"], [80].into());
        assert_eq!(listed["KUBE-NODE-PORT-TCP"], [30080].into());
    })
    .unwrap();
    feed(&ns, "iptables-nft-restore", &["--noflush"], IPVS_RULES);
    assert!(find(&ns).to_string().ends_with("IPVS: 0 services, 2 IP sets\n"), "{}", find(&ns));
    // A set that a rule of someone's looks into stays, too.
    let rule = "-t mangle -A PREROUTING -m set --match-set KUBE-NODE-PORT-TCP dst -j ACCEPT";
    output(&ns, "iptables-nft", &rule.split(' ').collect::<Vec<_>>());
    remove(&ns);
    assert_eq!(sets(), ["KUBE-NODE-PORT-TCP", "KUBE-SRC-ABCDEFGHIJKLMNOP"]);
    output(&ns, "iptables-nft", &rule.replace("-A", "-D").split(' ').collect::<Vec<_>>());
    remove(&ns);
    assert_eq!(sets(), ["KUBE-SRC-ABCDEFGHIJKLMNOP"]);
    assert_eq!(find(&ns).to_string(), "");
}

#[test]
#[ignore = "needs IPVS: make test-vm"]
fn connections_of_ipvs_go_on_until_they_end() {
    let site = Site::new();
    let node = &site.topology.node;
    let mode = Mode::IptablesNft;
    install_others(node, mode);
    let others = saved(node, mode, false);
    let idle = SocketAddr::new(ip("10.96.0.99"), 80);
    let foreign = SocketAddr::new(ip("192.0.2.77"), 443);
    node.run(|| {
        for (at, protocol) in [(vip(), 6), (idle, 17), (foreign, 6), (SocketAddr::new(ip(NODE_IP), 30080), 6)]
        {
            add_service(at, protocol, site.endpoints);
        }
        sysctl::set("net/ipv4/vs/conntrack", "1").unwrap();
        sysctl::set("net/ipv4/vs/expire_nodest_conn", "1").unwrap();
        add_set("KUBE-CLUSTER-IP", "hash:ip,port", Some(VIP), 80);
        add_set("KUBE-NODE-PORT-TCP", "bitmap:port", None, 30080);
    })
    .unwrap();
    output(node, "ip", &["link", "add", "kube-ipvs0", "type", "dummy"]);
    for address in [vip().ip(), idle.ip()] {
        output(node, "ip", &["address", "add", &format!("{address}/32"), "dev", "kube-ipvs0"]);
    }
    feed(node, "iptables-nft-restore", &["--noflush"], IPVS_RULES);
    let mut theirs = site.connect();
    all_talk(&mut theirs, "before");
    let floods = site.callers().map(|(caller, to)| Flood::start(caller, to));

    let mut driver = driver(&site.topology);
    driver.sync(&site.cluster.plan).unwrap();
    let told = find(node).to_string();
    assert!(told.contains("IPVS: 3 services, link kube-ipvs0 with 2 addresses, 2 IP sets"), "{told}");
    let removed = remove(node);
    assert!(removed.is_waiting(), "{removed}");
    assert_eq!(saved(node, mode, false), others);
    let addresses = output(node, "ip", &["-o", "address", "show", "dev", "kube-ipvs0"]);
    assert!(addresses.contains(VIP) && !addresses.contains("10.96.0.99"), "{addresses}");
    all_talk(&mut theirs, "after kube-proxy's rules went");
    let mut ours = site.connect();
    for flood in &floods {
        flood.goes_on();
    }
    // What the node begins from now on does not keep the address.
    assert!(ours.iter().all(|connection| connection.local() != ip(VIP)));
    drop(theirs);
    eventually("the end of the connections", || !remove(node).is_waiting());
    assert_eq!(find(node).to_string(), "");
    assert!(!output(node, "ip", &["link"]).contains("kube-ipvs0"));
    assert!(!output(node, "ip", &["route", "show", "table", "local"]).contains(VIP));
    let left = node.run(|| seaway_net::ipvs::Ipvs::open().unwrap().unwrap().services().unwrap()).unwrap();
    assert_eq!(left.iter().map(|server| server.at).collect::<Vec<_>>(), [foreign]);
    all_talk(&mut ours, "at the end");
    for flood in floods {
        flood.goes_on();
        flood.end();
    }
}
