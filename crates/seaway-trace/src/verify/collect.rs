//! Sets the observers up, sends the request, and asks them what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use seaway_http::unix;
use seaway_lab::Lab;
use seaway_model::{Differences, Mended};
use seaway_observe::api::{
    Connection, Link, Observe, PacketFilter, PacketMatch, Packets, RouteAnswer, RouteQuery, RuleFilter,
    Rules, Select, Started, Tuple,
};

use super::deviations::{Deviation, NotCompared};
use super::evidence::{Seen, is_icmp, onward};
use super::passage::passage;
use crate::explain::Prediction;
use crate::hop::{Expect, Proto, State};
use crate::patience::patiently;

/// The longest that a trace watches, in seconds.
const WATCH: u16 = 60;
/// Protocols' numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;
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
    /// The packets of name service that it watches for.
    dns: Vec<PacketFilter>,
}

/// What the observers are told to look for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The protocol.
    pub(crate) proto: Proto,
    /// Destinations of the request, before and after translation.
    pub(crate) destinations: BTreeSet<SocketAddr>,
    /// For each place: source and destination that the request may have when it comes there.
    pub(crate) entries: BTreeMap<String, BTreeSet<(IpAddr, SocketAddr)>>,
    /// Sources that the request may be given on its way; their ports are not known before.
    pub(crate) translated: BTreeSet<IpAddr>,
    /// Name service is watched, too.
    pub(crate) names: bool,
}

/// An observer takes no more filters and addresses than these (seaway-observe).
const MOST_RULES: usize = 64;
const MOST_ADDRESSES: usize = 256;

impl Wanted {
    /// What proves `prediction`.
    pub(crate) fn of(prediction: &Prediction, proto: Proto, port: u16) -> Self {
        let mut wanted = Self {
            proto,
            destinations: BTreeSet::new(),
            entries: BTreeMap::new(),
            translated: BTreeSet::new(),
            names: !prediction.names.is_empty(),
        };
        for way in &prediction.ways {
            wanted.destinations.extend(way.choice.address.map(|ip| SocketAddr::new(ip, port)));
            wanted.destinations.extend(way.choice.backend);
            let mut visited = BTreeSet::new();
            for hop in &way.hops {
                if let Expect::Translate { backends } = &hop.expect {
                    wanted.destinations.extend(backends.iter().copied());
                }
                if let Expect::Source { addresses } = &hop.expect {
                    wanted.translated.extend(addresses);
                }
                if let Some(before) = &hop.before
                    && visited.insert(hop.place.as_str())
                {
                    wanted.entries.entry(hop.place.clone()).or_default().extend(entries(before));
                }
            }
        }
        wanted
    }

    /// What `place` watches until the request has its socket: the rules, and the caller's name service, whose packets
    /// come first `at` one place.
    fn observe(&self, place: &str, (at, own): (&str, &[IpAddr])) -> Observe {
        Observe { packets: self.name_service(place, (at, own)), rules: self.rules(place), seconds: WATCH }
    }

    fn name_service(&self, place: &str, (at, own): (&str, &[IpAddr])) -> Vec<PacketFilter> {
        let filter = PacketFilter {
            protocol: Some(UDP),
            addresses: own.to_vec(),
            ports: vec![DNS_PORT],
            ..PacketFilter::default()
        };
        if self.names && place == at { vec![filter] } else { Vec::new() }
    }

    /// The packets of the request that `source` is about to send, wherever it may go: as little as can be of what others
    /// send meanwhile.
    fn packets(&self, place: &str, source: SocketAddr) -> Vec<PacketFilter> {
        let protocol = Some(self.proto.number(source.ip()));
        let ports: BTreeSet<u16> = self.destinations.iter().map(SocketAddr::port).collect();
        let ports: Vec<u16> =
            if self.proto == Proto::Icmp { Vec::new() } else { ports.into_iter().collect() };
        let destinations: BTreeSet<IpAddr> = self.destinations.iter().map(SocketAddr::ip).collect();
        // Translated to what nobody planned, it is found by where it goes to, or by its source.
        let mut either = destinations.clone();
        either.extend(self.entries.get(place).into_iter().flatten().map(|(source, _)| *source));
        // Where there is no room for all of them, any will do: what is of the request is told apart later.
        let list = |addresses: &BTreeSet<IpAddr>| -> Vec<IpAddr> {
            if addresses.len() > MOST_ADDRESSES { Vec::new() } else { addresses.iter().copied().collect() }
        };
        let mut filters = vec![
            PacketFilter {
                protocol,
                addresses: list(&either),
                ports: ports.clone(),
                opening: true,
                ..PacketFilter::default()
            },
            PacketFilter {
                protocol,
                addresses: vec![source.ip()],
                ports: if self.proto == Proto::Icmp { Vec::new() } else { vec![source.port()] },
                ..PacketFilter::default()
            },
        ];
        if !self.translated.is_empty() {
            filters.push(PacketFilter {
                protocol,
                addresses: list(&self.translated),
                peers: list(&destinations),
                ports,
                ..PacketFilter::default()
            });
        }
        filters
    }

