//! The chain of plugins that answers a query.
//!
//! CoreDNS's order is fixed, whatever the Corefile's: a plugin answers, or asks the next one, and may look at what
//! that one said.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;

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
}

/// The plugins of a server block, in CoreDNS's order.
#[derive(Clone)]
pub struct Chain(Arc<[Arc<dyn Plugin>]>);

impl Chain {
    /// A chain of `plugins`.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self(plugins.into())
    }

    /// Its beginning.
    pub fn start(&self) -> Next {
        Next { chain: self.clone(), at: 0 }
    }
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
            // Nobody is responsible for the name.
            None => Box::pin(std::future::ready(Ok(Reply::of_code(ResponseCode::Refused)))),
        }
    }

    /// The chain from its beginning, for a query of our own.
    pub fn whole(&self) -> Self {
        self.chain.start()
    }
}
