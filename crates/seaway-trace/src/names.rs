//! From a name to addresses, as the caller's own C library does it. Pure: who asks the servers is [`crate::ask`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use seaway_dns::lookup::{
    Answer, GaiError, HostsFile, Kind, Lookup, Nsswitch, Outcome, Question, Resolver, Round, Source,
};
use seaway_dns::resolvconf::{Libc, ResolvConf};

use crate::explain::{Caller, Way, ways};
use crate::hop::{DnsExpectation, Expect, Hop, HopKind, Proto, State, Verdict};
use crate::world::World;

/// What the caller's name service makes of a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// The steps; none where an address was given.
    pub(crate) hops: Vec<Hop>,
    /// The addresses that the program may call.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Why there are none.
    pub(crate) failed: Option<(Verdict, String)>,
}

impl Resolved {
    /// An address that needs no name service.
    pub(crate) fn literal(address: IpAddr) -> Self {
        Self { addresses: BTreeSet::from([address]), ..Self::default() }
    }
}

/// The caller's files of name service, as they are planned, and who wrote them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) hosts: String,
    pub(crate) nsswitch: String,
    pub(crate) resolv_conf: String,
    /// Such as `dnsPolicy ClusterFirst`.
    pub(crate) because: String,
}

/// What a server would answer, and out of what.
#[derive(Clone, Debug)]
pub(crate) struct Foreseen {
    pub(crate) answer: Answer,
    /// Such as `zone cluster.local` or `forwarded to 192.0.2.53`.
    pub(crate) origin: String,
}

/// Answers by server (as resolv.conf spells it), name and type.
pub(crate) type Answers = BTreeMap<(String, String, Kind), Foreseen>;

/// All that name service depends on.
pub(crate) struct NameService<'a> {
    pub(crate) world: &'a World,
    pub(crate) caller: &'a Caller,
    pub(crate) libc: Libc,
    pub(crate) files: &'a Files,
    pub(crate) answers: &'a Answers,
}

/// What becomes of a query to a server, before it has answered.
struct WayToServer {
    backends: BTreeSet<SocketAddr>,
    through: String,
    /// Set where the query does not get there.
    fails: Option<(Answer, String)>,
}

