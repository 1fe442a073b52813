//! musl's way (src/network/lookup_name.c, res_msend.c): all servers at once, the first good reply wins.

use std::time::Duration;

use super::{Answer, GaiError, Kind, Lookup, Outcome, Question, Resolver, Round, Source};
use crate::resolvconf::{Libc, candidates};

/// Names of 255 characters and more are refused.
const MAX_NAME: usize = 254;
/// How often servers that fail are asked again at once, for each type of a round and attempt.
const SERVFAIL_RETRIES: u32 = 2;

pub(super) fn lookup(
    name: &str,
    resolver: &Resolver<'_>,
    answer: &mut dyn FnMut(Question<'_>) -> Answer,
) -> Lookup {
    if name.is_empty() || name.len() > MAX_NAME {
        return Lookup::failed(GaiError::NoName);
    }
    if let Some(found) = resolver.in_hosts(name, |a, b| a == b) {
        return found;
    }
    let as_is = format!("{}.", name.strip_suffix('.').unwrap_or(name));
    let mut lookup = Lookup::failed(GaiError::NoName);
    for candidate in candidates(name, resolver.conf, Libc::Musl) {
        let (round, replies) = ask(&candidate, candidate != as_is, resolver, answer);
        let outcome = round.outcome;
        lookup.rounds.push(round);
        match outcome {
            Outcome::NxDomain => continue,
            Outcome::Found => {
                let addresses =
                    replies.iter().flat_map(|(kind, reply)| reply.iter().flat_map(|it| it.addresses(*kind)));
                let found = Lookup::found(Source::Dns, addresses);
                return Lookup { rounds: lookup.rounds, ..found };
            }
            Outcome::Unknown => {
                return Lookup { unknown: true, errors: Vec::new(), ..lookup };
            }
            // EAI_NODATA from 1.2.4 on.
            Outcome::NoData => lookup.errors = vec![GaiError::NoData, GaiError::NoName],
            Outcome::Failed | Outcome::Refused => lookup.errors = vec![GaiError::Again],
        }
        return lookup;
    }
    lookup
}

/// Asks all servers for one name: the reply that counts of each type, `None` where there is none.
fn ask(
    name: &str,
    searched: bool,
    resolver: &Resolver<'_>,
    answer: &mut dyn FnMut(Question<'_>) -> Answer,
) -> (Round, Vec<(Kind, Option<Answer>)>) {
    let attempts = resolver.number("attempts", 2, 10).max(1);
    let timeout = resolver.number("timeout", 5, 60);
    let servers = resolver.servers();
    let mut round = Round::new(name, searched);
    round.any_server = servers.len() > 1;
    let mut asked: Vec<(Question<'_>, Answer)> = Vec::new();
    for kind in resolver.families.kinds() {
        for server in &servers {
            let question = Question { server, name, kind: *kind };
            asked.push((question, answer(question)));
        }
    }
    let good = |kind: Kind| {
        let counts = |reply: &Answer| matches!(reply.rcode(), Some("NOERROR" | "NXDOMAIN"));
        asked.iter().find(|(question, reply)| question.kind == kind && counts(reply)).map(|(_, reply)| reply)
    };
    let fails = |(question, reply): &&(Question<'_>, Answer)| {
        good(question.kind).is_none() && reply.rcode() == Some("SERVFAIL")
    };
    let failing = u32::try_from(asked.iter().filter(fails).count()).unwrap_or(u32::MAX);
    let budget = SERVFAIL_RETRIES * u32::try_from(resolver.families.kinds().len()).unwrap_or(1);
    for (question, reply) in &asked {
        let again = if fails(&&(*question, reply.clone())) { budget / failing.max(1) } else { 0 };
        let once = good(question.kind).is_some() || *reply == Answer::Unknown;
        let times = if once { 1 } else { attempts };
        round.note(*question, reply, times * (1 + again));
    }
    let of_kind = |kind: &Kind| {
        let unknown = asked.iter().any(|(q, reply)| q.kind == *kind && *reply == Answer::Unknown);
        (*kind, good(*kind).cloned().or_else(|| unknown.then_some(Answer::Unknown)))
    };
    let replies: Vec<_> = resolver.families.kinds().iter().map(of_kind).collect();
    if replies.iter().any(|(_, reply)| reply.is_none()) {
        round.waited = Duration::from_secs(timeout.into());
    }
    let outcome = outcome_of(&replies);
    (round.ends(outcome), replies)
}

/// What the replies say together: the first type that has no good one decides (1.2.3 and newer).
fn outcome_of(replies: &[(Kind, Option<Answer>)]) -> Outcome {
    for (_, reply) in replies {
        match reply.as_ref().map(Answer::rcode) {
            Some(Some("NOERROR")) => {}
            Some(Some("NXDOMAIN")) => return Outcome::NxDomain,
            Some(_) => return Outcome::Unknown,
            None => return Outcome::Failed,
        }
    }
    let has_addresses = |(kind, reply): &(Kind, Option<Answer>)| {
        reply.as_ref().is_some_and(|reply| !reply.addresses(*kind).is_empty())
    };
    if replies.iter().any(has_addresses) { Outcome::Found } else { Outcome::NoData }
}