    fn rules(&self, place: &str) -> Vec<RuleFilter> {
        let entries = self.entries.get(place).into_iter().flatten();
        let has_ports = self.proto != Proto::Icmp;
        let exact = entries.clone().map(|(source, to)| RuleFilter {
            protocol: self.proto.number(*source),
            source: Some(*source),
            source_port: None,
            destination: Some(to.ip()),
            destination_port: has_ports.then_some(to.port()),
        });
        let exact: Vec<RuleFilter> = exact.collect();
        if exact.len() <= MOST_RULES {
            return exact;
        }
        let coarse: BTreeSet<(IpAddr, u16)> = entries.map(|(source, to)| (*source, to.port())).collect();
        let coarse = coarse.into_iter().take(MOST_RULES).map(|(source, port)| RuleFilter {
            protocol: self.proto.number(source),
            source: Some(source),
            destination_port: has_ports.then_some(port),
            ..RuleFilter::default()
        });
        coarse.collect()
    }
}

/// Every source of `state` with every destination.
fn entries(state: &State) -> impl Iterator<Item = (IpAddr, SocketAddr)> {
    let destination =
        |text: &String| text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 0)));
    let destinations: Vec<SocketAddr> = state.destination.iter().filter_map(destination).collect();
    state.source.iter().flat_map(move |source| destinations.clone().into_iter().map(|to| (*source, to)))
}

/// Has all places of the lab watch; they do when this returns. The caller's name service is seen at one of them, by the
/// caller's own addresses.
pub(crate) async fn watch(lab: &Lab, wanted: &Wanted, caller: (&str, &[IpAddr])) -> Vec<Watcher> {
    let places = lab.places.iter().filter(|place| has_observer(&place.label));
    join_all(places.map(|place| async {
        let socket = place.observer();
        let observe = wanted.observe(&place.label, caller);
        let dns = observe.packets.clone();
        let started = patiently(unix::post::<Started>(&socket, "/v1/observations", &observe)).await;
        let id = started.map(|started| started.id);
        Watcher { place: place.label.clone(), socket, id, dns }
    }))
    .await
}

/// Has them watch for the request that `source` is about to send; they do when this returns. Those that cannot be asked
/// are blind from now on.
pub(crate) async fn watch_for(watchers: &mut [Watcher], wanted: &Wanted, source: SocketAddr) {
    join_all(watchers.iter_mut().map(|watcher| async {
        let Ok(id) = &watcher.id else { return };
        let filters = [wanted.packets(&watcher.place, source), watcher.dns.clone()].concat();
        let path = format!("/v1/observations/{id}/packets");
        if let Err(reason) = patiently(unix::put(&watcher.socket, &path, &filters)).await {
            watcher.id = Err(reason);
        }
    }))
    .await;
}

fn has_observer(label: &str) -> bool {
    label == "gateway"
        || matches!(label.split_once('/'), Some(("node" | "internet", name)) if !name.contains('/'))
}

/// Ends the observations.
pub(crate) async fn stop(watchers: &[Watcher]) {
    join_all(watchers.iter().map(|watcher| async {
        if let Ok(id) = &watcher.id {
            let _ = patiently(unix::delete(&watcher.socket, &format!("/v1/observations/{id}"))).await;
        }
    }))
    .await;
}

impl Watcher {
    /// Why it does not watch.
    pub(crate) fn blind(&self) -> Option<String> {
        self.id.as_ref().err().cloned()
    }

    async fn packets(&self, any: Vec<PacketMatch>) -> Result<Packets, String> {
        let id = self.id.as_ref().map_err(Clone::clone)?;
        let path = format!("/v1/observations/{id}/packets");
        patiently(unix::post(&self.socket, &path, &Select { any })).await
    }

    /// Messages about `names` on the place's links.
    pub(crate) async fn dns(&self, names: &BTreeSet<String>) -> Result<Packets, String> {
        let any =
            names.iter().map(|name| PacketMatch { dns_name: Some(name.clone()), ..PacketMatch::default() });
        self.packets(any.collect()).await
    }

    async fn rules(&self) -> Result<Rules, String> {
        let id = self.id.as_ref().map_err(Clone::clone)?;
        patiently(unix::get(&self.socket, &format!("/v1/observations/{id}/rules"))).await
    }

