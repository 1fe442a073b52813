//! The report as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Table, presets};
use jiff::Timestamp;
use owo_colors::Style;
use seaway_model::{Caller, Refusal, TrafficPolicy};

use super::Section;
use super::dns::DnsFacts;
use super::nat::{Mapping, NatHop, Party};
use super::report::{Agent, Dns, Report, RouteRow};
use super::services::{EndpointRow, ServiceRow};
use crate::render::Paint;

/// The whole text.
pub(crate) fn text(report: &Report, section: Option<Section>, paint: Paint) -> String {
    let mut out = String::new();
    match section {
        None => summary(&mut out, report),
        Some(_) => {
            report.agents.iter().for_each(|agents| write_agents(&mut out, agents));
            report.services.iter().for_each(|services| write_services(&mut out, services));
            report.routes.iter().for_each(|routes| write_routes(&mut out, routes));
            report.nat.iter().for_each(|nat| write_nat(&mut out, nat));
            report.dns.iter().for_each(|dns| write_dns(&mut out, dns));
        }
    }
    write_foreign(&mut out, report);
    write_end(&mut out, report, paint);
    out
}

fn table(out: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec()).add_rows(rows);
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
    }
    out.push('\n');
}

/// A line a node, then DNS; what differs follows.
fn summary(out: &mut String, report: &Report) {
    let agents = report.agents.as_deref().unwrap_or_default();
    let services = report.services.as_deref().unwrap_or_default();
    let routes = report.routes.as_deref().unwrap_or_default();
    let nat = report.nat.as_deref().unwrap_or_default();
    let row = |agent: &Agent| {
        let node = &agent.node;
        let addresses = services.iter().filter(|row| row.nodes.contains(node)).count();
        let others = routes.iter().filter(|row| row.node == *node && row.to != *node);
        let tunnels = others.clone().filter(|row| row.tunnel.is_some()).count();
        let (count, direct) = (others.clone().count(), others.count() - tunnels);
        let ways = match (count, direct) {
            (0, _) => "none".to_owned(),
            (_, 0) => format!("{count} by VXLAN"),
            (_, direct) if direct == count => format!("{count} direct"),
            _ => format!("{tunnels} by VXLAN, {direct} direct"),
        };
        let translated = nat.iter().filter(|it| it.hops.iter().any(|hop| hop.place == *node)).count();
        let differences = report.differences.iter().filter(|one| one.node == *node).count();
        let state = match &agent.away {
            Some(_) => "away".to_owned(),
            None if agent.parts.iter().any(|part| part.error.is_some()) => "failing".to_owned(),
            None => agent.api.clone().unwrap_or_default(),
        };
        let told = |text: String| if agent.away.is_some() { "?".to_owned() } else { text };
        vec![
            node.clone(),
            state,
            told(addresses.to_string()),
            told(ways),
            told(translated.to_string()),
            told(differences.to_string()),
        ]
    };
    let header =
        ["NODE", "AGENT", "SERVICE ADDRESSES", "OTHER NODES", "TRANSLATED CONNECTIONS", "DIFFERENCES"];
    table(out, &header, agents.iter().map(row));
    if let Some(dns) = &report.dns {
        write_dns_pods(out, dns);
    }
}

fn write_agents(out: &mut String, agents: &[Agent]) {
    let rows = agents.iter().map(|agent| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let api = agent.away.as_ref().map_or_else(|| text(&agent.api), |why| format!("away: {why}"));
        let generation = agent.generation.map(|generation| generation.to_string()).unwrap_or_default();
        vec![agent.node.clone(), text(&agent.version), generation, api]
    });
    table(out, &["NODE", "VERSION", "GENERATION", "API"], rows);
    let parts = agents.iter().flat_map(|agent| agent.parts.iter().map(move |part| (agent, part)));
    let now = Timestamp::now();
    let rows = parts.map(|(agent, part)| {
        let state = match (&part.error, part.pending) {
            (Some(error), _) => format!("fails: {error}"),
            (None, true) => "pending".to_owned(),
            (None, false) => "in step".to_owned(),
        };
        let synced = part.last_sync.map_or_else(|| "never".to_owned(), |at| ago(now, at));
        vec![agent.node.clone(), part.name.clone(), part.generation.to_string(), synced, state]
    });
    table(out, &["NODE", "PART", "GENERATION", "LAST SYNC", "STATE"], rows);
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

