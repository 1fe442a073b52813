//! A node with pods in network namespaces, and a cluster to plan for.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use seaway_model::{
    Changes, EgressPlan, Endpoint, EndpointPort, EndpointSlice, LocalSources, NodePlan, ObjectName, PlanDiff,
    Protocol, ProxyPlan, Service, ServicePlan, ServicePort, ServiceType, Snapshot,
};
use seaway_net::netns::NetNs;
use seaway_net::nft::Kernel;
use seaway_net::rtnl::{Route, Rtnl, Scope};
use seaway_net::sysctl;
use seaway_proxy::NftablesDriver;

/// This node's name in the plans.
pub(crate) const NODE: &str = "node-1";
/// Nobody waits longer than this for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// A service's address.
pub(crate) const VIP: &str = "10.96.0.7";
/// The node, as seen from outside.
pub(crate) const NODE_IP: &str = "192.0.2.1";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Where a service listens.
pub(crate) fn vip() -> SocketAddr {
    SocketAddr::new(ip(VIP), 80)
}

/// Where an endpoint listens.
pub(crate) fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 8080)
}

pub(crate) fn driver(topology: &Topology) -> NftablesDriver<Kernel> {
    NftablesDriver::new(topology.node.run(|| Kernel::open().unwrap()).unwrap())
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < patience, "{what} did not come about");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The node's router address as its pods see it.
const GATEWAY: &str = "169.254.1.1";

/// A node (address 192.0.2.1) between its pods and one machine outside, 192.0.2.2, that is also its way to the pods
/// of other nodes.
pub(crate) struct Topology {
    pub(crate) node: NetNs,
    pub(crate) outside: NetNs,
    pods: BTreeMap<IpAddr, NetNs>,
}

impl Topology {
    pub(crate) fn new() -> Self {
        let (node, outside) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        node.run(|| {
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
            sysctl::set("net/ipv4/conf/all/rp_filter", "0").unwrap();
            sysctl::set("net/ipv4/conf/all/send_redirects", "0").unwrap();
            sysctl::set("net/ipv4/conf/default/send_redirects", "0").unwrap();
            // Refusals must not be held back by the limit on ICMP errors.
            sysctl::set("net/ipv4/icmp_ratelimit", "0").unwrap();
        })
        .unwrap();
        let mut rtnl = Rtnl::open_in(&node).unwrap();
        rtnl.add_veth("up", "eth0", Some(&outside), None).unwrap();
        let up = rtnl.link_by_name("up").unwrap().unwrap().index;
        rtnl.add_address(up, net("192.0.2.1/24")).unwrap();
        rtnl.set_up(up).unwrap();
        let mut far = Rtnl::open_in(&outside).unwrap();
        let eth0 = far.link_by_name("eth0").unwrap().unwrap().index;
        far.add_address(eth0, net("192.0.2.2/24")).unwrap();
        far.set_up(eth0).unwrap();
        rtnl.add_route(&Route { via: Some(ip("192.0.2.2")), dev: Some(up), ..Route::to(net("0.0.0.0/0")) })
            .unwrap();
        Self { node, outside, pods: BTreeMap::new() }
    }

    /// A pod of this node.
    pub(crate) fn add_pod(&mut self, address: &str) -> IpAddr {
        let address = ip(address);
        let pod = NetNs::new().unwrap();
        let mut rtnl = Rtnl::open_in(&self.node).unwrap();
        let name = format!("pod{}", self.pods.len());
        rtnl.add_veth(&name, "eth0", Some(&pod), None).unwrap();
        let link = rtnl.link_by_name(&name).unwrap().unwrap().index;
        rtnl.set_up(link).unwrap();
        rtnl.add_address(link, IpNet::from(ip(GATEWAY))).unwrap();
        rtnl.add_route(&Route { dev: Some(link), scope: Scope::Link, ..Route::to(address.into()) }).unwrap();
        let mut inside = Rtnl::open_in(&pod).unwrap();
        let eth0 = inside.link_by_name("eth0").unwrap().unwrap().index;
        inside.set_up(eth0).unwrap();
        inside.add_address(eth0, address.into()).unwrap();
        let default =
            Route { via: Some(ip(GATEWAY)), dev: Some(eth0), onlink: true, ..Route::to(net("0.0.0.0/0")) };
        inside.add_route(&default).unwrap();
        self.pods.insert(address, pod);
        address
    }

    /// A pod of another node: an address of the machine outside, which knows no way back to this node's pods but
    /// through this node.
    pub(crate) fn add_remote_pod(&mut self, address: &str) -> IpAddr {
        let address = ip(address);
        let mut far = Rtnl::open_in(&self.outside).unwrap();
        let eth0 = far.link_by_name("eth0").unwrap().unwrap().index;
        far.add_address(eth0, address.into()).unwrap();
        let back = Route { via: Some(ip("192.0.2.1")), ..Route::to(net("10.244.1.0/24")) };
        far.replace_route(&back).unwrap();
        self.pods.insert(address, self.outside.try_clone().unwrap());
        address
    }