impl NameService<'_> {
    /// Follows the lookup of `name`.
    pub(crate) fn resolve(&self, name: &str) -> Resolved {
        let hosts = HostsFile::parse(&self.files.hosts);
        let nsswitch = Nsswitch::parse(&self.files.nsswitch);
        let conf = ResolvConf::parse_host(&self.files.resolv_conf);
        let resolver = Resolver {
            libc: self.libc,
            hosts: &hosts,
            nsswitch: &nsswitch,
            conf: &conf,
            families: Default::default(),
        };
        let found = seaway_dns::lookup::lookup(name, &resolver, |question| self.answer(&question));
        let mut hops = vec![self.hosts_hop(name, &found)];
        if !found.rounds.is_empty() {
            hops.push(self.conf_hop(name, &conf, &found));
            hops.extend(
                found
                    .rounds
                    .iter()
                    .enumerate()
                    .map(|(i, round)| self.round_hop(round, i + 1, found.rounds.len())),
            );
        }
        let failed = self.failure(name, &found, &mut hops);
        Resolved { hops, addresses: found.addresses.iter().copied().collect(), failed }
    }

    fn failure(&self, name: &str, found: &Lookup, hops: &mut [Hop]) -> Option<(Verdict, String)> {
        if !found.addresses.is_empty() {
            return None;
        }
        let doubtful = found.rounds.iter().any(|round| round.outcome == Outcome::Unknown);
        if doubtful {
            return Some((
                Verdict::Unknown,
                format!("what the name servers answer to {name} is not known before they are asked"),
            ));
        }
        if let Some(last) = hops.last_mut() {
            last.fault = true;
        }
        let texts: Vec<String> = found
            .errors
            .iter()
            .map(|error| format!("{} ({})", error.as_str(), error.text(self.libc)))
            .collect();
        let text = texts.join(" or ");
        let wasted = found.queries();
        if found.errors.iter().any(|error| matches!(error, GaiError::Again)) {
            return Some((
                Verdict::NoNameServer,
                format!(
                    "no name server answers: getaddrinfo says {text} after {} s",
                    found.waited().as_secs()
                ),
            ));
        }
        Some((
            Verdict::NoSuchName,
            format!("{name} has no address: getaddrinfo says {text} after {wasted} queries"),
        ))
    }

    fn hosts_hop(&self, name: &str, found: &Lookup) -> Hop {
        let note = match (&found.source, self.libc) {
            (Source::Hosts { lines }, _) => {
                let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
                format!("line {} has {name}: no name server is asked", lines.join(", "))
            }
            (_, Libc::Glibc) => {
                format!("nsswitch.conf says “{}”: /etc/hosts first; {name} is not in it", self.hosts_line())
            }
            (_, Libc::Musl) => format!("musl reads /etc/hosts first; {name} is not in it"),
        };
        let in_file = matches!(found.source, Source::Hosts { .. });
        let addresses = if in_file { found.addresses.iter().copied().collect() } else { BTreeSet::new() };
        let before = State { name: Some(name.to_owned()), ..State::default() };
        let after = State {
            addresses: if in_file { found.addresses.iter().copied().collect() } else { BTreeSet::new() },
            ..before.clone()
        };
        Hop::new(HopKind::Hosts, self.caller.place(), "/etc/nsswitch.conf, /etc/hosts", note)
            .states(before, after)
            .expect(Expect::Hosts { addresses })
    }

    fn hosts_line(&self) -> String {
        let line = self.files.nsswitch.lines().find(|line| line.trim_start().starts_with("hosts:"));
        line.map_or("hosts: dns files".to_owned(), |line| {
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        })
    }

    fn conf_hop(&self, name: &str, conf: &ResolvConf, found: &Lookup) -> Hop {
        let dots = name.matches('.').count();
        let counted = if dots == 1 { "1 dot".to_owned() } else { format!("{dots} dots") };
        let first = if name.ends_with('.') {
            "the name ends with a dot: it is absolute, the search list does not count".to_owned()
        } else if conf.searches.is_empty() {
            "there is no search list: the name is asked for as it is".to_owned()
        } else if dots >= conf.ndots() {
            format!("the name has {counted}, ndots is {}: as it is first", conf.ndots())
        } else {
            format!(
                "the name has {counted}, fewer than ndots:{}: the {} domains of the search list first",
                conf.ndots(),
                conf.searches.len()
            )
        };
        let wasted = found.wasted_queries();
        let cost = if wasted > 0 && !name.ends_with('.') {
            format!(
                "; that costs {wasted} of {} queries, which {name}. with a dot at its end would save",
                found.queries()
            )
        } else {
            String::new()
        };
        let servers = conf.nameservers.join(", ");
        let because = &self.files.because;
        let note = format!("{because}: nameserver {servers}; {first}{cost}");
        Hop::new(HopKind::ResolvConf, self.caller.place(), "/etc/resolv.conf", note)
            .expect(Expect::ResolvConf { text: self.files.resolv_conf.clone() })
    }

    fn round_hop(&self, round: &Round, number: usize, of: usize) -> Hop {
        let server = round.queries.first().map(|query| query.server.clone()).unwrap_or_default();
        let way = self.way(&server);
        let mut origins: Vec<String> = Vec::new();
        for query in &round.queries {
            let key = (query.server.clone(), round.name.clone(), query.kind);
            let origin = self.answers.get(&key).map(|foreseen| foreseen.origin.clone());
            origins.extend(
                origin.filter(|origin| !origins.contains(origin)).filter(|origin| !origin.is_empty()),
            );
        }
        let kinds: Vec<&str> = round
            .queries
            .iter()
            .map(|query| query.kind.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let rcode = outcome_text(round.outcome);
        let verdict = match (round.outcome, round.wasted) {
            (Outcome::Found, _) => String::new(),
            (_, true) => " — a wasted round of the search list".to_owned(),
            (_, false) => String::new(),
        };
        let fails = way.fails.as_ref().map(|(_, text)| format!("; {text}")).unwrap_or_default();
        let note = format!(
            "round {number} of {of}: {} asked of {server}{}{fails}{verdict}",
            kinds.join(" and "),
            way.through
        );
        let object = match origins.is_empty() {
            true => format!("name server {server}"),
            false => origins.join("; "),
        };
        let addresses: BTreeSet<IpAddr> =
            round.queries.iter().flat_map(|query| answer_addresses(&query.answer)).collect();
        let before = State {
            protocol: Some(Proto::Udp),
            destination: BTreeSet::from([name_server(&server)]),
            name: Some(round.name.clone()),
            ..State::default()
        };
        let after = State {
            rcode: Some(rcode.to_owned()),
            addresses,
            destination: way.backends.iter().map(ToString::to_string).collect(),
            ..before.clone()
        };
        let after = if after.destination.is_empty() {
            State { destination: before.destination.clone(), ..after }
        } else {
            after
        };
        let mut hop = Hop::new(HopKind::Dns, self.caller.place(), object, note).states(before, after);
        hop.expect = Expect::Dns(expectation(round, &server, way.backends));
        hop.fault = matches!(round.outcome, Outcome::Failed | Outcome::Refused);
        hop
    }

    /// What the lookup is told about a query.
    fn answer(&self, question: &Question<'_>) -> Answer {
        if let Some((answer, _)) = self.way(question.server).fails {
            return answer;
        }
        let key = (question.server.to_owned(), question.name.to_owned(), question.kind);
        self.answers.get(&key).map_or(Answer::Unknown, |foreseen| foreseen.answer.clone())
    }

    /// How a query gets to `server`.
    fn way(&self, server: &str) -> WayToServer {
        let none = || WayToServer { backends: BTreeSet::new(), through: String::new(), fails: None };
        let Ok(address) = server.parse::<IpAddr>() else { return none() };
        let ways = ways(self.world, self.caller, Proto::Udp, address, 53);
        let backends: BTreeSet<SocketAddr> = ways.iter().filter_map(|way| way.choice.backend).collect();
        let service = ways.first().and_then(|way| way.hops.iter().find(|hop| hop.kind == HopKind::Service));
        let through = match (service, backends.len()) {
            (Some(hop), 1..) => {
                let list: Vec<String> =
                    backends.iter().map(|backend| self.world.name_of(backend.ip())).collect();
                format!(", {}: one of {}", hop.object, list.join(", "))
            }
            _ => String::new(),
        };
        let bad = |way: &&Way| !matches!(way.end.verdict, Verdict::Delivered | Verdict::Unknown);
        let all = ways.iter().all(|way| bad(&way));
        let fails = ways.iter().find(bad).map(|way| {
            let answer = match way.end.verdict {
                _ if !all => Answer::Unknown,
                Verdict::Rejected | Verdict::Refused => Answer::Refused,
                _ => Answer::NoAnswer,
            };
            let chance = if all { "" } else { " by chance" };
            (answer, format!("the query does not get there{chance}: {}", way.end.reason))
        });
        WayToServer { backends, through, fails }
    }
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Found => "NOERROR",
        Outcome::NxDomain => "NXDOMAIN",
        Outcome::NoData => "NODATA",
        Outcome::Failed => "no answer",
        Outcome::Refused => "refused",
        Outcome::Unknown => "unknown",
    }
}

fn answer_addresses(answer: &Answer) -> Vec<IpAddr> {
    match answer {
        Answer::Reply { records, .. } => {
            records.iter().filter_map(|record| record.data.parse().ok()).collect()
        }
        _ => Vec::new(),
    }
}

fn expectation(round: &Round, server: &str, backends: BTreeSet<SocketAddr>) -> DnsExpectation {
    let mut answers = Some(Vec::new());
    for query in &round.queries {
        match (&query.answer, &mut answers) {
            (Answer::Reply { rcode, .. }, Some(answers)) => {
                let addresses = answer_addresses(&query.answer).into_iter().collect();
                answers.push((query.kind.as_str().to_owned(), rcode.clone(), addresses));
            }
            _ => answers = None,
        }
    }
    let unanswered =
        round.queries.iter().all(|query| matches!(query.answer, Answer::NoAnswer | Answer::Refused));
    DnsExpectation { name: round.name.clone(), server: server.parse().ok(), backends, answers, unanswered }
}
/// A name server with its port.
fn name_server(server: &str) -> String {
    match server.parse::<IpAddr>() {
        Ok(ip) => std::net::SocketAddr::new(ip, 53).to_string(),
        Err(_) => format!("{server}:53"),
    }
}