    /// The sequence number of the SYN that was sent as `tuple`, by the packets on links; or, where its source was
    /// translated before it came to any, by the rules that it met first.
    async fn first_sequence(&self, tuple: &Tuple) -> Option<u32> {
        let by_endpoint = PacketMatch {
            protocol: Some(TCP),
            endpoint: Some((tuple.source, tuple.source_port)),
            ..PacketMatch::default()
        };
        let packets = self.packets(vec![by_endpoint]).await.unwrap_or_default().packets;
        let mut segments = packets.iter().filter_map(|packet| packet.ip.tcp.as_ref());
        if let Some(syn) = segments.rfind(|tcp| tcp.syn && !tcp.ack) {
            return Some(syn.sequence);
        }
        let hits = self.rules().await.unwrap_or_default().hits;
        let sender = (Some(tuple.source), Some(tuple.source_port));
        hits.iter().rfind(|hit| (hit.source, hit.source_port) == sender)?.tcp_sequence
    }

    /// conntrack's entry of whichever of the tuples it has first.
    async fn connection(&self, tuples: &[Tuple]) -> Option<Connection> {
        let found: Vec<Option<Connection>> =
            patiently(unix::post(&self.socket, "/v1/connections", &tuples)).await.unwrap_or_default();
        found.into_iter().flatten().next()
    }

    async fn route(&self, query: &RouteQuery) -> Option<RouteAnswer> {
        patiently(unix::post(&self.socket, "/v1/route", query)).await.ok()
    }

    /// What the place saw of the request that is `known` to have had these tuples, here or elsewhere.
    async fn seen(&self, known: &[Tuple], sought: &Sought<'_>) -> Seen {
        if let Some(reason) = self.blind() {
            return Seen { blind: Some(reason), ..Seen::default() };
        }
        let connection = self.connection(known).await;
        let tuple = connection.as_ref().map(|connection| connection.original).or(known.last().copied());
        let mut any: Vec<PacketMatch> = Vec::new();
        match sought.isn {
            Some(isn) => any.push(PacketMatch { tcp_isn: Some(isn), ..PacketMatch::default() }),
            None => {
                any.push(PacketMatch { payload: Some(sought.token.to_owned()), ..PacketMatch::default() });
            }
        }
        // Its answer may come by a link that it did not leave by.
        let onward = connection.as_ref().map(onward);
        let with_ports = tuple.iter().chain(&onward).filter(|tuple| !is_icmp(tuple));
        any.extend(with_ports.map(|tuple| PacketMatch {
            protocol: Some(tuple.protocol),
            endpoint: Some((tuple.source, tuple.source_port)),
            ..PacketMatch::default()
        }));
        let packets = self.packets(any).await;
        let rules = self.rules().await;
        let links: Vec<Link> = patiently(unix::get(&self.socket, "/v1/links")).await.unwrap_or_default();
        let mut seen = Seen { tuple, connection, links, ..Seen::default() };
        match (packets, rules) {
            (Ok(packets), Ok(rules)) => {
                seen.lost = packets.lost > 0 || rules.lost > 0;
                seen.packets = packets.packets;
                seen.rules = of_request(rules, &seen);
            }
            (Err(reason), _) | (_, Err(reason)) => seen.blind = Some(reason),
        }
        self.diagnose(&mut seen, &sought.destinations).await;
        seen
    }

