//! Sets the observers up, sends the request, and asks them what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use futures::future::join_all;
use seaway_http::unix;
use seaway_lab::Lab;
use seaway_model::Differences;
use seaway_observe::api::{
    Connection, Link, Observe, PacketFilter, PacketMatch, Packets, RouteAnswer, RouteQuery, RuleFilter,
    Rules, Select, Started, Tuple,
};

use super::evidence::{Seen, is_icmp, onward};
use crate::explain::Prediction;
use crate::hop::{Expect, Proto};

/// The longest that a trace watches, in seconds.
const WATCH: u16 = 60;
/// The name servers' port.
const DNS_PORT: u16 = 53;

/// An observer that watches.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// The place.
    pub(crate) place: String,
    socket: PathBuf,
    /// The observation, or why there is none.
    id: Result<String, String>,
}

/// What the observers are told to look for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The protocol.
    pub(crate) proto: Proto,
    /// Destinations of the request, before and after translation.
    pub(crate) destinations: BTreeSet<SocketAddr>,
    /// For each place: the sources that it may see before translation.
    pub(crate) sources: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Name service is watched, too.
    pub(crate) names: bool,
}

impl Wanted {
    /// What proves `prediction`.
    pub(crate) fn of(prediction: &Prediction, proto: Proto, port: u16) -> Self {
        let mut wanted = Self {
            proto,
            destinations: BTreeSet::new(),
            sources: BTreeMap::new(),
            names: !prediction.names.is_empty(),
        };
        for way in &prediction.ways {
            wanted.destinations.extend(way.choice.address.map(|ip| SocketAddr::new(ip, port)));
            wanted.destinations.extend(way.choice.backend);
            for hop in &way.hops {
                if let Expect::Translate { backends } = &hop.expect {
                    wanted.destinations.extend(backends.iter().copied());
                }
                if let Some(before) = &hop.before {
                    wanted
                        .sources
                        .entry(hop.place.clone())
                        .or_default()
                        .extend(before.source.iter().copied());
                }
            }
        }
        wanted
    }

    fn observe(&self, place: &str) -> Observe {
        let protocol = self.proto.number();
        let addresses: BTreeSet<IpAddr> = self.destinations.iter().map(SocketAddr::ip).collect();
        let ports: BTreeSet<u16> = self.destinations.iter().map(SocketAddr::port).collect();
        let mut packets = vec![PacketFilter {
            protocol: Some(protocol),
            addresses: addresses.into_iter().collect(),
            ports: if self.proto == Proto::Icmp { Vec::new() } else { ports.into_iter().collect() },
        }];
        if self.names {
            packets.push(PacketFilter { protocol: Some(17), addresses: Vec::new(), ports: vec![DNS_PORT] });
        }
        let sources = self.sources.get(place).cloned().unwrap_or_default();
        let rules = self.destinations.iter().flat_map(|destination| {
            sources.iter().map(|source| RuleFilter {
                protocol,
                source: Some(*source),
                source_port: None,
                destination: Some(destination.ip()),
                destination_port: (self.proto != Proto::Icmp).then_some(destination.port()),
            })
        });
        Observe { packets, rules: rules.collect(), seconds: WATCH }
    }
}

/// Has all places of the lab watch; they do when this returns.
pub(crate) async fn watch(lab: &Lab, wanted: &Wanted) -> Vec<Watcher> {
    let places = lab.places.iter().filter(|place| has_observer(&place.label));
    join_all(places.map(|place| async {
        let socket = place.observer();
        let started = unix::post::<Started>(&socket, "/v1/observations", &wanted.observe(&place.label)).await;
        let id = started.map(|started| started.id).map_err(|error| error.to_string());
        Watcher { place: place.label.clone(), socket, id }
    }))
    .await
}

fn has_observer(label: &str) -> bool {
    label == "gateway"
        || matches!(label.split_once('/'), Some(("node" | "internet", name)) if !name.contains('/'))
}

/// Ends the observations.
pub(crate) async fn stop(watchers: &[Watcher]) {
    join_all(watchers.iter().map(|watcher| async {
        if let Ok(id) = &watcher.id {
            let _ = unix::delete(&watcher.socket, &format!("/v1/observations/{id}")).await;
        }
    }))
    .await;
}

impl Watcher {
    async fn packets(&self, any: Vec<PacketMatch>) -> Result<Packets, String> {
        let id = self.id.as_ref().map_err(Clone::clone)?;
        let path = format!("/v1/observations/{id}/packets");
        unix::post(&self.socket, &path, &Select { any }).await.map_err(|error| error.to_string())
    }

    /// Messages about `names` on the place's links.
    pub(crate) async fn dns(&self, names: &BTreeSet<String>) -> Result<Packets, String> {
        let any =
            names.iter().map(|name| PacketMatch { dns_name: Some(name.clone()), ..PacketMatch::default() });
        self.packets(any.collect()).await
    }

    async fn connection(&self, tuple: &Tuple) -> Option<Connection> {
        let found: Vec<Option<Connection>> =
            unix::post(&self.socket, "/v1/connections", &[tuple]).await.unwrap_or_default();
        found.into_iter().next().flatten()
    }

    async fn route(&self, query: &RouteQuery) -> Option<RouteAnswer> {
        unix::post(&self.socket, "/v1/route", query).await.ok()
    }

