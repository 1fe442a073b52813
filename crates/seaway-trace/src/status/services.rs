//! Service addresses as nodes have them, with what goes through each endpoint. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use seaway_model::{
    AddressKind, Backend, Caller, PortPlan, Protocol, Refusal, ServiceAddress, TrafficPolicy,
};
use seaway_observe::api::{Connection, Traffic};
use serde::Serialize;

use super::gather::{Answers, NodeAnswers};
use super::report::plans;

/// A service address as nodes have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    pub(crate) address: ServiceAddress,
    pub(crate) kind: AddressKind,
    /// `namespace/name`
    pub(crate) service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) port_name: String,
    /// The traffic policy that holds for the address.
    pub(crate) policy: TrafficPolicy,
    /// Seconds that a client stays with its endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<u64>,
    /// Who may call; absent: everyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source_ranges: Option<Vec<IpNet>>,
    /// The nodes that have it so.
    pub(crate) nodes: Vec<String>,
    pub(crate) endpoints: Vec<EndpointRow>,
    /// What becomes of callers for whom there is no endpoint.
    pub(crate) otherwise: Refusal,
    /// No endpoint is ready: these are terminating ones that still serve.
    pub(crate) terminating: bool,
    /// Nodes whose kernel differs for this address.
    pub(crate) differs_on: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointRow {
    pub(crate) backend: Backend,
    /// `pod default/web-1`, or who else has the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The node that calls it its own, where its agent could be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local_on: Option<String>,
    /// The callers that it is for, where it is not for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<Caller>,
    /// Connections through the address to it that these nodes track.
    pub(crate) connections: usize,
    /// What went through them; absent where a node's kernel does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traffic: Option<Traffic>,
}

/// Nodes that have the same for an address share a row.
pub(super) fn rows(answers: &Answers) -> Vec<ServiceRow> {
    let mut owners: BTreeMap<Backend, String> = BTreeMap::new();
    for (node, plan) in plans(answers) {
        for port in plan.plan.services.ports() {
            owners.extend(port.local_backends().iter().map(|backend| (*backend, node.to_owned())));
        }
    }
    let mut rows: BTreeMap<_, ServiceRow> = BTreeMap::new();
    for (node, plan) in plans(answers) {
        for port in plan.plan.services.ports() {
            let endpoints = endpoints(port);
            let row = rows.entry((port.address, endpoints.clone())).or_insert_with(|| {
                let endpoint = |(backend, only): (&Backend, &Option<CallerKey>)| EndpointRow {
                    backend: *backend,
                    name: answers.names.get(&backend.ip).cloned(),
                    local_on: owners.get(backend).cloned(),
                    only: only.map(CallerKey::caller),
                    connections: 0,
                    traffic: Some(Traffic::default()),
                };
                row(port, endpoints.iter().map(endpoint).collect())
            });
            row.nodes.push(node.to_owned());
        }
    }
    let mut rows: Vec<ServiceRow> = rows.into_values().collect();
    for node in &answers.nodes {
        mark_differences(node, &mut rows);
        count(node, &mut rows);
    }
    rows.sort_by(|one, other| {
        (&one.service, one.kind, one.address).cmp(&(&other.service, other.kind, other.address))
    });
    rows
}

/// A caller as a part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CallerKey {
    Inside,
    Outside,
}

impl CallerKey {
    const fn caller(self) -> Caller {
        match self {
            Self::Inside => Caller::Inside,
            Self::Outside => Caller::Outside,
        }
    }
}

/// Each endpoint, with the callers that it is for where it is not for all.
fn endpoints(port: &PortPlan) -> BTreeMap<Backend, Option<CallerKey>> {
    let has = |caller, backend| port.candidates(caller).contains(backend);
    let only = |backend| match (has(Caller::Inside, backend), has(Caller::Outside, backend)) {
        (true, false) => Some(CallerKey::Inside),
        (false, true) => Some(CallerKey::Outside),
        _ => None,
    };
    port.backends.iter().map(|backend| (*backend, only(backend))).collect()
}

fn row(port: &PortPlan, endpoints: Vec<EndpointRow>) -> ServiceRow {
    ServiceRow {
        address: port.address,
        kind: port.kind,
        service: port.service.to_string(),
        port_name: port.port_name.to_string(),
        policy: port.policy,
        affinity: port.affinity.map(|time| time.as_secs()),
        source_ranges: port.source_ranges.clone(),
        nodes: Vec::new(),
        endpoints,
        otherwise: port.refusal(),
        terminating: port.terminating,
        differs_on: Vec::new(),
    }
}

fn mark_differences(node: &NodeAnswers, rows: &mut [ServiceRow]) {
    let found = node.differences.iter().flat_map(|found| &found.differences);
    let addresses: BTreeSet<_> = found.filter_map(|one| one.address).collect();
    for row in
        rows.iter_mut().filter(|row| addresses.contains(&row.address) && row.nodes.contains(&node.name))
    {
        row.differs_on.push(node.name.clone());
    }
}

/// Adds the node's connections to the endpoints that they go to.
fn count(node: &NodeAnswers, rows: &mut [ServiceRow]) {
    let mut through: BTreeMap<(ServiceAddress, Backend), (usize, Option<Traffic>)> = BTreeMap::new();
    for connection in node.connections.iter().flatten() {
        let Some((address, backend)) = translated(connection) else { continue };
        let node_port = ServiceAddress::node_port(address.ip.is_ipv6(), address.protocol, address.port);
        // What was called at an address that no Service has was called as a node port.
        for address in [address, node_port] {
            let (connections, traffic) =
                through.entry((address, backend)).or_insert((0, Some(Traffic::default())));
            *connections += 1;
            match (traffic.as_mut(), connection.traffic) {
                (Some(sum), Some(more)) => *sum += more,
                _ => *traffic = None,
            }
        }
    }
    for row in rows.iter_mut().filter(|row| row.nodes.contains(&node.name)) {
        for endpoint in &mut row.endpoints {
            let Some((connections, traffic)) = through.get(&(row.address, endpoint.backend)) else {
                continue;
            };
            endpoint.connections += connections;
            match (endpoint.traffic.as_mut(), traffic) {
                (Some(sum), Some(more)) => *sum += *more,
                _ => endpoint.traffic = None,
            }
        }
    }
}

/// What was called, and who answers, where the destination was translated.
fn translated(connection: &Connection) -> Option<(ServiceAddress, Backend)> {
    let (original, reply) = (&connection.original, &connection.reply);
    let protocol = Protocol::from_number(original.protocol)?;
    let address = ServiceAddress { ip: original.destination, protocol, port: original.destination_port };
    let backend = Backend { ip: reply.source, port: reply.source_port };
    let stays = backend == Backend { ip: address.ip, port: address.port };
    (!stays).then_some((address, backend))
}
