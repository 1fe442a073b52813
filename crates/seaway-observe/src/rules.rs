//! The rules that packets meet: an observation's own, of all that is traced in the namespace.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};

use seaway_net::nft::{Comparison, Field, Point, Rule, Statement, TableId, Traced, Tracer, Value, tcp_flag};

use crate::Error;
use crate::api::{RuleFilter, RuleHit, Rules};
use crate::packet;
use crate::tap::LinkNames;

/// TCP's number.
const TCP: u8 = 6;
/// Hits that an observation keeps.
const MOST_HITS: usize = 50_000;
/// Packets that it tells apart; of protocols without connections every packet is one.
const MOST_PACKETS: usize = 50_000;

/// The rules of an observation.
pub(crate) struct RuleTrace {
    tracer: Tracer,
    links: LinkNames,
    /// The packets that our own rules marked, by the kernel's number.
    packets: HashMap<u32, Known>,
    /// How many packets were marked: each gets the next number.
    marked: u32,
    hits: Vec<(Option<TableId>, RuleHit)>,
    comments: BTreeMap<String, BTreeMap<u64, Option<String>>>,
    lost: u64,
}

/// A packet with what was told of it last; later messages leave it out.
struct Known {
    number: u32,
    headers: Vec<u8>,
    iif: Option<u32>,
    oif: Option<u32>,
}

impl RuleTrace {
    /// Begins in the calling thread's namespace.
    pub(crate) fn open(id: &str, filters: &[RuleFilter]) -> Result<Self, Error> {
        let links = LinkNames::open()?;
        let tracer = Tracer::open(&format!("seaway-trace-{id}"), filters.iter().map(rule).collect())?;
        Ok(Self {
            tracer,
            links,
            packets: HashMap::new(),
            marked: 0,
            hits: Vec::new(),
            comments: BTreeMap::new(),
            lost: 0,
        })
    }

    /// Reads what has come until now.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        while let Some(told) = self.tracer.receive()? {
            for traced in told {
                match traced {
                    Traced::Lost => self.lost += 1,
                    Traced::Point(point) => self.point(point),
                }
            }
        }
        Ok(())
    }

    fn point(&mut self, point: Point) {
        if self.tracer.table().name == point.table {
            // Our own rule: a packet of ours begins here, on another number's packet or not. At the chain's end it is
            // known already, and no news.
            // So it is at a second rule of ours, which has no headers.
            if point.handle.is_some() && !point.headers.is_empty() {
                if self.packets.len() >= MOST_PACKETS {
                    self.lost += 1;
                    return;
                }
                let known =
                    Known { number: self.marked, headers: point.headers, iif: point.iif, oif: point.oif };
                self.marked = self.marked.wrapping_add(1);
                self.packets.insert(point.packet, known);
            }
            return;
        }
        let Some(known) = self.packets.get_mut(&point.packet) else { return };
        if !point.headers.is_empty() {
            *known = Known {
                number: known.number,
                headers: point.headers.clone(),
                iif: point.iif,
                oif: point.oif,
            };
        }
        if point.handle.is_none() && point.verdict == "continue" {
            return;
        }
        if self.hits.len() >= MOST_HITS {
            self.lost += 1;
            return;
        }
        for link in [known.iif, known.oif].into_iter().flatten() {
            self.links.learn(link);
        }
        self.hits.push((point.table_id(), hit(point, known, &self.links)));
    }

    /// The rules met until now, each with its comment.
    pub(crate) fn rules(&mut self) -> Result<Rules, Error> {
        self.drain()?;
        for (table, hit) in &self.hits {
            let known = |comments: &BTreeMap<u64, Option<String>>| {
                hit.handle.is_none_or(|handle| comments.contains_key(&handle))
            };
            if let Some(table) = table
                && !self.comments.get(&hit.table).is_some_and(known)
            {
                let mut comments = self.tracer.kernel().rule_comments(table)?;
                // A rule that is gone by now has none to look up again.
                comments.entry(hit.handle.unwrap_or(0)).or_default();
                self.comments.entry(hit.table.clone()).or_default().append(&mut comments);
            }
        }
        let commented = |(_, hit): &(Option<TableId>, RuleHit)| {
            let comments = self.comments.get(&hit.table);
            let comment = hit.handle.and_then(|handle| comments?.get(&handle)?.clone());
            RuleHit { comment, ..hit.clone() }
        };
        Ok(Rules { hits: self.hits.iter().map(commented).collect(), lost: self.lost })
    }
}

impl AsFd for RuleTrace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tracer.as_fd()
    }
}

fn hit(point: Point, known: &Known, links: &LinkNames) -> RuleHit {
    let ip = packet::parse(&known.headers).map(|parsed| parsed.ip).unwrap_or_default();
    let name = |index: Option<u32>| index.map(|index| links.name(index));
    RuleHit {
        packet: known.number,
        table: format!("{} {}", family_name(point.family), point.table),
        chain: point.chain,
        handle: point.handle,
        comment: None,
        verdict: point.verdict,
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        source_port: ip.source_port,
        destination_port: ip.destination_port,
        tcp_sequence: ip.tcp.map(|tcp| tcp.sequence),
        iif: name(known.iif),
        oif: name(known.oif),
    }
}

/// NFPROTO_* (linux/netfilter.h), as nft names them.
fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

/// What marks a flow's first packet; of protocols other than TCP, all of its packets.
fn rule(filter: &RuleFilter) -> Rule {
    let mut rule = Rule::new().l4proto(filter.protocol);
    for (address, v4, v6) in [
        (filter.source, Field::IpSaddr, Field::Ip6Saddr),
        (filter.destination, Field::IpDaddr, Field::Ip6Daddr),
    ] {
        if let Some(address) = address {
            let field = if address.is_ipv4() { v4 } else { v6 };
            rule = rule.equal(field, Value::new().address(address));
        }
    }
    for (port, field) in [(filter.source_port, Field::ThSport), (filter.destination_port, Field::ThDport)] {
        if let Some(port) = port {
            rule = rule.equal(field, Value::new().port(port));
        }
    }
    if filter.protocol == TCP {
        rule = rule.statement(Statement::Compare {
            field: Field::TcpFlags,
            mask: Some(Value::new().protocol(tcp_flag::SYN | tcp_flag::ACK)),
            comparison: Comparison::Equal,
            value: Value::new().protocol(tcp_flag::SYN),
        });
    }
    rule.comment("marks what is observed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_rules() {
        let tcp = RuleFilter {
            protocol: TCP,
            source: Some([10, 0, 0, 1].into()),
            destination_port: Some(80),
            ..RuleFilter::default()
        };
        let udp = RuleFilter {
            protocol: 17,
            destination: Some("fd00::1".parse().unwrap()),
            ..RuleFilter::default()
        };
        for (filter, expected) in [
            (
                tcp,
                "meta l4proto tcp ip saddr 10.0.0.1 th dport 80 tcp flags & 18 == 2 comment \"marks what is observed\"",
            ),
            (udp, "meta l4proto udp ip6 daddr fd00::1 comment \"marks what is observed\""),
        ] {
            assert_eq!(rule(&filter).to_string(), expected);
        }
    }
}
