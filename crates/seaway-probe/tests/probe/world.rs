//! A sandbox with a network, and a server at the other end of it.

use std::net::IpAddr;

use ipnet::IpNet;
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Route, RouteKind, Rtnl, VethSpec};
use seaway_net::sandbox::{self, Mount, Ns, Root, Running, Signal, Spec, Stdio};
use seaway_net::sysctl;
use seaway_probe::Probe;
use seaway_probe::api::{Event, Libc, Protocol, Request, Target};

use crate::servers;

/// The client's addresses.
pub(crate) const CLIENT: [&str; 2] = ["10.9.0.2", "2001:db8:9::2"];
/// The server's.
pub(crate) const SERVER: [&str; 2] = ["10.9.0.1", "2001:db8:9::1"];
/// Networks that the server says are unreachable.
const UNREACHABLE: [&str; 2] = ["10.98.0.0/16", "2001:db8:98::/48"];
/// A network to which the server drops everything.
const SILENT: &str = "10.99.0.0/16";

pub(crate) struct World {
    client: Running,
    client_ns: NetNs,
    _server_ns: NetNs,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = sandbox::spawn(&client(dir.path()), Stdio::default()).unwrap();
        let client_ns = NetNs::of_process(client.pid()).unwrap();
        let server_ns = NetNs::new().unwrap();
        for ns in [&client_ns, &server_ns] {
            set(ns, "net/ipv6/conf/default/accept_dad", "0");
        }
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            set(&server_ns, name, "1");
        }
        // Every "unreachable" is to be heard of, however many there were.
        for name in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
            set(&server_ns, name, "0");
        }
        connect(&client_ns, &server_ns);
        servers::start(&server_ns);
        Self { client, client_ns, _server_ns: server_ns, _dir: dir }
    }

    /// A probe that has its request.
    pub(crate) fn start(&self, request: &Request) -> Probe {
        Probe::start(self.client.pid(), request).unwrap()
    }

    /// All events of a probe, but for `done`.
    pub(crate) fn events(&self, request: &Request) -> Vec<Event> {
        let mut probe = self.start(request);
        let mut events = Vec::new();
        loop {
            match probe.next_event().unwrap() {
                Event::Done => return events,
                event => events.push(event),
            }
            probe.go().unwrap();
        }
    }

    /// Sets a kernel parameter of the client's.
    pub(crate) fn set(&self, name: &str, value: &str) {
        set(&self.client_ns, name, value);
    }

    /// The sandbox's processes, as the host sees them.
    pub(crate) fn probes(&self) -> usize {
        let shims = sandbox::find_sandboxes(std::process::id().cast_signed()).unwrap();
        shims.iter().filter(|sandbox| sandbox.label.starts_with("probe/")).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.client.kill(Signal::KILL).unwrap();
        self.client.wait().unwrap();
    }
}

/// A request that only names its target: `NAME PORT` or `ADDRESS PORT`.
pub(crate) fn request(protocol: Protocol, target: &str) -> Request {
    let (host, port) = target.split_once(' ').unwrap_or((target, "0"));
    let address: Option<IpAddr> = host.parse().ok();
    let name = address.is_none().then(|| host.to_owned());
    Request {
        target: Target { name, address, port: port.parse().unwrap() },
        protocol,
        libc: Libc::Glibc,
        http: None,
        token: "token-1".to_owned(),
        source_port: None,
        timeout_ms: 5000,
        lookup_timeout_ms: None,
    }
}

fn client(dir: &std::path::Path) -> Spec {
    let mut spec = Spec::new("client", vec!["sleep".to_owned(), "1000".to_owned()]);
    (spec.net, spec.mount, spec.pid, spec.uts, spec.ipc) = (Ns::New, Ns::New, Ns::New, Ns::New, Ns::New);
    spec.env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    spec.die_with_parent = true;
    spec.reaper = true;
    let file = |target: &str, contents: &str| Mount::File {
        target: target.into(),
        contents: contents.to_owned(),
        mode: 0o644,
    };
    spec.root = Some(Root {
        dir: dir.to_owned(),
        mounts: vec![
            Mount::HostUserland,
            Mount::Proc,
            Mount::Sysfs,
            Mount::Dev,
            Mount::SelfExe { target: "/.seaway/seaway".into() },
            file("/etc/resolv.conf", "nameserver 10.9.0.1\nsearch test\n"),
            file("/etc/hosts", "127.0.0.1 localhost\n"),
            file("/etc/nsswitch.conf", "hosts: files dns\n"),
        ],
    });
    spec
}

fn connect(client: &NetNs, server: &NetNs) {
    let mut near = Rtnl::open_in(client).unwrap();
    let mut far = Rtnl::open_in(server).unwrap();
    near.add_veth_pair(&VethSpec {
        name: "eth0",
        mac: None,
        peer_name: "eth0",
        peer_ns: Some(server),
        peer_mac: None,
        mtu: None,
        up: true,
    })
    .unwrap();
    let near_link = near.link_by_name("eth0").unwrap().unwrap().index;
    let far_link = far.link_by_name("eth0").unwrap().unwrap().index;
    far.set_up(far_link).unwrap();
    for (address, length) in CLIENT.iter().zip([24, 64]) {
        near.add_address(near_link, net(&format!("{address}/{length}"))).unwrap();
    }
    for (address, length) in SERVER.iter().zip([24, 64]) {
        far.add_address(far_link, net(&format!("{address}/{length}"))).unwrap();
    }
    for (there, via) in UNREACHABLE.into_iter().zip(SERVER).chain([(SILENT, SERVER[0])]) {
        let kind = if there == SILENT { RouteKind::Blackhole } else { RouteKind::Unreachable };
        far.add_route(&Route { kind, ..Route::to(net(there)) }).unwrap();
        let via = Some(via.parse().unwrap());
        near.add_route(&Route { via, dev: Some(near_link), ..Route::to(net(there)) }).unwrap();
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn set(ns: &NetNs, name: &str, value: &str) {
    ns.run(|| sysctl::set(name, value).map(|_| ())).unwrap().unwrap();
}
