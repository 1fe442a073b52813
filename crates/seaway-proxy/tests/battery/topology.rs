//! The network that all scenarios share, and which each has for itself while it runs.
//!
//! ```text
//!  pods Client, A, B ── Node ── router ── OtherNode (pods X, Y)
//!                         │        └───── Outside
//!                       Beyond
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seaway_net::conntrack::{Conntrack, Filter};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::{Address, Route, RouteKind, Rtnl, Scope};
use seaway_net::sysctl;

use crate::addresses::*;
use crate::servers;

/// What pods have for their gateway: addresses that are good for nothing beyond the link.
const GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::1"];
/// The router's addresses on its three links, and the node's on its link to Beyond.
const ROUTER: [&str; 3] = ["192.0.2.254", "198.51.100.254", "203.0.113.254"];
pub(crate) const TO_BEYOND: &str = "10.99.0.254";

/// The network.
#[derive(Debug)]
pub(crate) struct Topology {
    namespaces: BTreeMap<Host, NetNs>,
    _router: NetNs,
    calls: AtomicU16,
}

impl Topology {
    /// The namespace of a host; pods of the other node are in its own.
    pub(crate) fn of(&self, host: Host) -> &NetNs {
        match host {
            X | Y | Gone => &self.namespaces[&OtherNode],
            host => &self.namespaces[&host],
        }
    }

    pub(crate) fn node(&self) -> &NetNs {
        self.of(Node)
    }

    /// A source port that no call has used for long: an old flow must not decide for a new one. None that a service or
    /// node port could be.
    pub(crate) fn new_port(&self) -> u16 {
        const FIRST: u16 = 33_000;
        FIRST + self.calls.fetch_add(1, Ordering::Relaxed) % (u16::MAX - FIRST)
    }

    /// Runs a program on the node under test, which must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        run(self.node(), program, arguments.split_whitespace())
    }

    /// Forgets all that a scenario left on the node under test.
    fn clean(&self) {
        run(self.node(), "nft", ["flush", "ruleset"]);
        let mut conntrack = self.node().run(|| Conntrack::open().unwrap()).unwrap();
        conntrack.delete_where(&Filter::default(), |_| true).unwrap();
    }

    fn new() -> Self {
        // Each has hundreds of sockets, and the limit is 1,024 files as a rule, but may be raised (getrlimit(2)).
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
        let ns = || NetNs::new().unwrap();
        let router = ns();
        let own = [Client, A, B, Node, OtherNode, Outside, Beyond];
        let namespaces: BTreeMap<Host, NetNs> = own.into_iter().map(|host| (host, ns())).collect();
        for ns in namespaces.values().chain([&router]) {
            prepare(ns);
        }
        let topology = Self { namespaces, _router: router, calls: AtomicU16::new(0) };
        topology.connect();
        topology
    }

    fn connect(&self) {
        let router = &self._router;
        for (host, far) in [Node, OtherNode, Outside].into_iter().zip(ROUTER) {
            let name = format!("{host:?}");
            let mut cable = Cable::new(router, &name, self.of(host), "eth0");
            for family in Family::BOTH {
                let wide = if family == Family::V4 { 24 } else { 64 };
                let in_net = |ip: &str| IpNet::new(family.ip(ip), wide).unwrap();
                cable.near_address(in_net(far));
                cable.far_address(in_net(host.address()));
                let route = Route { src: Some(host.ip(family)), ..Route::to(family.net("0.0.0.0/0")) };
                cable.far_route(Route { via: Some(family.ip(far)), ..route });
                let behind: &[&str] = match host {
                    Node => &[NODE_PODS, "172.20.0.1/32", SERVICE_NETWORK, MORE_SERVICES, EXTERNAL_NETWORK],
                    OtherNode => &[OTHER_NODE_PODS],
                    _ => &[],
                };
                for net in behind {
                    cable.near_route(Route { via: Some(host.ip(family)), ..Route::to(family.net(net)) });
                }
                match host {
                    Node => cable.far_address(family.ip(SECOND_NODE_IP).into()),
                    OtherNode => {
                        [X, Y].into_iter().for_each(|pod| cable.far_address(pod.ip(family).into()));
                        let kind = RouteKind::Blackhole;
                        let gone = Route { kind, ..Route::to(Gone.ip(family).into()) };
                        cable.far.0.add_route(&gone).unwrap();
                    }
                    _ => (3..=OUTSIDERS).for_each(|n| {
                        cable.far_address(family.ip(&format!("203.0.113.{n}")).into());
                    }),
                }
            }
        }
        for pod in [Client, A, B] {
            self.add_pod(pod);
        }
        self.add_beyond();
        servers::start(self);
    }

    fn add_pod(&self, pod: Host) {
        let mut cable = Cable::new(self.node(), &link_of(pod), self.of(pod), "eth0");
        for (family, gateway) in Family::BOTH.into_iter().zip(GATEWAY) {
            let (ip, gateway): (_, IpAddr) = (pod.ip(family), gateway.parse().unwrap());
            cable.near_local_address(gateway.into());
            cable.near_route(Route {
                scope: Scope::Link,
                src: Some(Node.ip(family)),
                ..Route::to(ip.into())
            });
            cable.far_address(ip.into());
            cable.far_route(Route { via: Some(gateway), onlink: true, ..Route::to(family.net("0.0.0.0/0")) });
        }
    }

    fn add_beyond(&self) {
        let mut cable = Cable::new(self.node(), "beyond", self.of(Beyond), "eth0");
        for family in Family::BOTH {
            let wide = if family == Family::V4 { 24 } else { 64 };
            let node = family.ip(TO_BEYOND);
            cable.near_address(IpNet::new(node, wide).unwrap());
            cable.far_address(IpNet::new(Beyond.ip(family), wide).unwrap());
            for net in [SERVICE_NETWORK, MORE_SERVICES, EXTERNAL_NETWORK] {
                let route = Route { src: Some(Node.ip(family)), ..Route::to(family.net(net)) };
                cable.near_route(Route { via: Some(Beyond.ip(family)), ..route });
            }
            cable.far_route(Route { via: Some(node), ..Route::to(family.net("0.0.0.0/0")) });
        }
        // Whatever comes is answered by the one server there, from the address that was called.
        for family in ["ip", "ip6"] {
            let chain = "{ type nat hook prerouting priority -100; }";
            let rule = format!("meta l4proto {{ tcp, udp, sctp }} redirect to :{}", servers::BEYOND_PORT);
            let table = format!(
                "table {family} beyond {{ chain every {chain}; }}; add rule {family} beyond every {rule}"
            );
            run(self.of(Beyond), "nft", [table]);
        }
    }
}

