//! What will happen to a request, out of what the places say of themselves. Pure: the same question about the same world has
//! the same answer, and what `--verify` compares with is made here and nowhere else.

mod facts;
mod flow;
#[cfg(test)]
mod tests;
mod way;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub(crate) use flow::Caller;
pub(crate) use flow::ways;
pub(crate) use way::{Choice, Way};

use crate::hop::{Hop, HopKind, Proto, Trace, Verdict};
use crate::names::Resolved;
use crate::world::World;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The lab.
    pub(crate) lab: String,
    /// Who calls.
    pub(crate) caller: Caller,
    /// What was written as TO.
    pub(crate) to: String,
    /// The protocol.
    pub(crate) proto: Proto,
    /// The port that is called; 0 where there are no ports.
    pub(crate) port: u16,
}

/// The prediction.
#[derive(Clone, Debug)]
pub(crate) struct Prediction {
    /// Name service.
    pub(crate) names: Vec<Hop>,
    /// Every way that the request may take; none where the name has no address.
    pub(crate) ways: Vec<Way>,
    /// What comes of it where there is no way.
    pub(crate) failed: Option<(Verdict, String)>,
}

/// What happens to the request: `resolved` is what the caller's name service makes of TO.
pub(crate) fn predict(world: &World, question: &Question, resolved: &Resolved) -> Prediction {
    let ways = resolved.addresses.iter();
    let ways: Vec<Way> = ways
        .flat_map(|address| flow::ways(world, &question.caller, question.proto, *address, question.port))
        .collect();
    Prediction { names: resolved.hops.clone(), ways, failed: resolved.failed.clone() }
}

impl Prediction {
    /// As it is told: random choices as sets.
    pub(crate) fn trace(&self, question: &Question) -> Trace {
        let mut hops = self.names.clone();
        hops.extend(way::told(&self.ways));
        let (verdict, reason) = self.verdict();
        let sources: BTreeSet<IpAddr> =
            self.ways.iter().flat_map(|way| way.end.sources.iter().copied()).collect();
        Trace {
            from: question.caller.place(),
            to: question.to.clone(),
            lab: question.lab.clone(),
            protocol: question.proto,
            verdict,
            reason,
            source_seen_by_destination: sources,
            unknown_beyond: self.ways.iter().find_map(|way| way.end.unknown_beyond.clone()),
            hops,
            verified: None,
        }
    }

    /// The verdict of all ways together: the same for all, or the worst with a word on the others.
    fn verdict(&self) -> (Verdict, String) {
        if let Some(failed) = &self.failed {
            return failed.clone();
        }
        let Some(first) = self.ways.first() else {
            return (Verdict::Unknown, "there is nothing to follow".to_owned());
        };
        let same = self.ways.iter().filter(|way| way.end.verdict == first.end.verdict).count();
        if same == self.ways.len() {
            let reasons: BTreeSet<&String> = self.ways.iter().map(|way| &way.end.reason).collect();
            let reason = match reasons.len() {
                1 => first.end.reason.clone(),
                n => format!("{}, or one of {} others, by chance", first.end.reason, n - 1),
            };
            return (first.end.verdict, reason);
        }
        let bad = self.ways.iter().filter(|way| way.end.verdict != Verdict::Delivered);
        let bad: Vec<&Way> = bad.collect();
        let worst = bad.first().map_or(first, |way| way);
        (
            worst.end.verdict,
            format!("{} (so with {} of {} possible ways)", worst.end.reason, bad.len(), self.ways.len()),
        )
    }

    /// The way of the choices that were made, as far as they are known.
    pub(crate) fn chosen(&self, choice: Choice) -> Option<&Way> {
        self.ways.iter().find(|way| {
            choice.address.is_none_or(|address| way.choice.address == Some(address))
                && (way.choice.backend == choice.backend
                    || (choice.backend.is_none() && self.ways_of(way) == 1))
        })
    }

    fn ways_of(&self, way: &Way) -> usize {
        self.ways.iter().filter(|other| other.choice.address == way.choice.address).count()
    }
}

/// The kinds of hops that are about names.
pub(crate) const fn is_about_names(kind: HopKind) -> bool {
    matches!(kind, HopKind::Hosts | HopKind::ResolvConf | HopKind::Dns)
}