fn write_services(out: &mut String, services: &[ServiceRow]) {
    let rows = services.iter().flat_map(|row| {
        let state = if row.differs_on.is_empty() {
            "as planned".to_owned()
        } else {
            format!("DIFFERS on {}", row.differs_on.join(", "))
        };
        let name = if row.port_name.is_empty() {
            row.service.clone()
        } else {
            format!("{} ({})", row.service, row.port_name)
        };
        let mut first = vec![row.address.to_string(), name, ways(row)];
        let mut last = vec![row.nodes.join(" "), state];
        let mut lines = Vec::new();
        if row.endpoints.is_empty() {
            let none = match row.otherwise {
                Refusal::Reject => "none: packets are rejected",
                Refusal::Drop => "none here: packets are dropped",
            };
            let own = vec![none.to_owned(), String::new(), String::new(), String::new()];
            lines.push([std::mem::take(&mut first), own, std::mem::take(&mut last)].concat());
        }
        for endpoint in &row.endpoints {
            let own = endpoint_cells(endpoint, row.terminating);
            let blank = |cells: usize| vec![String::new(); cells];
            let (before, after) = if lines.is_empty() {
                (std::mem::take(&mut first), std::mem::take(&mut last))
            } else {
                (blank(3), blank(2))
            };
            lines.push([before, own, after].concat());
        }
        lines
    });
    let header =
        ["ADDRESS", "SERVICE", "HOW", "ENDPOINT", "WHO", "CONNECTIONS", "PACKETS", "NODES", "KERNEL"];
    table(out, &header, rows);
}

/// What an address is, and what holds for its callers.
fn ways(row: &ServiceRow) -> String {
    let mut ways = vec![row.kind.to_string()];
    if row.policy == TrafficPolicy::Local {
        ways.push("Local".to_owned());
    }
    ways.extend(row.affinity.map(|seconds| format!("ClientIP {seconds} s")));
    ways.extend(row.source_ranges.as_ref().map(|ranges| {
        let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        format!("from {}", ranges.join(" "))
    }));
    ways.join(", ")
}

fn endpoint_cells(endpoint: &EndpointRow, terminating: bool) -> Vec<String> {
    let who = endpoint.name.clone().unwrap_or_default();
    let local = endpoint.local_on.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let terminating = if terminating { " (terminating)" } else { "" };
    let only = match endpoint.only {
        Some(Caller::Inside) => " (pods and nodes alone)",
        Some(Caller::Outside) => " (callers from outside alone)",
        None => "",
    };
    let packets = endpoint.traffic.map_or_else(|| "?".to_owned(), |traffic| traffic.packets.to_string());
    vec![
        endpoint.backend.to_string(),
        format!("{who}{local}{terminating}{only}"),
        endpoint.connections.to_string(),
        packets,
    ]
}

fn write_routes(out: &mut String, routes: &[RouteRow]) {
    let rows = routes.iter().map(|row| {
        let way = match (&row.tunnel, row.via) {
            (Some(tunnel), _) => {
                let remote = tunnel.remote.map_or_else(|| "nowhere".to_owned(), |remote| remote.to_string());
                format!("VXLAN {} {} → {remote}", tunnel.vni, tunnel.local)
            }
            (None, Some(_)) => "direct".to_owned(),
            (None, None) => "this node's pods".to_owned(),
        };
        let mac = row.tunnel.as_ref().and_then(|tunnel| tunnel.mac.clone()).unwrap_or_default();
        let state = if row.differs.is_empty() {
            "as planned".to_owned()
        } else {
            format!("DIFFERS: {}", row.differs.join("; "))
        };
        let via = row.via.map(|via| via.to_string()).unwrap_or_default();
        vec![
            row.node.clone(),
            row.network.clone(),
            row.to.clone(),
            row.link.clone(),
            via,
            mac,
            way,
            row.mtu.to_string(),
            state,
        ]
    });
    let header = ["NODE", "NETWORK", "OF", "LINK", "VIA", "NEIGHBOUR", "HOW", "MTU", "KERNEL"];
    table(out, &header, rows);
}

fn party(party: &Party) -> String {
    let shown = std::net::SocketAddr::new(party.address, party.port).to_string();
    match &party.name {
        Some(name) => format!("{shown} {name}"),
        None => shown,
    }
}

