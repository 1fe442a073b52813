//! What the internet's resolver knows, and what it answers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};

use crate::file::Internet;

/// How long an answer may be kept, in seconds.
const TTL: u32 = 60;
/// The largest question by UDP that is said to be taken, in bytes.
const UDP_SIZE: u16 = 1232;
/// CNAMEs followed in one answer, so that a loop in a lab file ends.
const CHAIN: usize = 8;

/// The internet's names: all in lower case, without the trailing dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    aliases: BTreeMap<String, String>,
    names: BTreeMap<IpAddr, String>,
}

impl Zone {
    /// The names of a lab file's internet.
    pub(crate) fn new(internet: &Internet) -> Self {
        let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let mut zone = Self::default();
        for host in &internet.hosts {
            zone.addresses.insert(lower(&host.name), host.addresses.clone());
            if host.ptr {
                zone.names.extend(host.addresses.iter().map(|address| (*address, lower(&host.name))));
            }
        }
        zone.aliases = internet.aliases.iter().map(|(from, to)| (lower(from), lower(to))).collect();
        zone
    }

    /// [`Zone::answer`] in what a client takes by UDP: one that is too long is left out, and TC says so.
    pub(crate) fn answer_by_udp(&self, request: &Message) -> Option<Message> {
        let mut response = self.answer(request)?;
        // RFC 1035, section 4.2.1; RFC 6891, section 6.2.5.
        let limit = request.edns.as_ref().map_or(512, |edns| edns.max_payload().max(512));
        if response.to_vec().is_ok_and(|bytes| bytes.len() > usize::from(limit)) {
            response.answers.clear();
            response.authorities.clear();
            response.metadata.truncation = true;
        }
        Some(response)
    }

    /// The answer to `request`, or `None` where it deserves none (it is an answer itself).
    pub fn answer(&self, request: &Message) -> Option<Message> {
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_SIZE);
            response.edns = Some(edns);
        }
        let [query] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Some(response);
        };
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Some(response);
        }
        self.fill(&mut response, query);
        Some(response)
    }

    fn fill(&self, response: &mut Message, query: &Query) {
        let mut name = query.name().clone();
        for _ in 0..CHAIN {
            let key = key(&name);
            if let Some(target) =
                self.aliases.get(&key).and_then(|target| Name::from_ascii(format!("{target}.")).ok())
            {
                response.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
                if query.query_type() == RecordType::CNAME {
                    return;
                }
                name = target;
                continue;
            }
            break;
        }
        let found = self.records(&name, query.query_type());
        match found {
            Some(records) if !records.is_empty() => {
                response.add_answers(records);
            }
            found => {
                if found.is_none() {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                response.add_authority(start_of_authority());
            }
        }
    }

    /// The records of `name`: `None` where there is no such name, empty where there are none of this type.
    fn records(&self, name: &Name, kind: RecordType) -> Option<Vec<Record>> {
        let key = key(name);
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        if let Some(addresses) = self.addresses.get(&key) {
            let all = addresses.iter().map(|address| match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            });
            let wanted = all.filter(|data| kind == RecordType::ANY || data.record_type() == kind);
            return Some(wanted.map(record).collect());
        }
        if let Some(target) = reverse(&key).and_then(|address| self.names.get(&address)) {
            let target = Name::from_ascii(format!("{target}.")).ok()?;
            let wanted = matches!(kind, RecordType::PTR | RecordType::ANY);
            return Some(wanted.then(|| record(RData::PTR(PTR(target)))).into_iter().collect());
        }
        self.has_names_below(&key).then(Vec::new)
    }

    /// Whether a name below `key` exists, which makes `key` exist without records (RFC 8020).
    fn has_names_below(&self, key: &str) -> bool {
        let names: BTreeSet<&String> = self.addresses.keys().chain(self.aliases.keys()).collect();
        key.is_empty()
            || names.iter().any(|name| name.strip_suffix(key).is_some_and(|rest| rest.ends_with('.')))
    }
}

