//! What all requests share.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use seaway_apis::{Registry, Resource, StatusError};
use serde_json::Value;
use tokio::sync::watch;

use crate::alloc::Allocator;
use crate::metrics::Metrics;
use crate::proxy::Kubelets;
use crate::request::storage_kind;
use crate::rest::Pages;
use crate::store::{Object, Store, key};
use crate::token::Tokens;

/// The server's state.
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: &'static Registry,
    pub(crate) allocator: Mutex<Allocator>,
    pub(crate) pages: Mutex<Pages>,
    pub(crate) tokens: Tokens,
    pub(crate) kubelets: Kubelets,
    pub(crate) metrics: Arc<Metrics>,
    /// Where the cluster reaches this server.
    pub(crate) advertised: SocketAddr,
    /// When the server started.
    pub(crate) started: Timestamp,
    /// Becomes true when the server stops: streams end.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl App {
    /// A built-in resource of the core group.
    pub(crate) fn core(&self, plural: &str) -> Result<&Arc<Resource>, StatusError> {
        self.registry
            .lookup("", "v1", plural)
            .ok_or_else(|| StatusError::internal(format!("the resource {plural} is not known")))
    }

    /// A stored object of a core resource, or 404.
    pub(crate) fn core_object(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, StatusError> {
        let resource = self.core(plural)?;
        self.store
            .get(&storage_kind(resource), &key(namespace, name))
            .ok_or_else(|| StatusError::not_found(resource, name))
    }
}

/// A string at a path of keys, or the empty one.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |value, part| &value[*part]).as_str().unwrap_or_default()
}