    /// Where the packet went no further: what the kernel would do with it now.
    async fn diagnose(&self, seen: &mut Seen, destinations: &BTreeSet<IpAddr>) {
        let Some(tuple) = seen.tuple else { return };
        if seen.forward().any(|packet| packet.out) {
            return;
        }
        let iif = seen.came_in().map(|packet| packet.link.clone());
        // Conntrack forgets what the destination became where the packet was thrown away.
        let destinations = match &seen.connection {
            Some(connection) => vec![onward(connection).destination],
            None => destinations.iter().copied().take(MOST_ROUTES).collect(),
        };
        for destination in destinations {
            let source = Some(tuple.source).filter(|_| iif.is_some());
            let there = RouteQuery { destination, source, iif: iif.clone() };
            seen.routes.extend(self.route(&there).await.map(|answer| (destination, answer)));
        }
        let back = RouteQuery { destination: tuple.source, source: None, iif: None };
        seen.way_back = self.route(&back).await;
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

/// What tells the request from others.
struct Sought<'a> {
    /// The sequence number of its SYN.
    isn: Option<u32>,
    /// What its payload contains.
    token: &'a str,
    /// Where it may go.
    destinations: BTreeSet<IpAddr>,
}

/// Destinations that the kernel is asked about where it is not known which one was chosen.
const MOST_ROUTES: usize = 16;

/// What all places saw of a request that `first` saw as `tuple`.
pub(crate) async fn collect(
    lab: &Lab,
    watchers: &[Watcher],
    first: &str,
    tuple: Tuple,
    wanted: &Wanted,
    token: &str,
) -> BTreeMap<String, Seen> {
    let mut places = BTreeMap::new();
    let watcher = |name: &str| watchers.iter().find(|watcher| watcher.place == name);
    // Those behind a Service first: its own address leads nowhere.
    let destinations = wanted.destinations.iter().map(SocketAddr::ip).filter(|ip| *ip != tuple.destination);
    let mut destinations: BTreeSet<IpAddr> = destinations.collect();
    if destinations.is_empty() {
        destinations.insert(tuple.destination);
    }
    let mut sought = Sought { isn: None, token, destinations };
    if let Some(watcher) = watcher(first) {
        if tuple.protocol == TCP {
            sought.isn = watcher.first_sequence(&tuple).await;
        }
        places.insert(first.to_owned(), watcher.seen(&[tuple], &sought).await);
    }
    // The request as it was anywhere: what one place made of it another may have an entry of.
    let mut known = vec![tuple];
    known.extend(places.get(first).and_then(leaves_as).filter(|left| *left != tuple));
    // In the order in which they translate; a node that another place translates for is asked once more.
    let order: [fn(&str) -> bool; 4] = if is_host(first) {
        [is_gateway, is_node, is_node, is_host]
    } else {
        [is_node, is_gateway, is_node, is_host]
    };
    let mut asked_with: BTreeMap<String, usize> = BTreeMap::new();
    for group in order {
        let (sought, asking) = (&sought, known.as_slice());
        let is_open = |place: &str| {
            let settled = places.get(place).is_some_and(|seen: &Seen| {
                let nothing_new = asked_with.get(place) == Some(&asking.len());
                seen.connection.is_some() || seen.packets.is_empty() || nothing_new
            });
            place != first && group(place) && !settled
        };
        let open = watchers.iter().filter(|watcher| is_open(&watcher.place));
        let asked = open.map(|watcher| async { (watcher.place.clone(), watcher.seen(asking, sought).await) });
        let asked = join_all(asked).await;
        asked_with.extend(asked.iter().map(|(place, _)| (place.clone(), asking.len())));
        for left in asked.iter().filter_map(|(_, seen)| leaves_as(seen)) {
            if !known.contains(&left) {
                known.push(left);
            }
        }
        places.extend(asked);
    }
    let senders: Vec<(IpAddr, u16)> = known.iter().map(|tuple| (tuple.source, tuple.source_port)).collect();
    for seen in places.values_mut() {
        seen.elsewhere = senders.clone();
    }
    // All nodes that saw it: the caller's own even if it saw nothing.
    for (name, seen) in &mut places {
        if is_node(name) && seen.blind.is_none() && (name == first || !seen.packets.is_empty()) {
            compare(lab, name, seen).await;
        }
    }
    places
}

/// The request as it left a place that says so.
fn leaves_as(seen: &Seen) -> Option<Tuple> {
    if let Some(connection) = &seen.connection {
        return Some(onward(connection));
    }
    let (source, destination) = passage(seen)?.left;
    Some(Tuple {
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
        ..seen.tuple?
    })
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

/// Where a node's kernel differs from its plan, or did until the agent put it right, and what of it could not be compared.
pub(crate) async fn compare(lab: &Lab, node: &str, seen: &mut Seen) {
    let asked = async {
        let place = lab.place(node).ok_or_else(|| format!("{node} does not run"))?;
        // Comparing takes longer than answering: the kernel's tables are read for it.
        let told = unix::get::<Differences>(&place.observer(), "/v1/differences").await;
        told.map_err(|error| error.to_string())
    };
    match asked.await {
        Ok(told) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let found = told.differences.into_iter().map(|difference| Deviation { difference, mended: None });
            let mended = told.mended.into_iter().map(|Mended { time, difference }| Deviation {
                difference,
                mended: Some(now.saturating_sub(Duration::from_millis(time))),
            });
            seen.deviations = found.chain(mended).collect();
            let parts = told.not_compared.into_iter();
            seen.not_compared =
                parts.map(|it| NotCompared { part: Some(it.part), reason: it.error }).collect();
            if told.more > 0 {
                let reason = format!("{} more differences than are told", told.more);
                seen.not_compared.push(NotCompared { part: None, reason });
            }
        }
        Err(reason) => seen.not_compared.push(NotCompared { part: None, reason }),
    }
}
