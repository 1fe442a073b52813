//! The workers: each takes keys from a queue, gathers what a decision is made from, and carries it out.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::Config;
use crate::cluster::Cluster;
use crate::controllers::garbage::Kinds;
use crate::controllers::scheduler::{self, Verdict};
use crate::controllers::{
    cloud_node, daemon_set, deployment, endpoints, eviction, job, mirror, namespace, node_cidr, node_health,
    replica_set, slices,
};
use crate::error::Error;
use crate::execute::Executor;
use crate::meta::{controls, deleting, selects, service_selects};
use crate::object::{Action, Decision, Stores, Target};
use crate::queue::Queue;
use crate::routes::NODE_LEASES;
use crate::store::{Key, controller_uid};

/// The controllers' common surroundings.
struct Context {
    executor: Executor,
    kinds: Arc<Kinds>,
    config: Arc<Config>,
    heard: Mutex<node_health::Heard>,
    missing: Mutex<eviction::Missing>,
}

/// When to look at a key again without a change.
type Again = Option<Duration>;

/// Runs all workers for ever.
pub(super) async fn all(executor: Executor, kinds: Arc<Kinds>, config: Arc<Config>) {
    let context = Context { executor, kinds, config, heard: Mutex::default(), missing: Mutex::default() };
    let queues = &context.executor.cluster().queues;
    let c = &context;
    // Endpoints and pods are on the way of users' connections: several keys at a time there.
    let workers: Vec<BoxFuture<'_, ()>> = vec![
        Box::pin(workers(4, &queues.slices, "endpointslice", move |key| sync_slices(c, key))),
        Box::pin(workers(4, &queues.endpoints, "endpoints", move |key| sync_endpoints(c, key))),
        Box::pin(workers(1, &queues.mirrors, "endpointslicemirroring", move |key| sync_mirror(c, key))),
        Box::pin(workers(4, &queues.scheduling, "scheduler", move |key| schedule(c, key))),
        Box::pin(workers(4, &queues.replica_sets, "replicaset", move |key| sync_replica_set(c, key))),
        Box::pin(workers(4, &queues.deployments, "deployment", move |key| sync_deployment(c, key))),
        Box::pin(workers(1, &queues.daemon_sets, "daemonset", move |key| sync_daemon_set(c, key))),
        Box::pin(workers(2, &queues.jobs, "job", move |key| sync_job(c, key))),
        Box::pin(workers(2, &queues.namespaces, "namespace", move |name| sync_namespace(c, name))),
        // One at a time, so that no two nodes get the same network.
        Box::pin(workers(1, &queues.node_cidrs, "node-ipam", move |name| sync_node_cidr(c, name))),
        Box::pin(workers(4, &queues.node_health, "node-lifecycle", move |name| sync_node_health(c, name))),
        Box::pin(workers(1, &queues.cloud_nodes, "cloud-node-lifecycle", move |name| {
            sync_cloud_node(c, name)
        })),
        Box::pin(workers(4, &queues.evictions, "eviction", move |key| sync_eviction(c, key))),
    ];
    join_all(workers).await;
}

async fn workers<K, F>(count: usize, queue: &Queue<K>, name: &'static str, sync: impl Fn(K) -> F)
where
    K: Clone + Eq + Hash + std::fmt::Debug,
    F: Future<Output = Result<Again, Error>>,
{
    let sync = &sync;
    join_all((0..count).map(|_| async move {
        loop {
            let key = queue.next().await;
            let result = sync(key.clone()).await;
            match &result {
                Ok(Some(delay)) => queue.add_after(key.clone(), *delay),
                Ok(None) => {}
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    debug!(controller = name, ?key, %error, "stale; decide again");
                }
                Err(error) => warn!(controller = name, ?key, %error, "failed; try again"),
            }
            queue.done(&key, result.is_err());
        }
    }))
    .await;
}

impl Context {
    fn cluster(&self) -> &Arc<Cluster> {
        self.executor.cluster()
    }

    async fn carry_out(&self, decision: Decision) -> Result<Again, Error> {
        self.executor.perform(decision.actions).await?;
        Ok(decision.again_after)
    }
}

fn selected_pods(stores: &Stores, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pods = stores.pods.in_namespace(namespace);
    pods.filter(|pod| service_selects(selector, pod.metadata.labels.as_ref())).cloned().collect()
}

async fn sync_slices(c: &Context, key: Key) -> Result<Again, Error> {
    let actions = {
        let stores = c.cluster().stores();
        match stores.services.get(&key) {
            Some(service) => {
                let of_service = stores.slices.in_group(&key.name);
                let slices: Vec<_> = of_service
                    .filter(|slice| slice.metadata.namespace.as_ref() == Some(&key.namespace))
                    .cloned()
                    .collect();
                let zone = |node: &str| {
                    let node = stores.nodes.get(&Key::new("", node))?;
                    node.metadata.labels.as_ref()?.get(slices::topology::ZONE).cloned()
                };
                let pods = selected_pods(&stores, service);
                let shares = || slices::topology::shares(stores.nodes.iter().map(|(_, node)| &**node));
                slices::decide(&slices::Observed {
                    service,
                    pods: &pods,
                    slices: &slices,
                    zone: &zone,
                    shares: &shares,
                })
            }
            None => Vec::new(),
        }
    };
    let result = c.executor.perform_unordered(actions).await;
    // Endpoints come after the slices, that these don't wait.
    c.cluster().queues.endpoints.add(key);
    result.map(|()| None)
}