    /// What the place saw of the request that comes here as `tuple`.
    async fn seen(&self, tuple: Option<Tuple>, isn: Option<u32>, token: &str) -> Seen {
        let id = match &self.id {
            Ok(id) => id,
            Err(reason) => return Seen { blind: Some(reason.clone()), ..Seen::default() },
        };
        let connection = match &tuple {
            Some(tuple) => self.connection(tuple).await,
            None => None,
        };
        let mut any: Vec<PacketMatch> = Vec::new();
        match isn {
            Some(isn) => any.push(PacketMatch { tcp_isn: Some(isn), ..PacketMatch::default() }),
            None => {
                any.push(PacketMatch { payload: Some(token.to_owned()), ..PacketMatch::default() });
                let onward = connection.as_ref().map(onward);
                any.extend(tuple.iter().chain(&onward).filter(|tuple| !is_icmp(tuple)).map(|tuple| {
                    PacketMatch {
                        protocol: Some(tuple.protocol),
                        endpoint: Some((tuple.source, tuple.source_port)),
                        ..PacketMatch::default()
                    }
                }));
            }
        }
        let packets = self.packets(any).await;
        let rules: Result<Rules, _> = unix::get(&self.socket, &format!("/v1/observations/{id}/rules")).await;
        let links: Vec<Link> = unix::get(&self.socket, "/v1/links").await.unwrap_or_default();
        let mut seen = Seen { tuple, connection, links, ..Seen::default() };
        match (packets, rules) {
            (Ok(packets), Ok(rules)) => {
                seen.lost = packets.lost > 0 || rules.lost > 0;
                seen.packets = packets.packets;
                seen.rules = of_request(rules, &seen);
            }
            (Err(reason), _) => seen.blind = Some(reason),
            (_, Err(reason)) => seen.blind = Some(reason.to_string()),
        }
        self.diagnose(&mut seen).await;
        seen
    }

    /// Where the packet went no further: what the kernel would do with it now.
    async fn diagnose(&self, seen: &mut Seen) {
        let Some(tuple) = seen.connection.as_ref().map(onward).or(seen.tuple) else { return };
        if seen.forward().any(|packet| packet.out) {
            return;
        }
        let iif = seen.came_in().map(|packet| packet.link.clone());
        let source = seen.tuple.map(|tuple| tuple.source);
        let there =
            RouteQuery { destination: tuple.destination, source: source.filter(|_| iif.is_some()), iif };
        seen.route = self.route(&there).await;
        if let Some(source) = source {
            seen.way_back = self.route(&RouteQuery { destination: source, source: None, iif: None }).await;
        }
    }
}

/// The rules that packets of the request met, and nobody else's.
fn of_request(rules: Rules, seen: &Seen) -> Vec<seaway_observe::api::RuleHit> {
    let ports: Vec<u16> = seen
        .tuple
        .iter()
        .map(|tuple| tuple.source_port)
        .chain(seen.connection.iter().map(|connection| onward(connection).source_port))
        .collect();
    let is_icmp = seen.tuple.as_ref().is_none_or(is_icmp);
    let ids: BTreeSet<u32> = rules
        .hits
        .iter()
        .filter(|hit| is_icmp || hit.source_port.is_some_and(|port| ports.contains(&port)))
        .map(|hit| hit.packet)
        .collect();
    rules.hits.into_iter().filter(|hit| ids.contains(&hit.packet)).collect()
}

/// What all places saw of a request that `first` saw as `tuple`.
pub(crate) async fn collect(
    lab: &Lab,
    watchers: &[Watcher],
    first: &str,
    tuple: Tuple,
    token: &str,
) -> BTreeMap<String, Seen> {
    let mut places = BTreeMap::new();
    let watcher = |name: &str| watchers.iter().find(|watcher| watcher.place == name);
    let mut isn = None;
    if let Some(watcher) = watcher(first) {
        if tuple.protocol == 6 {
            let by_endpoint = PacketMatch {
                protocol: Some(6),
                endpoint: Some((tuple.source, tuple.source_port)),
                ..PacketMatch::default()
            };
            let packets = watcher.packets(vec![by_endpoint]).await.unwrap_or_default().packets;
            let syn =
                packets.iter().filter_map(|packet| packet.ip.tcp.as_ref()).rfind(|tcp| tcp.syn && !tcp.ack);
            isn = syn.map(|tcp| tcp.sequence);
        }
        places.insert(first.to_owned(), watcher.seen(Some(tuple), isn, token).await);
    }
    let mut here = places.get(first).and_then(|seen| seen.connection.as_ref()).map_or(tuple, onward);
    // In the order in which they translate.
    let order: [fn(&str) -> bool; 3] =
        if is_host(first) { [is_gateway, is_node, is_host] } else { [is_node, is_gateway, is_host] };
    for group in order {
        let others = watchers.iter().filter(|watcher| watcher.place != first && group(&watcher.place));
        let seen = others
            .map(|watcher| async { (watcher.place.clone(), watcher.seen(Some(here), isn, token).await) });
        let seen = join_all(seen).await;
        if let Some(connection) = seen.iter().find_map(|(_, seen)| seen.connection.as_ref()) {
            here = onward(connection);
        }
        places.extend(seen);
    }
    for (name, seen) in &mut places {
        if is_node(name) && !seen.packets.is_empty() {
            seen.differences = differences(lab, name).await;
        }
    }
    places
}

fn is_node(place: &str) -> bool {
    place.starts_with("node/")
}

fn is_gateway(place: &str) -> bool {
    place == "gateway"
}

fn is_host(place: &str) -> bool {
    place.starts_with("internet/")
}

/// Where a node's kernel differs from its plan.
async fn differences(lab: &Lab, node: &str) -> Vec<(String, String)> {
    let Some(place) = lab.place(node) else { return Vec::new() };
    let told: Result<Differences, _> = unix::get(&place.observer(), "/v1/differences").await;
    let all = told.map(|told| told.differences).unwrap_or_default();
    all.into_iter().map(|it| (part(&it), it.to_string())).collect()
}

fn part(difference: &seaway_model::Difference) -> String {
    serde_json::to_value(difference.part)
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()))
        .unwrap_or_default()
}
