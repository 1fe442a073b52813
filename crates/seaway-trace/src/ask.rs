//! Asks the name servers what they would answer, and reads the caller's files.

use std::net::IpAddr;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use seaway_dns::explain::Explained;
use seaway_dns::lookup::{Answer, Kind};
use seaway_dns::resolvconf::{ClusterDns, Libc, ResolvConf, candidates};
use seaway_http::unix;
use seaway_kubelet::{NodeFiles, predicted_files};
use seaway_lab::{Lab, Place};
use seaway_model::ObjectName;

use crate::explain::Caller;
use crate::foresee::{self, Upstreams};
use crate::gather::Gathered;
use crate::names::{Answers, Files, Foreseen};
use crate::patience::patiently;
use crate::status::DNS_SOCKET as SOCKET;
use crate::world::World;

/// The cluster's domain, where nothing says another one.
const DOMAIN: &str = "cluster.local";
/// The Service of cluster DNS.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// The caller's files as they are planned: what the kubelet writes for a pod; a node's and a host's own.
///
/// # Errors
/// The reason why they cannot be told.
pub(crate) fn planned_files(lab: &Lab, gathered: &Gathered, caller: &Caller) -> Result<Files, String> {
    match caller {
        Caller::Pod(name) => {
            let pod = gathered.pods.get(name).ok_or("the pod is gone")?;
            pod_files(lab, gathered, name, pod)
        }
        Caller::Node(_) | Caller::Host(_) => {
            let place =
                lab.place(&caller.place()).ok_or_else(|| format!("{} does not run", caller.place()))?;
            Ok(Files { because: "the machine's own file".to_owned(), ..read_files(place)? })
        }
    }
}

fn pod_files(lab: &Lab, gathered: &Gathered, name: &ObjectName, pod: &Pod) -> Result<Files, String> {
    let node = gathered.world.pods.get(name).map(|pod| pod.node.clone()).unwrap_or_default();
    let place = lab.place(&format!("node/{node}")).ok_or_else(|| format!("node {node} does not run"))?;
    let of_node = read_files(place)?;
    let service = gathered.world.services.get(&ObjectName::new(DNS_SERVICE.0, DNS_SERVICE.1));
    let cluster = ClusterDns {
        // Kubelets are told its primary address alone.
        servers: service.and_then(|service| service.cluster_ips.first().copied()).into_iter().collect(),
        domain: DOMAIN.to_owned(),
    };
    let node_files =
        NodeFiles { hosts: of_node.hosts, resolv_conf: ResolvConf::parse_host(&of_node.resolv_conf) };
    let files = predicted_files(pod, &node, &node_files, &cluster).map_err(|error| error.to_string())?;
    let policy = pod.spec.as_ref().and_then(|spec| spec.dns_policy.clone());
    let policy = policy.unwrap_or_else(|| "ClusterFirst".to_owned());
    Ok(Files {
        hosts: files.hosts,
        nsswitch: files.nsswitch,
        resolv_conf: files.resolv_conf.to_string(),
        because: format!("dnsPolicy {policy}"),
    })
}

/// A place's files as they are.
///
/// # Errors
/// The one that cannot be read.
pub(crate) fn read_files(place: &Place) -> Result<Files, String> {
    let read = |inside: &str| {
        std::fs::read_to_string(place.path(inside))
            .map_err(|error| format!("{}: {inside}: {error}", place.label))
    };
    Ok(Files {
        hosts: read("/etc/hosts")?,
        nsswitch: read("/etc/nsswitch.conf")?,
        resolv_conf: read("/etc/resolv.conf")?,
        because: String::new(),
    })
}

/// What the servers in `conf` would answer to all that a lookup of `name` by `caller`, who has `address`, may ask.
pub(crate) async fn ask(
    lab: &Lab,
    world: &World,
    (caller, address): (&Caller, IpAddr),
    name: &str,
    conf: &ResolvConf,
    libc: Libc,
) -> Answers {
    let names = candidates(name, conf, libc);
    let mut asked = Vec::new();
    for server in &conf.nameservers {
        let Some(answerer) = server.parse().ok().and_then(|ip| answerer(lab, world, caller, ip)) else {
            continue;
        };
        for name in &names {
            for kind in [Kind::A, Kind::Aaaa] {
                let key = (server.clone(), name.clone(), kind);
                let answerer = answerer.clone();
                asked.push(async move {
                    let foreseen = ask_one(lab, world, address, &answerer, &key).await?;
                    Some((key, foreseen))
                });
            }
        }
    }
    join_all(asked).await.into_iter().flatten().collect()
}

/// Who answers at a name server's address.
#[derive(Clone)]
enum Answerer {
    /// The internet's resolver.
    Outside,
    /// One of these DNS pods.
    Pods(Vec<ObjectName>),
}

fn answerer(lab: &Lab, world: &World, caller: &Caller, address: IpAddr) -> Option<Answerer> {
    if lab.internet.resolver.contains(&address) {
        return Some(Answerer::Outside);
    }
    let pods = foresee::servers(world, caller, address);
    (!pods.is_empty()).then_some(Answerer::Pods(pods))
}

async fn ask_one(
    lab: &Lab,
    world: &World,
    client: IpAddr,
    answerer: &Answerer,
    (_, name, kind): &(String, String, Kind),
) -> Option<Foreseen> {
    let outside = |name: &str, kind: Kind| lab.answer_outside(name, kind.as_str());
    let pods = match answerer {
        Answerer::Outside => {
            let (rcode, records) = outside(name, *kind)?;
            let origin = "the internet's resolver".to_owned();
            return Some(Foreseen { answer: Answer::Reply { rcode, records }, origin });
        }
        Answerer::Pods(pods) => pods,
    };
    let target = format!("/v1/explain?name={name}&type={}&client={client}", kind.as_str());
    let told = pods.iter().map(|pod| async {
        let place = lab.pod(&pod.namespace, &pod.name).ok_or_else(|| "it does not run".to_owned())?;
        patiently(unix::get::<Explained>(&place.path(SOCKET), &target)).await
    });
    let upstream = Upstreams { world, resolvers: &lab.internet.resolver, answer: &outside };
    let each = pods.iter().zip(join_all(told).await).map(|(pod, told)| {
        let foreseen = match told {
            Ok(told) => upstream.foresee(pod, *kind, told),
            Err(reason) => {
                Foreseen { answer: Answer::Unknown, origin: format!("it cannot be asked: {reason}") }
            }
        };
        (pod.clone(), foreseen)
    });
    foresee::together(each.collect())
}
