//! glibc's way (resolv/res_query.c, res_send.c, nss/getaddrinfo): the name service switch, then one server after another.

use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, GaiError, Kind, Lookup, NssStatus, Outcome, Question, Resolver, Round, Source};
use crate::resolvconf::{Libc, candidates};

type Ask<'a> = &'a mut dyn FnMut(Question<'_>) -> Answer;

pub(super) fn lookup(name: &str, resolver: &Resolver<'_>, answer: Ask<'_>) -> Lookup {
    let mut lookup = Lookup::failed(GaiError::NoName);
    for service in &resolver.nsswitch.services {
        let status = match service.name.as_str() {
            "files" => match resolver.in_hosts(name, str::eq_ignore_ascii_case) {
                Some(found) => return Lookup { rounds: lookup.rounds, notes: lookup.notes, ..found },
                None => NssStatus::NotFound,
            },
            "dns" => match dns(name, resolver, answer, &mut lookup) {
                Some(status) => status,
                None => return lookup,
            },
            other => {
                lookup.notes.push(format!(
                    "/etc/nsswitch.conf names {other:?}, whose answers are not known: it is taken to have none"
                ));
                NssStatus::Unavailable
            }
        };
        if service.returns_on.contains(&status) {
            break;
        }
    }
    lookup
}

/// What a round came to, as the search goes by it (`h_errno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    HostNotFound,
    NoData,
    NoRecovery,
    /// TRY_AGAIN, with a SERVFAIL last seen or not.
    TryAgain {
        servfail: bool,
    },
    Refused,
}

/// Asks DNS; `None`: `lookup` is complete.
fn dns(name: &str, resolver: &Resolver<'_>, answer: Ask<'_>, lookup: &mut Lookup) -> Option<NssStatus> {
    let one_by_one = resolver.has("single-request");
    let reopens = resolver.has("single-request-reopen");
    let mut sender = Sender { resolver, answer, one_by_one, reopens };
    let as_is = format!("{}.", name.strip_suffix('.').unwrap_or(name));
    let mut list = candidates(name, resolver.conf, Libc::Glibc);
    // The name as it is comes first or last.
    let first = if list.first() == Some(&as_is) { Some(list.remove(0)) } else { None };
    let last = if first.is_none() && list.last() == Some(&as_is) { list.pop() } else { None };
    let (mut saved, mut got_nodata, mut got_servfail, mut said) = (None, false, false, Said::HostNotFound);
    if let Some(first) = first {
        said = sender.round(&first, false, lookup)?;
        saved = Some(said);
    }
    for candidate in list {
        said = sender.round(&candidate, candidate != as_is, lookup)?;
        match said {
            Said::Refused => return Some(finish(lookup, said)),
            Said::NoData => got_nodata = true,
            Said::HostNotFound => {}
            Said::TryAgain { servfail: true } => got_servfail = true,
            Said::TryAgain { servfail: false } | Said::NoRecovery => break,
        }
    }
    if let Some(last) = last {
        said = sender.round(&last, false, lookup)?;
    }
    let said = match saved {
        Some(saved) => saved,
        None if got_nodata => Said::NoData,
        None if got_servfail => Said::TryAgain { servfail: true },
        None => said,
    };
    Some(finish(lookup, said))
}

fn finish(lookup: &mut Lookup, said: Said) -> NssStatus {
    let (error, status) = match said {
        Said::HostNotFound | Said::NoRecovery => (GaiError::NoName, NssStatus::NotFound),
        Said::NoData => (GaiError::NoData, NssStatus::NotFound),
        Said::TryAgain { .. } | Said::Refused => (GaiError::Again, NssStatus::Unavailable),
    };
    lookup.errors = vec![error];
    status
}

struct Sender<'a> {
    resolver: &'a Resolver<'a>,
    answer: Ask<'a>,
    /// A is answered before AAAA is asked: `single-request`, or from when a server answered only one of the two.
    one_by_one: bool,
    /// And each from a socket of its own: `single-request-reopen`, or from when that did not help.
    reopens: bool,
}

/// What came back from one server.
enum Heard {
    /// These replies count; `None` for a type that did not get one.
    Replies(Vec<(Kind, Option<Answer>)>),
    /// The next server's turn: this one said that it can't.
    Bad {
        servfail: bool,
    },
    /// The next server's turn: this one is silent.
    Silence,
    /// The next server's turn: an ICMP error.
    Refused,
    Unknown,
}

