//! What DNS pods will answer, out of what each says that it would. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_dns::explain::{Explained, OriginKind};
use seaway_dns::lookup::{Answer, Kind};
use seaway_model::{ObjectName, Protocol};
use seaway_observe::api::DnsRecord;

use crate::explain::{Caller, ways};
use crate::hop::{Proto, Verdict};
use crate::names::Foreseen;
use crate::world::{Owner, World};

/// The name servers' port.
const DNS_PORT: u16 = 53;

/// The DNS pods that a query of `caller` to `address` may reach.
pub(crate) fn servers(world: &World, caller: &Caller, address: IpAddr) -> Vec<ObjectName> {
    let ways = ways(world, caller, Proto::Udp, address, DNS_PORT);
    let reached: BTreeSet<IpAddr> =
        ways.iter().map(|way| way.choice.backend.map_or(address, |backend| backend.ip())).collect();
    let pods = reached.into_iter().filter_map(|ip| match world.owner(ip) {
        Owner::Pod(name, _) => Some(name),
        Owner::Node(node) => world
            .pods
            .iter()
            .find(|(_, pod)| {
                let serves = pod.ports.contains(&(Protocol::Udp, DNS_PORT));
                pod.host_network && pod.node == node.name && serves
            })
            .map(|(name, _)| name),
        _ => None,
    });
    pods.cloned().collect()
}

/// RCODE and records.
type Declared = (String, Vec<DnsRecord>);

/// What is behind the DNS pods.
pub(crate) struct Upstreams<'a> {
    pub(crate) world: &'a World,
    /// The addresses of the internet's resolver, whose answers are declared.
    pub(crate) resolvers: &'a [IpAddr],
    /// What it answers.
    pub(crate) answer: &'a dyn Fn(&str, Kind) -> Option<Declared>,
}

/// Whether a DNS pod gets an answer from an upstream.
enum Reach {
    Yes,
    No(String),
    Unknown,
}

impl Upstreams<'_> {
    /// What `pod` will answer, by what it `told`.
    pub(crate) fn foresee(&self, pod: &ObjectName, kind: Kind, told: Explained) -> Foreseen {
        let origin = origin(&told);
        if let Some(rcode) = told.rcode {
            return Foreseen { answer: Answer::Reply { rcode, records: told.answers }, origin };
        }
        if let Some(alias) = told.alias {
            let behind = self.foresee(pod, kind, *alias);
            let answer = match behind.answer {
                Answer::Reply { rcode, records } => {
                    Answer::Reply { rcode, records: told.answers.into_iter().chain(records).collect() }
                }
                other => other,
            };
            return Foreseen { answer, origin: format!("{origin}, an alias; {}", behind.origin) };
        }
        let mut lost = Vec::new();
        let mut answering = Vec::new();
        for to in &told.origin.to {
            match self.reach(pod, *to) {
                Reach::Yes => answering.push(to.ip()),
                Reach::No(reason) => lost.push(format!("{to} does not answer it: {reason}")),
                Reach::Unknown => return Foreseen { answer: Answer::Unknown, origin },
            }
        }
        if answering.is_empty() {
            let answer = Answer::reply("SERVFAIL", Vec::new());
            return Foreseen { answer, origin: format!("{origin}, but {}", lost.join("; ")) };
        }
        let declared = answering.iter().all(|ip| self.resolvers.contains(ip));
        let answer = (self.answer)(&told.name, kind).filter(|_| declared);
        let answer = answer.map_or(Answer::Unknown, |(rcode, records)| Answer::Reply { rcode, records });
        Foreseen { answer, origin }
    }

    fn reach(&self, pod: &ObjectName, to: SocketAddr) -> Reach {
        let ways = ways(self.world, &Caller::Pod(pod.clone()), Proto::Udp, to.ip(), to.port());
        let is = |wanted: &[Verdict]| ways.iter().filter(|way| wanted.contains(&way.end.verdict)).count();
        match ways.first() {
            Some(_) if is(&[Verdict::Delivered]) == ways.len() => Reach::Yes,
            Some(way) if is(&[Verdict::Delivered, Verdict::Unknown]) == 0 => {
                Reach::No(way.end.reason.clone())
            }
            _ => Reach::Unknown,
        }
    }
}

