//! Compares name service with what was seen of it. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_dns::lookup::HostsFile;
use seaway_dns::resolvconf::ResolvConf;
use seaway_observe::api::{Dns, Packet};

use super::evidence::Evidence;
use crate::hop::{DnsExpectation, Expect, Hop, Outcome};

/// The result for a hop about names, and what was seen.
pub(super) fn look(hop: &Hop, evidence: &Evidence) -> (Outcome, String) {
    match (&hop.expect, &evidence.files) {
        (Expect::Dns(expected), _) => dns(expected, evidence),
        (_, Err(reason)) => (Outcome::Unknown, format!("the file cannot be read: {reason}")),
        (Expect::Hosts { addresses }, Ok(files)) => {
            let name = hop.before.as_ref().and_then(|state| state.name.clone()).unwrap_or_default();
            hosts(&name, &files.hosts, addresses)
        }
        (Expect::ResolvConf { text }, Ok(files)) => resolv_conf(text, &files.resolv_conf),
        _ => (Outcome::Unknown, String::new()),
    }
}

fn hosts(name: &str, text: &str, planned: &BTreeSet<IpAddr>) -> (Outcome, String) {
    let wanted = name.trim_end_matches('.');
    let lines = HostsFile::parse(text).lines;
    let lines = lines.iter().filter(|line| line.names.iter().any(|it| it.eq_ignore_ascii_case(wanted)));
    let mut found = BTreeSet::new();
    let mut where_ = Vec::new();
    for line in lines {
        found.insert(line.address);
        where_.push(format!("line {}: {}", line.number, line.address));
    }
    match (found == *planned, found.is_empty()) {
        (true, true) => (Outcome::Ok, format!("/etc/hosts has no {wanted}")),
        (true, false) => (Outcome::Ok, where_.join("; ")),
        (false, true) => (Outcome::Differs, format!("/etc/hosts has no {wanted}")),
        (false, false) => (Outcome::Differs, format!("/etc/hosts, {}", where_.join("; "))),
    }
}

fn resolv_conf(planned: &str, text: &str) -> (Outcome, String) {
    if ResolvConf::parse_host(planned) == ResolvConf::parse_host(text) {
        return (Outcome::Ok, "the file is as the kubelet writes it".to_owned());
    }
    let lines: Vec<&str> = text.lines().filter(|line| !planned.lines().any(|it| it == *line)).collect();
    let missing: Vec<&str> = planned.lines().filter(|line| !text.lines().any(|it| it == *line)).collect();
    let quote = |lines: &[&str]| lines.iter().map(|line| format!("“{line}”")).collect::<Vec<_>>().join(", ");
    let text = match (lines.is_empty(), missing.is_empty()) {
        (false, true) => format!("the file also says {}", quote(&lines)),
        (true, false) => format!("the file does not say {}", quote(&missing)),
        _ => format!("the file says {} in place of {}", quote(&lines), quote(&missing)),
    };
    (Outcome::Differs, text)
}

fn dns(expected: &DnsExpectation, evidence: &Evidence) -> (Outcome, String) {
    let seen = match &evidence.dns {
        Ok(seen) => seen,
        Err(reason) => return (Outcome::Unknown, format!("nobody watched the caller's link: {reason}")),
    };
    let (outcome, text) = dns_of(expected, &seen.packets);
    if seen.lost > 0 && outcome == Outcome::Differs {
        return (Outcome::Unknown, format!("{text}, but the observer lost packets"));
    }
    (outcome, text)
}

fn dns_of(expected: &DnsExpectation, packets: &[Packet]) -> (Outcome, String) {
    let about: Vec<(&Packet, &Dns)> = packets
        .iter()
        .filter_map(|packet| Some((packet, packet.ip.dns.as_ref()?)))
        .filter(|(_, dns)| dns.name == expected.name)
        .collect();
    let queries: Vec<_> = about.iter().filter(|(_, dns)| !dns.response).collect();
    let Some((first, _)) = queries.first() else {
        return (Outcome::Differs, format!("{} was not asked for", expected.name));
    };
    if let Some(server) = expected.server
        && !queries.iter().any(|(packet, _)| packet.ip.destination == Some(server))
    {
        let asked = first.ip.destination.map_or("?".to_owned(), |ip| ip.to_string());
        return (Outcome::Differs, format!("asked of {asked}"));
    }
    let handed: BTreeSet<SocketAddr> = queries
        .iter()
        .filter_map(|(packet, _)| Some(SocketAddr::new(packet.ip.destination?, packet.ip.destination_port?)))
        .filter(|to| Some(to.ip()) != expected.server)
        .collect();
    if let Some(stranger) = handed.iter().find(|to| !expected.backends.contains(to)) {
        return (
            Outcome::Differs,
            format!("the query went to {stranger}, which is none of the planned servers"),
        );
    }
    let to = handed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let to = if to.is_empty() { String::new() } else { format!(" by {to}") };
    let answers: Vec<&Dns> = about.iter().filter(|(_, dns)| dns.response).map(|(_, dns)| *dns).collect();
    if answers.is_empty() {
        return match expected.unanswered {
            true => (Outcome::Ok, "not answered".to_owned()),
            false if to.is_empty() && !expected.backends.is_empty() => {
                (Outcome::Differs, "not answered: the query was not handed on to any server".to_owned())
            }
            false => (Outcome::Differs, format!("not answered{to}")),
        };
    }
    if expected.unanswered {
        return (Outcome::Differs, format!("answered{to}"));
    }
    compare(expected, &answers, &to)
}

fn compare(expected: &DnsExpectation, answers: &[&Dns], by: &str) -> (Outcome, String) {
    let mut texts = Vec::new();
    let mut outcome = Outcome::Ok;
    let kinds: BTreeSet<&str> = answers.iter().map(|dns| dns.kind.as_str()).collect();
    for kind in kinds {
        let Some(dns) = answers.iter().find(|dns| dns.kind == kind) else { continue };
        let addresses: BTreeSet<IpAddr> =
            dns.answers.iter().filter_map(|record| record.data.parse().ok()).collect();
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        texts.push(format!("{kind} {}{}{list}", dns.rcode, if list.is_empty() { "" } else { " " }));
        let planned = expected.answers.iter().flatten().find(|(its, ..)| its == kind);
        if let Some((_, rcode, planned)) = planned
            && (*rcode != dns.rcode || *planned != addresses)
        {
            outcome = Outcome::Differs;
        }
    }
    let missing =
        expected.answers.iter().flatten().filter(|(kind, ..)| !answers.iter().any(|dns| dns.kind == *kind));
    for (kind, ..) in missing {
        texts.push(format!("{kind} not answered"));
        outcome = Outcome::Differs;
    }
    (outcome, format!("{}{by}", texts.join(", ")))
}