impl Sender<'_> {
    /// One name, its round written down; `None`: `lookup` is complete.
    fn round(&mut self, name: &str, searched: bool, lookup: &mut Lookup) -> Option<Said> {
        let mut round = Round::new(name, searched);
        let servers = self.resolver.servers();
        round.any_server = servers.len() > 1 && self.resolver.has("rotate");
        let heard = self.send(&mut round, &servers);
        let (outcome, said) = match heard {
            Heard::Replies(replies) => {
                let addresses: Vec<IpAddr> = replies
                    .iter()
                    .filter_map(|(kind, reply)| Some((*kind, reply.as_ref()?)))
                    .filter(|(_, reply)| reply.rcode() == Some("NOERROR"))
                    .flat_map(|(kind, reply)| reply.addresses(kind))
                    .collect();
                if !addresses.is_empty() {
                    lookup.rounds.push(round.ends(Outcome::Found));
                    let found = Lookup::found(Source::Dns, addresses);
                    *lookup = Lookup {
                        rounds: std::mem::take(&mut lookup.rounds),
                        notes: std::mem::take(&mut lookup.notes),
                        ..found
                    };
                    return None;
                }
                if let Some(said) = alias_without_address(&replies) {
                    // The search ends here, with nothing.
                    lookup.rounds.push(round.ends(Outcome::NoData));
                    finish(lookup, said);
                    return None;
                }
                without_address(&replies)
            }
            Heard::Unknown => {
                lookup.rounds.push(round.ends(Outcome::Unknown));
                (lookup.unknown, lookup.errors) = (true, Vec::new());
                return None;
            }
            Heard::Refused => (Outcome::Refused, Said::Refused),
            Heard::Bad { servfail } => (Outcome::Failed, Said::TryAgain { servfail }),
            Heard::Silence => (Outcome::Failed, Said::TryAgain { servfail: false }),
        };
        lookup.rounds.push(round.ends(outcome));
        Some(said)
    }

    /// All servers, again and again, until one answers.
    fn send(&mut self, round: &mut Round, servers: &[&str]) -> Heard {
        let attempts = self.resolver.number("attempts", 2, 5);
        let mut last = Heard::Refused;
        for _ in 0..attempts {
            for (index, server) in servers.iter().enumerate() {
                let patience = self.patience(index, servers.len());
                match self.server(server, patience, round) {
                    // Refused everywhere is what counts, not refused at the end.
                    Heard::Refused if !matches!(last, Heard::Refused) => {}
                    next @ (Heard::Bad { .. } | Heard::Silence | Heard::Refused) => last = next,
                    done => return done,
                }
            }
        }
        last
    }

    /// How long the server of this index is waited for (res_send.c).
    fn patience(&self, index: usize, servers: usize) -> Duration {
        let timeout = self.resolver.number("timeout", 5, 30) << index;
        let share = if index > 0 { u32::try_from(servers).unwrap_or(1) } else { 1 };
        Duration::from_secs((timeout / share).max(1).into())
    }

    fn server(&mut self, server: &str, patience: Duration, round: &mut Round) -> Heard {
        let kinds = self.resolver.families.kinds();
        let name = round.name.clone();
        let mut asked = Vec::new();
        for kind in kinds {
            let question = Question { server, name: &name, kind: *kind };
            let reply = (self.answer)(question);
            let ends = self.one_by_one && (reply == Answer::NoAnswer || is_bad(&reply));
            round.note(question, &reply, 1);
            asked.push((*kind, reply));
            if ends {
                break;
            }
        }
        if asked.iter().any(|(_, reply)| *reply == Answer::Unknown) {
            return Heard::Unknown;
        }
        if asked.iter().any(|(_, reply)| *reply == Answer::Refused) {
            return Heard::Refused;
        }
        let silent = asked.iter().filter(|(_, reply)| *reply == Answer::NoAnswer).count();
        if silent == asked.len() {
            round.waited += patience;
            return Heard::Silence;
        }
        if asked.iter().all(|(_, reply)| is_bad(reply) || *reply == Answer::NoAnswer) {
            round.waited += if silent > 0 { patience } else { Duration::ZERO };
            // The reply that came first is remembered.
            let first = asked.iter().find(|(_, reply)| *reply != Answer::NoAnswer);
            return Heard::Bad {
                servfail: first.is_some_and(|(_, reply)| reply.rcode() == Some("SERVFAIL")),
            };
        }
        if silent > 0 {
            return self.half(server, patience, round, asked);
        }
        let good = |(kind, reply): (Kind, Answer)| (kind, (!is_bad(&reply)).then_some(reply));
        Heard::Replies(asked.into_iter().map(good).collect())
    }

    /// A server that answered one of two queries is asked again at once, in gentler ways, as are all from now on.
    fn half(
        &mut self,
        server: &str,
        patience: Duration,
        round: &mut Round,
        asked: Vec<(Kind, Answer)>,
    ) -> Heard {
        round.waited += patience;
        let was_gentle = (self.one_by_one, self.reopens);
        match was_gentle {
            (false, _) => self.one_by_one = true,
            (true, false) => self.reopens = true,
            (true, true) => {
                let answered = asked.into_iter().filter(|(_, reply)| *reply != Answer::NoAnswer);
                return Heard::Replies(answered.map(|(kind, reply)| (kind, Some(reply))).collect());
            }
        }
        self.server(server, patience, round)
    }
}

/// Replies after which the next server is asked.
fn is_bad(reply: &Answer) -> bool {
    matches!(reply.rcode(), Some("SERVFAIL" | "NOTIMP" | "REFUSED"))
}

/// A CNAME that leads to no address ends the search.
fn alias_without_address(replies: &[(Kind, Option<Answer>)]) -> Option<Said> {
    let has_records = |reply: &Answer| matches!(reply, Answer::Reply { rcode, records } if rcode == "NOERROR" && !records.is_empty());
    replies.iter().filter_map(|(_, reply)| reply.as_ref()).any(has_records).then_some(Said::HostNotFound)
}

/// What replies without any answer say: the first one's error, else the second one's.
fn without_address(replies: &[(Kind, Option<Answer>)]) -> (Outcome, Said) {
    let mut codes = replies.iter().filter_map(|(_, reply)| reply.as_ref()?.rcode());
    let error = codes.find(|code| *code != "NOERROR");
    match error {
        None => (Outcome::NoData, Said::NoData),
        Some("NXDOMAIN") => (Outcome::NxDomain, Said::HostNotFound),
        Some(_) => (Outcome::Failed, Said::NoRecovery),
    }
}
