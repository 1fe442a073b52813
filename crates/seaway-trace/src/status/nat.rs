//! The NAT mapping table: what each place made of a connection's addresses, joined from place to place. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use seaway_observe::api::{Connection, Tuple};
use serde::Serialize;

/// An address with its port, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Party {
    pub(crate) address: IpAddr,
    /// 0 where the protocol has none; of ICMP echo the identifier, on the source's side.
    pub(crate) port: u16,
    /// `pod default/app`, `node-1`, `Service default/web`; absent where nobody is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// What one place made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NatHop {
    /// `node-1`, `gateway`
    pub(crate) place: String,
    /// The source after it, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Party>,
    /// The destination after it, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<Party>,
}

/// A connection with all its translations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mapping {
    /// `TCP`, `UDP`, `ICMP` or the protocol's number.
    pub(crate) protocol: String,
    /// Who called, under its own address.
    pub(crate) source: Party,
    /// What was called.
    pub(crate) destination: Party,
    /// The places that translated it, in the order in which packets meet them.
    pub(crate) hops: Vec<NatHop>,
    /// The source that the destination sees.
    pub(crate) seen_as: Party,
    /// Who answers.
    pub(crate) answered_by: Party,
    /// TCP's state at the first place, such as `ESTABLISHED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp_state: Option<String>,
}

/// More hops than these are a circle.
const MOST_HOPS: usize = 8;

/// Joins each place's translated connections: where one place's packets leave as another's come in, they are of one
/// connection. `name` says who has an address and port.
pub(crate) fn table(
    places: &[(String, Vec<Connection>)],
    name: impl Fn(IpAddr, u16, u8) -> Option<String>,
) -> Vec<Mapping> {
    let all: Vec<(&str, &Connection)> =
        places.iter().flat_map(|(place, found)| found.iter().map(move |one| (place.as_str(), one))).collect();
    let mut by_original: HashMap<Tuple, Vec<usize>> = HashMap::new();
    for (at, (_, connection)) in all.iter().enumerate() {
        by_original.entry(connection.original).or_default().push(at);
    }
    let next = |at: usize| {
        let (place, connection) = all[at];
        let out = forward(connection);
        by_original.get(&out)?.iter().copied().find(|other| all[*other].0 != place)
    };
    let mut continued = vec![false; all.len()];
    for at in 0..all.len() {
        if let Some(next) = next(at) {
            continued[next] = true;
        }
    }
    let mut mappings = Vec::new();
    for start in (0..all.len()).filter(|at| !continued[*at]) {
        let way = std::iter::successors(Some(start), |at| next(*at)).take(MOST_HOPS);
        let way: Vec<(&str, &Connection)> = way.map(|at| all[at]).collect();
        mappings.extend(mapping(&way, &name));
    }
    let key = |it: &Mapping| (it.source.address, it.destination.address, it.destination.port, it.source.port);
    mappings.sort_by_key(key);
    mappings
}

/// The packet as it leaves the place.
fn forward(connection: &Connection) -> Tuple {
    let Connection { original, reply, .. } = connection;
    // The identifier of an echo stands in the place of the source port both ways.
    let is_echo = [1, 58].contains(&original.protocol);
    let (source_port, destination_port) = if is_echo {
        (reply.source_port, original.destination_port)
    } else {
        (reply.destination_port, reply.source_port)
    };
    Tuple {
        protocol: original.protocol,
        source: reply.destination,
        source_port,
        destination: reply.source,
        destination_port,
    }
}