    pub(crate) fn pod(&self, address: IpAddr) -> &NetNs {
        &self.pods[&address]
    }
}

/// Runs a program that only looks, such as `nft list ruleset`.
pub(crate) fn output(ns: &NetNs, program: &str, args: &[&str]) -> String {
    let output = ns.run(|| Command::new(program).args(args).output().unwrap()).unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Answers each caller with its own address and the caller's, as `server client`, until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn tcp(ns: &NetNs, at: SocketAddr) -> Self {
        Self::streams(ns.run(|| TcpListener::bind(at).unwrap()).unwrap(), at)
    }

    fn streams(listener: TcpListener, at: SocketAddr) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self::serve(move || match listener.accept() {
            Ok((mut stream, client)) => {
                let _ = stream.write_all(format!("{} {}", at.ip(), client.ip()).as_bytes());
                true
            }
            Err(_) => false,
        })
    }

    fn serve(mut once: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if !once() {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a TCP server at `to` answers: its own address and the caller's as it sees it.
pub(crate) fn ask_tcp(ns: &NetNs, to: SocketAddr) -> io::Result<(IpAddr, IpAddr)> {
    let mut stream = ns.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(parse(&answer))
}

fn parse(answer: &str) -> (IpAddr, IpAddr) {
    let (server, client) = answer.split_once(' ').unwrap();
    (ip(server), ip(client))
}

/// A cluster whose plan can be followed step by step.
pub(crate) struct Cluster {
    snapshot: Snapshot,
    pub(crate) plan: NodePlan,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let egress = EgressPlan::new(&[net("10.244.0.0/16")], &[net("10.244.1.0/24")], &[]);
        let local_sources = LocalSources::Networks(egress.pod_networks.clone());
        let proxy = ProxyPlan { local_sources, ..ProxyPlan::default() };
        let plan = NodePlan { services: ServicePlan::new(NODE), egress, proxy };
        Self { snapshot: Snapshot::default(), plan }
    }

    /// Sets what the service at `vip` has for endpoints, all with port 8080; those in 10.244.1.0/24, and the node's own
    /// address (of pods in the host's network), are this node's.
    pub(crate) fn set(
        &mut self,
        name: &str,
        vip: &str,
        protocol: Protocol,
        endpoints: &[IpAddr],
    ) -> PlanDiff {
        let name = ObjectName::new("default", name);
        let port = ServicePort { name: "p".into(), protocol, port: 80, node_port: None };
        let service = Service { cluster_ips: vec![ip(vip)], ports: vec![port], ..Service::default() };
        let endpoints = endpoints.iter().map(|address| endpoint(*address)).collect();
        let ports = vec![EndpointPort { name: "p".into(), protocol, port: 8080 }];
        let slice = EndpointSlice { service: name.clone(), ports, endpoints };
        self.snapshot.services.insert_mut(name.clone(), Arc::new(service));
        let mut slices = self.snapshot.slices.get(&name).cloned().unwrap_or_default();
        slices.insert_mut("slice".into(), Arc::new(slice));
        self.snapshot.slices.insert_mut(name.clone(), slices);
        self.follow(name)
    }

    /// Gives a service that was set before a port at the node's address.
    pub(crate) fn expose(&mut self, name: &str, node_port: u16) -> PlanDiff {
        self.plan.proxy.node_port_networks = vec![IpNet::from(ip(NODE_IP))];
        let name = ObjectName::new("default", name);
        let mut service = Service::clone(&self.snapshot.services[&name]);
        service.kind = ServiceType::NodePort;
        service.ports[0].node_port = Some(node_port);
        self.snapshot.services.insert_mut(name.clone(), Arc::new(service));
        self.follow(name)
    }

    pub(crate) fn remove(&mut self, name: &str) -> PlanDiff {
        let name = ObjectName::new("default", name);
        self.snapshot.services.remove_mut(&name);
        self.follow(name)
    }

    fn follow(&mut self, name: ObjectName) -> PlanDiff {
        self.snapshot.generation += 1;
        let changes = Changes { services: [name].into(), ..Changes::default() };
        self.plan.services.update(&self.snapshot, &changes)
    }
}

fn endpoint(address: IpAddr) -> Endpoint {
    let local = net("10.244.1.0/24").contains(&address) || address == ip("192.0.2.1");
    Endpoint {
        addresses: vec![address],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: Some(if local { NODE.into() } else { "node-2".into() }),
        zone: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        target: None,
    }
}
