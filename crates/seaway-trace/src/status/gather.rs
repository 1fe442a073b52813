//! Asks every place of a lab what it knows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use seaway_agent::{AgentStatus, AppliedPlan};
use seaway_dns::resolvconf::ResolvConf;
use seaway_http::unix;
use seaway_lab::{Lab, Place};
use seaway_model::Differences;
use seaway_observe::api::Connection;
use serde::de::DeserializeOwned;

use super::dns::{self, DnsFacts};

/// All that was answered.
pub(crate) struct Answers {
    pub(crate) lab: String,
    pub(crate) nodes: Vec<NodeAnswers>,
    /// The gateway's translated connections.
    pub(crate) gateway: Result<Vec<Connection>, String>,
    /// Who has an address, by the API's word and the lab's.
    pub(crate) names: BTreeMap<IpAddr, String>,
    pub(crate) dns: Vec<DnsPod>,
    /// Why pods have no names, where the API server does not answer.
    pub(crate) api: Option<String>,
}

/// What a node's agent answered, or why it did not.
pub(crate) struct NodeAnswers {
    pub(crate) name: String,
    pub(crate) status: Result<AgentStatus, String>,
    pub(crate) plan: Result<AppliedPlan, String>,
    pub(crate) differences: Result<Differences, String>,
    pub(crate) connections: Result<Vec<Connection>, String>,
    pub(crate) resolv_conf: Option<ResolvConf>,
}

/// A pod of the cluster's DNS.
pub(crate) struct DnsPod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) address: String,
    /// `Err`: it does not run.
    pub(crate) facts: Result<DnsFacts, String>,
}

/// Asks everyone at once. Who does not answer is told in the answers.
pub(crate) async fn gather(lab: &Lab) -> Answers {
    let nodes = join_all(lab.cloud.nodes.iter().map(|node| ask_node(lab, &node.name)));
    let gateway = async {
        match lab.place("gateway") {
            Some(place) => connections(&place.observer()).await,
            None => Err("it does not run".to_owned()),
        }
    };
    let (nodes, gateway, pods) = futures::join!(nodes, gateway, pods(lab));
    let (pods, api) = match pods {
        Ok(pods) => (pods, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let is_dns = |pod: &&Pod| {
        pod.namespace().as_deref() == Some("kube-system")
            && pod.labels().get("k8s-app").is_some_and(|app| app == "kube-dns")
    };
    let dns = join_all(pods.iter().filter(is_dns).map(|pod| dns_pod(lab, pod))).await;
    Answers { lab: lab.name.clone(), nodes, gateway, names: names(lab, &pods), dns, api }
}

async fn ask_node(lab: &Lab, name: &str) -> NodeAnswers {
    let Some(place) = lab.place(&format!("node/{name}")) else {
        let why = || "the node does not run".to_owned();
        return NodeAnswers {
            name: name.to_owned(),
            status: Err(why()),
            plan: Err(why()),
            differences: Err(why()),
            connections: Err(why()),
            resolv_conf: None,
        };
    };
    let socket = place.observer();
    let (status, plan, differences, connections) = futures::join!(
        get(&socket, "/v1/status"),
        get(&socket, "/v1/plan"),
        get(&socket, "/v1/differences"),
        connections(&socket),
    );
    let resolv_conf = dns::resolv_conf(place);
    NodeAnswers { name: name.to_owned(), status, plan, differences, connections, resolv_conf }
}

async fn connections(socket: &Path) -> Result<Vec<Connection>, String> {
    get(socket, "/v1/connections?translated=true").await
}

async fn get<T: DeserializeOwned>(socket: &Path, target: &str) -> Result<T, String> {
    unix::get(socket, target).await.map_err(|error| error.to_string())
}

async fn pods(lab: &Lab) -> anyhow::Result<Vec<Pod>> {
    let ask = async {
        let client = seaway_kube::connect(Some(&lab.kubeconfig)).await?;
        anyhow::Ok(Api::<Pod>::all(client).list(&ListParams::default()).await?.items)
    };
    let patience = std::time::Duration::from_secs(5);
    tokio::time::timeout(patience, ask).await.unwrap_or_else(|_| Err(anyhow::anyhow!("it does not answer")))
}

async fn dns_pod(lab: &Lab, pod: &Pod) -> DnsPod {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let place: Option<Place> = lab.pod(&namespace, &name).cloned();
    let facts = match place {
        Some(place) => Ok(dns::ask(&place).await),
        None => Err("it does not run".to_owned()),
    };
    let status = pod.status.as_ref();
    DnsPod {
        name: format!("{namespace}/{name}"),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        address: status.and_then(|status| status.pod_ip.clone()).unwrap_or_default(),
        facts,
    }
}

fn names(lab: &Lab, pods: &[Pod]) -> BTreeMap<IpAddr, String> {
    let mut names = BTreeMap::new();
    for pod in pods {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if host_network || matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let name = format!("pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        for ip in pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten()) {
            if let Ok(ip) = ip.ip.parse() {
                names.insert(ip, name.clone());
            }
        }
    }
    for node in &lab.cloud.nodes {
        names.extend(node.addresses.iter().map(|address| (*address, node.name.clone())));
    }
    for nat in &lab.cloud.source_nat {
        for address in &nat.addresses {
            names.entry(*address).or_insert_with(|| "the cloud's public address".to_owned());
        }
    }
    for (addresses, name) in [
        (&lab.cloud.gateways, "gateway"),
        (&lab.cloud.control_plane, "control plane"),
        (&*lab.internet.resolver, "resolver"),
    ] {
        names.extend(addresses.iter().map(|address| (*address, name.to_owned())));
    }
    for host in &lab.internet.hosts {
        for address in &host.addresses {
            names.insert(*address, host.name.clone());
        }
    }
    names
}