fn origin(told: &Explained) -> String {
    let to: Vec<String> = told
        .origin
        .to
        .iter()
        .map(|to| match to.port() {
            DNS_PORT => to.ip().to_string(),
            _ => to.to_string(),
        })
        .collect();
    match (told.origin.kind, &told.origin.zone) {
        (OriginKind::Cluster, Some(zone)) => format!("zone {zone} (plugin kubernetes)"),
        (OriginKind::Cluster, None) => "plugin kubernetes".to_owned(),
        (OriginKind::Cache, _) => {
            let left = told.origin.ttl_left.map(|left| format!(", for {left} s more")).unwrap_or_default();
            format!("cache of the DNS pod{left}")
        }
        (OriginKind::Forward, _) => format!("forwarded to {}", to.join(", ")),
        (OriginKind::Hosts, _) => "a hosts file of the DNS pod".to_owned(),
        (OriginKind::None, _) => "the DNS pod itself".to_owned(),
    }
}

/// What a query gets that any of the pods may answer: what all of them say, or it is not known before it is asked.
pub(crate) fn together(each: Vec<(ObjectName, Foreseen)>) -> Option<Foreseen> {
    let (_, first) = each.first()?;
    if each.iter().all(|(_, other)| alike(&other.answer, &first.answer)) {
        let mut origins: Vec<String> = Vec::new();
        for (_, foreseen) in &each {
            if !origins.contains(&foreseen.origin) {
                origins.push(foreseen.origin.clone());
            }
        }
        return Some(Foreseen { answer: first.answer.clone(), origin: origins.join(" or ") });
    }
    let texts = each.iter().map(|(pod, foreseen)| {
        let answer = match &foreseen.answer {
            Answer::Reply { rcode, records } if rcode == "NOERROR" && records.is_empty() => "NODATA",
            Answer::Reply { rcode, .. } => rcode,
            Answer::NoAnswer | Answer::Refused => "no answer",
            Answer::Unknown => "unknown",
        };
        format!("{answer} from {pod} ({})", foreseen.origin)
    });
    let texts: Vec<String> = texts.collect();
    let origin = format!("the DNS pods answer differently: {}", texts.join(", "));
    Some(Foreseen { answer: Answer::Unknown, origin })
}

/// The same answer, whatever the order of its records and how long they may be kept.
fn alike(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::Reply { rcode, records }, Answer::Reply { rcode: its_rcode, records: its_records }) => {
            let data = |records: &[DnsRecord]| -> BTreeSet<(String, String, String)> {
                let each = records.iter().map(|it| (it.name.clone(), it.kind.clone(), it.data.clone()));
                each.collect()
            };
            rcode == its_rcode && data(records) == data(its_records)
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(rcode: &str, records: &[&str]) -> Answer {
        let record = |data: &&str| DnsRecord {
            name: "a.example.".into(),
            kind: "A".into(),
            ttl: u32::try_from(records.len()).unwrap(),
            data: (*data).to_owned(),
        };
        Answer::reply(rcode, records.iter().map(record).collect())
    }

    fn joined(answers: &[Answer]) -> Option<Foreseen> {
        let each = answers.iter().enumerate().map(|(n, answer)| {
            let origin = format!("origin {}", n % 2);
            (ObjectName::new("dns", format!("pod-{n}")), Foreseen { answer: answer.clone(), origin })
        });
        together(each.collect())
    }

    #[test]
    fn pods_that_agree_and_pods_that_do_not() {
        assert!(joined(&[]).is_none());
        let same = [reply("NOERROR", &["1.1.1.1", "2.2.2.2"]), reply("NOERROR", &["2.2.2.2", "1.1.1.1"])];
        let all = joined(&[same[0].clone(), same[1].clone(), same[0].clone()]).unwrap();
        assert_eq!((all.answer, all.origin.as_str()), (same[0].clone(), "origin 0 or origin 1"));
        for other in [reply("NOERROR", &["1.1.1.1"]), reply("SERVFAIL", &[]), Answer::Unknown] {
            let found = joined(&[same[0].clone(), other]).unwrap();
            assert_eq!(found.answer, Answer::Unknown);
            assert!(found.origin.contains("NOERROR from dns/pod-0 (origin 0)"), "{}", found.origin);
        }
    }
}