/// Sets what all namespaces need.
fn prepare(ns: &NetNs) {
    ns.run(|| {
        let settings = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            // Refusals must not be held back by the limits on ICMP errors; a type that is not in the mask has none.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv4/icmp_ratemask", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
            ("net/ipv6/icmp/ratemask", "3"),
        ];
        for (name, value) in settings {
            sysctl::set(name, value).unwrap();
        }
    })
    .unwrap();
}

/// A veth pair.
struct Cable {
    near: (Rtnl, u32),
    far: (Rtnl, u32),
}

impl Cable {
    fn new(near: &NetNs, near_name: &str, far: &NetNs, far_name: &str) -> Self {
        let mut rtnl = Rtnl::open_in(near).unwrap();
        rtnl.add_veth(near_name, far_name, Some(far), None).unwrap();
        let mut inside = Rtnl::open_in(far).unwrap();
        let index = |rtnl: &mut Rtnl, name: &str| rtnl.link_by_name(name).unwrap().unwrap().index;
        let mut ends = [(near_name, &mut rtnl), (far_name, &mut inside)].map(|(name, rtnl)| {
            let index = index(rtnl, name);
            rtnl.set_up(index).unwrap();
            (index, rtnl)
        });
        for (index, rtnl) in &mut ends {
            assert!(rtnl.await_operational(*index, servers::PATIENCE).unwrap());
        }
        let [near_index, far_index] = ends.map(|(index, _)| index);
        Self { near: (rtnl, near_index), far: (inside, far_index) }
    }

    fn near_address(&mut self, net: IpNet) {
        self.near.0.add_address(self.near.1, net).unwrap();
    }

    fn near_local_address(&mut self, net: IpNet) {
        self.near.0.add_scoped_address(Address { index: self.near.1, net, scope: Scope::Link }).unwrap();
    }

    fn far_address(&mut self, net: IpNet) {
        self.far.0.add_address(self.far.1, net).unwrap();
    }

    fn near_route(&mut self, route: Route) {
        self.near.0.add_route(&Route { dev: Some(self.near.1), ..route }).unwrap();
    }

    fn far_route(&mut self, route: Route) {
        self.far.0.add_route(&Route { dev: Some(self.far.1), ..route }).unwrap();
    }
}

/// Runs a program, which must succeed.
pub(crate) fn run(
    ns: &NetNs,
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = ns.run(|| command.output().unwrap()).unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Networks that nobody uses.
static IDLE: Mutex<Vec<Topology>> = Mutex::new(Vec::new());

/// A network of one's own, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Loan(Option<Topology>);

impl Loan {
    pub(crate) fn new() -> Self {
        let idle = IDLE.lock().unwrap().pop();
        Self(Some(idle.unwrap_or_else(Topology::new)))
    }
}

impl Deref for Loan {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // After a failure who knows what is there.
        if !std::thread::panicking()
            && let Some(topology) = self.0.take()
        {
            topology.clean();
            IDLE.lock().unwrap().push(topology);
        }
    }
}