fn mapping(way: &[(&str, &Connection)], name: impl Fn(IpAddr, u16, u8) -> Option<String>) -> Option<Mapping> {
    let (first, last) = (way.first()?.1, way.last()?.1);
    let protocol = first.original.protocol;
    let party = |address: IpAddr, port: u16| Party { address, port, name: name(address, port, protocol) };
    let hop = |(place, connection): &(&str, &Connection)| {
        let (before, after) = (connection.original, forward(connection));
        let (old, new) = ((before.source, before.source_port), (after.source, after.source_port));
        let source = (old != new).then(|| party(new.0, new.1));
        let (old, new) =
            ((before.destination, before.destination_port), (after.destination, after.destination_port));
        let destination = (old != new).then(|| party(new.0, new.1));
        NatHop { place: (*place).to_owned(), source, destination }
    };
    let end = forward(last);
    Some(Mapping {
        protocol: match protocol {
            1 => "ICMP".to_owned(),
            6 => "TCP".to_owned(),
            17 => "UDP".to_owned(),
            58 => "ICMPv6".to_owned(),
            132 => "SCTP".to_owned(),
            other => other.to_string(),
        },
        source: party(first.original.source, first.original.source_port),
        destination: party(first.original.destination, first.original.destination_port),
        hops: way.iter().map(hop).collect(),
        seen_as: party(end.source, end.source_port),
        answered_by: party(end.destination, end.destination_port),
        tcp_state: first.tcp_state.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
        let read = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
        let (from, to) = (read(source), read(destination));
        Tuple {
            protocol,
            source: from.ip(),
            source_port: from.port(),
            destination: to.ip(),
            destination_port: to.port(),
        }
    }

    /// Of `protocol`, from and to as sent, and the same of its answers.
    fn connection(protocol: u8, [from, to]: [&str; 2], [answerer, answered]: [&str; 2]) -> Connection {
        let (original, reply) = (tuple(protocol, from, to), tuple(protocol, answerer, answered));
        Connection { original, reply, status: vec![], tcp_state: None, timeout: None, traffic: None }
    }

    fn shown(mappings: &[Mapping]) -> Vec<String> {
        let party = |party: &Party| format!("{}:{}", party.address, party.port);
        let hop = |hop: &NatHop| {
            let source = hop.source.as_ref().map(|it| format!(" src {}", party(it))).unwrap_or_default();
            let destination =
                hop.destination.as_ref().map(|it| format!(" dst {}", party(it))).unwrap_or_default();
            format!("{}{source}{destination}", hop.place)
        };
        mappings
            .iter()
            .map(|it| {
                let hops: Vec<_> = it.hops.iter().map(hop).collect();
                format!(
                    "{} {} → {} | {}",
                    it.protocol,
                    party(&it.source),
                    party(&it.destination),
                    hops.join(" | ")
                )
            })
            .collect()
    }

    #[test]
    fn a_pod_calls_google_through_node_and_gateway() {
        let node =
            connection(6, ["10.244.1.5:8080", "198.51.100.10:80"], ["198.51.100.10:80", "172.18.0.11:18080"]);
        let gateway = connection(
            6,
            ["172.18.0.11:18080", "198.51.100.10:80"],
            ["198.51.100.10:80", "203.0.113.10:28080"],
        );
        let places = [("gateway".to_owned(), vec![gateway]), ("node-1".to_owned(), vec![node])];
        let name = |ip: IpAddr, _: u16, _: u8| {
            (ip.to_string() == "10.244.1.5").then(|| "pod default/app".to_owned())
        };
        let found = table(&places, name);
        assert_eq!(
            shown(&found),
            [
                "TCP 10.244.1.5:8080 → 198.51.100.10:80 | node-1 src 172.18.0.11:18080 | gateway src 203.0.113.10:28080"
            ]
        );
        assert_eq!(found[0].source.name.as_deref(), Some("pod default/app"));
        assert_eq!(found[0].seen_as.address.to_string(), "203.0.113.10");
    }

    #[test]
    fn others_stand_alone() {
        let service =
            connection(17, ["10.244.1.5:4000", "10.96.0.10:53"], ["10.244.2.3:53", "10.244.1.5:4000"]);
        let hairpin =
            connection(6, ["10.244.1.5:5000", "10.96.0.7:80"], ["10.244.1.5:8080", "172.18.0.11:5000"]);
        // The identifier 7 becomes 9 at the node and 11 at the gateway.
        let echo = connection(1, ["10.244.1.5:7", "192.0.2.9:0"], ["192.0.2.9:9", "172.18.0.11:0"]);
        let echo_out = connection(1, ["172.18.0.11:9", "192.0.2.9:0"], ["192.0.2.9:11", "203.0.113.10:0"]);
        let places =
            [("node-1".to_owned(), vec![service, hairpin, echo]), ("gateway".to_owned(), vec![echo_out])];
        assert_eq!(
            shown(&table(&places, |_, _, _| None)),
            [
                "TCP 10.244.1.5:5000 → 10.96.0.7:80 | node-1 src 172.18.0.11:5000 dst 10.244.1.5:8080",
                "UDP 10.244.1.5:4000 → 10.96.0.10:53 | node-1 dst 10.244.2.3:53",
                "ICMP 10.244.1.5:7 → 192.0.2.9:0 | node-1 src 172.18.0.11:9 | gateway src 203.0.113.10:11",
            ]
        );
    }

    #[test]
    fn a_circle_ends() {
        let one = connection(6, ["10.0.0.1:1", "10.0.0.2:2"], ["10.0.0.4:4", "10.0.0.3:3"]);
        let two = connection(6, ["10.0.0.3:3", "10.0.0.4:4"], ["10.0.0.2:2", "10.0.0.1:1"]);
        let places = [("a".to_owned(), vec![one]), ("b".to_owned(), vec![two])];
        assert_eq!(table(&places, |_, _, _| None), []);
    }
}
