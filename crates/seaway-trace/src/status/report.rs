//! The report: what the answers say together. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use seaway_agent::AppliedPlan;
use seaway_model::{Difference, Foreign, PlanPart};
use serde::Serialize;

use super::Section;
use super::dns::DnsFacts;
use super::gather::{Answers, NodeAnswers};
use super::nat::{self, Mapping};
use super::services::{self, ServiceRow};

/// What `-o json` prints; docs/status.md describes it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) lab: String,
    /// Nothing differs, and everyone that was asked answered.
    pub(crate) as_planned: bool,
    /// Who did not answer, and what could not be compared.
    pub(crate) unknown: Vec<Unknown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agents: Option<Vec<Agent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) services: Option<Vec<ServiceRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) routes: Option<Vec<RouteRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nat: Option<Vec<Mapping>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<Dns>,
    /// Where a node's kernel is not as planned.
    pub(crate) differences: Vec<NodeDifference>,
    /// Differences beyond those told.
    pub(crate) more_differences: usize,
    /// What others put into the nodes' kernels.
    pub(crate) foreign: Vec<NodeForeign>,
}

/// Someone who was asked in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unknown {
    /// `agent of node-1`, `gateway`, `API server`, …
    pub(crate) who: String,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeDifference {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) difference: Difference,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeForeign {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) foreign: Foreign,
}

/// An agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Agent {
    pub(crate) node: String,
    /// Why it could not be asked; then the rest is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) away: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// The generation of the plan in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
    /// Its watches of the API: `synced`, `not connected: …`, `not synced yet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<String>,
    pub(crate) parts: Vec<AgentPart>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentPart {
    pub(crate) name: String,
    pub(crate) generation: u64,
    pub(crate) last_sync: Option<Timestamp>,
    pub(crate) pending: bool,
    pub(crate) error: Option<String>,
}

/// The way from a node to a network of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteRow {
    pub(crate) node: String,
    pub(crate) network: String,
    /// The node that has the network.
    pub(crate) to: String,
    pub(crate) link: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<IpAddr>,
    /// The tunnel: VXLAN's number and where its packets go; absent for direct routes and a node's own network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tunnel: Option<Tunnel>,
    /// The largest packet on the way, in bytes.
    pub(crate) mtu: u32,
    /// What is not as planned, in words.
    pub(crate) differs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tunnel {
    pub(crate) vni: u32,
    pub(crate) local: IpAddr,
    pub(crate) remote: Option<IpAddr>,
    /// The Ethernet address of the other end.
    pub(crate) mac: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dns {
    pub(crate) pods: Vec<DnsRow>,
    pub(crate) nodes: Vec<NodeResolver>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct DnsRow {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) address: String,
    #[serde(flatten)]
    pub(crate) facts: DnsFacts,
}

/// A node's `resolv.conf`, which pods with dnsPolicy Default inherit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeResolver {
    pub(crate) node: String,
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// What is asked for, out of the answers.
pub(crate) fn report(answers: &Answers, section: Option<Section>) -> Report {
    let wants = |one: Section| section.is_none_or(|section| section == one);
    let mut report = Report {
        lab: answers.lab.clone(),
        as_planned: true,
        unknown: unknown(answers, section),
        agents: wants(Section::Agents).then(|| answers.nodes.iter().map(agent).collect()),
        services: wants(Section::Services).then(|| services::rows(answers)),
        routes: wants(Section::Routes).then(|| routes(answers)),
        nat: wants(Section::Nat).then(|| mappings(answers)),
        dns: wants(Section::Dns).then(|| dns(answers)),
        differences: Vec::new(),
        more_differences: 0,
        foreign: Vec::new(),
    };
    for node in &answers.nodes {
        let Ok(found) = &node.differences else { continue };
        let of_section = |one: &&Difference| section.is_none_or(|section| section.covers(one.part));
        report.differences.extend(
            found
                .differences
                .iter()
                .filter(of_section)
                .map(|one| NodeDifference { node: node.name.clone(), difference: one.clone() }),
        );
        if section != Some(Section::Dns) {
            report.more_differences += found.more;
            let foreign =
                found.foreign.iter().filter(|one| section.is_none_or(|section| section.covers(one.part)));
            let foreign = foreign.cloned();
            report.foreign.extend(foreign.map(|foreign| NodeForeign { node: node.name.clone(), foreign }));
        }
    }
    let parts_fail =
        report.agents.iter().flatten().flat_map(|agent| &agent.parts).any(|part| part.error.is_some());
    let dns_fails =
        report.dns.iter().flat_map(|dns| &dns.pods).any(|pod| !(pod.facts.healthy && pod.facts.ready));
    report.as_planned = report.unknown.is_empty()
        && report.differences.is_empty()
        && report.more_differences == 0
        && !parts_fail
        && !dns_fails;
    report
}

impl Section {
    /// The section is about this part of a node's plan.
    fn covers(self, part: PlanPart) -> bool {
        match self {
            Self::Services => part == PlanPart::Services,
            Self::Nat => matches!(part, PlanPart::Services | PlanPart::Egress),
            Self::Routes => matches!(part, PlanPart::Overlay | PlanPart::Pods),
            Self::Dns => false,
            Self::Agents => true,
        }
    }
}

fn unknown(answers: &Answers, section: Option<Section>) -> Vec<Unknown> {
    let mut unknown = Vec::new();
    let mut add = |who: String, why: &str| {
        let one = Unknown { who, why: why.to_owned() };
        if !unknown.contains(&one) {
            unknown.push(one);
        }
    };
    for node in &answers.nodes {
        let who = format!("agent of {}", node.name);
        let errors = [node.status.as_ref().err(), node.plan.as_ref().err(), node.differences.as_ref().err()];
        // The first says it: who does not answer one question seldom answers the others.
        if let Some(error) = errors.into_iter().flatten().next() {
            add(who, error);
        } else if let (Err(error), None | Some(Section::Nat | Section::Services)) =
            (&node.connections, section)
        {
            add(format!("connections of {}", node.name), error);
        }
        for one in node.differences.iter().flat_map(|found| &found.not_compared) {
            add(format!("{} of {}", one.part, node.name), &one.error);
        }
    }
    if let (Err(error), None | Some(Section::Nat)) = (&answers.gateway, section) {
        add("gateway".to_owned(), error);
    }
    if let Some(error) = &answers.api {
        add("API server".to_owned(), error);
    }
    unknown
}

fn agent(node: &NodeAnswers) -> Agent {
    let mut agent = Agent {
        node: node.name.clone(),
        away: None,
        version: None,
        generation: node.plan.as_ref().ok().map(|plan| plan.generation),
        api: None,
        parts: Vec::new(),
    };
    match &node.status {
        Err(error) => agent.away = Some(error.clone()),
        Ok(status) => {
            let error =
                status.api.kinds.values().filter(|kind| !kind.connected).find_map(|it| it.last_error.clone());
            agent.version = Some(status.version.clone());
            agent.api = Some(match (status.api.synced, status.api.connected) {
                (true, true) => "synced".to_owned(),
                (false, _) => "not synced yet".to_owned(),
                (true, false) => {
                    format!("not connected: {}", error.unwrap_or_else(|| "no reason known".to_owned()))
                }
            });
            let parts = status.parts.iter().map(|(name, part)| AgentPart {
                name: name.clone(),
                generation: part.generation,
                last_sync: part.last_sync,
                pending: part.pending,
                error: part.error.clone(),
            });
            agent.parts = parts.collect();
        }
    }
    agent
}

pub(super) fn plans(answers: &Answers) -> impl Iterator<Item = (&str, &AppliedPlan)> {
    answers.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.plan.as_ref().ok()?)))
}

