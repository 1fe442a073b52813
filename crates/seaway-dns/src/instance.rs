//! A Corefile in force: chains of plugins, and the tasks that belong to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use hickory_proto::op::ResponseCode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::BlockConfig;
use crate::explain::BlockStatus;
use crate::forward::Forward;
use crate::kubernetes::{Cluster, Clusters, Kubernetes};
use crate::message::{Query, Reply, encode};
use crate::metrics::{Answered, BlockLabels, Metrics};
use crate::name::ZoneName;
use crate::plugin::{Chain, Explanation, Failure, Plugin};
use crate::plugins::cache::Cache;
use crate::plugins::errors;
use crate::plugins::health::Readiness;
use crate::plugins::hosts::Hosts;
use crate::plugins::loadbalance::LoadBalance;
use crate::plugins::log::Rule;
use crate::plugins::loop_detection::Loop;
use crate::plugins::whoami::Whoami;

/// What plugins share over all Corefiles of the process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clusters: Clusters,
    /// Who says something here ends the process.
    pub(crate) fatal: mpsc::Sender<String>,
}

/// What serves one zone at one address.
#[derive(Debug)]
pub(crate) struct Served {
    zone: ZoneName,
    labels: BlockLabels,
    block: Arc<Block>,
}

/// A server block.
#[derive(Debug)]
struct Block {
    chain: Chain,
    errors: bool,
    log: Vec<Rule>,
    metrics: Option<Arc<Metrics>>,
    panics: Arc<Metrics>,
}

/// A Corefile in force.
pub(crate) struct Instance {
    /// By address to listen at, the zones that are served there.
    pub(crate) routes: Vec<(SocketAddr, Arc<[Served]>)>,
    /// Where `/health` answers.
    pub(crate) health: BTreeSet<SocketAddr>,
    /// Where `/ready` answers.
    pub(crate) ready: BTreeSet<SocketAddr>,
    /// Where `/metrics` answers.
    pub(crate) prometheus: BTreeSet<SocketAddr>,
    /// What is to be ready.
    pub(crate) readiness: Vec<Arc<dyn Readiness>>,
    /// How long to go on after SIGTERM.
    pub(crate) lameduck: Duration,
    clusters: Vec<Arc<Cluster>>,
    probes: Vec<Arc<Loop>>,
    /// Ended when dropped.
    tasks: JoinSet<()>,
}

impl Instance {
    /// Sets the plugins up. Nothing listens yet.
    ///
    /// # Errors
    /// An API server that cannot be asked.
    pub(crate) async fn new(configs: Vec<BlockConfig>, shared: &Shared) -> anyhow::Result<Self> {
        let mut instance = Self {
            routes: Vec::new(),
            health: BTreeSet::new(),
            ready: BTreeSet::new(),
            prometheus: BTreeSet::new(),
            readiness: Vec::new(),
            lameduck: Duration::ZERO,
            clusters: Vec::new(),
            probes: Vec::new(),
            tasks: JoinSet::new(),
        };
        let mut served: Vec<(SocketAddr, Vec<Served>)> = Vec::new();
        for config in configs {
            for (address, part) in instance.add(config, shared).await? {
                match served.iter_mut().find(|(there, _)| *there == address) {
                    Some((_, parts)) => parts.push(part),
                    None => served.push((address, vec![part])),
                }
            }
        }
        instance.routes = served.into_iter().map(|(address, parts)| (address, parts.into())).collect();
        Ok(instance)
    }

    async fn add(
        &mut self,
        config: BlockConfig,
        shared: &Shared,
    ) -> anyhow::Result<Vec<(SocketAddr, Served)>> {
        if let Some(health) = config.health {
            self.health.insert(health.address);
            self.lameduck = self.lameduck.max(health.lameduck);
        }
        self.ready.extend(config.ready);
        self.prometheus.extend(config.prometheus);
        let Some((zone, port)) = config.serves.first() else { return Ok(Vec::new()) };
        let labels = |zone: &ZoneName, port: u16| BlockLabels {
            server: server_label(&config.bind, port),
            zone: zone.as_str().into(),
            view: "".into(),
        };
        let first = SocketAddr::new(config.bind.first().copied().unwrap_or(ANY), *port);
        let chain = self.chain(&config, &labels(zone, *port), zone, first, shared).await?;
        let block = Arc::new(Block {
            chain,
            errors: config.errors,
            log: config.log.clone(),
            metrics: config.prometheus.map(|_| shared.metrics.clone()),
            panics: shared.metrics.clone(),
        });
        let mut served = Vec::new();
        for (zone, port) in &config.serves {
            let labels = labels(zone, *port);
            for name in config.plugin_names() {
                shared.metrics.enabled(&labels, name);
            }
            let binds = if config.bind.is_empty() { vec![ANY] } else { config.bind.clone() };
            for ip in binds {
                let part = Served { zone: zone.clone(), labels: labels.clone(), block: block.clone() };
                served.push((SocketAddr::new(ip, *port), part));
            }
        }
        Ok(served)
    }

