//! `kubernetes`: the names of a cluster's Services, endpoints and pods.

mod index;
mod lookup;
mod options;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};

pub use index::Index;
pub use lookup::{Found, Lookup};
pub use options::{Options, PodMode};
pub(crate) use watch::{Cluster, Clusters};

use crate::explain::{DataOrigin, OriginKind, PluginStatus};
use crate::message::{Origin, Query, Reply};
use crate::name::ZoneName;
use crate::plugin::{Explanation, Failure, Next, Outcome, Plugin};
use crate::plugins::health::Readiness;

/// How many CNAMEs are followed.
const MAX_ALIASES: u8 = 8;

/// What the plugin answers from.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The names.
    pub index: Index,
    /// When they last changed, in seconds of Unix time: the zones' serial.
    pub serial: u32,
}

/// The plugin. Until there is a [`State`] every answer in its zones is SERVFAIL.
#[derive(Debug)]
pub struct Kubernetes {
    options: Arc<Options>,
    state: Arc<ArcSwapOption<State>>,
    own: Vec<IpAddr>,
}

impl Kubernetes {
    /// Answers from what `state` holds; `own` are the server's addresses.
    pub fn new(options: Arc<Options>, state: Arc<ArcSwapOption<State>>, own: Vec<IpAddr>) -> Self {
        Self { options, state, own }
    }

    /// What there is to say about a query; `None` where its name is in none of the zones.
    fn decide(&self, query: &Query) -> Option<(&ZoneName, Result<Decision, Failure>)> {
        let zone = ZoneName::longest(&self.options.zones, &query.lower)?;
        Some((zone, self.decide_in(zone, query)))
    }

    fn decide_in(&self, zone: &ZoneName, query: &Query) -> Result<Decision, Failure> {
        let found = {
            let Some(state) = self.state.load_full() else {
                return Err(Failure::server("kubernetes", "the API server's first lists have not come yet"));
            };
            let lookup = Lookup { index: &state.index, options: &self.options, zone, own: &self.own };
            let mut found = lookup.find(&query.name, &query.lower, query.record_type);
            let soa = lookup.soa(state.serial).map(|soa| spelt_like(soa, &query.name));
            if query.record_type == RecordType::SOA && *query.lower == *zone.as_str() {
                found =
                    Found::Records { answers: soa.clone().into_iter().collect(), additionals: Vec::new() };
            }
            (found, soa)
        };
        let reply = Reply { authoritative: true, origin: Origin::Local, ..Reply::default() };
        let (found, soa) = found;
        let authorities = soa.into_iter().collect();
        match found {
            Found::Records { answers, additionals } => {
                Ok(Decision::Reply(Reply { answers, additionals, ..reply }))
            }
            Found::Alias { cname, target } => {
                let reply = Reply { answers: vec![*cname], ..reply };
                // A chain of aliases has an end.
                let follow = query.depth < MAX_ALIASES;
                Ok(match follow {
                    true => Decision::Follow(reply, Box::new(query.derived(target, query.record_type))),
                    false => Decision::Reply(reply),
                })
            }
            Found::NoData => Ok(Decision::Reply(Reply { authorities, ..reply })),
            Found::NxDomain if self.options.fallthrough.applies_to(&query.lower) => Ok(Decision::Next),
            Found::NxDomain => {
                Ok(Decision::Reply(Reply { code: ResponseCode::NXDomain, authorities, ..reply }))
            }
            Found::Refused => Ok(Decision::Reply(Reply::of_code(ResponseCode::Refused))),
        }
    }
}

/// What the plugin does with a query.
enum Decision {
    /// It answers.
    Reply(Reply),
    /// It answers with an alias, and adds what the whole server says of the name behind it.
    Follow(Reply, Box<Query>),
    /// The next plugin answers.
    Next,
}

/// `reply` with what was found behind its alias. A target that can't be looked up does not make the CNAME untrue.
fn with_target(mut reply: Reply, found: Outcome) -> Reply {
    if let Ok(found) = found
        && found.code == ResponseCode::NoError
    {
        reply.answers.extend(found.answers);
    }
    reply
}

/// The zone in the client's spelling: the end of the name that it asked for.
fn spelt_like(mut soa: Record, name: &Name) -> Record {
    soa.name = name.trim_to(usize::from(soa.name.num_labels()));
    soa
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match self.decide(query).map(|(_, decision)| decision).transpose()? {
                Some(Decision::Reply(reply)) => Ok(reply),
                Some(Decision::Follow(reply, target)) => {
                    Ok(with_target(reply, next.whole().run(&target).await))
                }
                Some(Decision::Next) | None => next.run(query).await,
            }
        })
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        let Some((zone, decision)) = self.decide(query) else { return next.explain(query) };
        let origin =
            DataOrigin { zone: Some(zone.as_str().to_owned()), ..DataOrigin::of(OriginKind::Cluster) };
        let answer = |outcome| Explanation::answer("kubernetes", origin.clone(), outcome);
        match decision {
            Err(failure) => answer(Err(failure)),
            Ok(Decision::Reply(reply)) => answer(Ok(reply)),
            Ok(Decision::Next) => next.explain(query),
            Ok(Decision::Follow(reply, target)) => {
                let behind = next.whole().explain(&target);
                let known = reply.answers.clone();
                let outcome = behind.outcome.clone().map(|found| Ok(with_target(reply, found)));
                let alias = Some(Box::new((*target, behind)));
                Explanation { outcome, known, origin, plugin: "kubernetes", alias }
            }
        }
    }

    fn status(&self) -> PluginStatus {
        PluginStatus {
            name: Plugin::name(self).to_owned(),
            zones: self.options.zones.iter().map(|zone| zone.as_str().to_owned()).collect(),
            serial: self.state.load().as_ref().map(|state| state.serial),
            ..PluginStatus::default()
        }
    }
}

impl Readiness for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn is_ready(&self) -> bool {
        self.state.load().is_some()
    }
}

#[cfg(test)]
mod tests;