fn key(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// The address that a name below in-addr.arpa (RFC 1035, section 3.5) or ip6.arpa (RFC 3596, section 2.5) stands for.
fn reverse(key: &str) -> Option<IpAddr> {
    if let Some(labels) = key.strip_suffix(".in-addr.arpa") {
        let labels: Vec<&str> = labels.rsplit('.').collect();
        return labels.join(".").parse().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = key.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    u128::from_str_radix(&nibbles.concat(), 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// The root's SOA, for negative answers (RFC 2308).
fn start_of_authority() -> Record {
    let name = |text: &str| Name::from_ascii(text).unwrap_or_else(|_| Name::root());
    let soa = SOA::new(name("a.root.example."), name("hostmaster.example."), 1, 1800, 900, 604_800, TTL);
    Record::from_rdata(Name::root(), TTL, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Zone::new(&Internet::default()).answer(&request).unwrap()
    }

    const GOOGLE_V6: &str = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.5.0.0.8.9.1.0.8.b.d.0.1.0.0.2.ip6.arpa.";

    #[test]
    fn answers_by_name_and_type() {
        for (name, kind, rcode, answers, authorities) in [
            ("google.com.", RecordType::A, ResponseCode::NoError, 1, 0),
            ("GOOGLE.com.", RecordType::A, ResponseCode::NoError, 1, 0),
            ("google.com.", RecordType::AAAA, ResponseCode::NoError, 1, 0),
            ("google.com.", RecordType::ANY, ResponseCode::NoError, 2, 0),
            ("google.com.", RecordType::TXT, ResponseCode::NoError, 0, 1),
            ("www.baidu.com.", RecordType::A, ResponseCode::NoError, 3, 0),
            ("www.baidu.com.", RecordType::AAAA, ResponseCode::NoError, 3, 0),
            ("www.baidu.com.", RecordType::CNAME, ResponseCode::NoError, 1, 0),
            ("baidu.com.", RecordType::A, ResponseCode::NoError, 0, 1),
            ("nowhere.example.", RecordType::A, ResponseCode::NXDomain, 0, 1),
            ("10.100.51.198.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, 1, 0),
            (GOOGLE_V6, RecordType::PTR, ResponseCode::NoError, 1, 0),
            (&GOOGLE_V6[2..], RecordType::PTR, ResponseCode::NXDomain, 0, 1),
            ("76.100.51.198.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, 0, 1),
        ] {
            let response = ask(name, kind);
            let seen = (response.metadata.response_code, response.answers.len(), response.authorities.len());
            assert_eq!(seen, (rcode, answers, authorities), "{name} {kind}");
        }
    }

    #[test]
    fn a_loop_of_aliases_ends() {
        let aliases = BTreeMap::from([
            ("a.example".into(), "b.example".into()),
            ("b.example".into(), "a.example".into()),
        ]);
        let zone = Zone::new(&Internet { aliases, ..Internet::default() });
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("a.example.").unwrap(), RecordType::A));
        assert_eq!(zone.answer(&request).unwrap().answers.len(), CHAIN);
    }

    #[test]
    fn what_is_too_long_for_udp_is_left_out() {
        let addresses = (1..=60).map(|n| IpAddr::from([198, 51, 100, n])).collect();
        let host = crate::file::Host { name: "many.example".into(), addresses, ..Default::default() };
        let zone = Zone::new(&Internet { hosts: vec![host], ..Internet::default() });
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("many.example.").unwrap(), RecordType::A));
        let seen = |answer: Message| (answer.metadata.truncation, answer.answers.len());
        assert_eq!(seen(zone.answer_by_udp(&request).unwrap()), (true, 0));
        assert_eq!(seen(zone.answer(&request).unwrap()), (false, 60));
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        request.set_edns(edns);
        let answer = zone.answer_by_udp(&request).unwrap();
        assert_eq!(answer.edns.as_ref().map(Edns::max_payload), Some(UDP_SIZE));
        assert_eq!(seen(answer), (false, 60));
    }

    #[test]
    fn an_answer_is_not_answered() {
        assert_eq!(Zone::default().answer(&Message::response(1, OpCode::Query)), None);
    }
}