    /// The plugins in CoreDNS's order.
    async fn chain(
        &mut self,
        config: &BlockConfig,
        labels: &BlockLabels,
        zone: &ZoneName,
        address: SocketAddr,
        shared: &Shared,
    ) -> anyhow::Result<Chain> {
        let mut plugins: Vec<Arc<dyn Plugin>> = Vec::new();
        if config.loadbalance {
            plugins.push(Arc::new(LoadBalance));
        }
        if let Some(settings) = &config.cache {
            plugins.push(Arc::new(Cache::new(settings.clone(), shared.metrics.clone(), labels)));
        }
        if let Some(settings) = &config.hosts {
            let hosts = Arc::new(Hosts::new(settings.clone()));
            let followed = hosts.clone();
            self.tasks.spawn(async move { followed.follow().await });
            plugins.push(hosts);
        }
        if let Some(options) = &config.kubernetes {
            let options = Arc::new(options.clone());
            let cluster = shared.clusters.follow(&options).await?;
            let own = if config.bind.is_empty() { own_addresses() } else { config.bind.clone() };
            let kubernetes = Arc::new(Kubernetes::new(options, cluster.state(), own));
            self.clusters.push(cluster);
            self.readiness.push(kubernetes.clone());
            plugins.push(kubernetes);
        }
        if config.loop_detection {
            let detection = Arc::new(Loop::new(zone.clone(), address, shared.fatal.clone()));
            self.probes.push(detection.clone());
            plugins.push(detection);
        }
        for settings in &config.forward {
            plugins.push(Arc::new(Forward::new(settings.clone(), shared.metrics.clone())));
        }
        if config.whoami {
            plugins.push(Arc::new(Whoami));
        }
        Ok(Chain::new(plugins))
    }

    /// Waits until the clusters' first lists are there, for their `startup_timeout` at most.
    pub(crate) async fn wait_for_clusters(&self) {
        futures::future::join_all(self.clusters.iter().map(|cluster| cluster.wait())).await;
    }

    /// Begins what needs the server to listen.
    pub(crate) fn listening(&mut self) {
        for probe in std::mem::take(&mut self.probes) {
            self.tasks.spawn(async move { probe.probe().await });
        }
    }
}

/// All addresses of both families.
const ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn server_label(bind: &[IpAddr], port: u16) -> Arc<str> {
    match bind.first() {
        None => format!("dns://:{port}").into(),
        Some(ip) => format!("dns://{}", SocketAddr::new(*ip, port)).into(),
    }
}

/// The addresses that packets to elsewhere would have as their source; nothing is sent.
fn own_addresses() -> Vec<IpAddr> {
    let elsewhere = [("0.0.0.0:0", "192.0.2.1:53"), ("[::]:0", "[2001:db8::1]:53")];
    let local = |(local, remote): (&str, &str)| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    elsewhere.into_iter().filter_map(local).filter(|ip| !ip.is_loopback()).collect()
}

/// What serves the longest zone that the name is in.
pub(crate) fn serving<'a>(routes: &'a [Served], query: &Query) -> Option<&'a Served> {
    let in_zone = routes.iter().filter(|served| served.zone.contains(&query.lower));
    in_zone.max_by_key(|served| served.zone.as_str().len())
}

/// Answers `query` with the block of the longest zone that it is in.
pub(crate) async fn answer(routes: &[Served], query: &Query, begin: Instant) -> Vec<u8> {
    let Some(served) = serving(routes, query) else {
        return encode(query, &Reply::of_code(ResponseCode::Refused)).bytes;
    };
    served.answer(query, begin).await
}

impl Served {
    /// What [`answer`] would come to.
    pub(crate) fn explain(&self, query: &Query) -> Explanation {
        self.block.chain.start().explain(query)
    }

    /// Which server block it is, as `dns://:53 cluster.local.`.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.labels.server, self.zone)
    }

    /// How its plugins fare.
    pub(crate) fn status(&self, listen: SocketAddr) -> BlockStatus {
        BlockStatus { listen, zone: self.zone.to_string(), plugins: self.block.chain.status() }
    }

    async fn answer(&self, query: &Query, begin: Instant) -> Vec<u8> {
        let block = &self.block;
        let next = block.chain.start();
        let work = std::panic::AssertUnwindSafe(next.run(query));
        let outcome = match work.catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => {
                block.panics.panics.inc();
                Err(Failure::server("server", "a plugin panicked: this is a bug"))
            }
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(failure) => {
                if block.errors {
                    errors::log(query, &failure);
                }
                Reply::of_code(failure.code)
            }
        };
        let encoded = encode(query, &reply);
        let answered = Answered {
            code: encoded.metadata.response_code,
            size: encoded.bytes.len(),
            duration: begin.elapsed(),
        };
        if let Some(metrics) = &block.metrics {
            metrics.answered(&self.labels, query, &answered);
        }
        if let Some(rule) =
            block.log.iter().find(|rule| rule.applies_to(query, answered.code, reply.answers.is_empty()))
        {
            tracing::info!(target: "plugin/log", "{}", rule.line(query, &encoded.metadata, &answered));
        }
        encoded.bytes
    }
}
