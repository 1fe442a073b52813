//! Random clusters, random changes and random calls: what the plan says is what the kernel does, and a driver that follows
//! changes one by one is where one that begins anew would be.
//!
//! `SEAWAY_BATTERY_SEED` repeats a cluster (each has its own seed, which a failure tells), `SEAWAY_BATTERY_CLUSTERS` asks for
//! more of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use seaway_model::{DetectLocal, NodePortAddresses, Protocol, ProxySettings, RANGES_COVER_NODE_PORTS};

use crate::addresses::*;
use crate::calls::Call;
use crate::objects::{At, Svc, node_object, service};
use crate::plan::settings;
use crate::sockets::PROTOCOLS;
use crate::world::{World, new_driver};

/// Clusters that are tested at once: most of the time is spent waiting for silence.
const WORKERS: u64 = 6;
/// How often each cluster changes.
const ROUNDS: usize = 4;
const CALLS: usize = 40;
const SERVICES: usize = 6;

/// Numbers that look random (splitmix64; Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn the_kernel_does_what_the_plan_says() {
    let clusters = setting("SEAWAY_BATTERY_CLUSTERS").unwrap_or(24);
    if let Some(seed) = setting("SEAWAY_BATTERY_SEED") {
        return test_cluster(seed);
    }
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut seeds = Random(u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap());
    let first = seeds.next() >> 16;
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= clusters {
                        return;
                    }
                    let seed = first + n;
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test_cluster(seed))) {
                        eprintln!("SEAWAY_BATTERY_SEED={seed} repeats it");
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
}

fn test_cluster(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::with(random_settings(&mut random));
    for n in 0..SERVICES {
        if random.chance(80) {
            world.set(&random_service(&mut random, n));
        }
    }
    for _ in 0..ROUNDS {
        world.apply();
        let calls = (0..CALLS).map(|_| random_call(&mut random)).collect();
        let calls = world.predicted(calls);
        world.expect(calls);
        let anew = new_driver(world.topology.node()).dry_run(&world.plan).unwrap();
        assert_eq!(anew, "", "a driver that begins anew would change this");
        change(&mut random, &mut world);
    }
}

fn random_settings(random: &mut Random) -> ProxySettings {
    let nets = |text: &str| Family::BOTH.map(|family| family.net(text)).to_vec();
    let detect_local = match random.below(6) {
        0 => DetectLocal::NodeCidr,
        1 => DetectLocal::BridgeInterface(link_of(Client).into()),
        2 => DetectLocal::InterfaceNamePrefix("pod-".into()),
        _ => settings().detect_local,
    };
    let node_port_addresses = match random.below(5) {
        0 => NodePortAddresses::Networks(nets("172.20.0.0/16")),
        1 => NodePortAddresses::Networks(nets("0.0.0.0/0")),
        _ => NodePortAddresses::Primary,
    };
    ProxySettings { detect_local, masquerade_all: random.chance(15), node_port_addresses }
}

/// Something changes, or several things.
fn change(random: &mut Random, world: &mut World) {
    for _ in 0..1 + random.below(4) {
        let n = random.below(SERVICES);
        match random.below(10) {
            0 => {
                let mut node = node_object(Node);
                node.zone = random.pick(&[None, Some("east".into()), Some("west".into())]);
                if random.chance(50) {
                    node.internal_ips.extend(Family::BOTH.map(|family| family.ip(SECOND_NODE_IP)));
                }
                world.set_node(Node, node);
            }
            1 => {
                let networks: &[&str] =
                    random.pick(&[&[][..], &[SERVICE_NETWORK], &[MORE_SERVICES, SERVICE_NETWORK]]);
                world.set_service_networks(networks);
            }
            2 => world.settings = random_settings(random),
            3 | 4 if world.has(&format!("s{n}")) => {
                world.delete(&format!("s{n}"));
            }
            _ => {
                world.set(&random_service(random, n));
            }
        }
    }
}

