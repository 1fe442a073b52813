//! The health endpoints and metrics that kube-proxy serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::status::Shared;

/// A change that has waited this long makes the proxy unhealthy: twice kube-proxy's syncPeriod.
const PENDING_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: Timestamp,
    current_time: Timestamp,
    node_eligible: bool,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: Timestamp,
    healthy: bool,
}

fn health(shared: &Shared) -> Health {
    let current_time = Timestamp::now();
    let (synced, waiting) = shared
        .with_part("services", |part| (part.last_sync, part.pending_since.map(|since| since.elapsed())));
    let healthy = waiting.is_none_or(|waiting| waiting < PENDING_LIMIT);
    // As kube-proxy does, a healthy proxy without anything to do counts as updated just now.
    let last_updated = if waiting.is_none() { current_time } else { synced.unwrap_or(Timestamp::UNIX_EPOCH) };
    let mut status = BTreeMap::from([("IPv4", FamilyHealth { last_updated, healthy })]);
    if shared.applied().is_some_and(|plan| plan.services.has_ipv6()) {
        status.insert("IPv6", FamilyHealth { last_updated, healthy });
    }
    Health { last_updated, current_time, node_eligible: shared.node_eligible(), healthy, status }
}

fn answer(health: &Health, good: bool) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [("X-Content-Type-Options", "nosniff")], axum::Json(health)).into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let health = health(&shared);
    let answer = answer(&health, health.healthy && health.node_eligible);
    shared.metrics.healthz(answer.status().as_u16());
    answer
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    let health = health(&shared);
    let answer = answer(&health, health.healthy);
    shared.metrics.livez(answer.status().as_u16());
    answer
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The router of the health address.
pub(crate) fn health_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(shared)
}

/// The router of the metrics address.
pub(crate) fn metrics_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/proxyMode", get(|| async { "nftables" }))
        .with_state(shared)
}

/// Serves `router` at `address` for ever. An address that is taken is tried again: the data path matters more.
pub(crate) async fn serve(what: &'static str, address: SocketAddr, router: Router) {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return seaway_http::serve(listener, router).await,
            Err(error) => tracing::error!(what, %address, %error, "cannot listen; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
