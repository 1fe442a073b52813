//! From the objects to the plan, and what the plan says of a call.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use seaway_model::{
    Backend, Changes, DetectLocal, EgressPlan, Flow, Masquerade, NodePlan, Origin, PlanDiff, ProxyPlan,
    ProxySettings, ServicePlan, Snapshot, Translation,
};

use crate::addresses::*;
use crate::calls::{Expected, OneCall, Seen};
use crate::servers::BEYOND_PORT;

/// What a node's proxy is told by default: pods are those with a pod's address.
pub(crate) fn settings() -> ProxySettings {
    let networks = Family::BOTH.map(|family| family.net(POD_NETWORK));
    ProxySettings { detect_local: DetectLocal::ClusterCidr(networks.into()), ..ProxySettings::default() }
}

/// The plan for a node without Services.
pub(crate) fn empty() -> NodePlan {
    let nets = |text| Family::BOTH.map(|family| family.net(text));
    NodePlan {
        services: ServicePlan::new(NODE),
        egress: EgressPlan::new(&nets(POD_NETWORK), &nets(NODE_PODS), &[]),
        proxy: ProxyPlan::default(),
    }
}

/// Brings the plan up to date.
pub(crate) fn follow(
    plan: &mut NodePlan,
    settings: &ProxySettings,
    snapshot: &Snapshot,
    changes: &Changes,
) -> PlanDiff {
    plan.proxy = ProxyPlan::new(settings, NODE, snapshot);
    plan.services.update(snapshot, changes)
}

/// What the plan says that a call leads to; `None` for what it has no say in.
pub(crate) fn predict(plan: &NodePlan, call: &OneCall<'_>) -> Option<Expected> {
    let flow = flow(call);
    match plan.translate(&flow) {
        Translation::Dnat { port, caller } => {
            answers(plan, call, &flow, port.candidates(caller), port.affinity.is_some())
        }
        Translation::RejectNoEndpoints { .. } | Translation::RejectNoSuchPort => Some(Expected::Refused),
        Translation::DropNoLocalEndpoints { .. }
        | Translation::DropSourceRange { .. }
        | Translation::DropUnallocated => Some(Expected::Dropped),
        Translation::None => unchanged(plan, call, &flow),
    }
}

fn flow(call: &OneCall<'_>) -> Flow {
    let origin = match call.call.caller {
        Node => Origin::Node,
        pod @ (Client | A | B) => Origin::Link(link_of(pod).into()),
        _ => Origin::Link(Arc::from("eth0")),
    };
    let to = call.to();
    Flow { origin, source: call.source(), destination: to.ip(), protocol: call.protocol, port: to.port() }
}

fn host_of(ip: IpAddr) -> Host {
    let family = Family::of(ip);
    let found = Host::ALL.into_iter().find(|host| host.ip(family) == ip);
    found.unwrap_or_else(|| panic!("nobody is at {ip}"))
}

/// The node under test is on the way from the one to the other, or an end of it.
fn passes_by_node(one: Host, other: Host) -> bool {
    [one, other].iter().any(|host| matches!(host, Client | A | B | Node))
}

/// A call that no Service is concerned with.
fn unchanged(plan: &NodePlan, call: &OneCall<'_>, flow: &Flow) -> Option<Expected> {
    let is_in = |net: &&str| call.family.net(net).contains(&flow.destination);
    let untranslated = [SERVICE_NETWORK, MORE_SERVICES, EXTERNAL_NETWORK].iter().any(is_in);
    let (server, port) = match untranslated {
        true => (Beyond, BEYOND_PORT),
        false
            if PORTS.contains(&flow.port)
                && Host::ALL.iter().any(|host| host.ip(call.family) == flow.destination) =>
        {
            (host_of(flow.destination), flow.port)
        }
        // Who knows what is there.
        false => return None,
    };
    if server == call.call.caller || server != Beyond && !passes_by_node(call.call.caller, server) {
        return None;
    }
    let seen = Seen::by(server, call.call.caller, plan.masquerade(flow, None).is_some());
    Some(Expected::Answers { by: [(server, seen)].into(), port, sticky: false })
}

/// A call that is translated to one of these.
fn answers(
    plan: &NodePlan,
    call: &OneCall<'_>,
    flow: &Flow,
    backends: &[Backend],
    sticky: bool,
) -> Option<Expected> {
    let caller = call.call.caller;
    let mut by = BTreeMap::new();
    for backend in backends {
        let (server, why) = (host_of(backend.ip), plan.masquerade(flow, Some(*backend)));
        // An answer that takes another way than by the node cannot be told to be of the one who was called.
        if why.is_none() && !passes_by_node(caller, server) {
            return None;
        }
        let seen = Seen::by(server, caller, why.is_some());
        if server == caller && matches!(caller, Client | A | B) {
            assert_eq!(why, Some(Masquerade::Hairpin), "{flow:?} by {backend}");
        }
        by.insert(server, seen);
    }
    Some(Expected::Answers { by, port: backends.first()?.port, sticky })
}