fn random_service(random: &mut Random, n: usize) -> Svc {
    let mut all = service(&format!("s{n}"));
    if random.chance(15) {
        all = all.only(random.pick(&Family::BOTH));
    }
    if random.chance(25) {
        all = all.protocol(random.pick(&PROTOCOLS));
    }
    all = match random.below(20) {
        0 => all.headless(),
        1 => all.cluster_ip("10.96.0.1"),
        _ => all.cluster_ip(&format!("10.96.0.{}", n + 1)),
    };
    if random.chance(5) {
        all = all.label("service.kubernetes.io/service-proxy-name", "other");
    }
    let exposed = random.chance(60);
    for (port, target, node_port) in [(80, 8080, 30080), (81, 8081, 30081)] {
        if port == 80 || random.chance(40) {
            all = all.port_to(port, target);
            if exposed && random.chance(80) {
                let own = 2 * u16::try_from(if random.chance(90) { n } else { 0 }).unwrap();
                all = all.node_port(node_port + own);
            }
        }
    }
    if exposed && random.chance(60) {
        let ip = format!("198.18.0.{}", 1 + random.below(4));
        all = if random.chance(85) { all.load_balancer(&ip) } else { all.proxying_load_balancer(&ip) };
        if random.chance(40) {
            for _ in 0..1 + random.below(3) {
                let nets =
                    ["203.0.113.2/32", "203.0.113.0/24", "10.244.1.0/24", "192.0.2.1/32", "198.51.100.0/24"];
                let net = random.pick(&nets);
                all = if random.chance(80) {
                    all.source_range(net)
                } else {
                    all.source_range_of(Family::V4, net)
                };
            }
            if random.chance(40) {
                all = all.annotation(RANGES_COVER_NODE_PORTS, random.pick(&["true", "false"]));
            }
        }
    }
    if random.chance(40) {
        all = all.external_ip(&format!("198.18.0.{}", 3 + random.below(4)));
    }
    if random.chance(35) {
        all = all.external_local();
    }
    if random.chance(25) {
        all = all.internal_local();
    }
    if random.chance(20) {
        all = all.affinity(Duration::from_secs(10_800));
    }
    all.endpoints(random_endpoints(random))
}

fn random_endpoints(random: &mut Random) -> Vec<At> {
    let most = random.pick(&[0, 20, 40, 70]);
    let (zones, nodes) = (random.chance(30), random.chance(20));
    let settled = random.chance(60);
    let mut endpoints = Vec::new();
    for host in [Client, A, B, X, Y, Node, OtherNode] {
        if !random.chance(most) {
            continue;
        }
        let mut at = match random.below(8) {
            _ if settled => host.ready(),
            0 => host.not_ready(),
            1 => host.ended(),
            2..5 => host.terminating(),
            _ => host.ready(),
        };
        if zones && random.chance(92) {
            at = at.for_zone(random.pick(&["east", "west", "north"]));
        }
        if nodes && random.chance(92) {
            at = at.for_node(random.pick(&[NODE, OTHER_NODE]));
        }
        endpoints.push(at);
    }
    endpoints
}

fn random_call(random: &mut Random) -> Call {
    let caller = random.pick(&[Client, A, B, X, Y, Node, OtherNode, Outside, Outside]);
    let n = random.below(SERVICES);
    let port = random.pick(&[80, 80, 80, 81, 82]);
    let to = match random.below(10) {
        0..4 => format!("10.96.0.{}:{port}", n + 1),
        4..6 => format!("192.0.2.1:{}", 30_080 + random.below(2 * SERVICES + 1)),
        6 => format!("172.20.0.1:{}", 30_080 + random.below(2 * SERVICES + 1)),
        7..9 => format!("198.18.0.{}:{port}", 1 + random.below(7)),
        _ => {
            let other =
                ["10.96.0.99:80", "10.97.0.99:80", "203.0.113.2:8080", "10.244.1.6:8080", "10.244.2.6:8081"];
            random.pick(&other).to_owned()
        }
    };
    let mut question = caller.calls(to);
    if caller == Outside {
        question = question.from(random.pick(&["203.0.113.2", "203.0.113.3"]));
    }
    let family = random.pick(&Family::BOTH);
    question.in_family(family).over(vec![random.pick::<Protocol>(&PROTOCOLS)]).dropped()
}
