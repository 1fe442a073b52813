//! Asks the API server and the agents for all that a prediction is made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use seaway_agent::AppliedPlan;
use seaway_http::unix;
use seaway_lab::{Lab, Place};
use seaway_model::{ObjectName, Protocol};

use crate::patience::patiently;
use crate::world::{AppliedFacts, HostFacts, NodeFacts, PodFacts, ServiceFacts, World};

/// What was gathered: the world, and the objects that the name service needs in full.
pub(crate) struct Gathered {
    pub(crate) world: World,
    pub(crate) pods: BTreeMap<ObjectName, Pod>,
}

/// Asks everyone.
///
/// # Errors
/// The API server does not answer. An agent that does not is told in the world.
pub(crate) async fn gather(lab: &Lab) -> anyhow::Result<Gathered> {
    let client = seaway_kube::connect(Some(&lab.kubeconfig)).await?;
    let all = ListParams::default();
    let (pods, services, nodes) = (
        Api::<Pod>::all(client.clone()),
        Api::<Service>::all(client.clone()),
        Api::<Node>::all(client as Client),
    );
    let (pods, services, nodes) = futures::try_join!(pods.list(&all), services.list(&all), nodes.list(&all))
        .context("ask the API server")?;
    let nodes = join_all(nodes.items.iter().map(|node| node_facts(lab, node))).await;
    let pods: BTreeMap<ObjectName, Pod> = pods.items.into_iter().map(|pod| (name(&pod), pod)).collect();
    let world = World {
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        pods: pods
            .iter()
            .filter(|(_, pod)| !is_finished(pod))
            .map(|(name, pod)| (name.clone(), pod_facts(pod)))
            .collect(),
        services: services.items.iter().map(|service| (name(service), service_facts(service))).collect(),
        cloud: Some(lab.cloud.clone()),
        hosts: hosts(lab),
    };
    Ok(Gathered { world, pods })
}

fn name<K: kube::Resource>(object: &K) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

async fn node_facts(lab: &Lab, node: &Node) -> NodeFacts {
    let name = node.name_any();
    let plan = match lab.place(&format!("node/{name}")) {
        Some(place) => applied(place).await,
        None => Err("the node does not run".to_owned()),
    };
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let endpoints = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
    let kubelet = endpoints.and_then(|it| it.kubelet_endpoint.as_ref()).map(|endpoint| endpoint.port);
    NodeFacts {
        name,
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        plan,
        kubelet: kubelet.and_then(|port| u16::try_from(port).ok()),
    }
}

async fn applied(place: &Place) -> Result<AppliedFacts, String> {
    let plan: AppliedPlan = patiently(unix::get(&place.observer(), "/v1/plan")).await?;
    Ok(AppliedFacts {
        node: plan.plan.as_ref().clone(),
        overlay: plan.overlay.map(|overlay| overlay.as_ref().clone()),
        underlay: plan.underlay.map(|underlay| underlay.as_ref().clone()),
        pods: plan.pods,
    })
}

/// Its addresses may be another pod's by now.
fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn pod_facts(pod: &Pod) -> PodFacts {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let ips = status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    let ready = status.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let ports = spec.iter().flat_map(|spec| &spec.containers).flat_map(|it| it.ports.iter().flatten());
    PodFacts {
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        addresses: ips.filter_map(|ip| ip.ip.parse::<IpAddr>().ok()).collect(),
        host_network: spec.and_then(|spec| spec.host_network) == Some(true),
        ready,
        ports: ports
            .filter_map(|port| {
                Some((protocol(port.protocol.as_deref())?, u16::try_from(port.container_port).ok()?))
            })
            .collect(),
    }
}

fn service_facts(service: &Service) -> ServiceFacts {
    let spec = service.spec.as_ref();
    let ips = spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ServiceFacts {
        cluster_ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
        ports: ports
            .filter_map(|port| {
                let number = u16::try_from(port.port).ok()?;
                Some((protocol(port.protocol.as_deref())?, number, port.name.clone().unwrap_or_default()))
            })
            .collect(),
    }
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn hosts(lab: &Lab) -> Vec<HostFacts> {
    let resolver = HostFacts {
        name: "resolver".to_owned(),
        addresses: lab.internet.resolver.to_vec(),
        allow: None,
        resolver: true,
    };
    let hosts = lab.internet.hosts.iter().map(|host| HostFacts {
        name: host.name.clone(),
        addresses: host.addresses.clone(),
        allow: host.allow.clone(),
        resolver: false,
    });
    std::iter::once(resolver).chain(hosts).collect()
}
