//! The end of the way: what the destination did with the request, what of its answer came back, and what the program met.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_observe::api::Packet;

use super::{Finding, POD_LINK, addresses, differs, failure_text, ok, show, unknown};
use crate::hop::{Expect, Hop, Verdict};
use crate::verify::evidence::{Evidence, Program, Seen};

/// The program waits in vain.
pub(super) fn unanswered(evidence: &Evidence) -> Finding {
    match failure_text(evidence) {
        Some(text) if !evidence.program.connected => ok(text),
        _ => differs("the program got its answer"),
    }
}

/// The caller's node saw nothing of it, and the program was answered.
pub(super) fn within(evidence: &Evidence, caller_node: &str) -> Finding {
    let node = evidence.places.get(caller_node);
    if let Some(packet) = node.and_then(|seen| seen.forward().find(|packet| packet.link != "lo")) {
        return differs(format!("it came to {caller_node} by {}", packet.link));
    }
    match (evidence.program.connected, failure_text(evidence)) {
        (true, _) => ok("the program was answered, and no link saw anything of it"),
        (false, Some(text)) if text.contains("ECONNREFUSED") => ok(text),
        (false, text) => differs(text.unwrap_or_else(|| "not answered".to_owned())),
    }
}

pub(super) fn rejected(evidence: &Evidence) -> Finding {
    match &evidence.program.failure {
        Some((stage, error)) if error.starts_with("ETIMEDOUT") => {
            differs(format!("it was not rejected, but swallowed: {stage}: {error}"))
        }
        Some((stage, error)) => ok(format!("the program: {stage}: {error}")),
        None => differs("it was not rejected: the program got its answer"),
    }
}

/// Whether it got there, from whom, and what the destination did.
pub(super) fn arrival(
    hop: &Hop,
    evidence: &Evidence,
    sources: &BTreeSet<IpAddr>,
    answer: Option<Verdict>,
) -> Finding {
    let place = evidence.places.values().find_map(|seen| arrived_at(hop, seen));
    let here = evidence.places.get(&hop.place);
    let program = &evidence.program;
    let Some((seen, packet)) = place.or_else(|| here.and_then(|seen| Some((seen, seen.came_in()?)))) else {
        let blind = here.is_none_or(|seen| seen.blind.is_some());
        let on = sent_on(hop, evidence, sources);
        return match (program.connected, on) {
            (true, _) if local(hop) => ok("the program was answered"),
            (true, on) if blind => {
                let came = on.map_or_else(|| "not seen there".to_owned(), |(_, text)| text);
                served(program, &came, None, hop)
            }
            (false, Some((seen, text))) if blind => {
                answered(evidence, &seen.backward().collect::<Vec<_>>(), &text, None, answer, hop)
            }
            (_, Some((_, text))) if !here.is_some_and(|seen| seen.lost) => {
                differs(format!("{text}, but never came in there"))
            }
            _ => unknown("never seen there"),
        };
    };
    let from = packet.ip.source;
    let came = format!("came from {}", show(from));
    if !from.is_some_and(|ip| sources.contains(&ip)) {
        return differs(came);
    }
    answered(evidence, &seen.backward().collect::<Vec<_>>(), &came, from, answer, hop)
}

/// What the destination made of the request, by the packets that came from there.
fn answered(
    evidence: &Evidence,
    backward: &[&Packet],
    came: &str,
    from: Option<IpAddr>,
    answer: Option<Verdict>,
    hop: &Hop,
) -> Finding {
    let program = &evidence.program;
    let reset = backward
        .iter()
        .any(|packet| packet.ip.tcp.as_ref().is_some_and(|tcp| tcp.rst && tcp.ack && !program.connected));
    match answer {
        Some(Verdict::Refused) => match (&program.failure, program.connected) {
            (Some((_, error)), false) => ok(format!("{came}; {error}")),
            _ => differs(format!("{came}, and was served")),
        },
        Some(Verdict::Forbidden) => match program.status {
            Some(403) => ok(format!("{came}; HTTP 403")),
            status => {
                differs(format!("{came}; HTTP {}", status.map_or("no answer".to_owned(), |s| s.to_string())))
            }
        },
        Some(_) if program.connected => served(program, came, from, hop),
        Some(_) if reset => differs(format!("{came}, and was reset: nothing listens there")),
        Some(_) => {
            let failure = failure_text(evidence).unwrap_or_default();
            if backward.is_empty() {
                differs(format!("{came}, and was not answered; {failure}"))
            } else if backward
                .iter()
                .any(|packet| packet.ip.icmp.as_ref().is_some_and(|it| it.about.is_some()))
            {
                differs(format!("{came}, and was answered with an ICMP error; {failure}"))
            } else {
                // The answer was lost later.
                ok(format!("{came}, and was answered"))
            }
        }
        None => ok(format!("{came}; {}", failure_text(evidence).unwrap_or_else(|| "answered".to_owned()))),
    }
}

