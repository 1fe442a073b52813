//! Where kernels are not as planned, or were not a moment ago, and which hops that concerns. Pure.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use seaway_model::{Difference, PlanPart, Protocol};

use super::evidence::Evidence;
use crate::hop::{Expect, Hop, HopKind, Proto, State};

/// What the agent put right no longer ago than this may have met the request (docs/trace.md).
pub(crate) const RECENT: Duration = Duration::from_secs(10);
/// The name servers' port.
const DNS_PORT: u16 = 53;

/// Something that is not as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deviation {
    /// What.
    pub(crate) difference: Difference,
    /// How long ago the agent put it right; `None`: it is so now.
    pub(crate) mended: Option<Duration>,
}

impl Deviation {
    fn text(&self) -> String {
        let Difference { object, what, kernel, .. } = &self.difference;
        match self.mended {
            None => format!("the kernel is not as planned: {object}: {what} ({kernel})"),
            Some(ago) => {
                let ago = ago.as_secs_f64();
                format!(
                    "someone changed the kernel: {object}: {what} ({kernel}); the agent put it right {ago:.1} s ago"
                )
            }
        }
    }
}

/// A part of the plan that could not be compared with the kernel: whether it deviates is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotCompared {
    /// Which part; `None`: any.
    pub(crate) part: Option<PlanPart>,
    /// Why.
    pub(crate) reason: String,
}

/// Why it cannot be said that the kernel is as planned in what `hop` uses.
pub(super) fn not_compared(
    hop: &Hop,
    hops: &[Hop],
    evidence: &Evidence,
    caller_node: &str,
) -> Option<String> {
    evidence.places.iter().find_map(|(place, seen)| {
        let way = Way { hop, hops, place, caller_node };
        let found = seen.not_compared.iter().find(|it| way.uses(it.part))?;
        Some(format!("the kernel of {place} cannot be compared with the plan: {}", found.reason))
    })
}

/// As many as a hop tells.
const TOLD: usize = 2;