/// The seeds' table: source, what each hop made of it, destination.
fn write_nat(out: &mut String, nat: &[Mapping]) {
    let rows = nat.iter().map(|it| {
        let at = |gateway: bool| {
            let hops = it.hops.iter().filter(|hop| (hop.place == "gateway") == gateway);
            let text = |hop: &NatHop| {
                let source = hop.source.as_ref()?;
                Some(std::net::SocketAddr::new(source.address, source.port).to_string())
            };
            hops.filter_map(text).collect::<Vec<_>>().join(" → ")
        };
        let same =
            it.answered_by.address == it.destination.address && it.answered_by.port == it.destination.port;
        let answered = if same { String::new() } else { party(&it.answered_by) };
        let state = it.tcp_state.clone().unwrap_or_default();
        vec![
            it.protocol.clone(),
            party(&it.source),
            at(false),
            at(true),
            party(&it.destination),
            answered,
            state,
        ]
    });
    let header =
        ["PROTO", "SOURCE", "NODE'S ADDRESS", "GATEWAY'S ADDRESS", "DESTINATION", "ANSWERED BY", "STATE"];
    table(out, &header, rows);
}

fn write_dns(out: &mut String, dns: &Dns) {
    write_dns_pods(out, dns);
    let rows = dns.pods.iter().flat_map(|pod| {
        pod.facts.servers.iter().map(move |server| {
            let upstreams = server.upstreams.iter().map(|upstream| {
                let down = if upstream.down { " DOWN" } else { "" };
                format!("{}{down}", upstream.address)
            });
            let cache = |entries: &BTreeMap<String, usize>| {
                let each = entries.iter().map(|(kind, count)| format!("{count} {kind}"));
                each.collect::<Vec<_>>().join(", ")
            };
            vec![
                pod.pod.clone(),
                format!("{} port {}", server.zone, server.listen.port()),
                server.cluster.join(" "),
                upstreams.collect::<Vec<_>>().join(", "),
                server.cache.as_ref().map_or_else(|| "none".to_owned(), cache),
            ]
        })
    });
    table(out, &["POD", "SERVES", "CLUSTER ZONES", "UPSTREAMS", "CACHE"], rows);
    let rows = dns.nodes.iter().map(|node| {
        vec![node.node.clone(), node.nameservers.join(" "), node.searches.join(" "), node.options.join(" ")]
    });
    table(out, &["NODE", "NAMESERVERS", "SEARCH", "OPTIONS"], rows);
}

fn write_dns_pods(out: &mut String, dns: &Dns) {
    let rows = dns.pods.iter().map(|pod| {
        let DnsFacts { healthy, ready, counts, error, .. } = &pod.facts;
        let state = match (healthy, ready) {
            (true, true) => "healthy",
            (true, false) => "NOT READY",
            (false, _) => "NOT HEALTHY",
        };
        let counts = counts.map_or_else(
            || ["?".to_owned(), "?".to_owned()],
            |it| {
                let cache = format!(
                    "{} entries, {} hits, {} misses",
                    it.cache_entries, it.cache_hits, it.cache_misses
                );
                [it.requests.to_string(), cache]
            },
        );
        let [requests, cache] = counts;
        let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        vec![
            pod.pod.clone(),
            pod.node.clone(),
            pod.address.clone(),
            format!("{state}{error}"),
            requests,
            cache,
        ]
    });
    table(out, &["DNS POD", "NODE", "ADDRESS", "STATE", "QUERIES", "CACHE"], rows);
}

fn write_foreign(out: &mut String, report: &Report) {
    if report.foreign.is_empty() {
        return;
    }
    let _ = writeln!(out, "put there by others:");
    for one in &report.foreign {
        let _ = writeln!(out, "  {}  {}: {}", one.node, one.foreign.kernel, one.foreign.what);
    }
    out.push('\n');
}

fn write_end(out: &mut String, report: &Report, paint: Paint) {
    for one in &report.unknown {
        let who = paint.apply(&format!("{} cannot be asked", one.who), Style::new().yellow().bold());
        let _ = writeln!(out, "{who}: {}", one.why);
    }
    for one in &report.differences {
        let difference = &one.difference;
        let object = paint.apply(&difference.object, Style::new().bold());
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let what = paint.apply(&difference.what, Style::new().red());
        let _ = writeln!(out, "{}  {object}: {what}", one.node);
        let (planned, actual) = (text(&difference.planned), text(&difference.actual));
        let _ = writeln!(out, "    {}: planned {planned}, found {actual}", difference.kernel);
    }
    if report.more_differences > 0 {
        let _ = writeln!(out, "and {} more differences", report.more_differences);
    }
    if report.as_planned {
        let _ = writeln!(out, "{}", paint.apply("all as planned", Style::new().green()));
    }
}