async fn sync_endpoints(c: &Context, key: Key) -> Result<Again, Error> {
    let action = {
        let stores = c.cluster().stores();
        let service = stores.services.get(&key).map(|service| &**service);
        let endpoints = stores.endpoints.get(&key).map(|endpoints| &**endpoints);
        let pods = service.map(|service| selected_pods(&stores, service)).unwrap_or_default();
        endpoints::decide(&endpoints::Observed { service, pods: &pods, endpoints })
    };
    c.carry_out(Decision::from(Vec::from_iter(action))).await
}

async fn sync_mirror(c: &Context, key: Key) -> Result<Again, Error> {
    let actions = {
        let stores = c.cluster().stores();
        let of_service = stores.slices.in_group(&key.name);
        let slices: Vec<_> = of_service
            .filter(|slice| slice.metadata.namespace.as_ref() == Some(&key.namespace))
            .cloned()
            .collect();
        mirror::decide(&mirror::Observed {
            endpoints: stores.endpoints.get(&key).map(|endpoints| &**endpoints),
            service: stores.services.get(&key).map(|service| &**service),
            slices: &slices,
        })
    };
    c.carry_out(actions.into()).await
}

/// Chooses a node, counts the pod as bound to it from then on, and writes the binding.
async fn schedule(c: &Context, key: Key) -> Result<Again, Error> {
    let cluster = c.cluster();
    let mut before: Option<Arc<Pod>> = None;
    let mut nowhere = None;
    let assumed = cluster.assume::<Pod>(|stores| {
        let pod = stores.pods.get(&key).filter(|pod| scheduler::is_waiting(pod))?;
        before = Some(pod.clone());
        let nodes: Vec<_> =
            stores.nodes.iter().map(|(_, node)| node).filter(|node| !deleting(&***node)).cloned().collect();
        match scheduler::choose(pod, &nodes, &|name| stores.pods.in_group(name).collect()) {
            Verdict::Fits(node) => Some(scheduler::bound(pod, &node)),
            Verdict::Nowhere(message) => {
                nowhere = Some(message);
                None
            }
        }
    });
    let Some(before) = before else { return Ok(None) };
    if let Some(message) = nowhere {
        let actions = scheduler::unschedulable(&before, &message, Timestamp::now());
        return c.carry_out(actions.into()).await;
    }
    let Some(node) = assumed.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.clone()) else {
        return Ok(None);
    };
    let bind = Action::Bind(Target::of(&*before), node.clone());
    if let Err(error) = c.executor.perform_one(bind).await {
        // Take the assumption back, unless the watch has told something newer.
        let version = before.metadata.resource_version.clone();
        cluster.assume::<Pod>(|stores| {
            let known = stores.pods.get(&key)?;
            (known.metadata.resource_version == version).then(|| (*before).clone())
        });
        return Err(error);
    }
    c.executor.perform_one(scheduler::scheduled_notice(&before, &node)).await?;
    Ok(None)
}