/// What of all that deviates concerns `hop` of the way `hops`.
pub(super) fn concerning(hop: &Hop, hops: &[Hop], evidence: &Evidence, caller_node: &str) -> Option<String> {
    let mut found: Vec<&Deviation> = Vec::new();
    for (place, seen) in &evidence.places {
        let way = Way { hop, hops, place, caller_node };
        found.extend(seen.deviations.iter().filter(|deviation| {
            deviation.mended.is_none_or(|ago| ago <= RECENT) && way.concerned(&deviation.difference)
        }));
    }
    // What is so now comes first, then what was so last.
    found.sort_by_key(|deviation| deviation.mended);
    let mut texts: Vec<String> = found.into_iter().map(Deviation::text).collect();
    let more = texts.len().saturating_sub(TOLD);
    texts.truncate(TOLD);
    if more > 0 {
        texts.push(format!("{more} more"));
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// A hop on its way, and the node whose kernel deviates.
struct Way<'a> {
    hop: &'a Hop,
    hops: &'a [Hop],
    place: &'a str,
    caller_node: &'a str,
}

impl Way<'_> {
    fn concerned(&self, difference: &Difference) -> bool {
        match difference.part {
            PlanPart::Services if difference.object.starts_with("table ") => {
                self.translates(difference) || self.is_snat()
            }
            PlanPart::Services => self.translates(difference),
            PlanPart::Egress => self.is_snat() && self.is_of_its_source(difference),
            PlanPart::Overlay => self.crosses(&difference.object),
            PlanPart::Pods => self.is_of_pod(&difference.object),
        }
    }

    /// The hop depends on that part of the node's plan, or on any.
    fn uses(&self, part: Option<PlanPart>) -> bool {
        let at_caller = self.place == self.caller_node;
        let of_services = match (&self.hop.expect, self.hop.kind) {
            (Expect::Dns(expected), _) => at_caller && !expected.backends.is_empty(),
            (_, HopKind::Service | HopKind::Snat) => self.here(),
            _ => false,
        };
        let of_overlay = match &self.hop.expect {
            Expect::Tunnel { .. } | Expect::Link { .. } | Expect::FromNetwork { .. } => self.here(),
            _ => false,
        };
        let of_pods = match &self.hop.expect {
            Expect::ToPod { .. } => self.here(),
            Expect::Enter => at_caller,
            _ => false,
        };
        match part {
            // One driver compares both.
            Some(PlanPart::Services | PlanPart::Egress) => of_services,
            Some(PlanPart::Overlay) => of_overlay,
            Some(PlanPart::Pods) => of_pods,
            None => of_services || of_overlay || of_pods,
        }
    }

    fn here(&self) -> bool {
        self.hop.place == self.place
    }

    fn is_snat(&self) -> bool {
        self.hop.kind == HopKind::Snat && self.here()
    }

    /// The hop looks up the Service that suffers.
    fn translates(&self, difference: &Difference) -> bool {
        match (&self.hop.expect, self.hop.kind) {
            (Expect::Dns(expected), _) if self.place == self.caller_node => {
                let server = expected.server.filter(|_| !expected.backends.is_empty());
                server.is_some_and(|ip| {
                    suffers(difference, ip, DNS_PORT, Protocol::Udp, expected.backends.len())
                })
            }
            (_, HopKind::Service) if self.here() => {
                let Some(before) = &self.hop.before else { return false };
                let endpoints = match &self.hop.expect {
                    Expect::Translate { backends } => backends.len(),
                    _ => 0,
                };
                let protocol = match before.protocol {
                    Some(Proto::Udp) => Protocol::Udp,
                    _ => Protocol::Tcp,
                };
                // What is missing does nothing to a destination that is to stay.
                if matches!(self.hop.expect, Expect::Translate { .. })
                    && endpoints == 0
                    && difference.planned.is_some()
                {
                    return false;
                }
                destinations(before).any(|(ip, port)| suffers(difference, ip, port, protocol, endpoints))
            }
            _ => false,
        }
    }

    /// A missing rule is about what it would have masqueraded, an element of masquerade's sets about an endpoint or a
    /// network; all else is about every source.
    fn is_of_its_source(&self, difference: &Difference) -> bool {
        let Some(before) = &self.hop.before else { return true };
        if let Some((_, why)) = difference.what.split_once("a rule is missing (") {
            return self.hop.object.contains(why.trim_end_matches(')'));
        }
        let object = &difference.object;
        let mut ends = before.source.iter().copied().chain(destinations(before).map(|(ip, _)| ip));
        match object.split_once(' ') {
            Some(("endpoint", ip)) => ip.parse().is_ok_and(|ip: IpAddr| before.source.contains(&ip)),
            Some(("network", net)) => net.parse().is_ok_and(|net: IpNet| ends.any(|ip| net.contains(&ip))),
            _ => true,
        }
    }

    fn crosses(&self, object: &str) -> bool {
        let routes = self.hop.kind == HopKind::Route && self.here();
        let leaves = matches!(self.hop.expect, Expect::Tunnel { .. } | Expect::Link { .. });
        let arrives = matches!(self.hop.expect, Expect::FromNetwork { .. }) && self.here();
        match object.split_once(' ') {
            Some(("node", name)) => {
                let there = format!("node/{name}");
                let on_way = self.hops.iter().any(|hop| hop.place == there) || self.caller_node == there;
                // Where no packet of the request leaves towards that node, the answer's do.
                on_way && if self.leads_there(&there) { routes && leaves } else { self.is_way_back() }
            }
            Some(("route", net)) => {
                let Some(before) = self.hop.before.as_ref().filter(|_| routes) else { return false };
                let address = |ip| IpNet::from(ip);
                let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(address));
                net.is_ok_and(|net| destinations(before).any(|(ip, _)| net.contains(&ip)))
            }
            Some(("device" | "neighbour" | "tunnel", _)) => {
                arrives || routes && matches!(self.hop.expect, Expect::Tunnel { .. })
            }
            Some(("link", _)) => routes && leaves,
            _ => routes,
        }
    }

    /// The request leaves this node towards `there`.
    fn leads_there(&self, there: &str) -> bool {
        let at = |wanted: &str| self.hops.iter().position(|hop| hop.place == wanted);
        match (at(self.place), at(there)) {
            (Some(here), Some(there)) => here < there,
            _ => false,
        }
    }

    /// The answer passes the node that deviates.
    fn is_way_back(&self) -> bool {
        self.hop.kind == HopKind::Return && self.hops.iter().any(|hop| hop.place == self.place)
    }

    fn is_of_pod(&self, object: &str) -> bool {
        let Some(ip) = object.strip_prefix("pod ").and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            return false;
        };
        let Some(before) = &self.hop.before else { return false };
        match &self.hop.expect {
            Expect::ToPod { .. } => self.here() && destinations(before).any(|(to, _)| to == ip),
            Expect::Enter => self.place == self.caller_node && before.source.contains(&ip),
            _ => false,
        }
    }
}

/// Whether a call of `ip` and `port`, with so many endpoints, meets what is not as planned.
fn suffers(difference: &Difference, ip: IpAddr, port: u16, protocol: Protocol, endpoints: usize) -> bool {
    if let Some(address) = &difference.address {
        let same = address.ip == ip || address.is_node_port();
        return same && (address.port, address.protocol) == (port, protocol);
    }
    let is_ip = |text: &str| text.split([' ', '/', ',']).any(|word| word.parse() == Ok(ip));
    match difference.object.as_str() {
        "all Services" => true,
        "all Services with 1 endpoint" => endpoints == 1,
        object if object.starts_with("all Services with ") => {
            object.contains(&format!(" {endpoints} endpoints"))
        }
        // An address that is, or is not, in the set of those that refuse other ports.
        object if object.starts_with("Service ") || object.starts_with("address ") => {
            endpoints == 0 && is_ip(&difference.kernel)
        }
        _ => true,
    }
}

fn destinations(state: &State) -> impl Iterator<Item = (IpAddr, u16)> {
    state.destination.iter().filter_map(|text| match text.parse::<std::net::SocketAddr>() {
        Ok(socket) => Some((socket.ip(), socket.port())),
        Err(_) => Some((text.parse().ok()?, 0)),
    })
}
