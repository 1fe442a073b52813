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

use crate::message::{Origin, Query, Reply};
use crate::name::ZoneName;
use crate::plugin::{Failure, Next, Outcome, Plugin};
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

    async fn answer(&self, zone: &ZoneName, query: &Query, next: Next) -> Outcome {
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
            Found::Records { answers, additionals } => Ok(Reply { answers, additionals, ..reply }),
            Found::Alias { cname, target } => Ok(follow(*cname, target, query, &next, reply).await),
            Found::NoData => Ok(Reply { authorities, ..reply }),
            Found::NxDomain if self.options.fallthrough.applies_to(&query.lower) => next.run(query).await,
            Found::NxDomain => Ok(Reply { code: ResponseCode::NXDomain, authorities, ..reply }),
            Found::Refused => Ok(Reply::of_code(ResponseCode::Refused)),
        }
    }
}

/// The zone in the client's spelling: the end of the name that it asked for.
fn spelt_like(mut soa: Record, name: &Name) -> Record {
    soa.name = name.trim_to(usize::from(soa.name.num_labels()));
    soa
}

/// The CNAME, and what the whole server says of its target.
async fn follow(cname: Record, target: Name, query: &Query, next: &Next, reply: Reply) -> Reply {
    let mut answers = vec![cname];
    if query.depth < MAX_ALIASES {
        let derived = query.derived(target, query.record_type);
        // A target that can't be looked up does not make the CNAME untrue.
        if let Ok(found) = next.whole().run(&derived).await
            && found.code == ResponseCode::NoError
        {
            answers.extend(found.answers);
        }
    }
    Reply { answers, ..reply }
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match ZoneName::longest(&self.options.zones, &query.lower) {
                Some(zone) => self.answer(zone, query, next).await,
                None => next.run(query).await,
            }
        })
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
