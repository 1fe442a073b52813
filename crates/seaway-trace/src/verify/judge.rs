//! Compares a hop with what was seen. Pure.

mod end;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use seaway_observe::api::{Packet, RuleHit};

use super::deviations;
use super::evidence::{Evidence, Seen, rule_text};
use super::passage::{Passage, passage};
use crate::hop::{Expect, Hop, HopKind, Outcome, OuterHeader, Verified};

/// A hop's result and what was seen.
type Finding = (Outcome, String);

fn ok(text: impl Into<String>) -> Finding {
    (Outcome::Ok, text.into())
}

fn differs(text: impl Into<String>) -> Finding {
    (Outcome::Differs, text.into())
}

fn unknown(text: impl Into<String>) -> Finding {
    (Outcome::Unknown, text.into())
}

/// Judges the hops of one way; `caller_node` is where the caller's packets are first seen. A hop behind the first one that
/// differs is never worse than unknown, if packets are all that speaks against it: nothing of the request can have come there
/// as it was told.
pub(crate) fn judge(hops: &mut [Hop], evidence: &Evidence, caller_node: &str) -> Verified {
    let way = hops.to_vec();
    let mut failed = false;
    for hop in hops.iter_mut() {
        let (mut outcome, mut text) = look(hop, &way, evidence, caller_node);
        let planned_otherwise = deviations::concerning(hop, &way, evidence, caller_node);
        if let Some(deviations) = planned_otherwise {
            outcome = Outcome::Differs;
            text = format!("{text}; {deviations}");
        } else if failed && outcome == Outcome::Differs {
            outcome = Outcome::Unknown;
        }
        if outcome == Outcome::Ok
            && let Some(reason) = deviations::not_compared(hop, &way, evidence, caller_node)
        {
            (outcome, text) = (Outcome::Unknown, format!("{text}; {reason}"));
        }
        failed |= outcome == Outcome::Differs;
        hop.result = Some(outcome);
        hop.observed = Some(text);
    }
    hops.iter().filter_map(|hop| hop.result).fold(Verified(Outcome::Ok), Verified::and)
}

fn look(hop: &Hop, way: &[Hop], evidence: &Evidence, caller_node: &str) -> Finding {
    let at = match (hop.kind, &hop.expect) {
        // A pod's own link is seen from its node.
        (HopKind::Route, Expect::Enter) => caller_node,
        _ => hop.place.as_str(),
    };
    let nothing =
        Seen { blind: Some("it has no observer, or the request never left".to_owned()), ..Seen::default() };
    let seen = evidence.places.get(at).unwrap_or(&nothing);
    if let Some(mtu) = too_big(hop, seen) {
        return differs(format!("packets of more than {mtu} bytes do not fit: it sent ICMP back to say so"));
    }
    match &hop.expect {
        Expect::Nothing => ok("nothing to be seen here"),
        Expect::Unseen => unknown("cannot be seen from here"),
        Expect::Hosts { .. } | Expect::ResolvConf { .. } | Expect::Dns(_) => {
            super::names::look(hop, evidence)
        }
        Expect::Return => end::way_back(way, evidence, caller_node),
        Expect::Arrive { sources, answer } => end::arrival(hop, evidence, sources, *answer),
        Expect::Reject => end::rejected(evidence),
        Expect::NoAnswer => end::unanswered(evidence),
        Expect::Within => end::within(evidence, caller_node),
        // The kernel refused to send it at all.
        Expect::NoRoute if evidence.program.socket.is_none() && evidence.program.failure.is_some() => {
            ok(failure_text(evidence).unwrap_or_default())
        }
        _ if seen.blind.is_some() => {
            unknown(format!("{at} cannot be asked: {}", seen.blind.clone().unwrap_or_default()))
        }
        Expect::Enter => entered(evidence, seen),
        Expect::Translate { backends } => translated(evidence, seen, backends),
        Expect::Pass => passed(seen),
        Expect::ToPod { link: Some(link) } => left(evidence, seen, link, None, |packet| packet.link == *link),
        Expect::ToPod { link: None } => {
            left(evidence, seen, "a pod's link", None, |packet| packet.link.starts_with(POD_LINK))
        }
        Expect::Tunnel { device, link, outer, mtu } => tunnelled(evidence, seen, device, link, outer, *mtu),
        Expect::Link { link, mtu } => {
            let by = |packet: &&Packet| packet.link == *link && packet.outer.is_none();
            left(evidence, seen, link, mtu.map(|mtu| (link.as_str(), mtu)), |packet| by(&packet))
        }
        Expect::Local => stayed(evidence, seen),
        Expect::FromNetwork { link } => {
            match seen.forward().find(|packet| !packet.out && packet.link == *link) {
                Some(packet) => ok(format!("came out of {} as {}", packet.link, addresses(packet))),
                None => missing(seen, "never came out of the tunnel"),
            }
        }
        Expect::Source { addresses } => source(hop, seen, addresses),
        Expect::Drop => match (seen.dropped_by(), seen.came_in()) {
            (Some(hit), _) => ok(format!("dropped by {}", rule_text(hit))),
            (None, Some(_)) if !seen.forward().any(|packet| packet.out) => ok("came in and went no further"),
            (None, Some(_)) => differs("it was let through"),
            // What the node itself sends comes in by no link.
            (None, None) if at == caller_node && !evidence.program.connected && !seen.rules.is_empty() => {
                ok("met the rules here and went no further")
            }
            (None, None) => missing(seen, "never came here"),
        },
        Expect::NoRoute => {
            match seen.forward().find(|packet| packet.out && !packet.link.starts_with(POD_LINK)) {
                Some(packet) if evidence.program.connected => differs(format!("left by {}", packet.link)),
                _ => ok(failure_text(evidence).unwrap_or_else(|| "went no further".to_owned())),
            }
        }
    }
}

