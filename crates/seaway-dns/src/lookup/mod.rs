//! What a program's name lookup asks, one query after another, and what comes of it: getaddrinfo as glibc (2.35 and
//! newer) and musl do it.
//!
//! Pure: the caller says what each server would answer.

mod files;
mod glibc;
mod musl;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use seaway_observe::api::DnsRecord;
use serde::{Deserialize, Serialize};

pub use crate::resolvconf::Libc;
use crate::resolvconf::ResolvConf;
use files::literal;
pub use files::{HostsFile, HostsLine, NssService, NssStatus, Nsswitch};

/// A lookup: whose resolver, with which files.
#[derive(Clone, Copy, Debug)]
pub struct Resolver<'a> {
    /// The C library.
    pub libc: Libc,
    /// `/etc/hosts`
    pub hosts: &'a HostsFile,
    /// `/etc/nsswitch.conf`; musl does not read it.
    pub nsswitch: &'a Nsswitch,
    /// `/etc/resolv.conf`
    pub conf: &'a ResolvConf,
    /// Which address families the program asks for: both for AF_UNSPEC. With AI_ADDRCONFIG, a family that no link but
    /// the loopback has an address of is not among them.
    pub families: Families,
}

/// The address families asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both: A and AAAA.
    #[default]
    Both,
    /// IPv4 alone: A.
    Ipv4,
    /// IPv6 alone: AAAA.
    Ipv6,
}

impl Families {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Both => &[Kind::A, Kind::Aaaa],
            Self::Ipv4 => &[Kind::A],
            Self::Ipv6 => &[Kind::Aaaa],
        }
    }

    fn has(self, address: IpAddr) -> bool {
        self == Self::Both || (self == Self::Ipv4) == address.is_ipv4()
    }
}

/// A type of address record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    #[serde(rename = "AAAA")]
    Aaaa,
}

impl Kind {
    /// `A` or `AAAA`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }
}

/// What a resolver asks a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The server, as resolv.conf spells it.
    pub server: &'a str,
    /// The name, absolute.
    pub name: &'a str,
    /// The type.
    pub kind: Kind,
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The server replies.
    Reply {
        /// The RCODE's name, such as `NXDOMAIN`.
        rcode: String,
        /// The answer section.
        records: Vec<DnsRecord>,
    },
    /// Nothing comes back.
    NoAnswer,
    /// An ICMP error comes back: nobody listens, or no way there.
    Refused,
    /// It cannot be told.
    Unknown,
}

impl Answer {
    /// A reply of `rcode` with `records`.
    pub fn reply(rcode: &str, records: Vec<DnsRecord>) -> Self {
        Self::Reply { rcode: rcode.to_owned(), records }
    }

    /// The addresses of type `kind`, following no more than what is there.
    fn addresses(&self, kind: Kind) -> Vec<IpAddr> {
        let Self::Reply { records, .. } = self else { return Vec::new() };
        let of_kind = records.iter().filter(|record| record.kind == kind.as_str());
        of_kind.filter_map(|record| record.data.parse().ok()).collect()
    }

    fn rcode(&self) -> Option<&str> {
        match self {
            Self::Reply { rcode, .. } => Some(rcode),
            _ => None,
        }
    }
}

/// A query that the lookup sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// The server, as resolv.conf spells it.
    pub server: String,
    /// The type.
    pub kind: Kind,
    /// What becomes of it.
    pub answer: Answer,
    /// How often it is sent, all tries together.
    pub times: u32,
}

/// What a round says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Addresses.
    Found,
    /// There is no such name.
    NxDomain,
    /// The name exists, without an address.
    NoData,
    /// No server answers in a way that counts.
    Failed,
    /// All servers are refused by ICMP.
    Refused,
    /// It cannot be told.
    Unknown,
}

/// One name of the search list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    /// The name asked for, absolute.
    pub name: String,
    /// It came of the search list; else it is the name as it was given.
    pub searched: bool,
    /// The queries, each server and type once, in the order of the first.
    pub queries: Vec<Sent>,
    /// What it says.
    pub outcome: Outcome,
    /// It came of the search list and found nothing.
    pub wasted: bool,
    /// How long the resolver waits for answers that do not come.
    #[serde(skip)]
    pub waited: Duration,
    /// Which of several servers is asked, or heard first, is left to chance.
    pub any_server: bool,
}

/// Where a lookup's addresses come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The name is an address.
    Literal,
    /// `/etc/hosts`, in these lines.
    Hosts {
        /// Numbers of lines, from 1.
        lines: Vec<usize>,
    },
    /// DNS: the last of the rounds.
    Dns,
    /// Nowhere.
    #[default]
    None,
}

/// Errors of getaddrinfo (netdb.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum GaiError {
    /// There is no such name.
    #[serde(rename = "EAI_NONAME")]
    NoName,
    /// The name exists, without an address.
    #[serde(rename = "EAI_NODATA")]
    NoData,
    /// A server failed, or none answered.
    #[serde(rename = "EAI_AGAIN")]
    Again,
    /// A failure for good.
    #[serde(rename = "EAI_FAIL")]
    Fail,
}