async fn sync_replica_set(c: &Context, key: Key) -> Result<Again, Error> {
    let plan = {
        let stores = c.cluster().stores();
        let Some(set) = stores.replica_sets.get(&key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut pods: Vec<Arc<Pod>> = stores.pods.owned_by(uid).cloned().collect();
        let free = stores.pods.in_namespace(&key.namespace).filter(|pod| {
            controller_uid(&pod.metadata).is_none() && selects(&spec.selector, pod.metadata.labels.as_ref())
        });
        pods.extend(free.cloned());
        replica_set::decide(&replica_set::Observed { replica_set: set, pods: &pods, now: Timestamp::now() })
    };
    if !plan.pods.is_empty() {
        c.executor.perform_unordered(plan.pods).await?;
        // The writes are in the cache: the status that counts them follows in the next round, which they woke.
        c.cluster().queues.replica_sets.add(key);
        return Ok(plan.rest.again_after);
    }
    c.carry_out(plan.rest).await
}

async fn sync_deployment(c: &Context, key: Key) -> Result<Again, Error> {
    let decision = {
        let stores = c.cluster().stores();
        let Some(deployment) = stores.deployments.get(&key) else { return Ok(None) };
        let sets: Vec<_> = stores.replica_sets.in_namespace(&key.namespace).cloned().collect();
        let own = sets.iter().filter(|set| controls(&**deployment, &set.metadata));
        let uids = own.filter_map(|set| set.metadata.uid.as_deref());
        let pods: Vec<_> = uids.flat_map(|uid| stores.pods.owned_by(uid)).cloned().collect();
        deployment::decide(&deployment::Observed {
            deployment,
            replica_sets: &sets,
            pods: &pods,
            now: Timestamp::now(),
        })
    };
    c.carry_out(decision).await
}

async fn sync_daemon_set(c: &Context, key: Key) -> Result<Again, Error> {
    let decision = {
        let stores = c.cluster().stores();
        let Some(set) = stores.daemon_sets.get(&key) else { return Ok(None) };
        let nodes: Vec<_> = stores.nodes.iter().map(|(_, node)| node.clone()).collect();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let pods: Vec<_> = stores.pods.owned_by(uid).cloned().collect();
        daemon_set::decide(&daemon_set::Observed {
            daemon_set: set,
            nodes: &nodes,
            pods: &pods,
            now: Timestamp::now(),
        })
    };
    c.carry_out(decision).await
}

async fn sync_job(c: &Context, key: Key) -> Result<Again, Error> {
    let decision = {
        let stores = c.cluster().stores();
        let Some(job) = stores.jobs.get(&key) else { return Ok(None) };
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let pods: Vec<_> = stores.pods.owned_by(uid).cloned().collect();
        job::decide(&job::Observed { job, pods: &pods, now: Timestamp::now() })
    };
    c.carry_out(decision).await
}

async fn sync_namespace(c: &Context, name: String) -> Result<Again, Error> {
    let (namespace, actions) = {
        let stores = c.cluster().stores();
        let Some(namespace) = stores.namespaces.get(&Key::new("", &*name)) else { return Ok(None) };
        let account = stores.service_accounts.get(&Key::new(&*name, namespace::DEFAULT_ACCOUNT));
        let root_ca = stores.root_cas.get(&Key::new(&*name, namespace::ROOT_CA));
        let (account, root_ca) = (account.map(|a| &**a), root_ca.map(|m| &**m));
        let actions = namespace::decide(namespace, account, root_ca, &c.config.root_ca);
        (namespace.clone(), actions)
    };
    if namespace::is_ending(&namespace) {
        let ended = namespace::end(c.executor.client(), &c.kinds, &namespace).await?;
        return Ok((!ended).then(|| namespace::recheck(&namespace, Timestamp::now())));
    }
    c.carry_out(actions.into()).await
}

async fn sync_node_cidr(c: &Context, name: String) -> Result<Again, Error> {
    let action = {
        let stores = c.cluster().stores();
        let Some(node) = stores.nodes.get(&Key::new("", name)) else { return Ok(None) };
        node_cidr::decide(node, stores.nodes.iter().map(|(_, node)| &**node), &c.config.pools)
    };
    c.carry_out(Decision::from(Vec::from_iter(action))).await
}

async fn sync_node_health(c: &Context, name: String) -> Result<Again, Error> {
    let mut decision = {
        let stores = c.cluster().stores();
        let Some(node) = stores.nodes.get(&Key::new("", &*name)) else {
            c.heard.lock().forget(&name);
            return Ok(None);
        };
        let lease = stores.leases.get(&Key::new(NODE_LEASES, &*name)).map(|lease| &**lease);
        let now = Instant::now();
        let silent = c.heard.lock().listen(&name, lease, node, now);
        // While the API server was away, no node could be heard.
        let silent = stores.leases.untroubled_for(now).map_or(silent, |contact| silent.min(contact));
        let pods: Vec<_> = stores.pods.in_group(&name).cloned().collect();
        node_health::decide(&node_health::Observed {
            node,
            silent,
            grace: c.config.grace,
            pods: &pods,
            now: Timestamp::now(),
        })
    };
    if let Some(delay) = &mut decision.again_after {
        *delay = (*delay).min(c.config.period);
    }
    c.carry_out(decision).await
}

async fn sync_cloud_node(c: &Context, name: String) -> Result<Again, Error> {
    let Some(file) = &c.config.cloud_instances else { return Ok(None) };
    let node = c.cluster().stores().nodes.get(&Key::new("", &*name)).cloned();
    let Some(node) = node else { return Ok(None) };
    let machine = if cloud_node::is_silent(&node) {
        // A cloud that does not answer has said nothing; it is asked again.
        let answer = cloud_node::look(file, &name);
        answer
            .inspect_err(|error| warn!(file = %file.display(), %error, "the cloud's machines"))
            .unwrap_or_default()
    } else {
        None
    };
    c.carry_out(cloud_node::decide(&node, machine)).await
}

async fn sync_eviction(c: &Context, key: Key) -> Result<Again, Error> {
    let decision = {
        let stores = c.cluster().stores();
        let Some(pod) = stores.pods.get(&key) else { return Ok(None) };
        let name = crate::meta::pod_node(pod);
        let mut missing = c.missing.lock();
        match name.and_then(|name| stores.nodes.get(&Key::new("", name))) {
            Some(node) => {
                missing.found(name.unwrap_or_default());
                eviction::decide(pod, node, Timestamp::now())
            }
            None => {
                let left = name.map(|name| missing.left(name, c.config.grace, Instant::now()));
                eviction::decide_without_node(pod, left.unwrap_or_default())
            }
        }
    };
    c.carry_out(decision).await
}