/// The place before the destination that sent the request on to it.
fn sent_on<'a>(hop: &Hop, evidence: &'a Evidence, sources: &BTreeSet<IpAddr>) -> Option<(&'a Seen, String)> {
    // A pod's link is its node's.
    let wanted = hop.before.as_ref().filter(|_| !hop.place.starts_with("pod/"))?;
    evidence.places.iter().filter(|(place, _)| **place != hop.place).find_map(|(place, seen)| {
        let packet = seen.forward().find(|packet| {
            let is_source = packet.ip.source.is_some_and(|ip| sources.contains(&ip));
            packet.out && packet.outer.is_none() && is_source && goes_to(packet, &wanted.destination)
        })?;
        Some((seen, format!("left {place} by {} as {}", packet.link, addresses(packet))))
    })
}

fn goes_to(packet: &Packet, destinations: &BTreeSet<String>) -> bool {
    let destination = match (packet.ip.destination, packet.ip.destination_port) {
        (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
        (Some(ip), None) => ip.to_string(),
        _ => return false,
    };
    destinations.contains(&destination)
}

fn served(program: &Program, came: &str, from: Option<IpAddr>, hop: &Hop) -> Finding {
    if let Some((stage, error)) = &program.failure {
        return differs(format!("{came}; then {stage}: {error}"));
    }
    let body = program.body.as_deref().unwrap_or_default().trim();
    let status = program.status.map(|status| format!("; HTTP {status}")).unwrap_or_default();
    // The internet's hosts answer with the caller's address as they see it.
    if hop.place.starts_with("internet/")
        && program.status == Some(200)
        && from.is_some()
        && Some(body) != from.map(|ip| ip.to_string()).as_deref()
    {
        return differs(format!("{came}{status}, but says that it saw {body:?}"));
    }
    let said = if body.is_empty() || body.len() > 60 { String::new() } else { format!(", says {body:?}") };
    ok(format!("{came}{status}{said}"))
}

/// The destination is the caller's own machine.
fn local(hop: &Hop) -> bool {
    hop.place.starts_with("node/") || hop.place == "control-plane"
}

/// The packet on the last link before the destination, if `seen` is the place that sees it.
fn arrived_at<'a>(hop: &Hop, seen: &'a Seen) -> Option<(&'a Seen, &'a Packet)> {
    let wanted = hop.before.as_ref()?;
    let to_pod = hop.place.starts_with("pod/");
    let packet = seen.forward().find(|packet| {
        to_pod && packet.out && packet.link.starts_with(POD_LINK) && goes_to(packet, &wanted.destination)
    })?;
    Some((seen, packet))
}

pub(super) fn way_back(way: &[Hop], evidence: &Evidence, caller_node: &str) -> Finding {
    let program = &evidence.program;
    if program.connected || program.status.is_some() {
        let text = match (&program.failure, program.status) {
            (Some((stage, error)), _) => {
                return differs(format!("the program was connected; then {stage}: {error}"));
            }
            (None, Some(status)) => format!("the program has its answer, HTTP {status}"),
            (None, None) => "the program has its answer".to_owned(),
        };
        return match another_way_back(way, evidence) {
            Some(other) => differs(format!("{text}, but {other}")),
            None => ok(text),
        };
    }
    let seen = evidence.places.get(caller_node);
    let answered = seen.is_some_and(|seen| seen.backward().next().is_some());
    match (&program.failure, answered) {
        (Some((_, error)), true) => ok(format!("the program was told: {error}")),
        (Some((stage, error)), false) if error.starts_with("ECONNREFUSED") => {
            ok(format!("the program was told: {stage}: {error}"))
        }
        (Some((stage, error)), false) => differs(format!(
            "no answer came; the program: {stage}: {error}{}",
            lost_on_the_way_back(way, evidence)
        )),
        (None, _) => unknown("nothing came back"),
    }
}

/// The answer did not come out of the tunnel that the request went into.
fn another_way_back(way: &[Hop], evidence: &Evidence) -> Option<String> {
    way.iter().find_map(|hop| {
        let Expect::Tunnel { device, .. } = &hop.expect else { return None };
        let seen = evidence.places.get(&hop.place).filter(|seen| !seen.lost)?;
        let mut came = seen.backward().filter(|packet| !packet.out && packet.outer.is_none());
        let first = came.next()?;
        if first.link == *device || came.any(|packet| packet.link == *device) {
            return None;
        }
        Some(format!("the answer came to {} by {}, not out of {device}", hop.place, first.link))
    })
}

/// Where the answer got to, from the destination on.
fn lost_on_the_way_back(way: &[Hop], evidence: &Evidence) -> String {
    let mut visited = BTreeSet::new();
    let places = way.iter().rev().map(|hop| hop.place.as_str()).filter(|place| visited.insert(*place));
    let seen = places.filter_map(|place| {
        let seen = evidence.places.get(place)?;
        Some((place, seen.backward().filter(|packet| packet.outer.is_none()).last()?))
    });
    let Some((place, packet)) = seen.last() else { return String::new() };
    let how = if packet.out { "left" } else { "came in" };
    format!("; the answer was last seen at {place}: {how} by {} as {}", packet.link, addresses(packet))
}