impl GaiError {
    /// Its name in netdb.h.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoName => "EAI_NONAME",
            Self::NoData => "EAI_NODATA",
            Self::Again => "EAI_AGAIN",
            Self::Fail => "EAI_FAIL",
        }
    }

    /// Its number; both libraries have the same (netdb.h).
    pub fn code(self) -> i32 {
        match self {
            Self::NoName => -2,
            Self::Again => -3,
            Self::Fail => -4,
            Self::NoData => -5,
        }
    }

    /// What `gai_strerror` of the library says.
    pub fn text(self, libc: Libc) -> &'static str {
        match (libc, self) {
            (Libc::Glibc, Self::NoName) => "Name or service not known",
            (Libc::Glibc, Self::NoData) => "No address associated with hostname",
            (Libc::Glibc, Self::Again) => "Temporary failure in name resolution",
            (Libc::Glibc, Self::Fail) => "Non-recoverable failure in name resolution",
            (Libc::Musl, Self::NoName) => "Name does not resolve",
            (Libc::Musl, Self::NoData) => "Name has no usable address",
            (Libc::Musl, Self::Again) => "Try again",
            (Libc::Musl, Self::Fail) => "Non-recoverable error",
        }
    }
}

impl fmt::Display for GaiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What comes of a lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// Where the addresses come from.
    pub source: Source,
    /// The rounds of DNS, in their order.
    pub rounds: Vec<Round>,
    /// The addresses, each once: the application may get them in any order.
    pub addresses: Vec<IpAddr>,
    /// The error, where there are no addresses: any of these, as versions of the library differ.
    pub errors: Vec<GaiError>,
    /// An answer that matters cannot be told, so neither can the rest.
    pub unknown: bool,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

impl Lookup {
    /// Queries that the search list costs without any use, repetitions included.
    pub fn wasted_queries(&self) -> u32 {
        self.rounds.iter().filter(|round| round.wasted).map(Round::sent).sum()
    }

    /// Queries sent in all, repetitions included.
    pub fn queries(&self) -> u32 {
        self.rounds.iter().map(Round::sent).sum()
    }

    /// How long the resolver waits for answers that do not come.
    pub fn waited(&self) -> Duration {
        self.rounds.iter().map(|round| round.waited).sum()
    }

    fn found(source: Source, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut lookup = Self { source, ..Self::default() };
        for address in addresses {
            if !lookup.addresses.contains(&address) {
                lookup.addresses.push(address);
            }
        }
        lookup
    }

    fn failed(error: GaiError) -> Self {
        Self { errors: vec![error], ..Self::default() }
    }
}

impl Round {
    /// Queries sent, repetitions included.
    pub fn sent(&self) -> u32 {
        self.queries.iter().map(|query| query.times).sum()
    }

    fn new(name: &str, searched: bool) -> Self {
        Self {
            name: name.to_owned(),
            searched,
            queries: Vec::new(),
            outcome: Outcome::Unknown,
            wasted: false,
            waited: Duration::ZERO,
            any_server: false,
        }
    }

    fn ends(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self.wasted = self.searched && !matches!(outcome, Outcome::Found | Outcome::Unknown);
        self
    }

    /// Notes a query down, once more where it was sent before.
    fn note(&mut self, question: Question<'_>, answer: &Answer, times: u32) {
        let same = |sent: &&mut Sent| sent.server == question.server && sent.kind == question.kind;
        match self.queries.iter_mut().find(same) {
            Some(sent) => sent.times += times,
            None => self.queries.push(Sent {
                server: question.server.to_owned(),
                kind: question.kind,
                answer: answer.clone(),
                times,
            }),
        }
    }
}

/// What `name` comes to; `answer` tells what becomes of each query.
pub fn lookup(name: &str, resolver: &Resolver<'_>, mut answer: impl FnMut(Question<'_>) -> Answer) -> Lookup {
    if let Some(address) = literal(name) {
        return match resolver.families.has(address) {
            true => Lookup::found(Source::Literal, [address]),
            false => Lookup::failed(GaiError::NoName),
        };
    }
    match resolver.libc {
        Libc::Glibc => glibc::lookup(name, resolver, &mut answer),
        Libc::Musl => musl::lookup(name, resolver, &mut answer),
    }
}

impl Resolver<'_> {
    /// What `/etc/hosts` has for `name`.
    fn in_hosts(&self, name: &str, same: fn(&str, &str) -> bool) -> Option<Lookup> {
        let lines = self.hosts.find(name, same);
        let fitting: Vec<&HostsLine> =
            lines.into_iter().filter(|line| self.families.has(line.address)).collect();
        let numbers = fitting.iter().map(|line| line.number).collect();
        let found = Lookup::found(Source::Hosts { lines: numbers }, fitting.iter().map(|line| line.address));
        (!found.addresses.is_empty()).then_some(found)
    }

    /// The servers to ask (MAXNS of resolv.h); where the file names none, the own machine.
    fn servers(&self) -> Vec<&str> {
        let named: Vec<&str> = self
            .conf
            .nameservers
            .iter()
            .map(String::as_str)
            .filter(|server| literal(server).is_some())
            .take(crate::resolvconf::MAX_NAMESERVERS)
            .collect();
        if named.is_empty() { vec!["127.0.0.1"] } else { named }
    }

    /// The number that option `name` has, at most `most`.
    fn number(&self, name: &str, default: u32, most: u32) -> u32 {
        let option = self.conf.options.iter().rev().find(|option| option.name == name);
        let value = option.and_then(|option| option.value.as_deref()?.parse::<u32>().ok());
        value.unwrap_or(default).min(most)
    }

    /// Whether option `name` is there.
    fn has(&self, name: &str) -> bool {
        self.conf.options.iter().any(|option| option.name == name)
    }
}

#[cfg(test)]
mod tests;
