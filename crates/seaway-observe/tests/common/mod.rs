//! Networks of namespaces, with an observer on each.

#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use seaway_http::unix;
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Route, Rtnl, VethSpec};
use seaway_net::sysctl;
use seaway_observe::Observer;
use seaway_observe::api::{Observe, Packet, PacketFilter, PacketMatch, Packets, Rules, Select, Started};
use tempfile::TempDir;

/// A namespace.
pub(crate) struct Host {
    pub(crate) ns: NetNs,
    pub(crate) rtnl: Rtnl,
}

impl Host {
    pub(crate) fn new() -> Self {
        let ns = NetNs::new().unwrap();
        let rtnl = Rtnl::open_in(&ns).unwrap();
        Self { ns, rtnl }
    }

    /// Runs `f` inside.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.ns.run(f).unwrap()
    }

    pub(crate) fn address(&mut self, link: &str, net: &str) {
        let index = self.index(link);
        self.rtnl.set_up(index).unwrap();
        self.rtnl.add_address(index, net.parse().unwrap()).unwrap();
    }

    pub(crate) fn index(&mut self, link: &str) -> u32 {
        self.rtnl.link_by_name(link).unwrap().unwrap().index
    }

    pub(crate) fn route(&mut self, to: &str, via: &str) {
        let to: IpNet = to.parse().unwrap();
        self.rtnl.add_route(&Route { via: Some(via.parse().unwrap()), ..Route::to(to) }).unwrap();
    }

    pub(crate) fn nft(&self, text: &str) {
        let done = self.run(|| Command::new("nft").arg(text).output().unwrap());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn tables(&self) -> String {
        let done = self.run(|| Command::new("nft").args(["list", "tables"]).output().unwrap());
        String::from_utf8(done.stdout).unwrap()
    }

    pub(crate) fn tcp_listener(&self, address: &str) -> TcpListener {
        self.run(|| TcpListener::bind(address).unwrap())
    }

    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    pub(crate) fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap())
    }
}

/// A veth between two hosts, with an address on each end.
pub(crate) fn cable(a: (&mut Host, &str, &str), b: (&mut Host, &str, &str)) {
    let spec = VethSpec {
        name: a.1,
        mac: None,
        peer_name: b.1,
        peer_ns: Some(&b.0.ns),
        peer_mac: None,
        mtu: None,
        up: false,
    };
    a.0.rtnl.add_veth_pair(&spec).unwrap();
    a.0.address(a.1, a.2);
    b.0.address(b.1, b.2);
    for (host, link) in [(a.0, a.1), (b.0, b.1)] {
        let index = host.index(link);
        assert!(host.rtnl.await_operational(index, Duration::from_secs(5)).unwrap());
    }
}

/// A client, a router and a server.
pub(crate) struct Line {
    pub(crate) client: Host,
    pub(crate) router: Host,
    pub(crate) server: Host,
}

/// 10.1.0.2 — 10.1.0.1 c0, s0 10.2.0.1 — 10.2.0.2; the router makes 10.96.0.1:80 of any protocol 10.2.0.2:8080 and
/// hides the client behind itself.
pub(crate) fn line() -> Line {
    let (mut client, mut router, mut server) = (Host::new(), Host::new(), Host::new());
    cable((&mut client, "eth0", "10.1.0.2/24"), (&mut router, "c0", "10.1.0.1/24"));
    cable((&mut server, "eth0", "10.2.0.2/24"), (&mut router, "s0", "10.2.0.1/24"));
    client.route("0.0.0.0/0", "10.1.0.1");
    server.route("0.0.0.0/0", "10.2.0.1");
    router.run(|| sysctl::set("net/ipv4/ip_forward", "1").unwrap());
    router.nft(
        "table ip service {
            chain pre {
                type nat hook prerouting priority dstnat;
                ip daddr 10.96.0.1 meta l4proto { tcp, udp } th dport 80 dnat to 10.2.0.2:8080 comment \"the service\"
            }
            chain post {
                type nat hook postrouting priority srcnat;
                oifname s0 masquerade comment \"hide\"
            }
        }",
    );
    Line { client, router, server }
}

/// An observer behind a socket.
pub(crate) struct Served {
    pub(crate) path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Served {
    pub(crate) fn new(host: &Host) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("observer.sock");
        let listener = unix::bind(&path).unwrap();
        let router = seaway_observe::router(Observer::of(host.ns.try_clone().unwrap()));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { path, task, _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn start(&self, request: &Observe) -> String {
        unix::post::<Started>(&self.path, "/v1/observations", request).await.unwrap().id
    }

    pub(crate) async fn watch(&self, packets: Vec<PacketFilter>) -> String {
        self.start(&Observe { packets, rules: Vec::new(), seconds: 30 }).await
    }

    pub(crate) async fn want(&self, id: &str, filters: &[PacketFilter]) {
        unix::put(&self.path, &format!("/v1/observations/{id}/packets"), &filters).await.unwrap();
    }

    pub(crate) async fn packets(&self, id: &str, any: Vec<PacketMatch>) -> Packets {
        unix::post(&self.path, &format!("/v1/observations/{id}/packets"), &Select { any }).await.unwrap()
    }

    pub(crate) async fn rules(&self, id: &str) -> Rules {
        unix::get(&self.path, &format!("/v1/observations/{id}/rules")).await.unwrap()
    }

    pub(crate) async fn end(&self, id: &str) {
        unix::delete(&self.path, &format!("/v1/observations/{id}")).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `link< source:port destination:port`, with `>` for what leaves.
pub(crate) fn told(packet: &Packet) -> String {
    let end = |address: Option<IpAddr>, port: Option<u16>| {
        let address = address.unwrap();
        port.map_or_else(|| address.to_string(), |port| format!("{address}:{port}"))
    };
    let (ip, sign) = (&packet.ip, if packet.out { '>' } else { '<' });
    format!(
        "{}{sign} {} {}",
        packet.link,
        end(ip.source, ip.source_port),
        end(ip.destination, ip.destination_port)
    )
}
