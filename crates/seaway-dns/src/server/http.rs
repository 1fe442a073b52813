//! `/health`, `/ready` and `/metrics`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{ListenError, has_ipv6};
use crate::metrics::Metrics;
use crate::plugins::health::Readiness;

/// An HTTP endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    /// Says that the process lives.
    Health,
    /// Says whether it can answer.
    Ready,
    /// Tells the metrics.
    Metrics,
}

/// What is served where, and the task that does it, which ends when dropped.
type Server = (Endpoint, SocketAddr, JoinSet<()>);

/// Endpoints that are not yet among the process's own.
pub(crate) struct Added(Vec<Server>);

/// The HTTP endpoints of the process.
pub(crate) struct Endpoints {
    servers: Vec<Server>,
    state: Arc<State>,
}

struct State {
    metrics: Arc<Metrics>,
    readiness: ArcSwap<Vec<Arc<dyn Readiness>>>,
    stopping: AtomicBool,
}

impl Endpoints {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let state =
            State { metrics, readiness: ArcSwap::from_pointee(Vec::new()), stopping: AtomicBool::new(false) };
        Self { servers: Vec::new(), state: Arc::new(state) }
    }

    /// Listens at what of `wanted` is new; dropped, what comes of it leaves all as it was.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(crate) async fn open(&self, wanted: &BTreeSet<(Endpoint, SocketAddr)>) -> Result<Added, ListenError> {
        let mut added = Vec::new();
        for (endpoint, address) in wanted {
            if !self.servers.iter().any(|(e, a, _)| (e, a) == (endpoint, address)) {
                let listener = bind(*address).await?;
                let app = router(*endpoint, self.state.clone());
                let mut task = JoinSet::new();
                task.spawn(seaway_http::serve(listener, app));
                added.push((*endpoint, *address, task));
            }
        }
        Ok(Added(added))
    }

    /// Serves at `wanted` from now on, with what was opened for it. What is there already stays.
    pub(crate) fn switch(
        &mut self,
        wanted: &BTreeSet<(Endpoint, SocketAddr)>,
        added: Added,
        readiness: Vec<Arc<dyn Readiness>>,
    ) {
        self.servers.retain(|(endpoint, address, _)| wanted.contains(&(*endpoint, *address)));
        self.servers.extend(added.0);
        self.state.readiness.store(Arc::new(readiness));
    }

    /// `/ready` says no from now on.
    pub(crate) fn stopping(&self) {
        self.state.stopping.store(true, Ordering::Relaxed);
    }
}

async fn bind(wanted: SocketAddr) -> Result<TcpListener, ListenError> {
    let address = if wanted.ip().is_unspecified() && wanted.is_ipv6() && !has_ipv6() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port())
    } else {
        wanted
    };
    TcpListener::bind(address).await.map_err(|source| ListenError { address, transport: "http", source })
}

fn router(endpoint: Endpoint, state: Arc<State>) -> Router {
    match endpoint {
        Endpoint::Health => Router::new().route("/health", get(|| async { "OK" })),
        Endpoint::Ready => Router::new().route("/ready", get(move || async move { ready(&state) })),
        Endpoint::Metrics => Router::new().route("/metrics", get(move || async move { metrics(&state) })),
    }
}

/// 200, or 503 with the names of the plugins that are waited for.
fn ready(state: &State) -> (StatusCode, String) {
    if state.stopping.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned());
    }
    let readiness = state.readiness.load();
    let waited: Vec<&str> = readiness.iter().filter(|r| !r.is_ready()).map(|r| r.name()).collect();
    match waited.is_empty() {
        true => (StatusCode::OK, "OK".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, waited.join(",")),
    }
}

fn metrics(state: &State) -> impl IntoResponse + use<> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.metrics.text())
}
