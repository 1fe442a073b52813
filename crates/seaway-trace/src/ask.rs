//! Asks the name servers what they would answer, and reads the caller's files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use seaway_dns::lookup::{Answer, Kind};
use seaway_dns::resolvconf::{ClusterDns, Libc, ResolvConf, candidates};
use seaway_http::unix;
use seaway_kubelet::{NodeFiles, predicted_files};
use seaway_lab::{Lab, Place};
use seaway_model::ObjectName;
use seaway_observe::api::DnsRecord;
use serde::Deserialize;

use crate::explain::Caller;
use crate::gather::Gathered;
use crate::names::{Answers, Files, Foreseen};
use crate::patience::patiently;
use crate::world::{Owner, World};

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
        servers: service.map(|service| service.cluster_ips.clone()).unwrap_or_default(),
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

/// What `GET /v1/explain` of a DNS pod says.
#[derive(Debug, Deserialize)]
struct Explained {
    rcode: Option<String>,
    #[serde(default)]
    answers: Vec<DnsRecord>,
    origin: Origin,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Origin {
    kind: String,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    ttl_left: Option<u32>,
}

/// What the servers in `conf` would answer to all that a lookup of `name` may ask.
pub(crate) async fn ask(
    lab: &Lab,
    world: &World,
    caller: IpAddr,
    name: &str,
    conf: &ResolvConf,
    libc: Libc,
) -> Answers {
    let names = candidates(name, conf, libc);
    let mut questions = Vec::new();
    for server in &conf.nameservers {
        for name in &names {
            for kind in [Kind::A, Kind::Aaaa] {
                questions.push((server.clone(), name.clone(), kind));
            }
        }
    }
    let asked = questions.into_iter().map(|(server, name, kind)| async move {
        let foreseen = ask_one(lab, world, caller, &server, &name, kind).await?;
        Some(((server, name, kind), foreseen))
    });
    join_all(asked).await.into_iter().flatten().collect::<BTreeMap<_, _>>()
}

async fn ask_one(
    lab: &Lab,
    world: &World,
    caller: IpAddr,
    server: &str,
    name: &str,
    kind: Kind,
) -> Option<Foreseen> {
    let address: IpAddr = server.parse().ok()?;
    if lab.internet.resolver == address {
        return outside(lab, name, kind, "the internet's resolver".to_owned());
    }
    let mut pods: Vec<&ObjectName> = Vec::new();
    if let Owner::Pod(pod, _) = world.owner(address) {
        pods.push(pod);
    }
    for node in world.nodes.values().filter_map(|node| node.plan.as_ref().ok()) {
        let ports =
            node.node.services.ports().filter(|port| port.address.ip == address && port.address.port == 53);
        for backend in ports.flat_map(|port| &port.backends) {
            if let Owner::Pod(pod, _) = world.owner(backend.ip)
                && !pods.contains(&pod)
            {
                pods.push(pod);
            }
        }
    }
    let target = format!("/v1/explain?name={name}&type={}&client={caller}", kind.as_str());
    for pod in pods {
        let Some(place) = lab.pod(&pod.namespace, &pod.name) else { continue };
        let socket = place.path("/run/seaway/dns.sock");
        if let Ok(told) = patiently(unix::get::<Explained>(&socket, &target)).await {
            return foresee(lab, name, kind, told);
        }
    }
    None
}

fn foresee(lab: &Lab, name: &str, kind: Kind, told: Explained) -> Option<Foreseen> {
    let origin = match (told.origin.kind.as_str(), &told.origin.zone) {
        ("cluster", Some(zone)) => format!("zone {zone} (plugin kubernetes)"),
        ("cache", _) => {
            let left = told.origin.ttl_left.map(|left| format!(", for {left} s more")).unwrap_or_default();
            format!("cache of the DNS pod{left}")
        }
        ("forward", _) => format!("forwarded to {}", told.origin.to.join(", ")),
        (other, _) => other.to_owned(),
    };
    match told.rcode {
        Some(rcode) => Some(Foreseen { answer: Answer::Reply { rcode, records: told.answers }, origin }),
        None => {
            let known =
                told.origin.to.iter().any(|to| upstream(to) == Some(IpAddr::V4(lab.internet.resolver)));
            if known {
                outside(lab, name, kind, origin)
            } else {
                Some(Foreseen { answer: Answer::Unknown, origin })
            }
        }
    }
}

/// The address of an upstream, which may have a port behind it.
fn upstream(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))
}

fn outside(lab: &Lab, name: &str, kind: Kind, origin: String) -> Option<Foreseen> {
    let (rcode, records) = lab.answer_outside(name, kind.as_str())?;
    Some(Foreseen { answer: Answer::Reply { rcode, records }, origin })
}