fn routes(answers: &Answers) -> Vec<RouteRow> {
    let mut rows = Vec::new();
    for node in &answers.nodes {
        let Some(overlay) = node.plan.as_ref().ok().and_then(|plan| plan.overlay.as_deref()) else {
            continue;
        };
        let differs = |object: &str| -> Vec<String> {
            let found = node.differences.iter().flat_map(|found| &found.differences);
            found
                .filter(|one| one.object == object)
                .map(|one| format!("{} ({})", one.what, one.kernel))
                .collect()
        };
        for subnet in &overlay.subnets {
            rows.push(RouteRow {
                node: node.name.clone(),
                network: subnet.to_string(),
                to: node.name.clone(),
                link: "each pod's own".to_owned(),
                via: None,
                tunnel: None,
                mtu: overlay.mtu,
                differs: Vec::new(),
            });
        }
        for route in &overlay.routes {
            let device = overlay.devices.iter().find(|device| device.name == route.link);
            let neighbor = overlay.neighbors.iter().find(|it| it.device == route.link && it.ip == route.via);
            let forward = |mac| overlay.forwards.iter().find(|it| it.device == route.link && it.mac == mac);
            let underlay = node.plan.as_ref().ok().and_then(|plan| plan.underlay.as_ref());
            let mut differs_here = differs(&format!("node {}", route.node));
            differs_here.extend(differs(&format!("device {}", route.link)));
            rows.push(RouteRow {
                node: node.name.clone(),
                network: route.dst.to_string(),
                to: route.node.to_string(),
                link: route.link.clone(),
                via: Some(route.via),
                tunnel: device.map(|device| Tunnel {
                    vni: device.vni,
                    local: device.local,
                    remote: neighbor.and_then(|it| forward(it.mac)).map(|it| it.dst),
                    mac: neighbor.map(|it| it.mac.to_string()),
                }),
                mtu: device.map_or_else(|| underlay.map_or(overlay.mtu, |it| it.mtu), |device| device.mtu),
                differs: differs_here,
            });
        }
    }
    rows
}

fn mappings(answers: &Answers) -> Vec<Mapping> {
    let of_nodes = answers.nodes.iter().map(|node| (node.name.clone(), &node.connections));
    let places: Vec<_> = of_nodes
        .chain([("gateway".to_owned(), &answers.gateway)])
        .filter_map(|(place, found)| Some((place, found.as_ref().ok()?.clone())))
        .collect();
    let mut services = BTreeMap::new();
    for (_, plan) in plans(answers) {
        for port in plan.plan.services.ports() {
            let address = port.address;
            services
                .entry((address.ip, address.port, address.protocol.number()))
                .or_insert_with(|| format!("Service {}", port.service));
        }
    }
    nat::table(&places, |ip, port, protocol| {
        services.get(&(ip, port, protocol)).or_else(|| answers.names.get(&ip)).cloned()
    })
}

fn dns(answers: &Answers) -> Dns {
    let row = |pod: &super::gather::DnsPod| DnsRow {
        pod: pod.name.clone(),
        node: pod.node.clone(),
        address: pod.address.clone(),
        facts: match &pod.facts {
            Ok(facts) => facts.clone(),
            Err(error) => DnsFacts { error: Some(error.clone()), ..DnsFacts::default() },
        },
    };
    let resolver = |node: &NodeAnswers| {
        let conf = node.resolv_conf.as_ref()?;
        Some(NodeResolver {
            node: node.name.clone(),
            nameservers: conf.nameservers.clone(),
            searches: conf.searches.clone(),
            options: conf.options.iter().map(ToString::to_string).collect(),
        })
    };
    Dns {
        pods: answers.dns.iter().map(row).collect(),
        nodes: answers.nodes.iter().filter_map(resolver).collect(),
    }
}
