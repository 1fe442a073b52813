//! The chain of plugins that answers a query.
//!
//! CoreDNS's order is fixed, whatever the Corefile's: a plugin answers, or asks the next one, and may look at what
//! that one said.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;

use crate::explain::{DataOrigin, PluginStatus};
use crate::message::{Query, Reply};

/// A query that could not be answered: the client gets the code, `errors` logs the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the client is told.
    pub code: ResponseCode,
    /// The plugin that failed.
    pub plugin: &'static str,
    /// Why, with the peer's name where there is one.
    pub reason: String,
}

impl Failure {
    /// SERVFAIL by `plugin`, for `reason`.
    pub fn server(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { code: ResponseCode::ServFail, plugin, reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plugin, self.reason)
    }
}

/// What comes of a query.
pub type Outcome = Result<Reply, Failure>;

/// One link of the chain.
pub trait Plugin: Send + Sync + 'static {
    /// Its name in the Corefile.
    fn name(&self) -> &'static str;

    /// Answers `query`, or hands it to `next`.
    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome>;

    /// What [`Self::serve`] would come to right now, by the same decisions: asks no other server, keeps and counts
    /// nothing. A plugin that changes no answer's meaning leaves it to `next`.
    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        next.explain(query)
    }

    /// How it fares.
    fn status(&self) -> PluginStatus {
        PluginStatus { name: self.name().to_owned(), ..PluginStatus::default() }
    }
}

/// What would come of a query, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The answer; its records may come in any order. `None`: an upstream decides.
    pub outcome: Option<Outcome>,
    /// Records that are known before an upstream has spoken.
    pub known: Vec<Record>,
    /// Where the data come from.
    pub origin: DataOrigin,
    /// Who decides.
    pub plugin: &'static str,
    /// The query for the name behind an alias, and what would come of that.
    pub alias: Option<Box<(Query, Explanation)>>,
}

impl Explanation {
    /// `plugin` answers, out of `origin`.
    pub fn answer(plugin: &'static str, origin: DataOrigin, outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), known: Vec::new(), origin, plugin, alias: None }
    }
}

/// The plugins of a server block, in CoreDNS's order.
#[derive(Clone)]
pub struct Chain(Arc<[Arc<dyn Plugin>]>);

impl Chain {
    /// A chain of `plugins`.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self(plugins.into())
    }

    /// How its plugins fare.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.0.iter().map(|plugin| plugin.status()).collect()
    }

    /// Its beginning.
    pub fn start(&self) -> Next {
        Next { chain: self.clone(), at: 0 }
    }
}

/// Nobody is responsible for the name.
fn nobody() -> Outcome {
    Ok(Reply::of_code(ResponseCode::Refused))
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|plugin| plugin.name())).finish()
    }
}

/// The rest of a chain.
#[derive(Clone, Debug)]
pub struct Next {
    chain: Chain,
    at: usize,
}

impl Next {
    /// Asks the rest of the chain.
    pub fn run<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Outcome> {
        match self.chain.0.get(self.at) {
            Some(plugin) => plugin.serve(query, Self { chain: self.chain.clone(), at: self.at + 1 }),
            None => Box::pin(std::future::ready(nobody())),
        }
    }

    /// What [`Self::run`] would come to.
    pub fn explain(&self, query: &Query) -> Explanation {
        match self.chain.0.get(self.at) {
            Some(plugin) => plugin.explain(query, &Self { chain: self.chain.clone(), at: self.at + 1 }),
            None => Explanation::answer("", DataOrigin::default(), nobody()),
        }
    }

    /// The chain from its beginning, for a query of our own.
    pub fn whole(&self) -> Self {
        self.chain.start()
    }
}