/// Destination unreachable, fragmentation needed (RFC 792); packet too big (RFC 4443, section 3.2).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// The MTU of which this place itself told one side of the connection.
fn too_big(hop: &Hop, seen: &Seen) -> Option<u32> {
    if !matches!(hop.kind, HopKind::Route | HopKind::Gateway) || hop.expect == Expect::Enter {
        return None;
    }
    let told = |packet: &Packet| {
        let icmp = packet.ip.icmp.as_ref().filter(|icmp| icmp.about.is_some())?;
        let v4 = packet.ip.protocol == 1 && (icmp.kind, icmp.code) == (UNREACHABLE, FRAGMENTATION_NEEDED);
        let v6 = packet.ip.protocol == 58 && icmp.kind == PACKET_TOO_BIG;
        (v4 || v6).then_some(icmp.mtu.unwrap_or(0))
    };
    let came = seen.packets.iter().any(|packet| !packet.out && told(packet).is_some());
    seen.packets.iter().filter(|packet| packet.out && !came).find_map(told)
}

/// How pods' links on nodes are called (ARCHITECTURE.md, registry).
const POD_LINK: &str = "sw";

fn addresses(packet: &Packet) -> String {
    let socket = |ip: Option<IpAddr>, port: Option<u16>| match (ip, port) {
        (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
        (Some(ip), None) => ip.to_string(),
        (None, _) => "?".to_owned(),
    };
    let ip = &packet.ip;
    format!("{} → {}", socket(ip.source, ip.source_port), socket(ip.destination, ip.destination_port))
}

/// Nothing was seen: of the hop's own fault, or of an earlier one's, or because something is lost.
fn missing(seen: &Seen, what: &str) -> Finding {
    if seen.lost { unknown(format!("{what}, but the observer lost packets")) } else { differs(what) }
}

fn failure_text(evidence: &Evidence) -> Option<String> {
    evidence.program.failure.as_ref().map(|(stage, error)| format!("the program: {stage}: {error}"))
}

fn entered(evidence: &Evidence, seen: &Seen) -> Finding {
    if let Some(packet) = seen.came_in() {
        return ok(format!("came in by {} as {}", packet.link, addresses(packet)));
    }
    match failure_text(evidence) {
        Some(text) if !seen.lost => differs(format!("never left the pod; {text}")),
        _ => missing(seen, "never left the pod"),
    }
}

fn translated(evidence: &Evidence, seen: &Seen, backends: &BTreeSet<SocketAddr>) -> Finding {
    let Some(Passage { came: (_, called), left: (_, to), witness }) = passage(seen) else {
        return untracked(evidence, seen, backends);
    };
    let same = to == called;
    match (backends.is_empty(), same) {
        (true, true) => ok(format!("{witness}: the destination is not translated")),
        (true, false) => {
            differs(format!("{witness}: {called} was translated to {to}{}", foreign_rules(seen)))
        }
        (false, true) => differs(format!("{witness}: {called} was not translated{}", whose(seen))),
        (false, false) if backends.contains(&to) => ok(format!("{witness}: {called} → {to}")),
        (false, false) => differs(format!(
            "{witness}: {called} → {to}, which is none of the planned endpoints{}",
            whose(seen)
        )),
    }
}

/// Who translated to what is not planned.
fn whose(seen: &Seen) -> String {
    let foreign = foreign_rules(seen);
    if !foreign.is_empty() || !seen.deviations.is_empty() || seen.lost {
        return foreign;
    }
    " (no rule did that to this packet: the entry is from an earlier one of the same addresses and ports)"
        .to_owned()
}

/// Rules of tables that are not ours which the packet met.
fn foreign_rules(seen: &Seen) -> String {
    let foreign = seen.rules.iter().filter(|hit| {
        hit.handle.is_some() && !hit.table.ends_with(" seaway") && !hit.table.contains("seaway-")
    });
    let texts: Vec<String> = foreign.map(rule_text).collect();
    if texts.is_empty() { String::new() } else { format!(" (met {})", texts.join("; ")) }
}

/// There is no connection where one should be: conntrack forgets one whose first packet is thrown away. What rules the
/// packet met tells as much as can be told; the hop that threw it away is another one.
fn untracked(evidence: &Evidence, seen: &Seen, backends: &BTreeSet<SocketAddr>) -> Finding {
    if seen.forward().next().is_none() {
        let failure = failure_text(evidence).map(|text| format!("; {text}")).unwrap_or_default();
        return unknown(format!("never came here{failure}"));
    }
    match seen.dropped_by() {
        Some(hit) if is_choice(hit) => {
            return differs(format!("dropped by {}: no endpoint was found", rule_text(hit)));
        }
        Some(hit) => return unknown(format!("dropped by {}", rule_text(hit))),
        None => {}
    }
    let called = seen.tuple.map(|tuple| SocketAddr::new(tuple.destination, tuple.destination_port));
    let mut met = seen
        .rules
        .iter()
        .filter_map(|hit| Some(SocketAddr::new(hit.destination?, hit.destination_port.unwrap_or_default())));
    let other = met.rfind(|to| Some(*to) != called);
    match (other, backends.is_empty()) {
        (Some(to), false) if backends.contains(&to) => ok(format!("rules: the destination became {to}")),
        (Some(to), _) => differs(format!("rules: the destination became {to}{}", foreign_rules(seen))),
        (None, true) if !seen.rules.is_empty() => ok("rules: the destination is not translated"),
        (None, false) if seen.rules.iter().any(is_choice) => {
            unknown("rules: an endpoint was chosen; which one cannot be told, as the packet went no further")
        }
        (None, _) => unknown("no connection was made of it"),
    }
}

/// The rule chooses an endpoint.
fn is_choice(hit: &RuleHit) -> bool {
    hit.table.ends_with(" seaway") && hit.chain.starts_with("pick_")
}

fn passed(seen: &Seen) -> Finding {
    match seen.dropped_by() {
        Some(hit) => differs(format!("dropped by {}", rule_text(hit))),
        None if seen.forward().any(|packet| packet.out) || passage(seen).is_some() => {
            ok("no rule dropped it")
        }
        None => unknown("it did not come this far"),
    }
}

/// The packet left by the right link.
fn left(
    evidence: &Evidence,
    seen: &Seen,
    name: &str,
    mtu: Option<(&str, u32)>,
    by: impl Fn(&Packet) -> bool,
) -> Finding {
    if let Some((link, planned)) = mtu
        && let Some(found) = seen.links.iter().find(|it| it.name == link)
        && found.mtu != planned
    {
        return differs(format!("the MTU of {link} is {}, planned is {planned}", found.mtu));
    }
    let out: Vec<&Packet> = seen.forward().filter(|packet| packet.out).collect();
    if let Some(packet) = out.iter().find(|packet| by(packet)) {
        return ok(format!("left by {} as {}", packet.link, addresses(packet)));
    }
    if let Some(packet) = out.first() {
        let why = foreign_rules(seen);
        return differs(format!("left by {} as {}, not by {name}{why}", packet.link, addresses(packet)));
    }
    went_no_further(evidence, seen)
}

fn went_no_further(evidence: &Evidence, seen: &Seen) -> Finding {
    if let Some(hit) = seen.dropped_by() {
        // The packet filter's hop says so.
        return unknown(format!("did not leave: {}", rule_text(hit)));
    }
    if seen.came_in().is_none() && seen.connection.is_none() {
        return match failure_text(evidence) {
            Some(text) if !seen.lost => differs(format!("never sent; {text}{}", stuck(seen))),
            _ => missing(seen, "never came here"),
        };
    }
    missing(seen, &format!("came here and went no further{}{}", stuck(seen), foreign_rules(seen)))
}

/// Why the kernel may have kept the packet.
fn stuck(seen: &Seen) -> String {
    // Asked for its route, the kernel checks the source as well.
    let link = seen.came_in().and_then(|packet| seen.links.iter().find(|link| link.name == packet.link));
    if let (Some(link), Some(back)) = (link, &seen.way_back)
        && link.rp_filter == 1
        && back.oif.as_ref() != Some(&link.name)
    {
        return format!(
            ": rp_filter is strict on {}, and an answer would leave by {}",
            link.name,
            back.oif.as_deref().unwrap_or("no link")
        );
    }
    let bad = seen.routes.iter().find(|(_, route)| !matches!(route.kind.as_str(), "unicast" | "local"));
    if let Some((to, route)) = bad {
        let network = if route.network.is_empty() { String::new() } else { format!(" ({})", route.network) };
        return format!(": the kernel's route for {to} is {}{network}", route.kind);
    }
    String::new()
}

fn tunnelled(
    evidence: &Evidence,
    seen: &Seen,
    device: &str,
    link: &str,
    outer: &OuterHeader,
    mtu: u32,
) -> Finding {
    let (outcome, text) = left(evidence, seen, device, Some((device, mtu)), |packet| packet.link == device);
    if outcome != Outcome::Ok {
        return (outcome, text);
    }
    let tunnel = seen.forward().find(|packet| packet.out && packet.link == link && packet.outer.is_some());
    let Some(found) = tunnel.and_then(|packet| packet.outer.as_ref()) else {
        return missing(
            seen,
            &format!(
                "{text}, but no tunnel packet left by {link}: the forwarding entry or the neighbour for {} is missing",
                outer.destination
            ),
        );
    };
    let ends = (found.source, found.destination, found.port, found.vni);
    let outer_text = format!(
        "{} → {} UDP {} VXLAN {}",
        show(found.source),
        show(found.destination),
        found.port,
        found.vni
    );
    if ends == (Some(outer.source), Some(outer.destination), outer.port, outer.vni) {
        ok(format!("{text}; on {link} inside {outer_text}"))
    } else {
        differs(format!("{text}; on {link} inside {outer_text}"))
    }
}

fn show(ip: Option<IpAddr>) -> String {
    ip.map_or("?".to_owned(), |ip| ip.to_string())
}

fn stayed(evidence: &Evidence, seen: &Seen) -> Finding {
    match seen.forward().find(|packet| packet.out && packet.link != "lo") {
        Some(packet) => differs(format!("left by {}", packet.link)),
        None if seen.came_in().is_some() || seen.connection.is_some() || evidence.program.connected => {
            ok("did not leave the node")
        }
        None => unknown("not seen"),
    }
}

fn source(hop: &Hop, seen: &Seen, planned: &BTreeSet<IpAddr>) -> Finding {
    let Some(Passage { came: (from, _), left: (onward, _), witness }) = passage(seen) else {
        if let Some(hit) = seen.dropped_by() {
            return differs(format!("dropped by {}", rule_text(hit)));
        }
        let came = seen.came_in().is_some();
        return if came {
            missing(seen, &format!("came here and went no further{}", stuck(seen)))
        } else {
            unknown("never came here")
        };
    };
    let (was, now) = (from.ip(), onward.ip());
    let unchanged = hop.before.as_ref().is_some_and(|before| before.source.contains(&now));
    match (planned.is_empty(), unchanged || now == was) {
        (true, true) => ok(format!("{witness}: the source stays {was}")),
        (true, false) => differs(format!("{witness}: the source {was} became {now}{}", foreign_rules(seen))),
        (false, _) if planned.contains(&now) => ok(format!("{witness}: source {from} → {onward}")),
        (false, true) => differs(format!("{witness}: the source stays {was}")),
        (false, false) => differs(format!("{witness}: the source {was} became {now}{}", foreign_rules(seen))),
    }
}

#[cfg(test)]
mod tests;
